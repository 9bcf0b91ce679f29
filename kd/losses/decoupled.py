"""KL taken apart: how sure the teacher is of some classes, and how it shares out what is left among the others.

Let P be what the teacher gives to chosen classes. Then KL(p || q) = KL(two-way) + P KL(inside) + (1 - P) KL(rest): the
two-way distribution is [P, 1 - P], and inside and rest are p renormalised over the chosen classes and over the others
(Zhao et al., arXiv 2203.08679 eq. 7). These losses weigh each part by itself.

All is computed in float64, as KL is, and from logarithms: 1 - q_y would be 0 once the student is sure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kd.core.errors import ConfigError
from kd.losses.hard import blend
from kd.losses.hard import ce as cross_entropy
from kd.losses.kl import COMPARED, compared, divergence, log_probabilities
from kd.losses.spec import Choice, Epochwise, Loss, Number, Whole
from kd.losses.warmup import WARMUP, rising

if TYPE_CHECKING:
    from torch import Tensor


def one_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Return whether each class is one of `classes` [B, k], [B, K]."""
    return logits.new_zeros(logits.shape, dtype=bool).scatter(-1, classes, True)


def total(logs: Tensor, chosen: Tensor) -> Tensor:
    """Return the log of what the chosen classes [B, K] sum to, [B, 1]; given log-probabilities [B, K]."""
    return logs.masked_fill(~chosen, -math.inf).logsumexp(-1, keepdim=True)


def renormalised(logs: Tensor, chosen: Tensor) -> Tensor:
    """Return log-probabilities among the chosen classes [B, K], and 0 for the others, in which two do not differ."""
    return (logs - total(logs, chosen)).masked_fill(~chosen, 0)


def two_way(p: Tensor, of_p: Tensor, q: Tensor, of_q: Tensor) -> Tensor:
    """Return KL between [P, 1 - P] and [Q, 1 - Q], [B]: P and Q are what p and q give to classes chosen of each."""
    return divergence(total(p, of_p), total(q, of_q)) + divergence(total(p, ~of_p), total(q, ~of_q))


def within(p: Tensor, q: Tensor, chosen: Tensor, direction: str = "forward") -> Tensor:
    """Return KL between p and q renormalised over the chosen classes, [B]: 0 where these are one or none.

    `direction` is forward, KL(p || q), reverse, KL(q || p), or both, the mean of the two.
    """
    p, q = renormalised(p, chosen), renormalised(q, chosen)
    if direction == "both":
        return (divergence(p, q) + divergence(q, p)) / 2
    return divergence(p, q) if direction == "forward" else divergence(q, p)


def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    tau: float,
    target: float,
    rest: float,
    warmup: float,
    ce: float,
    logits: str,
    epoch: Tensor,
    epochs: int,
) -> Tensor:
    """Return ce CE + rising tau^2 (target TCKD + rest NCKD), [B]: the two-way KL and that within all but the label.

    Decoupled knowledge distillation, Zhao et al., arXiv 2203.08679; the paper calls the weights alpha and beta.
    """
    p, q = (log_probabilities(compared(one, logits), tau) for one in (teacher, student))
    label = one_of(q, labels[:, None])
    soft = tau**2 * (target * two_way(p, label, q, label) + rest * within(p, q, ~label))
    return blend(student, labels, 1, rising(epoch, warmup, epochs) * soft.to(student.dtype), ce)


def gdkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    tau: float,
    k: int,
    groups: float,
    inside: float,
    rest: float,
    direction: str,
    warmup: float,
    ce: float,
    epoch: Tensor,
    epochs: int,
) -> Tensor:
    """Return ce CE + rising tau^2 (groups KL(two-way) + inside KL(inside) + rest KL(rest)), [B].

    The chosen classes are the teacher's first k; of equal ones the first counts. `direction` is that of the two KLs
    within, the two-way one is always forward. But for CE it reads no label. Generalised DKD, ZaberKo/GDKD (2025).
    """
    classes = teacher.shape[-1]
    if k >= classes:
        raise ConfigError(
            f"loss gdkd: k: got {k}; allowed: a whole number from 1 to {classes - 1} of {classes} classes"
        )
    p, q = (log_probabilities(one, tau) for one in (teacher, student))
    first = one_of(q, teacher.argsort(dim=-1, descending=True, stable=True)[:, :k])
    among, beyond = (within(p, q, chosen, direction) for chosen in (first, ~first))
    soft = tau**2 * (groups * two_way(p, first, q, first) + inside * among + rest * beyond)
    return blend(student, labels, 1, rising(epoch, warmup, epochs) * soft.to(student.dtype), ce)


def nkd(
    student: Tensor, teacher: Tensor, labels: Tensor, *, tau: float, target: float, rest: float, ce: float
) -> Tensor:
    """Return ce CE - target p_y log q_y - rest tau^2 sum_k ph_k log qh_k, [B].

    p_y and q_y are at tau 1; ph and qh at tau are renormalised over all classes but the label. The teacher's entropies
    stay in. Normalised knowledge distillation, Yang et al., arXiv 2303.13005; the paper calls `rest` gamma.
    """
    p, q = (log_probabilities(one, tau) for one in (teacher, student))
    others = ~one_of(q, labels[:, None])
    soft = -(renormalised(p, others).exp() * renormalised(q, others)).sum(-1)  # the label adds 1 times 0
    sure = cross_entropy(teacher, None, labels).neg().exp()
    near = target * sure * cross_entropy(student, None, labels)
    return blend(student, labels, 1, near + (rest * tau**2 * soft).to(student.dtype), ce)


_PART = Number(1.0, low=0)

LOSSES = {
    "dkd": Loss(
        None,
        "CE, and KL taken apart: of the label against all others, and among the others, each with its own weight",
        {
            "tau": Number(4.0),
            "target": _PART,
            "rest": Number(8.0, low=0),
            "warmup": WARMUP,
            "ce": _PART,
            "logits": COMPARED,
        },
        build=Epochwise(dkd),
        zero_at_teacher=True,
    ),
    "gdkd": Loss(
        None,
        "CE, and KL taken apart: of the teacher's first k classes against the rest, among them, and among the rest",
        {
            "tau": Number(4.0),
            "k": Whole(5),
            "groups": _PART,
            "inside": _PART,
            "rest": Number(8.0, low=0),
            "direction": Choice("forward", ("forward", "reverse", "both")),
            "warmup": WARMUP,
            "ce": _PART,
        },
        build=Epochwise(gdkd),
        zero_at_teacher=True,
    ),
    "nkd": Loss(
        nkd,
        "CE, as much again as the teacher believes the label, and a soft cross-entropy among the other classes",
        {"tau": Number(3.0), "target": _PART, "rest": Number(3.5, low=0), "ce": _PART},
    ),
}
