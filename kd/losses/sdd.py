"""SDD: distillation region by region of the last map, and more where region and image disagree about the label.

Luo, arXiv 2403.13512.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kd.losses.hard import blend, ce
from kd.losses.kl import divergence, kl
from kd.losses.matching import demand_cams, pooled
from kd.losses.objective import Batch, Course, Objective
from kd.models.output import Output


def regions(said: Output, finest: int) -> Tensor:
    """Return the logits of the image, and of the regions of grids of 2 x 2, 4 x 4, ... up to `finest`, [B, M, K]."""
    bias = said.logits - said.cams.mean((2, 3))
    found, side = [said.logits[:, None]], 2
    while side <= finest:
        found.append(pooled(said.cams, (side, side)).flatten(2).mT + bias[:, None])
        side *= 2
    return torch.cat(found, 1)


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor, tau: float, target: float, rest: float) -> Tensor:
    """Return tau^2 (target KL(b_t || b_s) + rest KL(p_t || p_s)) of logits [B, K], [B] (DKD, arXiv 2203.08679).

    b is the label's probability and that of all others together, p the distribution over the others.
    """
    label = labels[:, None] == torch.arange(student.shape[1], device=labels.device)
    student, teacher = ((logits.double() / tau).log_softmax(-1) for logits in (student, teacher))
    (own_s, others_s), (own_t, others_t) = (_parted(one, label) for one in (student, teacher))
    value = target * divergence(own_t, own_s) + rest * divergence(others_t, others_s)
    return tau * tau * value


def _parted(logs: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of label and of no label [B, 2], and of each other class if none is the label's [B, K].

    They come of log-probabilities [B, K]; the label's among the others is -inf.
    """
    others = logs.masked_fill(label, -math.inf)
    total = others.logsumexp(-1, keepdim=True)
    return torch.cat([logs.masked_fill(~label, 0).sum(-1, keepdim=True), total], -1), others - total


def weighted(values: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over regions of values [B, M], [B].

    A region counts twice where the teacher, by its logits [B, M, K], is right about one of region and image alone.
    """
    right = teacher.argmax(-1) == labels[:, None]
    return (values * (1 + (right != right[:, :1]))).mean(1)


class Sdd(Objective):
    """(1 - alpha) CE + alpha mean over regions of w tau^2 KL(softmax(t/tau) || softmax(s/tau)).

    w is 2 where the teacher's verdict on a region, right or wrong, differs from that on the image, else 1.
    """

    def __init__(self, course: Course, *, tau: float, alpha: float, finest: int) -> None:
        super().__init__()
        demand_cams(course, "sdd", finest, "finest")
        self._tau, self._alpha, self._finest = tau, alpha, finest

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        said, taught = (regions(one[0], self._finest) for one in (batch.student, batch.teacher))
        values = kl(said.flatten(0, 1), taught.flatten(0, 1), batch.labels, tau=self._tau).view(said.shape[:2])
        return blend(batch.student[0].logits, batch.labels, self._alpha, weighted(values, taught, batch.labels))


class SddDkd(Objective):
    """CE + min(epoch / warm-up, 1) mean over regions of w DKD, w as for SDD."""

    def __init__(self, course: Course, *, tau: float, target: float, rest: float, warmup: float, finest: int) -> None:
        super().__init__()
        demand_cams(course, "sdd_dkd", finest, "finest")
        self._weights, self._finest = {"tau": tau, "target": target, "rest": rest}, finest
        self._warm = max(1, round(warmup * course.epochs))

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        said, taught = (regions(one[0], self._finest) for one in (batch.student, batch.teacher))
        labels = batch.labels.repeat_interleave(said.shape[1])
        values = decoupled(said.flatten(0, 1), taught.flatten(0, 1), labels, **self._weights).view(said.shape[:2])
        soft = weighted(values, taught, batch.labels).to(said.dtype)
        return ce(batch.student[0].logits, None, batch.labels) + (batch.epoch / self._warm).clamp(max=1) * soft
