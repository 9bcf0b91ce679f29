"""Losses that raise probabilities to powers: ABKD, transformed teacher matching, and OFA's term of the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd.losses.decoupled import one_of
from kd.losses.hard import blend
from kd.losses.kl import divergence, log_probabilities
from kd.losses.spec import Loss, Number

if TYPE_CHECKING:
    from torch import Tensor

_NEARLY_ZERO = 1e-6  # below this power the limit is as near as rounding lets the formula be


def alpha_beta(p: Tensor, q: Tensor, a: float, b: float) -> Tensor:
    """Return the alpha-beta divergence between p and q, given as log-probabilities [B, K], with powers a and b, [B].

    -1/(ab) sum_k [p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)] (arXiv 2505.04560), and its limits where a, b or a + b
    is 0. (1, 0) is KL(p || q), (0, 1) is KL(q || p), (0, 0) half of sum (log p - log q)^2, (1, 1) half of sum
    (p - q)^2.
    """
    if abs(a) < abs(b):  # divide by the larger of the two
        return alpha_beta(q, p, b, a)
    if abs(a) < _NEARLY_ZERO:
        return (q - p).square().sum(-1) / 2
    return (_grown(p, q, a + b) - (a * p).exp() * _grown(p, q, b)).sum(-1) / a


def _grown(x: Tensor, y: Tensor, power: float) -> Tensor:
    """Return (e^(power y) - e^(power x)) / power, which tends to y - x."""
    return ((power * y).expm1() - (power * x).expm1()) / power if power else y - x


def abkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    tau: float,
    teacher_power: float,
    student_power: float,
    weight: float,
    ce: float,
) -> Tensor:
    """Return ce CE + weight D(softmax(t/tau), softmax(s/tau)), [B], without tau^2: the alpha-beta divergence.

    The powers of the teacher's and of the student's probabilities are alpha and beta of the paper (arXiv 2505.04560).
    """
    gap = alpha_beta(log_probabilities(teacher, tau), log_probabilities(student, tau), teacher_power, student_power)
    return blend(student, labels, weight, gap.to(student.dtype), ce)


def ttm(student: Tensor, teacher: Tensor, labels: Tensor, *, power: float, weight: float, ce: float) -> Tensor:
    """Return ce CE + weight KL(softmax(power t) || softmax(s)), [B]: the teacher alone has a temperature, 1/power.

    Transformed teacher matching, Zheng and Yang, arXiv 2402.11148.
    """
    gap, _ = _transformed(student, teacher, power)
    return blend(student, labels, weight, gap.to(student.dtype), ce)


def wttm(student: Tensor, teacher: Tensor, labels: Tensor, *, power: float, weight: float, ce: float) -> Tensor:
    """Return TTM in which an example counts as U = sum_k softmax(t)_k^power, [B]: more where the teacher is unsure.

    Weighted transformed teacher matching, Zheng and Yang, arXiv 2402.11148.
    """
    gap, unsure = _transformed(student, teacher, power)
    return blend(student, labels, weight, (unsure * gap).to(student.dtype), ce)


def _transformed(student: Tensor, teacher: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Return KL(softmax(power t) || softmax(s)) and sum_k softmax(t)_k^power, [B] each."""
    raised = power * log_probabilities(teacher, 1)
    return divergence(raised.log_softmax(-1), log_probabilities(student, 1)), raised.logsumexp(-1).exp()


def ofa(
    student: Tensor, teacher: Tensor, labels: Tensor, *, tau: float, power: float, weight: float, ce: float
) -> Tensor:
    """Return ce CE - weight sum_k ((p_k + [k = y])^power - [k = y]) log q_k, [B], p and q at tau, without tau^2.

    At power 1 it is a soft cross-entropy. The released code's formula, which raises every class. One-for-all, Hao et
    al., arXiv 2310.19444; its exits, which learn from the student's earlier stages, are left out.
    """
    p, q = log_probabilities(teacher, tau).exp(), log_probabilities(student, tau)
    label = one_of(q, labels[:, None]).to(q.dtype)
    soft = -(((p + label).pow(power) - label) * q).sum(-1)
    return blend(student, labels, weight, soft.to(student.dtype), ce)


_CE = Number(1.0, low=0)

LOSSES = {
    "abkd": Loss(
        abkd,
        "CE, and the alpha-beta divergence between softmax(t/tau) and softmax(s/tau)",
        {
            "tau": Number(4.0),
            "teacher_power": Number(0.8, low=0, high=2),  # a negative one would divide by probabilities of 0
            "student_power": Number(0.3, low=0, high=2),
            "weight": Number(32.0),
            "ce": _CE,
        },
        zero_at_teacher=True,
    ),
    "ttm": Loss(
        ttm,
        "CE, and KL to a teacher whose probabilities are raised to a power; the student has no temperature",
        {"power": Number(0.1), "weight": Number(45.0), "ce": _CE},
    ),
    "wttm": Loss(
        wttm,
        "TTM in which an example counts the more, the less sure its teacher is",
        {"power": Number(0.2), "weight": Number(4.0), "ce": _CE},
    ),
    "ofa": Loss(
        ofa,
        "CE, and a soft cross-entropy against powers of the teacher's probabilities and the label",
        {"tau": Number(1.0), "power": Number(1.0, high=10), "weight": Number(1.0), "ce": _CE},
    ),
}
