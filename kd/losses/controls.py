"""KL to what a teacher knows of classes alone: one answer for all examples of a class."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from kd.losses.kl import kl, log_probabilities
from kd.losses.objective import Batch, Course, Objective
from kd.models.output import Output


def class_means(told: Iterable[tuple[Output, Tensor]], classes: int, tau: float) -> Tensor:
    """Return logits [K, K], float64, whose softmax at `tau` is the mean of the teacher's probabilities of each class.

    `told` are batches of what the teacher says, with labels [B]. At tau = inf it is the mean of the logits. The row of
    a class without examples means nothing.
    """
    sums, counts = (torch.zeros(classes, width, dtype=torch.float64) for width in (classes, 1))
    for said, labels in told:
        logits = said.logits.double()
        sums.index_add_(0, labels, logits if math.isinf(tau) else log_probabilities(logits, tau).exp())
        counts.index_add_(0, labels, torch.ones(len(labels), 1, dtype=torch.float64))
    means = sums / counts.clamp(min=1)
    return means if math.isinf(tau) else tau * means.log()


class KlClass(Objective):
    """`kl` to the class mean of the teacher's probabilities, by the label that is learnt.

    The teacher says once, before the first step, what it says of all that is learnt from, without augmentation.
    """

    def __init__(self, course: Course, *, tau: float, **hyperparameters: object) -> None:
        super().__init__()
        self._kl = functools.partial(kl, tau=tau, **hyperparameters)
        self.register_buffer("answers", class_means(course.told("logits"), course.classes, tau))

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        return self._kl(batch.student[0].logits, self.answers[batch.labels], batch.labels)
