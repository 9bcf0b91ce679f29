"""Other distances between softened distributions than KL, in the form of Hinton et al. (arXiv 1503.02531).

p = softmax(t/tau) is the teacher's, q = softmax(s/tau) the student's. All is computed in float64, as KL is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kd.losses.hard import blend
from kd.losses.kl import divergence, half_variance
from kd.losses.spec import Choice, Loss, Number

if TYPE_CHECKING:
    from torch import Tensor


def soft_ce(student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, weight: float, **softened) -> Tensor:
    """Return (1 - alpha) CE + alpha * weight * scale * -sum_k p_k log q_k, [B].

    It is KL and the entropy of the teacher, which has no gradient (arXiv 1503.02531 sec. 2).
    """
    p, q = _log_probabilities(student, teacher, softened["tau"])
    return blend(student, labels, alpha, weight * _scaled(-(p.exp() * q).sum(-1), student, **softened))


def reverse_kl(student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, weight: float, **softened) -> Tensor:
    """Return (1 - alpha) CE + alpha * weight * scale * KL(q || p), [B] (MiniLLM, arXiv 2306.08543)."""
    if math.isinf(softened["tau"]):
        soft = half_variance(student, teacher)
    else:
        p, q = _log_probabilities(student, teacher, softened["tau"])
        soft = _scaled(divergence(q, p), student, **softened)
    return blend(student, labels, alpha, weight * soft)


def symmetric_kl(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, weight: float, **softened
) -> Tensor:
    """Return (1 - alpha) CE + alpha * weight * scale * (KL(p || q) + KL(q || p)) / 2, [B]: half of Jeffreys' J."""
    if math.isinf(softened["tau"]):
        soft = half_variance(student, teacher)
    else:
        p, q = _log_probabilities(student, teacher, softened["tau"])
        soft = _scaled(((p.exp() - q.exp()) * (p - q)).sum(-1) / 2, student, **softened)
    return blend(student, labels, alpha, weight * soft)


def jensen_shannon(
    student: Tensor, teacher: Tensor, labels: Tensor, *, beta: float, alpha: float, weight: float, **softened
) -> Tensor:
    """Return (1 - alpha) CE + alpha * weight * scale * (beta KL(p || m) + (1 - beta) KL(q || m)), [B].

    m = beta p + (1 - beta) q (GKD, arXiv 2306.13649 eq. 1). It tends to 0 with beta and with 1 - beta, where one
    library returns KL(p || q) and KL(q || p), which are its limits divided by beta and by 1 - beta.
    """
    if math.isinf(softened["tau"]):
        soft = beta * (1 - beta) * half_variance(student, teacher)
    else:
        p, q = _log_probabilities(student, teacher, softened["tau"])
        middle = (p + math.log(beta)).logaddexp(q + math.log1p(-beta))
        soft = beta * divergence(p, middle) + (1 - beta) * divergence(q, middle)
        soft = _scaled(soft, student, **softened)
    return blend(student, labels, alpha, weight * soft)


def _log_probabilities(student: Tensor, teacher: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return log p and log q [B, K] in float64, because tau^2 would multiply float32's rounding errors."""
    return (teacher.double() / tau).log_softmax(-1), (student.double() / tau).log_softmax(-1)


def _scaled(gap: Tensor, student: Tensor, *, tau: float, scale: str) -> Tensor:
    return (gap * {"tau2": tau * tau, "tau": tau, "one": 1.0}[scale]).to(student.dtype)


def _check(params: Mapping) -> None:
    if math.isinf(params["tau"]) and params["scale"] != "tau2":
        raise ValueError(f"scale: got {params['scale']!r}; at tau = inf only tau2, because a smaller factor gives 0")


def _softened(**own: Number) -> dict:
    return {
        "tau": Number(infinite=True),
        **own,
        "alpha": Number(1.0, low=0, high=1),
        "scale": Choice("tau2", ("tau2", "tau", "one")),
        "weight": Number(1.0),
    }


LOSSES = {
    "soft_ce": Loss(
        soft_ce,
        "cross-entropy of softmax(s/tau) against softmax(t/tau), times tau^2",
        {**_softened(), "tau": Number()},  # its entropy grows as tau^2 and has no limit
    ),
    "reverse_kl": Loss(
        reverse_kl,
        "KL divergence between softmax(s/tau) and softmax(t/tau), the student's first, times tau^2",
        _softened(),
        check=_check,
        zero_at_teacher=True,
    ),
    "symmetric_kl": Loss(
        symmetric_kl,
        "mean of the KL divergences in both directions, times tau^2",
        _softened(),
        check=_check,
        zero_at_teacher=True,
    ),
    "jensen_shannon": Loss(
        jensen_shannon,
        "generalised Jensen-Shannon divergence between softmax(t/tau) and softmax(s/tau), times tau^2",
        _softened(beta=Number(0.5, high=1 - 1e-6)),
        check=_check,
        zero_at_teacher=True,
    ),
}
