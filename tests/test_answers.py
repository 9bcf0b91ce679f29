"""What networks answer: to all of the test set and the same part of the rest, in fp32, published like all else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from conftest import answer, prepare, recipe, study, train

from kd.core import files
from kd.core.errors import Damaged, StorageError
from kd.measure import answers
from kd.study.config import Study
from kd.study.expansion import all_cells
from kd.study.paths import parse_cell
from kd.train import material
from kd.train.tensors import tensors_of

TEACHER = "results/digits/quick/resnet14.ce.s0"
STUDENT = f"{TEACHER}/resnet8.kl-tau3.s0"
PROTOCOL = {"name": "quick", "epochs": 1, "batch": 128, "precision": "fp32"}


@pytest.fixture
def digits(project: Path) -> Path:
    prepare()
    return project


def trained(path: str, **changes: object) -> dict:
    """Train a network for an epoch and write down its answers; return their manifest."""
    made = study(**{"protocol": PROTOCOL, **changes})
    train(path, made)
    return answer(path, made)


def read(path: str) -> answers.Answers:
    return answers.read(parse_cell(path))


def test_answers_reach_the_accuracy_that_training_ended_with(digits: Path) -> None:
    manifest = trained(TEACHER)
    test, last = read(TEACHER).test, files.read_manifest(Path(TEACHER))["last"]
    assert 100 * (test.logits.argmax(1) == test.labels).double().mean().item() == pytest.approx(last["test_top1"])
    loss = torch.nn.functional.cross_entropy(test.logits.double(), test.labels).item()
    assert loss == pytest.approx(last["test_loss"], rel=1e-6)
    assert (manifest["kind"], manifest["status"], manifest["precision"]) == ("answers", "ok", "fp32")


def test_logits_are_what_the_classifier_makes_of_the_pre_logits(digits: Path) -> None:
    trained(TEACHER)
    of = read(TEACHER)
    for split in (of.test, of.train):
        made = split.prelogits.float() @ of.weight.T + of.bias
        torch.testing.assert_close(made, split.logits, rtol=2e-3, atol=2e-3)  # 11 bits of the pre-logits


def test_a_network_trained_in_bfloat16_answers_in_float32(digits: Path) -> None:
    rough = {**PROTOCOL, "precision": "bf16"}
    assert trained(TEACHER, protocol=rough)["precision"] == "fp32"
    test = read(TEACHER).test
    assert not test.logits.equal(test.logits.bfloat16().float())


def test_samples_are_balanced_nested_and_the_same_for_every_seed_and_noise(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SAMPLE", 300)
    prepare("digits+sym0.4")
    noisy, fraction = "results/digits+sym0.4/quick/resnet8.ce.s0", "results/digits+frac0.4/quick/resnet8.ce.s1"
    for path in (TEACHER, noisy, fraction):
        trained(path)
    whole, wrong, part = (read(path).train for path in (TEACHER, noisy, fraction))
    assert abs(len(whole.index) - 300) <= 5  # a rounding in each class
    counts = whole.clean.bincount()
    assert counts.max() - counts.min() <= 2
    assert whole.index.equal(wrong.index)
    assert whole.labels.equal(whole.clean)
    assert wrong.clean.equal(whole.clean)
    assert 0.25 < (wrong.labels != wrong.clean).double().mean() < 0.55
    assert len(set(part.index.tolist()) - set(whole.index.tolist())) <= 10  # of a rounding in each class
    learnt = material.prepared(parse_cell(fraction), recipe(fraction)).examples
    assert set(part.index.tolist()) <= set(learnt.train.tolist())


def test_answers_are_made_anew_only_if_damaged_or_of_another_network(
    digits: Path,
) -> None:
    first = trained(TEACHER)
    path = Path("answers", *Path(TEACHER).parts[1:], answers.FILE)
    inode = path.stat().st_ino
    quick, longer = (study(protocol={**PROTOCOL, "epochs": epochs}) for epochs in (1, 2))
    assert answer(TEACHER, quick) == first
    assert path.stat().st_ino == inode
    path.write_bytes(b"")
    with pytest.raises(StorageError, match="damaged"):
        answers.manifest_of(parse_cell(TEACHER))
    assert answer(TEACHER, quick)["files"] == first["files"]
    train(TEACHER, longer)
    with pytest.raises(StorageError, match=rf"(?s)not current.*\n  {TEACHER}: epochs 2 -> 1"):
        answer(TEACHER, quick)
    assert answer(TEACHER, longer)["inputs"] != first["inputs"]


def test_a_network_that_diverged_has_no_answers(digits: Path) -> None:
    manifest = trained(TEACHER, protocol={**PROTOCOL, "lr": 1e12})
    assert manifest["status"] == "diverged"
    assert Path("answers", *Path(TEACHER).parts[1:], answers.FILE).stat().st_size < 200


@pytest.mark.slow
@pytest.mark.parametrize("combination", ["mean_logit", "mean_prob"])
def test_an_ensemble_answers_as_its_members_together_and_has_no_pre_logits(digits: Path, combination: str) -> None:
    made = ensembles(combination)
    members, both = [cell.path for cell in all_cells(made)][:2], all_cells(made)[2].path
    for path in (*members, both):
        trained(path)
    logits = torch.stack([read(path).test.logits for path in members])
    if combination == "mean_logit":
        expected = logits.mean(0)
    else:
        expected = logits.softmax(-1).mean(0).log() + 0
        expected += (logits.mean(0) - expected).mean(-1, keepdim=True)
    torch.testing.assert_close(read(both).test.logits, expected, rtol=1e-5, atol=1e-5)
    assert read(both).test.prelogits is None
    assert read(both).weight is None


def ensembles(combination: str) -> Study:
    one = {"teacher": "resnet14", "teacher_seeds": "0+1", "student": "resnet8", "loss": "mse"}
    return study(protocol=PROTOCOL, seeds=[0], experiments={"e": {**one, "ensemble": combination}})


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_file_of_tensors_that_a_disk_does_not_give_is_not_called_damaged(number: int, tmp_path, monkeypatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "opened", failing)
    with pytest.raises(StorageError, match=rf"a\.safetensors: cannot read: {os.strerror(number)}") as error:
        tensors_of(tmp_path / "a.safetensors")
    assert not isinstance(error.value, Damaged)


@pytest.mark.parametrize("content", [b"", b"nothing like it", b"\xff" * 64])
def test_a_file_of_tensors_that_is_none_is_called_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(Damaged, match=r"a\.safetensors: damaged"):
        tensors_of(tmp_path / "a.safetensors")
