"""ReviewKD: the student's maps, each fused with all deeper ones, against the teacher's.

Chen et al., arXiv 2104.09044.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kd.losses.hard import ce
from kd.losses.matching import Size, distance, paired, pooled, regressor
from kd.losses.objective import Batch, Course, Objective
from kd.losses.warmup import rising
from kd.models.network import BatchNorm, conv3x3
from kd.models.output import Output


class Fusion(nn.Module):
    """Mix a map with what deeper ones left, by two gates a place, and make of it a map as wide as the teacher's."""

    def __init__(self, inputs: int, middle: int, outputs: int, fuses: bool) -> None:
        super().__init__()
        self.narrow = regressor(inputs, middle)
        self.gates = nn.Conv2d(2 * middle, 2, 1) if fuses else None
        self.widen = nn.Sequential(conv3x3(middle, outputs), BatchNorm(outputs))

    def forward(self, x: Tensor, deeper: Tensor | None, size: Size) -> tuple[Tensor, Tensor]:
        """Return [B, outputs, *size] and what is left for the next map, [B, middle, *size], of x [B, inputs, H, W]."""
        x = self.narrow(x)
        if self.gates is not None:
            y = resized(deeper, x.shape[2:])
            one, other = self.gates(torch.cat([x, y], 1)).sigmoid().split(1, dim=1)
            x = x * one + y * other
        x = resized(x, size)
        return self.widen(x), x


def resized(maps: Tensor, size: Size) -> Tensor:
    """Return maps [B, C, H, W] at another size, each place as the nearest is."""
    return maps if maps.shape[2:] == size else interpolate(maps, size)


def fused(fusions: Sequence[nn.Module], features: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
    """Return what fusions make of features [B, C, H, W], from the deepest to the shallowest."""
    made, deeper = [], None
    for fusion, feature, size in zip(fusions, features, sizes, strict=True):
        out, deeper = fusion(feature, deeper, size)
        made.append(out)
    return made


def context_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the hierarchical context loss of maps [B, C, H, W], [B].

    The mean squared difference at full size and averaged to 4, 2 and 1 places a side, each half as much as the one
    before, over the sum of these weights. A size that is not smaller than the map is passed over.
    """
    sizes = [student.shape[2:], *((side, side) for side in (4, 2, 1) if side < student.shape[2])]
    weights = [2.0**-n for n in range(len(sizes))]
    terms = [w * distance(pooled(student, size), pooled(teacher, size)) for w, size in zip(weights, sizes, strict=True)]
    return sum(terms) / sum(weights)


class ReviewKd(Objective):
    """CE + min(epoch / warm-up, 1) weight * the hierarchical context loss, summed over pre-logits and groups.

    The student's features are its pre-logits, as a map of one place, and its maps after their ReLU; the teacher's are
    pre-logits and maps before their ReLU. They are narrowed to at most `middle` channels.
    """

    def __init__(self, course: Course, *, weight: float, warmup: float, middle: int) -> None:
        super().__init__()
        self._weight, self._warmup, self._epochs = weight, warmup, course.epochs
        student, teacher = course.student_shapes(), course.teacher_shapes()
        widths = [(student.prelogits.shape[1], teacher.prelogits.shape[1])]
        self._sizes: list[Size] = [(1, 1)]
        for said, taught in reversed(paired(student.edges, teacher.edges)):
            widths.append((said.shape[1], taught.shape[1]))
            self._sizes.append(tuple(taught.shape[2:]))
        middle = min(middle, widths[0][0])
        self.fusions = nn.ModuleList(Fusion(s, middle, t, n > 0) for n, (s, t) in enumerate(widths))

    def adapted(self, student: Output) -> Output:
        """Return the student's output, with its fused features, the deepest first."""
        maps = [edge.relu() for edge in reversed(student.edges)][: len(self.fusions) - 1]
        return student._replace(added=tuple(fused(self.fusions, [_as_map(student.prelogits), *maps], self._sizes)))

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        said, taught = batch.student[0], batch.teacher[0]
        asked = [_as_map(taught.prelogits), *reversed(taught.edges)][: len(self.fusions)]
        gap = sum(context_distance(*pair) for pair in zip(said.added, asked, strict=True))
        warm = rising(batch.epoch, self._warmup, self._epochs)
        return ce(said.logits, None, batch.labels) + warm * self._weight * gap


def _as_map(prelogits: Tensor) -> Tensor:
    return prelogits[:, :, None, None]
