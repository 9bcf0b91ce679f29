"""Adaptive KL: the vectors, its limits, and what forward and reverse KL learn first (arXiv 2404.02657)."""

from __future__ import annotations

import pytest
import torch
from made.course import DTYPES, built, course, logits_of, random_logits, valued, vectors
from torch import Tensor

from kd import losses
from kd.losses.akl import gaps
from kd.losses.kl import divergence

VECTORS = vectors("akl")


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["id"])
def test_value_gradient_and_gaps_equal_the_vectors(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    student, teacher, labels = logits_of(VECTORS["inputs"][case["inputs"]], dtype)
    made = built("akl", course(student.shape[1]), **case["params"])
    values, gradient = valued(made, student, teacher, labels)
    assert values.dtype == dtype
    assert values.mean().item() == pytest.approx(case["expected"], rel=tolerance)
    expected = torch.tensor(case["gradient"], dtype=dtype)
    torch.testing.assert_close(gradient / len(labels), expected, rtol=tolerance, atol=tolerance * expected.abs().max())
    if "gaps" in case:
        for found, key in zip(gaps(student.softmax(-1), teacher.softmax(-1), 0.5), ("head", "tail"), strict=True):
            torch.testing.assert_close(found, torch.tensor(case["gaps"][key], dtype=dtype))
            total, count = made.logged[f"{key}_gap"].tolist()
            assert total / count == pytest.approx(sum(case["gaps"][key]) / len(labels), rel=tolerance)


def of(name: str, student: Tensor, teacher: Tensor, **given: object) -> Tensor:
    labels = torch.zeros(len(student), dtype=torch.long)
    return losses.LOSSES[name].function(student, teacher, labels, alpha=1.0, scale="tau2", weight=1.0, **given)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_it_lies_between_kl_and_reverse_kl_which_its_ratio_can_hold(tau: float) -> None:
    student, teacher, labels = random_logits(0), random_logits(1), torch.zeros(6, dtype=torch.long)
    forward, reverse, adaptive = (
        valued(built("akl", course(10), tau=tau, ratio=ratio), student, teacher, labels)[0]
        for ratio in ("forward", "reverse", "adaptive")
    )
    torch.testing.assert_close(forward, of("kl", student, teacher, tau=tau))
    torch.testing.assert_close(reverse, of("reverse_kl", student, teacher, tau=tau))
    assert (adaptive >= torch.minimum(forward, reverse)).all()
    assert (adaptive <= torch.maximum(forward, reverse)).all()


def test_mu_one_is_kl_and_mu_towards_zero_has_the_first_class_alone_as_its_head() -> None:
    student, teacher, labels = random_logits(0), random_logits(1), torch.zeros(6, dtype=torch.long)
    full = valued(built("akl", course(10), mu=1), student, teacher, labels)[0]
    torch.testing.assert_close(full, of("kl", student, teacher, tau=1.0))
    (p, q), top = (logits.softmax(-1) for logits in (teacher, student)), teacher.argmax(-1, keepdim=True)
    first = (q - p).abs().gather(-1, top).squeeze(-1)
    for mu in (0.0, 1e-9):
        head, tail = gaps(q, p, mu)
        torch.testing.assert_close(head, first)
        torch.testing.assert_close(head + tail, (q - p).abs().sum(-1))
    assert gaps(q, p, 1.0)[1].count_nonzero() == 0


def test_a_teacher_that_is_surer_than_one_half_gives_kl_at_most_half_the_weight() -> None:
    student, teacher = random_logits(0, 500), random_logits(1, 500)
    p, q = teacher.softmax(-1), student.softmax(-1)
    head, tail = gaps(q, p, 0.5)
    share = head / (head + tail)
    sure = p.amax(-1) > 0.5
    assert 100 < sure.sum() < 490
    assert share[sure].max() <= 0.5 + 1e-12
    assert share[~sure].max() > 0.5


def test_a_student_that_is_its_teacher_has_no_loss_and_a_finite_gradient() -> None:
    logits = random_logits(0, dtype=torch.float32)
    values, gradient = valued(built("akl", course(10)), logits, logits, torch.zeros(6, dtype=torch.long))
    assert values.count_nonzero() == 0
    assert gradient.abs().max() < 1e-6


def test_forward_kl_closes_the_gap_of_the_head_first_and_reverse_kl_that_of_the_tail() -> None:
    """Of 50 classes, from a student that knows nothing: the steps until half of each gap is closed."""
    first = []
    for seed in range(10):
        teacher = random_logits(seed, 1, 50) / 3
        (head, tail), (other_head, other_tail) = (_steps_to_half(teacher, reverse) for reverse in (False, True))
        first.append((head < other_head, other_tail < tail))
    assert sum(one for one, _ in first) >= 9
    assert sum(other for _, other in first) >= 9


def _steps_to_half(teacher: Tensor, reverse: bool) -> tuple[int, int]:
    student, p, found = torch.zeros_like(teacher, requires_grad=True), teacher.log_softmax(-1), []
    for _ in range(200):
        q = student.log_softmax(-1)
        found.append(torch.cat(gaps(q.detach().exp(), p.exp(), 0.5)))
        loss = divergence(q, p) if reverse else divergence(p, q)
        student.data -= 2 * torch.autograd.grad(loss.sum(), student)[0]
    half = torch.stack(found) <= found[0] / 2
    assert half.any(0).all()
    return tuple(half.int().argmax(0).tolist())
