"""SDD: distillation region by region of the last map, and more where region and image disagree about the label.

Luo, arXiv 2403.13512.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from kd.losses.decoupled import dkd
from kd.losses.hard import blend, ce
from kd.losses.kl import kl
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
        self._finest = finest
        weights = {"tau": tau, "target": target, "rest": rest, "warmup": warmup}
        self._dkd = functools.partial(dkd, **weights, ce=0, logits="raw", epochs=course.epochs)

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        said, taught = (regions(one[0], self._finest) for one in (batch.student, batch.teacher))
        labels = batch.labels.repeat_interleave(said.shape[1])
        values = self._dkd(said.flatten(0, 1), taught.flatten(0, 1), labels, epoch=batch.epoch).view(said.shape[:2])
        return ce(batch.student[0].logits, None, batch.labels) + weighted(values, taught, batch.labels)
