"""OFD: maps before their ReLU, of which what the teacher's ReLU drops counts up to a margin alone.

Heo et al., arXiv 1904.01866.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.special import ndtr

from kd.core.errors import ConfigError
from kd.losses.matching import Beside, of_one_size, paired, regressor
from kd.losses.objective import Course
from kd.models.output import Output


def margins(weight: Tensor, bias: Tensor) -> Tensor:
    """Return E[t | t < 0] of each channel, t normal with mean `bias` [C] and deviation |`weight`| [C], in float64.

    Where t < 0 in at most one of a thousand it is -3 deviations.
    """
    deviation, mean = weight.detach().double().abs().clamp(min=1e-12), bias.detach().double()
    ratio = mean / deviation
    below = ndtr(-ratio)
    density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    return torch.where(below > 1e-3, mean - deviation * density / below.clamp(min=1e-3), -3 * deviation)


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Return sum (s - t)^2 of maps [B, C, H, W], t at least its margin [C], [B].

    Where both s <= t and t <= 0 nothing is counted.
    """
    student, teacher = of_one_size(student, teacher)
    teacher = teacher.maximum(margin[:, None, None])
    counted = (student > teacher) | (teacher > 0)
    return ((student - teacher).square() * counted).flatten(1).sum(1)


class Ofd(Beside):
    """CE + weight * sum over groups i of L of 2^-(L - 1 - i) partial distance.

    The student's map goes through a 1x1 convolution and batch normalisation to the teacher's channels. The margins are
    those of the teacher's batch normalisations. The teacher stays as it was evaluated; the authors' code trains its
    running statistics on.
    """

    def __init__(self, course: Course, *, weight: float) -> None:
        super().__init__(weight)
        pairs = paired(course.student_shapes().edges, course.teacher_shapes().edges)
        self.connectors = nn.ModuleList(regressor(said.shape[1], taught.shape[1]) for said, taught in pairs)
        teacher = course.teacher()
        try:
            norms = teacher.norms()[-len(pairs) :]
        except (AttributeError, NotImplementedError):
            raise ConfigError(
                f"loss ofd: got a teacher, {type(teacher).__name__}, that has no `norms` of which margins could be "
                "made; allowed: kd's own networks, and those that define `norms` (kd.models.network.Network)"
            ) from None
        for n, norm in enumerate(norms):  # the teacher's, and so no part of what a stopped run has to keep
            self.register_buffer(f"margin{n}", margins(norm.weight, norm.bias).float(), persistent=False)

    def adapted(self, student: Output) -> Output:
        """Return the student's output, with its edges as wide as the teacher's."""
        edges = zip(self.connectors, student.edges[-len(self.connectors) :], strict=True)
        return student._replace(added=tuple(connector(edge) for connector, edge in edges))

    def gap(self, said: Output, taught: Output) -> Tensor:
        """Return the partial distance of all groups, the last counted once, [B]."""
        total = 0
        for n, pair in enumerate(paired(said.added, taught.edges)):
            total = total / 2 + partial_distance(*pair, self.get_buffer(f"margin{n}"))
        return total
