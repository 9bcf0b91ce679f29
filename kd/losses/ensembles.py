"""How several teachers become one: from their logits [M, B, K] to logits [B, K]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean_logit(logits: Tensor, tau: float = 1.0) -> Tensor:
    """Return the mean of the members' logits; its softmax is their geometric mean (arXiv 1503.02531 sec. 2)."""
    return logits.mean(0)


def mean_prob(logits: Tensor, tau: float = 1.0) -> Tensor:
    """Return logits z for which softmax(z/tau) is the arithmetic mean of the members' softmax(z_m/tau).

    That fixes z up to a constant. It is chosen so that z has the mean over classes of the members' logits: one
    member gives its own logits back, and tau = inf gives `mean_logit`.
    """
    mean = logits.mean(0)
    if math.isinf(tau):
        return mean
    # float64, and a log-sum-exp instead of the log of a mean: no underflow to log 0, no tau * rounding error
    mixture = tau * (logits.double() / tau).log_softmax(-1).logsumexp(0)
    shift = mean.double().mean(-1, keepdim=True) - mixture.mean(-1, keepdim=True)
    return (mixture + shift).to(logits.dtype)


def sum_logit(logits: Tensor, tau: float = 1.0) -> Tensor:
    """Return the sum of the members' logits: what the authors of arXiv 2105.08919 ran; it grows with their number."""
    return logits.sum(0)


# The first is what an ensemble is unless told otherwise.
ENSEMBLES = {"mean_logit": mean_logit, "mean_prob": mean_prob, "sum_logit": sum_logit}
AT_TAU = frozenset({"mean_prob"})  # of these tau changes more than a student's own softmax
