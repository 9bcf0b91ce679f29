"""The view bank: the same losses as a teacher in the loop, refused when it is another's, grown and not redone."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from made.fitting import CPU, NoState, made_examples, network, plan
from torch import Tensor, nn

from kd import losses, models
from kd.core import files
from kd.core.errors import Damaged, StorageError
from kd.data.views import Grid
from kd.losses.objective import Batch, Objective
from kd.losses.spec import Needs
from kd.study.needs import Need
from kd.train import bank
from kd.train.fit import History, fit
from kd.train.teachers import LiveTeacher, StoredTeacher

GRID = Grid(1, False)
IDENTITY = bank.Identity(teacher="t", data="d", examples="e", code="c", precision="fp32", pad=1, flip=False)
ROUNDING = 2**-10  # of float16


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(7)
    trained = models.build("resnet14", 2, 1)
    fit(trained, made_examples(), plan(), None, CPU, NoState(), History())
    return trained


def filled(folder: Path, teacher: nn.Module, needs: list, identity: bank.Identity = IDENTITY) -> StoredTeacher:
    needs = [Need(*need) for need in needs]
    bank.fill(folder, identity, needs, GRID, teacher, made_examples(), CPU, {"kind": "bank"})
    return bank.open_bank(folder, identity, needs, GRID, CPU.device)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the images that pass through a teacher from now on."""
    passes: list[int] = []
    output = LiveTeacher.output
    monkeypatch.setattr(LiveTeacher, "output", lambda self, i, v, x: (passes.append(len(x)), output(self, i, v, x))[1])
    return passes


def test_a_row_is_the_teacher_s_answer_to_that_view_of_that_example(tmp_path: Path, teacher: nn.Module) -> None:
    """Fault 26: keyed by example and view, not by any order."""
    opened = filled(tmp_path, teacher, [(0, 3)])
    examples = made_examples()
    index = torch.tensor([69, 3, 3, 41])
    for epoch in range(3):
        view = GRID.draw(0, epoch, index)
        inputs = examples.normalise(GRID.render(examples.images[index], view))
        live = LiveTeacher(teacher, CPU.device).output(index, view, inputs).logits
        assert torch.allclose(opened.output(index, view).logits, live, rtol=ROUNDING, atol=1e-5)


@pytest.mark.parametrize("loss", [{"tau": 3.0}, {"tau": float("inf")}], ids=str)
def test_bank_and_online_training_give_the_same_losses_within_float16_rounding(
    tmp_path: Path, teacher: nn.Module, loss: dict
) -> None:
    def train(mentor: object) -> list:
        history = History()
        kl = losses.LOSSES["kl"].function
        # Small steps: at large ones any rounding, this one or another, ends in another network of the same quality.
        made = plan(objective=lambda s, t, y: kl(s, t, y, **loss), lr=1e-3)
        fit(network(), made_examples(), made, mentor, CPU, NoState(), history)
        return history.rows

    close(train(filled(tmp_path, teacher, [(0, 3)])), train(LiveTeacher(teacher, CPU.device)))


def close(stored: list, live: list) -> None:
    for a, b in zip(stored, live, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=ROUNDING)
        assert a["test_loss"] == pytest.approx(b["test_loss"], rel=ROUNDING)


def test_only_the_views_that_the_study_needs_are_computed(tmp_path: Path, teacher: nn.Module, monkeypatch) -> None:
    passes = counted(monkeypatch)
    filled(tmp_path, teacher, [(0, 2)])
    index = torch.arange(70)
    seen = {(i, v) for e in range(2) for i, v in zip(index.tolist(), GRID.draw(0, e, index).tolist(), strict=True)}
    assert sum(passes) == len(seen) < 140
    assert json.loads((tmp_path / "manifest.json").read_text())["outputs"]["logits"]["shape"] == [len(seen), 2]


def test_a_bank_grows_by_what_is_missing_and_keeps_the_rest(tmp_path: Path, teacher: nn.Module, monkeypatch) -> None:
    filled(tmp_path, teacher, [(0, 2)])
    first = {path.name: path.read_bytes() for path in tmp_path.glob("*.npy")}
    passes = counted(monkeypatch)
    filled(tmp_path, teacher, [(1, 2)])
    grown = json.loads((tmp_path / "manifest.json").read_text())["outputs"]["logits"]
    assert grown["holds"] == [[0, 2], [1, 2]]
    old = next(np.frombuffer(v, np.uint8) for k, v in first.items() if k.startswith("rows"))
    assert grown["shape"][0] == sum(passes) + (len(old) - 128) // 4
    assert len(list(tmp_path.glob("*.npy"))) == 2
    rebuilt = tmp_path / "rebuilt"
    filled(rebuilt, teacher, [(0, 2), (1, 2)])
    grown_rows, at_once = (np.load(f / grown["rows"]) for f in (tmp_path, rebuilt))
    assert np.allclose(grown_rows, at_once, rtol=ROUNDING, atol=1e-3)


def test_a_bank_that_lacks_a_view_is_not_opened(tmp_path: Path, teacher: nn.Module) -> None:
    filled(tmp_path, teacher, [(0, 2)])
    bank.open_bank(tmp_path, IDENTITY, [Need(0, 1)], GRID, CPU.device)
    for need, match in (([Need(0, 3)], "lacks the views of seed 0, 3 epochs"), ([Need(1, 1)], "seed 1, 1 epochs")):
        assert not bank.serves(tmp_path, IDENTITY, need)
        with pytest.raises(StorageError, match=match):
            bank.open_bank(tmp_path, IDENTITY, need, GRID, CPU.device)
    with pytest.raises(StorageError, match="no bank here"):
        bank.open_bank(tmp_path / "none", IDENTITY, [Need(0, 1)], GRID, CPU.device)


@pytest.mark.parametrize("part", ["teacher", "data", "examples", "code"])
def test_a_bank_of_another_teacher_or_data_is_refused_with_both_digests(
    tmp_path: Path, teacher: nn.Module, part: str
) -> None:
    """Fault 26."""
    filled(tmp_path, teacher, [(0, 1)])
    other = dataclasses.replace(IDENTITY, **{part: "other"})
    with pytest.raises(StorageError, match=f"{part}: bank {part[0]}, expected other"):
        bank.open_bank(tmp_path, other, [Need(0, 1)], GRID, CPU.device)


def test_the_bank_of_a_teacher_that_was_retrained_is_made_anew(tmp_path: Path, teacher: nn.Module, monkeypatch) -> None:
    filled(tmp_path, teacher, [(0, 1)])
    passes = counted(monkeypatch)
    assert filled(tmp_path, teacher, [(0, 1)], dataclasses.replace(IDENTITY, teacher="retrained")) is not None
    assert sum(passes) == 70


@pytest.mark.parametrize("needs", [[(0, 2)], [(0, 2), (0, 1, "prelogits")]], ids=["logits", "both"])
def test_an_interrupted_fill_goes_on_where_it_stopped(
    tmp_path: Path, teacher: nn.Module, monkeypatch, needs: list
) -> None:
    monkeypatch.setattr(bank, "_FLUSH_SECONDS", 0.0)
    monkeypatch.setitem(bank.FILL_BATCH, "cpu", 16)
    output = LiveTeacher.output
    calls = []

    def dies(self: LiveTeacher, *arguments: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return output(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LiveTeacher, "output", dies)
        with pytest.raises(KeyboardInterrupt):
            filled(tmp_path, teacher, needs)
    assert not (tmp_path / "manifest.json").exists()
    passes = counted(monkeypatch)
    filled(tmp_path, teacher, needs)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert sum(passes) == manifest["computed"] == manifest["outputs"]["logits"]["shape"][0] - 48
    filled(tmp_path / "at_once", teacher, needs)
    for name in manifest["files"]:
        assert (tmp_path / name).read_bytes() == (tmp_path / "at_once" / name).read_bytes()
    assert not [path for path in os.listdir(tmp_path) if path.startswith("filling")]


@pytest.mark.parametrize("name", ["rows", "keys", "manifest"])
@pytest.mark.parametrize("damage", ["cut", "remove"])
def test_a_bank_that_is_damaged_does_not_serve_and_is_filled_anew(
    tmp_path: Path, teacher: nn.Module, name: str, damage: str
) -> None:
    """Faults 9 and 10: the same command mends it."""
    filled(tmp_path, teacher, [(0, 1)])
    (path,) = tmp_path.glob(f"{name}*")
    before = path.read_bytes()
    path.write_bytes(before[:-1]) if damage == "cut" else path.unlink()
    assert not bank.serves(tmp_path, IDENTITY, [Need(0, 1)])
    filled(tmp_path, teacher, [(0, 1)])
    assert bank.serves(tmp_path, IDENTITY, [Need(0, 1)])
    assert files.verified(tmp_path)["computed"] == 70
    assert len(list(tmp_path.iterdir())) == 3


def test_a_bank_with_a_changed_bit_is_not_added_to_but_filled_anew(tmp_path: Path, teacher: nn.Module) -> None:
    """Fault 9: what it keeps would be published as sound."""
    filled(tmp_path, teacher, [(0, 1)])
    (path,) = tmp_path.glob("rows-*.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    filled(tmp_path, teacher, [(0, 2)])
    manifest = files.verified(tmp_path)
    assert manifest["computed"] == manifest["outputs"]["logits"]["shape"][0]


def test_rows_that_were_moved_or_changed_are_refused(tmp_path: Path, teacher: nn.Module) -> None:
    """Fault 26: logits that are not where they belong."""
    filled(tmp_path, teacher, [(0, 1)])
    (path,) = tmp_path.glob("rows-*.npy")
    rows = np.load(path)
    np.save(path, rows[::-1].copy())
    with pytest.raises(StorageError, match="damaged"):
        bank.open_bank(tmp_path, IDENTITY, [Need(0, 1)], GRID, CPU.device)


# -- pre-logits -------------------------------------------------------------------------------------------------------

BOTH = [(0, 3), (0, 3, "prelogits")]
MORE = Needs(frozenset({"logits", "prelogits"}), frozenset({"logits", "prelogits"}))


class Near(Objective):
    """Cross-entropy, and the pre-logits of the teacher."""

    def forward(self, batch: Batch) -> Tensor:
        said, taught = batch.student[0], batch.teacher[0]
        gap = (said.prelogits - taught.prelogits).square().mean(-1)
        return losses.LOSSES["ce"].function(said.logits, None, batch.labels) + gap


def test_pre_logits_of_a_bank_teach_what_those_of_the_teacher_itself_do(tmp_path: Path, teacher: nn.Module) -> None:
    def train(mentor: object) -> list:
        history = History()
        fit(network(), made_examples(), plan(objective=Near(), needs=MORE, lr=1e-3), mentor, CPU, NoState(), history)
        return history.rows

    close(train(filled(tmp_path, teacher, BOTH)), train(LiveTeacher(teacher, CPU.device, "fp32", MORE.teacher)))


def test_a_bank_of_logits_alone_computes_and_stores_no_pre_logits(
    tmp_path: Path, teacher: nn.Module, monkeypatch
) -> None:
    monkeypatch.setattr(type(teacher), "outputs", lambda *_: pytest.fail("more than logits are computed"))
    assert filled(tmp_path, teacher, [(0, 3)]).output(torch.tensor([3]), GRID.draw(0, 0, torch.tensor([3])))[1] is None
    assert not list(tmp_path.glob("*prelogits*"))


def test_pre_logits_are_added_to_a_bank_of_logits_whose_files_stay_what_they_are(
    tmp_path: Path, teacher: nn.Module, monkeypatch
) -> None:
    filled(tmp_path, teacher, [(0, 3)])
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.glob("*.npy")}
    passes = counted(monkeypatch)
    filled(tmp_path, teacher, [(0, 2), (0, 2, "prelogits")])
    manifest = files.verified(tmp_path)
    logits, prelogits = (manifest["outputs"][name] for name in ("logits", "prelogits"))
    assert (logits["holds"], prelogits["holds"]) == ([[0, 3]], [[0, 2]])
    assert sum(passes) == prelogits["shape"][0] < logits["shape"][0]
    assert prelogits["shape"][1] == 64
    added = {prelogits["rows"], prelogits["keys"]}
    assert {path.name for path in tmp_path.glob("*.npy")} == {*before, *added}
    assert {name: ((tmp_path / name).stat().st_ino, (tmp_path / name).read_bytes()) for name in before} == before

    filled(tmp_path, teacher, BOTH)
    manifest = files.verified(tmp_path)
    assert manifest["outputs"]["prelogits"]["keys"] == logits["keys"]  # of the same views
    assert manifest["computed"] == logits["shape"][0] - prelogits["shape"][0]
    assert len(list(tmp_path.iterdir())) == 4
    whole = filled(tmp_path / "at_once", teacher, BOTH)
    grown = bank.open_bank(tmp_path, IDENTITY, [Need(*need) for need in BOTH], GRID, CPU.device)
    index = torch.arange(70)
    for one, other in zip(*(each.output(index, GRID.draw(0, 2, index))[:2] for each in (grown, whole)), strict=True):
        assert torch.allclose(one, other, rtol=ROUNDING, atol=1e-3)


def test_a_student_of_another_seed_adds_to_both_in_one_pass(tmp_path: Path, teacher: nn.Module, monkeypatch) -> None:
    filled(tmp_path, teacher, BOTH)
    before = files.verified(tmp_path)["outputs"]["logits"]["shape"][0]
    passes = counted(monkeypatch)
    filled(tmp_path, teacher, [(1, 3), (1, 3, "prelogits")])
    assert sum(passes) == files.verified(tmp_path)["outputs"]["prelogits"]["shape"][0] - before


def test_a_bank_that_lacks_pre_logits_is_not_opened_for_who_looks_at_them(tmp_path: Path, teacher: nn.Module) -> None:
    filled(tmp_path, teacher, [(0, 3)])
    needs = [Need(*need) for need in BOTH]
    assert not bank.serves(tmp_path, IDENTITY, needs)
    with pytest.raises(StorageError, match="lacks the views of seed 0, 3 epochs, prelogits"):
        bank.open_bank(tmp_path, IDENTITY, needs, GRID, CPU.device)


@pytest.mark.parametrize("damaged", ["rows", "prelogits"])
def test_of_a_bank_with_a_changed_bit_the_other_output_is_kept(
    tmp_path: Path, teacher: nn.Module, monkeypatch, damaged: str
) -> None:
    filled(tmp_path, teacher, BOTH)
    (path,) = tmp_path.glob(f"{damaged}-*.npy")
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    needs = [Need(*need) for need in BOTH]
    with pytest.raises(Damaged, match=f"{damaged}-.*damaged"):
        bank.open_bank(tmp_path, IDENTITY, needs, GRID, CPU.device)
    if damaged == "prelogits":
        bank.open_bank(tmp_path, IDENTITY, needs[:1], GRID, CPU.device)  # who reads the logits alone is not disturbed
    bank.fill(tmp_path, IDENTITY, needs, GRID, teacher, made_examples(), CPU, {"kind": "bank"})
    assert files.verified(tmp_path)["computed"] == files.verified(tmp_path)["outputs"]["logits"]["shape"][0]
    assert path.read_bytes() == sound
    assert len(list(tmp_path.iterdir())) == 4
