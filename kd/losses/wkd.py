"""Wasserstein distances to the teacher: between distributions over related classes, and between feature statistics.

Lv, Yang and Li, arXiv 2412.08139. What moving probability from a class to another costs, the teacher says: little
between classes whose features it orders alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kd.core.errors import ConfigError
from kd.losses.hard import ce
from kd.losses.objective import Batch, Course, Objective
from kd.models.network import BatchNorm, conv1x1
from kd.models.output import Output

_EPS = 1e-8  # as the reference adds it to costs and to what it divides by


def transport(
    student: Tensor, teacher: Tensor, cost: Tensor, source: Tensor, regularisation: float, iterations: int
) -> Tensor:
    """Return the cost of moving the probabilities `student` [B, K] to `teacher` [B, K] at cost [K, K], [B].

    It is that of Sinkhorn's entropic plan after some iterations from the scaling `source` [B, K]. A class that has
    nothing in any of the three takes no part in it.
    """
    cost = cost.relu() + _EPS
    kernel = (-cost / regularisation).exp()
    for _ in range(iterations):
        target = teacher / (source @ kernel + _EPS)
        source = student / (target @ kernel.T + _EPS)
    return (source @ (kernel * cost) * target).sum(-1)


class WkdL(Objective):
    """CE + target L_t + rest decay(epoch) WD.

    L_t = -p_y log q_y at tau 1. WD is the Wasserstein distance between student and teacher at tau over all classes
    but the label's, by Sinkhorn. In the last share `decay` of the epochs its weight falls to 0 as a cosine does.
    """

    def __init__(
        self,
        course: Course,
        *,
        tau: float,
        rest: float,
        target: float,
        kappa: float,
        relation: str,  # by which the course has it
        regularisation: float,
        iterations: int,
        decay: float,
    ) -> None:
        super().__init__()
        self._tau, self._rest, self._target = tau, rest, target
        self._regularisation, self._iterations = regularisation, iterations
        self._falls = max(1, round(decay * course.epochs)) if decay else 0
        self._begins = course.epochs - self._falls
        self.register_buffer("cost", 1 - (-kappa * (1 - course.relation())).exp())

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        said, taught, labels = batch.student[0].logits, batch.teacher[0].logits, batch.labels
        hard = ce(said, None, labels)
        sure = ce(taught, None, labels).neg().exp()  # p_y
        distance = self._rest * self.falling(batch.epoch) * self.distance(said, taught, labels)
        return hard + self._target * sure * hard + distance

    def falling(self, epoch: Tensor) -> Tensor | float:
        """Return what the distance counts in an epoch: 1, until a cosine takes it to 0 in the last one."""
        if not self._falls:
            return 1.0
        return (1 + torch.cos(math.pi * ((epoch - self._begins) / self._falls).clamp(min=0))) / 2

    def distance(self, said: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
        """Return the Wasserstein distance over all classes but the label's, [B]."""
        label = labels[:, None] == torch.arange(said.shape[1], device=labels.device)
        # Where the label's class has nothing it leaves Sinkhorn's products: no example needs a matrix of its own.
        a, b = ((logits / self._tau).masked_fill(label, -math.inf).softmax(-1) for logits in (said, taught))
        even = (~label).to(said.dtype) / (said.shape[1] - 1)
        return transport(a, b, self.cost.to(said.dtype), even, self._regularisation, self._iterations)


def statistics(maps: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel of maps [B, C, H, W], in each of G = grid^2 cells, [B, C, G].

    The deviation is sqrt(unbiased variance + 1e-5).
    """
    batch, channels, height, width = maps.shape
    cells = maps.reshape(batch, channels, grid, height // grid, grid, width // grid)
    cells = cells.movedim(4, 3).flatten(4).flatten(2, 3)  # [B, C, G, pixels]
    return cells.mean(-1), (cells.var(-1) + 1e-5).sqrt()


def distance_of_statistics(student: Tensor, teacher: Tensor, mean: float, grid: int) -> Tensor:
    """Return mean ||mu_s - mu_t||^2 + ||sigma_s - sigma_t||^2 of maps [B, C, H, W], averaged over cells, [B]."""
    (mu_s, sigma_s), (mu_t, sigma_t) = statistics(student, grid), statistics(teacher, grid)
    return (mean * (mu_s - mu_t).square() + (sigma_s - sigma_t).square()).sum((1, 2)) / grid**2


class WkdF(Objective):
    """CE + weight (mean ||mu_s - mu_t||^2 + ||sigma_s - sigma_t||^2) of the last maps, as Gaussians channel by channel.

    The student's map goes through a 1x1 convolution, batch normalisation and ReLU to the teacher's channels. The
    squared distance of means is what the authors' code has; their summary writes the norm.
    """

    def __init__(self, course: Course, *, weight: float, mean: float, grid: int) -> None:
        super().__init__()
        self._weight, self._mean, self._grid = weight, mean, grid
        student, teacher = course.student_shapes().maps[-1].shape, course.teacher_shapes().maps[-1].shape
        for who, (_, _, height, width) in (("student", student), ("teacher", teacher)):
            if height % grid or width % grid or height * width < 2 * grid**2:
                raise ConfigError(
                    f"loss wkd_f: grid: got {grid}; the {who}'s last map of {height}x{width} does not part into "
                    f"{grid}x{grid} cells of at least 2 pixels"
                )
        self.adapter = nn.Sequential(conv1x1(student[1], teacher[1]), BatchNorm(teacher[1]), nn.ReLU())

    def adapted(self, student: Output) -> Output:
        """Return the student's output, its last map as wide as the teacher's."""
        return student._replace(maps=(*student.maps[:-1], self.adapter(student.maps[-1])))

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        said, taught = batch.student[0], batch.teacher[0]
        distance = distance_of_statistics(said.maps[-1], taught.maps[-1], self._mean, self._grid)
        return ce(said.logits, None, batch.labels) + self._weight * distance
