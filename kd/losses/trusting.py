"""Losses that trust the label over the teacher: where the two differ, the teacher's answer is put right or set aside.

Under wrong labels this is what they must not do; GDKD and KL, which read no label, stand beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd.losses.decoupled import one_of, two_way, within
from kd.losses.hard import blend
from kd.losses.hard import ce as cross_entropy
from kd.losses.kl import COMPARED, compared, kl, log_probabilities
from kd.losses.mse import mse
from kd.losses.spec import Epochwise, Loss, Number
from kd.losses.warmup import WARMUP, rising

if TYPE_CHECKING:
    from torch import Tensor

_TAUS = range(1, 7)  # of SLD


def swapped(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits [B, K] in which the largest and the label's have changed places."""
    label, first = labels[:, None], logits.argmax(-1, keepdim=True)
    return logits.scatter(-1, label, logits.gather(-1, first)).scatter(-1, first, logits.gather(-1, label))


def promoted(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits [B, K] dealt out anew: the largest to the label, the rest to the others in the order they have."""
    raised = logits.masked_fill(one_of(logits, labels[:, None]), float("inf"))
    order = raised.argsort(dim=-1, descending=True, stable=True)
    return logits.scatter(-1, order, logits.sort(-1, descending=True).values)


def swap(student: Tensor, teacher: Tensor, labels: Tensor, *, tau: float, alpha: float, weight: float) -> Tensor:
    """Return (1 - alpha) CE + alpha weight tau^2 KL(swapped teacher || student), [B].

    The first half of SLD (arXiv 2504.20108), as the authors of RLD (arXiv 2408.07703) run it: without CE.
    """
    return kl(student, swapped(teacher, labels), labels, tau=tau, alpha=alpha, weight=weight)


def sortkd(student: Tensor, teacher: Tensor, labels: Tensor, *, tau: float, alpha: float, weight: float) -> Tensor:
    """Return (1 - alpha) CE + alpha weight tau^2 KL(promoted teacher || student), [B] (arXiv 2508.16544).

    It is `swap` where the label is among the teacher's first two classes.
    """
    return kl(student, promoted(teacher, labels), labels, tau=tau, alpha=alpha, weight=weight)


def sld(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    start: float,
    alpha: float,
    weight: float,
    epoch: Tensor,
    epochs: int,
) -> Tensor:
    """Return (1 - alpha) CE + alpha weight sum_tau tau^2 (KL(swapped teacher || s) + [later] KL(swapped s || s)), [B].

    tau is 1, 2, ..., 6. The student's own swapped logits teach it after the share `start` of the epochs; they have no
    gradient, as a teacher has none (the authors' code lets it through). Swapped logit distillation, arXiv 2504.20108.
    """
    ours, theirs = (
        sum(kl(student, swapped(one, labels), labels, tau=tau) for tau in _TAUS) for one in (student.detach(), teacher)
    )
    soft = theirs + (epoch > round(start * epochs)) * ours
    return blend(student, labels, alpha, weight * soft)


def rld(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    tau: float,
    target_tau: float,
    target: float,
    rest: float,
    warmup: float,
    ce: float,
    logits: str,
    epoch: Tensor,
    epochs: int,
) -> Tensor:
    """Return ce CE + rising (target target_tau^2 KL(two-way) + rest tau^2 KL(below)), [B].

    The two-way KL is from [max p, 1 - max p] to [q_y, 1 - q_y] at target_tau: the student is to be as sure of the label
    as the teacher is of its first class. The other is within the classes that the teacher puts below the label. Refined
    logit distillation, Sun et al., arXiv 2408.07703; the paper calls the weights alpha and beta.
    """
    said, taught = compared(student, logits), compared(teacher, logits)
    label, first = one_of(student, labels[:, None]), one_of(student, teacher.argmax(-1, keepdim=True))
    below = teacher < teacher.gather(-1, labels[:, None])
    sure = two_way(log_probabilities(taught, target_tau), first, log_probabilities(said, target_tau), label)
    among = within(log_probabilities(taught, tau), log_probabilities(said, tau), below)
    soft = target * target_tau**2 * sure + rest * tau**2 * among
    return blend(student, labels, 1, rising(epoch, warmup, epochs) * soft.to(student.dtype), ce)


def revision(student: Tensor, teacher: Tensor, labels: Tensor, *, right: float, wrong: float, eta: float) -> Tensor:
    """Return CE + right mean_k (s - t)^2 where the teacher is right, else wrong mean_k (q - revised)^2, [B].

    revised = b p + (1 - b) onehot, b = eta / (max p - p_y + 1), p and q at tau 1. Each of the two is a mean over the
    examples of its kind in the batch. Label revision, arXiv 2404.03693, as the authors of RLD run it.
    """
    p, q = teacher.softmax(-1), student.softmax(-1)
    agrees = teacher.argmax(-1) == labels
    trust = eta / (p.amax(-1, keepdim=True) - p.gather(-1, labels[:, None]) + 1)
    revised = trust * p + (1 - trust) * one_of(p, labels[:, None])
    good = cross_entropy(student, None, labels) + right * mse(student, teacher, labels)
    bad = wrong * (q - revised).square().mean(-1)
    kept = agrees.to(p.dtype)
    least = 1 / len(labels)
    return good * kept / kept.mean().clamp(min=least) + bad * (1 - kept) / (1 - kept).mean().clamp(min=least)


_PART = Number(1.0, low=0)
_SHARE = Number(0.9, low=0, high=1)  # alpha

LOSSES = {
    "rld": Loss(
        None,
        "CE, KL from the teacher's sureness of its first class to the student's of the label, and KL below the label",
        {
            "tau": Number(4.0),
            "target_tau": Number(1.0),
            "target": _PART,
            "rest": Number(8.0, low=0),
            "warmup": WARMUP,
            "ce": _PART,
            "logits": COMPARED,
        },
        build=Epochwise(rld),
    ),
    "swap": Loss(
        swap,
        "KL to a teacher whose largest logit and whose label's have changed places, times tau^2",
        {"tau": Number(4.0), "alpha": Number(1.0, low=0, high=1), "weight": Number(1.0)},
    ),
    "sld": Loss(
        None,
        "KL to a teacher with swapped logits at tau 1 to 6, and later to the student's own swapped logits as well",
        {"start": Number(0.625, low=0, high=1), "alpha": _SHARE, "weight": Number(1.0)},  # 150 of 240 epochs
        build=Epochwise(sld),
    ),
    "sortkd": Loss(
        sortkd,
        "KL to a teacher whose largest logit the label gets while the others keep their order, times tau^2",
        {"tau": Number(4.0), "alpha": _SHARE, "weight": Number(1.0)},
    ),
    "revision": Loss(
        revision,
        "CE and MSE of logits where the teacher is right, else a squared error to its answer mixed with the label",
        {"right": Number(4.0, low=0), "wrong": _PART, "eta": Number(0.8, high=1)},
        batchwise=True,  # each kind of example has a mean of its own
    ),
}
