"""Losses against labels of which some are wrong: an example that the student finds unlikely counts less than in CE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd.losses.hard import ce as cross_entropy
from kd.losses.spec import LABELS_ALONE, Loss, Number

if TYPE_CHECKING:
    from torch import Tensor


def gce(student: Tensor, teacher: Tensor | None, labels: Tensor, *, q: float) -> Tensor:
    """Return (1 - p_y^q) / q of each example, [B]: CE for q towards 0, and 1 - p_y for q = 1.

    Its gradient is that of CE times p_y^q. Generalised cross-entropy, Zhang and Sabuncu, arXiv 1805.07836 eq. 6.
    """
    # from log p_y: p_y^q itself has the gradient inf * 0 where p_y is 0 in float32
    return (-q * cross_entropy(student, None, labels)).expm1().neg() / q


def symmetric_ce(
    student: Tensor, teacher: Tensor | None, labels: Tensor, *, ce: float, rce: float, log_zero: float
) -> Tensor:
    """Return ce CE + rce RCE of each example, [B], where RCE = -log_zero (1 - p_y) is the cross-entropy turned round.

    It has the label's distribution inside the logarithm, of whose zeros `log_zero` is taken for the logarithm. Wang et
    al., arXiv 1908.06112 eq. 7.
    """
    hard = cross_entropy(student, None, labels)
    reverse = log_zero * (-hard).expm1()
    return ce * hard + rce * reverse


LOSSES = {
    "gce": Loss(
        gce,
        "generalised cross-entropy: CE whose gradient counts as the student finds the label likely",
        {"q": Number(0.7, high=1)},
        needs=LABELS_ALONE,
    ),
    "symmetric_ce": Loss(
        symmetric_ce,
        "cross-entropy, and the same with label and student exchanged",
        {"ce": Number(6.0, low=0), "rce": Number(0.1), "log_zero": Number(-4.0, low=-100, high=-1e-6)},
        needs=LABELS_ALONE,
    ),
}
