"""Correlation between teacher and student in the place of a distance (DIST, Huang et al., arXiv 2205.10536)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd.losses.hard import blend
from kd.losses.kl import log_probabilities
from kd.losses.spec import Loss, Number

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-8  # added to what a correlation divides by, as the authors' code has it


def uncorrelated(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Return 1 minus Pearson's correlation along a dimension of x and y [B, K]."""
    x, y = (one - one.mean(dim, keepdim=True) for one in (x, y))
    return 1 - (x * y).sum(dim) / (x.norm(dim=dim) * y.norm(dim=dim) + _EPS)


def dist(
    student: Tensor, teacher: Tensor, labels: Tensor, *, tau: float, inter: float, intra: float, ce: float
) -> Tensor:
    """Return ce CE + tau^2 (inter (1 - correlation over classes) + intra (1 - correlation over the batch)), [B].

    The correlations are of softmax(s/tau) with softmax(t/tau): of each example over its classes, and of each class over
    the examples of the batch, which is a mean over classes and the same for all examples.
    """
    p, q = (log_probabilities(one, tau).exp() for one in (teacher, student))
    soft = tau**2 * (inter * uncorrelated(p, q, -1) + intra * uncorrelated(p, q, 0).mean())
    return blend(student, labels, 1, soft.to(student.dtype), ce)


LOSSES = {
    "dist": Loss(
        dist,
        "CE, and how little softmax(s/tau) and softmax(t/tau) are correlated, over classes and over the batch",
        {
            "tau": Number(4.0),
            "inter": Number(2.0, low=0),
            "intra": Number(2.0, low=0),
            "ce": Number(1.0, low=0),
        },
        batchwise=True,
    ),
}
