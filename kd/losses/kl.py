"""Kullback-Leibler divergence between softened distributions (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kd.losses.hard import CE, blend
from kd.losses.spec import Choice, Later, Loss, Needs, Number

if TYPE_CHECKING:
    from torch import Tensor


def kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    tau: float,
    alpha: float = 1.0,
    scale: str = "tau2",
    weight: float = 1.0,
    ce: float | None = None,
    logits: str = "raw",
) -> Tensor:
    """Return (1 - alpha) CE + alpha * weight * scale * KL(softmax(t/tau) || softmax(s/tau)), [B].

    `scale` is tau^2 (gradients of one size at every large tau; arXiv 1503.02531 sec. 2), tau (the same for small
    tau; arXiv 2105.08919), or 1. At tau = inf it is the limit of tau^2 KL (`half_variance`). `ce`, if given, weighs CE
    in the place of 1 - alpha. `logits` says of which logits the divergence is (`compared`).
    """
    said, taught = compared(student, logits), compared(teacher, logits)
    if math.isinf(tau):
        soft = half_variance(said, taught).to(student.dtype)
    else:
        # In float32 tau^2 multiplies rounding errors into values that are wrong by 2e-2 at tau 1e3 and without a
        # digit from 1e4, in gradients wrong by 6e-2 at 1e6. B * K numbers in float64 are no cost beside a network.
        gap = divergence(log_probabilities(taught, tau), log_probabilities(said, tau))
        soft = (gap * {"tau2": tau * tau, "tau": tau, "one": 1.0}[scale]).to(student.dtype)
    return blend(student, labels, alpha, weight * soft, ce)


def log_probabilities(logits: Tensor, tau: float) -> Tensor:
    """Return log softmax(z/tau) [B, K] in float64."""
    return (logits.double() / tau).log_softmax(-1)


def compared(logits: Tensor, how: str) -> Tensor:
    """Return logits z [B, K] as they are compared: raw, or standardised, (z - mean) / (1e-7 + deviation), in float64.

    Mean and (unbiased) standard deviation are over classes; the gradient goes through both (Sun et al., arXiv
    2403.01427).
    """
    if how == "raw":
        return logits
    logits = logits.double()
    return (logits - logits.mean(-1, keepdim=True)) / (1e-7 + logits.std(-1, keepdim=True))


def divergence(target: Tensor, student: Tensor) -> Tensor:
    """Return KL(target || student) of log-probabilities [..., K], summed over classes.

    Adds q - p to each summand p (log p - log q). It sums to zero but for rounding, and with it every summand is
    of second order in the difference: a hundredfold more exact where the distributions are close (large tau).
    A class that the target rules out (a logit of -inf) adds its q alone.
    """
    p = target.exp()
    return (student.exp() - p + (p * (target - student)).where(p > 0, 0)).sum(-1)


def half_variance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return half the variance over classes of D = s - t, [B]: the limit of tau^2 KL at infinite tau.

    Its gradient is (D - mean D) / K, the logit matching of arXiv 2105.08919.
    """
    return (student - teacher).var(-1, correction=0) / 2


def _check(params: Mapping) -> None:
    if math.isinf(params["tau"]) and params["scale"] != "tau2":
        raise ValueError(f"scale: got {params['scale']!r}; at tau = inf only tau2, for a smaller factor tends to 0")


COMPARED = Choice("raw", ("raw", "standardised"))  # the hyperparameter `logits`
_PARAMETERS = {
    "tau": Number(infinite=True),
    "alpha": Number(1.0, low=0, high=1),
    "scale": Choice("tau2", ("tau2", "tau", "one")),
    "weight": Number(1.0),
    "ce": CE,
}

LOSSES = {
    "kl": Loss(
        kl,
        "KL divergence between softmax(t/tau) and softmax(s/tau), times tau^2",
        {**_PARAMETERS, "logits": COMPARED},
        check=_check,
        zero_at_teacher=True,
    ),
    # What a teacher's answer of the image itself adds is the difference from these two controls.
    "kl_other": Loss(
        kl,
        "KL to the teacher's answer for another image of the same class: a control",
        _PARAMETERS,
        needs=Needs(another=True),
        check=_check,
    ),
    "kl_class": Loss(
        None,
        "KL to the mean over the class of the teacher's probabilities: a control",
        _PARAMETERS,
        check=_check,
        build=Later("kd.losses.controls", "KlClass"),
    ),
}
