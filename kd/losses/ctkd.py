"""Curriculum temperature: KL at a temperature that is learnt against the student (Li et al., arXiv 2211.16231)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kd.losses.hard import blend
from kd.losses.kl import divergence, log_probabilities
from kd.losses.objective import Batch, Course, Objective

_LEAST, _SPAN = 1.0, 20.0  # of the temperature


class Ctkd(Objective):
    """(1 - alpha) CE + alpha tau^2 KL(softmax(t/tau) || softmax(s/tau)), where tau = 1 + 20 sigmoid(theta).

    Theta begins at 1, and goes up the gradient by which the student goes down. How fast rises from 0 as half a cosine
    over the first `warmup` of the epochs.
    """

    def __init__(self, course: Course, *, alpha: float, warmup: float) -> None:
        super().__init__()
        self._alpha = alpha
        self._rises = max(1, round(warmup * course.epochs)) if warmup else 0
        self.theta = nn.Parameter(torch.ones(()))
        self.log("temperature")

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        student, teacher = batch.student[0].logits, batch.teacher[0].logits
        # The value of theta, with a gradient that is reversed.
        theta = self.theta.detach() - self.reversal(batch.epoch) * (self.theta - self.theta.detach())
        tau = _LEAST + _SPAN * theta.double().sigmoid()
        self.note("temperature", tau.expand(len(student)))
        gap = divergence(log_probabilities(teacher, tau), log_probabilities(student, tau))
        return blend(student, batch.labels, self._alpha, (tau.square() * gap).to(student.dtype))

    def reversal(self, epoch: Tensor) -> Tensor | float:
        """Return by how much of itself the gradient is reversed in an epoch: (1 - cos(pi e/E))/2, 1 after E epochs."""
        if not self._rises:
            return 1.0
        return (1 - torch.cos(math.pi * (epoch / self._rises).clamp(max=1))) / 2
