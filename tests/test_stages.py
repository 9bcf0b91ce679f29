"""From a path to a published network: what is verified, what is left alone, what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import ROOT, prepare, recipe, resigned, study, train
from made.fitting import StopAt

from kd import losses
from kd.core import files
from kd.core.errors import ConfigError, Diverged, StorageError, Terminated
from kd.jobs import train as jobs_train
from kd.losses.objective import Batch, Pure
from kd.machine.state import State
from kd.models.output import Output
from kd.study import products
from kd.study.config import Recipe
from kd.study.expansion import all_cells
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.study.recipes import made_with
from kd.train import lesson, material
from kd.train.plan import Plan

TEACHER = "results/digits/quick/resnet14.ce.s0"
STUDENT = f"{TEACHER}/resnet8.kl-tau3.s0"


@pytest.fixture
def digits(project: Path) -> Path:
    """A project with the digits prepared."""
    prepare()
    return project


@pytest.mark.slow
def test_a_teacher_its_student_and_a_student_of_that_are_one_thing(digits: Path) -> None:
    for path in (TEACHER, STUDENT, f"{STUDENT}/resnet8.mse.s1"):
        manifest = train(path)
        assert manifest["status"] == "ok"
        assert sorted(entry.name for entry in Path(path).iterdir() if entry.is_file()) == [
            "manifest.json",
            "metrics.csv",
            "model.safetensors",
            "timings.csv",
        ]
    digest = files.file_digest(Path(TEACHER, "model.safetensors"))
    assert files.verified(Path(STUDENT))["inputs"][TEACHER]["digest"] == digest


def test_a_manifest_tells_what_was_trained_how_with_what_and_by_what(digits: Path) -> None:
    train(TEACHER)
    manifest = json.loads(Path(TEACHER, "manifest.json").read_text())
    assert manifest["recipe"]["protocol"]["epochs"] == 3
    assert manifest["recipe"]["objective"] == {"loss": "ce"}
    assert set(manifest["inputs"]) == {"data/digits"}
    assert {"name", "code", "fingerprint", "device", "precision", "threads", "torch", "python"} <= set(manifest)
    assert {"seconds", "memory", "parameters", "last", "best_on_test", "files", "sizes", "kd"} <= set(manifest)
    assert manifest["recipe"]["protocol"]["compile"] == "auto"
    assert not manifest["compiled"]  # what auto became: digits are short
    assert manifest["last"]["test_top1"] <= manifest["best_on_test"]["test_top1"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_csv_and_weights_bytes_twice(digits: Path) -> None:
    def bytes_of_all() -> dict[str, bytes]:
        for cell in all_cells(study(seeds=[0])):
            train(cell)
        return {
            str(path): path.read_bytes()
            for pattern in ("metrics.csv", "model.safetensors")
            for path in Path("results").rglob(pattern)
        }

    first = bytes_of_all()
    for tree in ("results", "banks", "state"):
        Path(tree).rename(f"old-{tree}")
    assert bytes_of_all() == first
    assert len(first) == 6


def test_a_published_cell_is_left_alone(digits: Path) -> None:
    train(TEACHER)
    before = Path(TEACHER, "manifest.json").stat().st_ino
    train(TEACHER)
    assert Path(TEACHER, "manifest.json").stat().st_ino == before


def test_promise_2_state_is_not_a_result_and_a_finished_cell_keeps_none(digits: Path, monkeypatch) -> None:
    stopped_at(monkeypatch, 20)
    with pytest.raises(Terminated):
        train(TEACHER)
    monkeypatch.undo()
    monkeypatch.chdir(digits)
    assert not Path(TEACHER).exists()
    assert len(list(Path("state").rglob("last.pt"))) == 1
    train(TEACHER)
    assert not list(Path("state").rglob("*.pt"))


def stopped_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let training be stopped by SIGTERM at this step, and every state save take its chance."""
    monkeypatch.setattr(lesson, "objective_of", lambda *_: Pure(StopAt(step)))


@pytest.mark.slow
def test_promise_4_a_stopped_cell_ends_with_the_bytes_of_one_that_was_not(digits: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        stopped_at(patch, 20)
        with pytest.raises(Terminated):
            train(TEACHER)
    resumed = train(TEACHER)
    Path("results").rename("resumed")
    straight = train(TEACHER)
    assert resumed["files"]["model.safetensors"] == straight["files"]["model.safetensors"]
    assert resumed["files"]["metrics.csv"] == straight["files"]["metrics.csv"]


def test_fresh_discards_the_state(digits: Path, monkeypatch, caplog) -> None:
    with monkeypatch.context() as patch:
        stopped_at(patch, 20)
        with pytest.raises(Terminated):
            train(TEACHER)
    caplog.set_level("INFO")
    train(TEACHER, fresh=True)
    assert "epoch 1/3" in caplog.text


def test_other_code_or_another_recipe_starts_anew_and_keeps_the_old_state(digits: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        stopped_at(patch, 20)
        with pytest.raises(Terminated):
            train(TEACHER)
        with pytest.raises(Terminated):
            train(TEACHER, study(protocol={"name": "quick", "epochs": 5, "precision": "fp32"}))
    assert len(list(Path("state").rglob("last.pt"))) == 2


def test_promise_5_a_diverged_cell_is_published_as_diverged_and_so_are_its_students(digits: Path) -> None:
    """Fault 20; learning rates like this one are how it happens."""
    wild = study(protocol={"name": "quick", "epochs": 3, "lr": 1e12, "precision": "fp32"})
    manifest = train(TEACHER, wild)
    assert manifest["status"] == "diverged"
    assert "steps" in manifest["cause"] or "test loss" in manifest["cause"]
    assert safetensors.torch.load_file(Path(TEACHER, "model.safetensors")) == {}
    assert train(TEACHER, wild)["cause"] == manifest["cause"]  # left alone, not retried
    student = train(STUDENT, wild)
    assert student["status"] == "diverged"
    assert TEACHER in student["cause"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_teacher_is_refused_by_name(digits: Path, damage: str) -> None:
    """Faults 9 and 10."""
    train(TEACHER)
    model = Path(TEACHER, "model.safetensors")
    content = bytearray(model.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    model.write_bytes({"truncate": content[:-100], "empty": b""}.get(damage, content))
    if damage == "remove":
        model.unlink()
    said = {
        "flip": r"resnet14\.ce\.s0/model\.safetensors: damaged.*remove .*manifest\.json and run snakemake",
        "truncate": r"resnet14\.ce\.s0: model\.safetensors has [\d,]+ bytes instead of [\d,]+",
        "empty": r"resnet14\.ce\.s0: model\.safetensors has 0 bytes instead of [\d,]+",
        "remove": r"resnet14\.ce\.s0: model\.safetensors is gone",
    }
    with pytest.raises(StorageError, match=said[damage]):
        train(STUDENT)
    assert not Path(STUDENT, "manifest.json").exists()


class Payload:
    """What a malicious checkpoint holds: unpickling it would leave a file behind."""

    def __reduce__(self) -> tuple:
        return (os.system, ("touch ran",))


def test_promise_6_nothing_runs_from_a_teacher_s_checkpoint(digits: Path) -> None:
    """Fault 53: even one whose digest was signed anew."""
    train(TEACHER)
    torch.save({"weights": Payload()}, Path(TEACHER, "model.safetensors"))
    resigned(TEACHER)
    with pytest.raises(StorageError, match="no safetensors file"):
        train(STUDENT)
    assert not Path("ran").exists()


def test_promise_6_nothing_runs_from_a_state(digits: Path, monkeypatch) -> None:
    """Fault 53: though it be sealed."""
    with monkeypatch.context() as patch:
        stopped_at(patch, 20)
        with pytest.raises(Terminated):
            train(TEACHER)
    state = next(Path("state").rglob("last.pt"))
    header, _ = files.unseal(state)
    buffer = io.BytesIO()
    torch.save({"network": Payload()}, buffer)
    files.seal(state, header, buffer.getvalue())
    with pytest.raises(StorageError, match=r"last\.pt: not a state that kd saved"):
        train(TEACHER)
    assert not Path("ran").exists()


@pytest.mark.slow
def test_a_malformed_state_is_one_message_whatever_is_wrong(tmp_path: Path) -> None:
    """Fault 53: a seal can be made anew, and what a malformed pickle raises has no common type."""
    buffer = io.BytesIO()
    torch.save({"network": {"a": torch.zeros(3)}, "position": {"epoch": 1}}, buffer)
    whole = buffer.getvalue()
    for n in range(len(whole)):
        files.seal(tmp_path / "last.pt", {}, whole[:n] + bytes([whole[n] ^ 255]) + whole[n + 1 :])
        with contextlib.suppress(StorageError), warnings.catch_warnings(action="ignore"):
            State(tmp_path, {}).load()


def test_promise_6_the_code_has_no_loader_or_shell_that_runs_data() -> None:
    """Faults 53 and 55 to 57."""
    forbidden = re.compile(
        r"weights_only\s*=\s*False|\b(c|cloudp)?[pP]ickle\.(loads?|Unpickler)\(|joblib|marshal|read_pickle|"
        r"yaml\.((unsafe_|full_)?load\(|(Unsafe|Full)?Loader\b)|shell\s*=\s*True|allow_pickle\s*=\s*True|"
        r"os\.system|torch\.hub|\bexec\(|\beval\("
    )
    for path in [*(ROOT / "kd").rglob("*.py"), ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]:
        text = path.read_text().replace(".eval()", "")
        if path.name == "plugins.py":  # code that a study names as such is run, here alone
            text = text.replace("exec(compile(plugin.source", "", 1)
        assert not forbidden.search(text), path
        for call in re.findall(r"(?<!safetensors\.)torch\.load\(.*", text):
            assert "weights_only=True" in call, path
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        # {REPORTS} is put in when the Snakefile is read: the name of a study, of letters, digits and "_-" alone.
        for command in re.findall(r'"python -m kd [^\n]*(?:\n\s+"[^\n]*)*', path.read_text()):
            assert not re.search(
                r"\{(?!threads|REPORTS|resources\.(?:cells_per_gpu|gpus_per_cell|workers))[^{}]*(?<!:q)\}", command
            ), command
    for name in ("a b", "a;b", "$(a)", "`a`", "a'b", 'a"b', "../a", "a/b", "-a b", "a\n"):
        with pytest.raises(ConfigError):
            study(study=name)


def test_a_student_without_its_teacher_is_refused(digits: Path) -> None:
    with pytest.raises(StorageError, match=f"{TEACHER}: not made yet"):
        train(STUDENT)


@pytest.mark.slow
def test_a_student_fills_the_bank_it_needs_and_refills_a_retrained_teacher_s(digits: Path) -> None:
    train(TEACHER)
    train(STUDENT)
    first = files.read_manifest(Path("banks/digits/quick/resnet14.ce.s0"))
    assert first["outputs"]["logits"]["holds"] == [[0, 3]]
    longer = study(protocol={"name": "quick", "epochs": 4, "batch": 64, "precision": "fp32"})
    train(TEACHER, longer)
    assert train(STUDENT, longer)["status"] == "ok"
    refilled = files.read_manifest(Path("banks/digits/quick/resnet14.ce.s0"))
    assert refilled["outputs"]["logits"]["holds"] == [[0, 4]]
    assert refilled["identity"]["teacher"] == files.file_digest(Path(TEACHER, "model.safetensors"))


@pytest.mark.slow
def test_a_bank_of_another_precision_is_filled_anew_and_its_manifest_tells_which(digits: Path) -> None:
    def precision(name: str) -> tuple[str, str]:
        made = study(protocol={"name": "quick", "epochs": 1, "teacher_precision": name, "precision": "fp32"})
        train(TEACHER, made)
        manifest = train(STUDENT, made)
        stored = files.verified(Path("banks", *Path(TEACHER).parts[1:]))
        assert manifest["recipe"]["protocol"]["teacher_precision"] == stored["precision"]
        return stored["precision"], stored["files"][stored["outputs"]["logits"]["rows"]]

    (first, exact), (second, rounded) = precision("fp32"), precision("bf16")
    assert (first, second) == ("fp32", "bf16")
    assert exact != rounded


@pytest.mark.slow
def test_an_online_teacher_serves_where_a_bank_does_not(digits: Path) -> None:
    online = study(protocol={"name": "quick", "epochs": 3, "batch": 64, "precision": "fp32", "teacher": "online"})
    train(TEACHER, online)
    train(STUDENT, online)
    assert not Path("banks").exists()


@pytest.mark.slow
def test_teacher_and_students_learn_from_the_same_wrong_labels(digits: Path, monkeypatch) -> None:
    """Fault 25."""
    noisy = study(
        experiments={
            "noise": {
                "teacher": "resnet14",
                "student": "resnet8",
                "loss": {"kl": {"tau": 1}},
                "label_noise": {"symmetric": 0.4},
            }
        },
        seeds=[0],
    )
    listed = all_cells(noisy)
    prepare("digits+sym0.4")
    both = [train(cell, noisy)["inputs"]["data/digits+sym0.4"] for cell in listed]
    assert both[0]["digest"] == both[1]["digest"]
    wrong = material.prepared(listed[0], recipe(listed[0], noisy)).examples.labels
    clean = material.prepared(parse_cell(TEACHER), recipe(TEACHER)).examples
    assert (wrong != clean.labels).double().mean().item() == pytest.approx(0.4, abs=0.5 / len(wrong))


def test_fraction_and_held_out_share_are_class_balanced_and_disjoint(digits: Path) -> None:
    made = study(protocol={"name": "quick", "epochs": 3, "heldout": 0.2, "precision": "fp32"})
    path = "results/digits+frac0.1/quick/resnet8.ce.s0"
    have = material.prepared(parse_cell(path), recipe(path, made)).examples
    assert not set(have.train.tolist()) & set(have.heldout.tolist())
    counts = torch.bincount(have.labels[have.train])
    assert counts.min() >= 6
    assert counts.max() <= 8
    assert "heldout_top1" in train(path, made)["last"]


@pytest.mark.slow
def test_a_student_of_a_fraction_reads_the_bank_of_all_and_sees_its_part_alone(digits: Path) -> None:
    train(TEACHER)
    student = f"{TEACHER}/resnet8.kl-tau3.s0-frac0.1"
    for path in (student, STUDENT):
        train(path)
    part, alone, whole = (
        material.prepared(parse_cell(path), recipe(path))
        for path in (student, "results/digits+frac0.1/quick/resnet8.ce.s0", STUDENT)
    )
    assert part.digests["examples"] == alone.digests["examples"] != whole.digests["examples"]
    assert part.examples.train.equal(alone.examples.train)
    bank = files.read_manifest(Path("banks/digits/quick/resnet14.ce.s0"))
    assert bank["identity"]["examples"] == whole.digests["examples"]
    assert bank["computed"] == bank["outputs"]["logits"]["shape"][0]  # the second student found every row there


def test_students_that_differ_in_their_loss_start_from_the_same_weights(digits: Path, monkeypatch) -> None:
    starts = []

    def caught(network: torch.nn.Module, *arguments: object) -> None:
        starts.append(network.state_dict()["classifier.weight"].clone())
        raise Diverged("seen enough")

    train(TEACHER)
    monkeypatch.setattr(jobs_train, "fit", caught)
    for path in (STUDENT, f"{TEACHER}/resnet8.mse.s0", f"{TEACHER}/resnet8.mse.s1"):
        train(path)
    assert starts[0].equal(starts[1])
    assert not starts[0].equal(starts[2])


def test_the_loss_that_trains_is_the_one_the_path_spells() -> None:
    generator = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 5, 10, generator=generator)
    y = torch.arange(5)
    for spelled, expected in {
        "kl-tau4-alpha0.5": losses.LOSSES["kl"].function(s, t, y, tau=4.0, alpha=0.5),
        "kl-tauinf": 0.5 * (s - t).var(1, correction=0),
        "mse": (s - t).square().mean(1),
    }.items():
        objective = lesson.objective_of(parse_cell(f"{TEACHER}/resnet8.{spelled}.s0"), None)
        batch = Batch((Output(s),), (Output(t),), y, y, torch.tensor(1.0))
        assert torch.allclose(objective(batch), expected, rtol=1e-5)


def test_a_plan_holds_the_protocol_s_values(project: Path) -> None:
    made = study(protocol={"name": "quick", "epochs": 40, "lr": "5e-2", "milestones": [30], "gamma": 0.2})
    early = parse_cell("results/digits/quick/resnet14.ce.s0-epochs10")
    prepare()
    planned = lesson.plan_of(early, made.protocol, material.prepared(early, recipe(early, made)))
    assert isinstance(planned, Plan)
    assert (planned.epochs, planned.schedule_epochs, planned.batch, planned.lr) == (10, 40, 128, 0.05)
    assert planned.lr_at(29) == 0.05
    assert math.isclose(planned.lr_at(30), 0.01)


@pytest.mark.slow
def test_a_student_with_epochs_of_its_own_runs_a_schedule_of_that_length_to_its_end(project: Path) -> None:
    prepare()
    train(TEACHER)
    short, own = f"{TEACHER}/resnet8.kl-tau3.s0-total2-schedulecosine", f"{TEACHER}/resnet8.kl-tau3.s1-total4"
    for cell, rates in ((own, [0.1, 0.1, 0.01, 0.001]), (short, [0.1, 0.05])):
        assert train(cell)["epochs"] == len(rates)
        lines = Path(cell, "metrics.csv").read_text().splitlines()[1:]
        assert [float(line.split(",")[1]) for line in lines] == pytest.approx(rates)
    made = files.read_manifest(Path(short))["recipe"]["protocol"]
    assert (made["epochs"], made["schedule"]) == (2, "cosine")
    bank = files.read_manifest(Path("banks/digits/quick/resnet14.ce.s0"))["outputs"]["logits"]
    assert bank["holds"] == [[0, 2], [1, 4]]  # one bank, of one teacher


@pytest.mark.slow
def test_students_of_several_recipes_share_one_teacher_and_one_bank(project: Path) -> None:
    prepare()
    teacher = "results/digits/quick/resnet14.ls-smoothing0.2.s0"
    train(teacher)
    slow, fast = (train(f"{teacher}/resnet8.kl-tau3.s0{own}") for own in ("-lr0.01", "-lr0.2-batch100"))
    assert [made["recipe"]["protocol"]["lr"] for made in (slow, fast)] == [0.01, 0.2]
    assert fast["recipe"]["protocol"]["batch"] == 100
    assert slow["last"] != fast["last"]
    again = Judge.of_recipe(Recipe.parse(made_with(parse_cell(fast["name"]), fast)))
    assert again.to_do(products.network(parse_cell(fast["name"]))) is None  # by that, kd adopt trains it again
    assert len(list(Path("banks").rglob("manifest.json"))) == 1
    other = study(protocol={"name": "quick", "epochs": 3, "batch": 64, "precision": "fp32", "lr": 0.3})
    judge = Judge.of_recipe(recipe(teacher, other))
    own, the_protocol_s = (
        products.network(parse_cell(f"{teacher}/resnet8.kl-tau3.s0{own}")) for own in ("-lr0.01", "")
    )
    assert judge.expected(own).recipe["protocol"]["lr"] == 0.01
    assert judge.expected(the_protocol_s).recipe["protocol"]["lr"] == 0.3
