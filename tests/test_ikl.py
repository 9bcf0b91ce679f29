"""IKL, DKL, GKL: the vectors, and how they hang together with KL (arXiv 2305.13948, 2503.08038)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made.course import DTYPES, built, course, logits_of, random_logits, valued, vectors
from made.fitting import CPU, HEADER, made_examples, network, plan, same
from torch import Tensor

from kd import losses, models
from kd.losses.ikl import weighted_error
from kd.losses.objective import Objective, Pure
from kd.losses.spec import Needs
from kd.machine.state import State
from kd.train.fit import History, fit
from kd.train.teachers import LiveTeacher

VECTORS = vectors("ikl")
UNIFORM = {"wmse": 1, "sce": 0, "ce": 0, "wtau": "inf", "warmup": 0}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["id"])
def test_value_and_gradient_equal_the_vectors(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    student, teacher, labels = logits_of(VECTORS["inputs"][case["inputs"]], dtype)
    made = built(case["loss"], course(student.shape[1]), ce=0, **case["params"])
    if "means" in case:
        made.means = made.means.to(dtype)
        made.means[labels] = torch.tensor(case["means"], dtype=dtype)
        made.sums, made.counts = made.sums.to(dtype), made.counts.to(dtype)
    values, gradient = valued(made, student, teacher, labels)
    assert values.dtype == dtype
    assert values.mean().item() == pytest.approx(case["expected"], rel=tolerance)
    expected = torch.tensor(case["gradient"], dtype=dtype)
    torch.testing.assert_close(gradient / len(labels), expected, rtol=tolerance, atol=tolerance * expected.abs().max())


@pytest.mark.parametrize("seed", range(3))
def test_the_variance_form_agrees_with_the_pairwise_one(seed: int) -> None:
    student, teacher = random_logits(seed), random_logits(seed + 10)
    weights = teacher.softmax(-1)
    difference = teacher - student
    pairs = (difference[:, :, None] - difference[:, None, :]).square()
    pairwise = (weights[:, :, None] * weights[:, None, :] * pairs).sum((1, 2)) / 4
    torch.testing.assert_close(weighted_error(student, teacher, weights), pairwise, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_dkl_is_that_of_kl_in_both_arguments() -> None:
    student, teacher = (random_logits(seed).requires_grad_() for seed in (0, 1))
    kl = (teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum()
    weights = teacher.detach().softmax(-1)
    error = weighted_error(student.detach(), teacher, weights).sum()
    dkl = error - (weights * student.log_softmax(-1)).sum()
    for one, other in zip(*(torch.autograd.grad(value, (student, teacher)) for value in (kl, dkl)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_dkl_has_the_value_of_ikl_and_the_gradient_of_kl_and_small_the_value_of_the_vector() -> None:
    student, teacher, labels = logits_of(VECTORS["inputs"]["small"])
    said = {"ce": 0, "wmse": 1, "tau": 1, "wtau": 1}
    (ikl, slope), (dkl, gradient) = (
        valued(built(name, course(4), **said), student, teacher, labels) for name in ("ikl", "dkl")
    )
    assert dkl.mean().item() == pytest.approx(VECTORS["dkl"]["DKL_value"], rel=1e-10)
    torch.testing.assert_close(ikl, dkl)
    leaf = student.clone().requires_grad_()
    kl = losses.LOSSES["kl"].function(leaf, teacher, labels, tau=1.0)
    assert kl.mean().item() == pytest.approx(VECTORS["dkl"]["KL_value"], rel=1e-10)
    torch.testing.assert_close(gradient, torch.autograd.grad(kl.sum(), leaf)[0])
    assert (slope - gradient).abs().max() > 1e-2


def test_gkl_with_power_one_is_ikl_and_with_power_zero_kl_at_infinite_tau() -> None:
    student, teacher, labels = random_logits(0), random_logits(1), torch.arange(6)
    said = {"ce": 0, "wmse": 2, "sce": 0, "wtau": 3}
    one, ikl = (
        valued(built("gkl", course(10), gamma=1, **said), student, teacher, labels),
        built("ikl", course(10), **said),
    )
    torch.testing.assert_close(one, valued(ikl, student, teacher, labels))
    flat = valued(built("gkl", course(10), gamma=0, **said), student, teacher, labels)[0]
    torch.testing.assert_close(flat, 2 * losses.LOSSES["kl"].function(student, teacher, labels, tau=float("inf")))


def taught(objective: Objective, folder: Path) -> tuple[dict, list]:
    torch.manual_seed(1)
    teacher = LiveTeacher(models.build("resnet8x4", 2, 1), CPU.device)
    student, history = network(), History()
    fit(
        student, made_examples(), plan(objective=objective, needs=Needs()), teacher, CPU, State(folder, HEADER), history
    )
    return student.state_dict(), history.rows


def test_uniform_weights_train_the_same_bytes_as_kl_at_infinite_tau(tmp_path: Path) -> None:
    weights, rows = taught(built("ikl", course(2), **UNIFORM), tmp_path / "ikl")
    kl = Pure(losses.LOSSES["kl"].function, tau=float("inf"))
    expected, expected_rows = taught(kl, tmp_path / "kl")
    assert same(weights, expected)
    assert rows == expected_rows


def test_class_means_are_those_of_the_epoch_before_and_uniform_at_first() -> None:
    of, labels = course(4), torch.tensor([0, 1, 1, 3])
    made = built("ikl", of, prior="class", wtau=1)
    epochs = [[random_logits(seed, 4, 4, torch.float32) for seed in seeds] for seeds in ((0, 1), (2, 3))]
    made.epoch_begins(1)
    assert made.means.equal(torch.full((4, 4), 0.25))
    for number, batches in enumerate(epochs, 1):
        for teacher in batches:
            valued(made, teacher, teacher, labels)
        made.epoch_begins(number + 1)
        said = torch.cat([teacher.softmax(-1) for teacher in batches])
        both = labels.repeat(2)
        for label in (0, 1, 3):
            torch.testing.assert_close(made.means[label], said[both == label].mean(0))
        assert made.means[2].equal(torch.full((4,), 0.25))  # the epoch had no example of it


@pytest.mark.parametrize(("epochs", "warm"), [(240, 20), (10, 1), (1, 1), (100, 8)])
def test_the_warm_up_is_a_share_of_the_epochs_and_ends(epochs: int, warm: int) -> None:
    student, teacher, labels = random_logits(0), random_logits(1), torch.arange(6)

    def at(epoch: float) -> Tensor:
        return valued(built("ikl", course(10, epochs), ce=0), student, teacher, labels, epoch)[0]

    full = at(1000)
    for epoch in {1, max(1, warm // 2), warm, epochs}:
        torch.testing.assert_close(at(epoch), min(epoch / warm, 1) * full)


def test_a_loss_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(ValueError, match="wmse: got 0, and sce is 0 too"):
        losses.LOSSES["ikl"].resolve({"wmse": 0, "sce": 0})
