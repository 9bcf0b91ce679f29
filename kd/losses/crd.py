"""CRD: what the student says of an image against what the teacher said of it, among what it said of others.

Tian et al., arXiv 1910.10699.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kd.core.errors import ConfigError
from kd.data import views
from kd.losses.hard import ce
from kd.losses.objective import Batch, Course, Objective
from kd.losses.relations import embeddings

_EPS = 1e-7  # as published
_STREAM = 99  # of the random words of `views`, one that shows no view


def contrast(logs: Tensor, c: float) -> Tensor:
    """Return -log P_0 / (P_0 + c) - sum_j log c / (P_j + c), [B], of log P [B, 1 + K]."""
    p = logs.exp()
    return (p[:, 0] + c + _EPS).log() - logs[:, 0] + ((p[:, 1:] + _EPS) / c).log1p().sum(1)


class Crd(Objective):
    """CE + weight (side(v_s, M_t) + side(v_t, M_s)), v linear embeddings of pre-logits at unit length, both learnt.

    M_s and M_t [N, D] remember the embeddings of all examples. side = -log P_0 / (P_0 + c) - sum_j log c / (P_j + c)
    where P = exp(<v, M> / tau) / Z of the example itself and of K others of other classes, c = K / n of the n examples
    that are learnt from. Z, n times the mean of the first batch, stays as it is. Then M becomes momentum M + (1 -
    momentum) v, at unit length.

    The others are drawn with replacement, by (seed, epoch, example); the authors' code draws without.
    """

    def __init__(
        self, course: Course, *, weight: float, negatives: int, tau: float, momentum: float, dimensions: int
    ) -> None:
        super().__init__()
        self._weight, self._tau, self._momentum = weight, tau, momentum
        self._seed, self._negatives = course.seed, negatives
        self.student, self.teacher = embeddings(course, dimensions)
        for name in ("student_memory", "teacher_memory"):
            spread = math.sqrt(3 / dimensions)
            self.register_buffer(name, torch.empty(len(course.labels), dimensions).uniform_(-spread, spread))
        self.register_buffer("scales", torch.zeros(2))  # Z of both sides; 0 before the first batch
        train = torch.arange(len(course.labels)) if course.train is None else course.train
        counts = course.labels[train].bincount(minlength=course.classes)
        self._count = len(train)
        if int(counts.max()) == self._count:
            raise ConfigError("loss crd: all examples are of one class; each is set against examples of other classes")
        # What follows from the course is no part of what a stopped run has to keep.
        self.register_buffer("ordered", train[course.labels[train].argsort(stable=True)], persistent=False)  # by class
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("begins", counts.cumsum(0) - counts, persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B], and remember what was said."""
        said, taught = batch.student[0], batch.teacher[0]
        student, teacher = normalize(self.student(said.prelogits)), normalize(self.teacher(taught.prelogits))
        asked = torch.cat([batch.index[:, None], self.others(batch)], 1)
        one = self.side(student, self.teacher_memory, asked, self.scales[0])
        other = self.side(teacher, self.student_memory, asked, self.scales[1])
        self.remember(self.student_memory, student, batch.index)
        self.remember(self.teacher_memory, teacher, batch.index)
        return ce(said.logits, None, batch.labels) + self._weight * (one + other)

    def others(self, batch: Batch) -> Tensor:
        """Return the numbers of examples of other classes, for each of the batch, [B, K]."""
        position = batch.epoch.long() * len(self.student_memory) + batch.index
        position = position[:, None] * self._negatives + torch.arange(self._negatives, device=position.device)
        counts, begins = (each[batch.labels][:, None] for each in (self.counts, self.begins))
        drawn = views.words(self._seed, 0, position, _STREAM).bitwise_and(2**62 - 1) % (self._count - counts)
        return self.ordered[drawn + counts * (drawn >= begins)]  # its own class lies between, and is stepped over

    def side(self, anchor: Tensor, memory: Tensor, asked: Tensor, scale: Tensor) -> Tensor:
        """Return what anchors [B, D] lack against a memory [N, D] of examples [B, 1 + K], the right one first, [B].

        Scores against all N are one product, a tenth of the bytes of the rows that are asked for. The backward pass
        needs the memory as it is now.
        """
        logits = (anchor @ memory.clone().T).gather(1, asked) / self._tau
        with torch.no_grad():
            scale.copy_(torch.where(scale > 0, scale, self._count * logits.exp().mean()))
        return contrast(logits - scale.log(), self._negatives / self._count)

    @torch.no_grad()
    def remember(self, memory: Tensor, said: Tensor, index: Tensor) -> None:
        """Move a memory's rows [B] towards what was said [B, D]."""
        memory[index] = normalize(self._momentum * memory[index] + (1 - self._momentum) * said)
