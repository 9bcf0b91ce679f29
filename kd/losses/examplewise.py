"""KL whose temperature or whose weight comes from the logits of each example: NormKD, EA-KD."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kd.losses.hard import blend
from kd.losses.kl import divergence, log_probabilities
from kd.losses.spec import Loss, Number

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-7  # of a standard deviation, where all logits of an example are equal


def normkd(student: Tensor, teacher: Tensor, labels: Tensor, *, tau: float, alpha: float, weight: float) -> Tensor:
    """Return (1 - alpha) CE + alpha weight a^2 KL(softmax(t/a) || softmax(s/b)), [B].

    a = tau std(t) and b = tau std(s), (unbiased) standard deviations of each example's logits. The gradient goes
    through the student's (NormKD, arXiv 2308.00520).
    """
    spread, own = (tau * one.double().std(-1, keepdim=True).clamp(min=_LEAST) for one in (teacher, student))
    gap = divergence(log_probabilities(teacher, spread), log_probabilities(student, own))
    return blend(student, labels, alpha, weight * (spread.squeeze(-1).square() * gap).to(student.dtype))


def eakd(
    student: Tensor, teacher: Tensor, labels: Tensor, *, tau: float, entropy_tau: float, alpha: float, weight: float
) -> Tensor:
    """Return (1 - alpha) CE + alpha weight w tau^2 KL(softmax(t/tau) || softmax(s/tau)), [B].

    w = H_t / 2 (1 + H_s / log K), without gradient, where H are the entropies at entropy_tau in nats. The released
    code's CIFAR-100 runs divide by 100 in the place of log 100, which halves w. EA-KD, arXiv 2311.13621.
    """
    unsure, own = (_entropy(one.detach(), entropy_tau) for one in (teacher, student))
    counts = unsure / 2 * (1 + own / math.log(student.shape[-1]))
    gap = divergence(log_probabilities(teacher, tau), log_probabilities(student, tau))
    return blend(student, labels, alpha, weight * (counts * tau**2 * gap).to(student.dtype))


def _entropy(logits: Tensor, tau: float) -> Tensor:
    """Return the entropy of softmax(z/tau) in nats, [B]."""
    logs = log_probabilities(logits, tau)
    return -(logs.exp() * logs).sum(-1)


_ALPHA, _WEIGHT = Number(0.9, low=0, high=1), Number(1.0)

LOSSES = {
    "normkd": Loss(
        normkd,
        "KL at temperatures of tau standard deviations of each example's logits, times the teacher's squared",
        {"tau": Number(2.0), "alpha": _ALPHA, "weight": _WEIGHT},
        zero_at_teacher=True,
    ),
    "eakd": Loss(
        eakd,
        "KL, times tau^2, in which an example counts as much as the entropies of teacher and student say",
        {"tau": Number(4.0), "entropy_tau": Number(3.0), "alpha": _ALPHA, "weight": _WEIGHT},
        zero_at_teacher=True,
    ),
}
