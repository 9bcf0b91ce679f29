"""The warm-up of distilled terms: a share of a network's epochs in which they come to count in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd.losses.spec import Number

if TYPE_CHECKING:
    from torch import Tensor

WARMUP = Number(0.083, low=0, high=1)  # the hyperparameter `warmup` as most papers have it: 20 of 240 epochs


def rising(epoch: Tensor, warmup: float, epochs: int) -> Tensor:
    """Return min(epoch / n, 1), where n is the share `warmup` of the epochs, at least one."""
    return (epoch / max(1, round(warmup * epochs))).clamp(max=1)
