"""Losses against the labels alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd.losses.spec import LABELS_ALONE, Loss, Number

if TYPE_CHECKING:
    from torch import Tensor


def ce(student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
    """Return the cross-entropy -log softmax(s)_y of each example, [B]."""
    return student.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1).neg()


def ls(student: Tensor, teacher: Tensor | None, labels: Tensor, *, smoothing: float) -> Tensor:
    """Return the cross-entropy against labels of which `smoothing` is shared out among all classes, [B].

    Szegedy et al., arXiv 1512.00567 sec. 7.
    """
    log_probabilities = student.log_softmax(-1)
    right = log_probabilities.gather(-1, labels[:, None]).squeeze(-1)
    return -(1 - smoothing) * right - smoothing * log_probabilities.mean(-1)


def blend(student: Tensor, labels: Tensor, alpha: float, soft: Tensor, weight: float | None = None) -> Tensor:
    """Return weight * CE + alpha * soft, [B]; the weight is 1 - alpha unless given. What weighs 0 is left out."""
    weight = 1 - alpha if weight is None else weight
    # A term that does not count must not pass on its infinities as 0 * inf, and one that counts once is not multiplied.
    hard = ce(student, None, labels) if weight else None
    terms = [term if share == 1 else share * term for share, term in ((weight, hard), (alpha, soft)) if share]
    return sum(terms[1:], terms[0]) if terms else 0 * soft


CE = Number(None, low=0, optional=True)  # the weight of CE beside a distilled term

LOSSES = {
    "ce": Loss(ce, "cross-entropy against the labels", needs=LABELS_ALONE),
    "ls": Loss(
        ls,
        "cross-entropy against smoothed labels",
        {"smoothing": Number(0.1, low=0, high=1)},
        needs=LABELS_ALONE,
    ),
}
