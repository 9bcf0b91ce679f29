"""Distances between the logits themselves (arXiv 2105.08919)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd.losses.hard import CE, blend
from kd.losses.spec import Choice, Loss, Number

if TYPE_CHECKING:
    from torch import Tensor


def mse(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    reduction: str = "mean",
    alpha: float = 1.0,
    weight: float = 1.0,
    ce: float | None = None,
) -> Tensor:
    """Return (1 - alpha) CE + alpha * weight * (s - t)^2, [B], averaged over classes (as coded) or summed (as printed).

    Without CE it is 2 (KL at tau = inf) + (mean_k (s - t))^2: a factor 2 and the mean logit apart from KL.
    `ce`, if given, weighs CE in the place of 1 - alpha.
    """
    squares = (student - teacher).square()
    soft = squares.sum(-1) if reduction == "sum" else squares.mean(-1)
    return blend(student, labels, alpha, weight * soft, ce)


def smoothl1(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    beta: float = 1.0,
    alpha: float = 1.0,
    weight: float = 1.0,
    ce: float | None = None,
) -> Tensor:
    """Return (1 - alpha) CE + alpha * weight * mean_k h(s - t), [B].

    h(d) = d^2 / (2 beta) up to |d| = beta, |d| - beta/2 beyond (Girshick, arXiv 1504.08083, eq. 3); `ce` as for mse.
    """
    distance = (student - teacher).abs()
    inner = distance.clamp(max=beta)  # both branches of h are inner (|d| - inner/2) / beta
    soft = (inner * (distance - inner / 2)).mean(-1) / beta
    return blend(student, labels, alpha, weight * soft, ce)


_ALPHA = Number(1.0, low=0, high=1)
LOSSES = {
    "mse": Loss(
        mse,
        "mean squared error between the logits",
        {"reduction": Choice("mean", ("mean", "sum")), "alpha": _ALPHA, "weight": Number(1.0), "ce": CE},
        zero_at_teacher=True,
    ),
    "smoothl1": Loss(
        smoothl1,
        "squared error between close logits, absolute error between distant ones",
        {"beta": Number(1.0), "alpha": _ALPHA, "weight": Number(1.0), "ce": CE},
        zero_at_teacher=True,
    ),
}
