"""What losses of features share: cross-entropy beside their term, maps of one size, adapters to one width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from kd.core.errors import ConfigError
from kd.losses.hard import ce
from kd.losses.objective import Batch, Course, Objective
from kd.models.network import BatchNorm, conv1x1
from kd.models.output import Output

Size = tuple[int, int]  # height and width


class Beside(Objective):
    """CE + weight * what `gap` returns."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self._weight = weight

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        said, taught = batch.student[0], batch.teacher[0]
        return ce(said.logits, None, batch.labels) + self._weight * self.gap(said, taught)

    def gap(self, said: Output, taught: Output) -> Tensor:
        """Return how far what the student says is from what the teacher says, [B]; a batch-level term spread evenly."""
        raise NotImplementedError


def paired(student: Sequence, teacher: Sequence) -> list[tuple]:
    """Return the last of both in pairs, as many as the shorter has: networks of other families have other groups."""
    count = min(len(student), len(teacher))
    return list(zip(student[-count:], teacher[-count:], strict=True))


def pooled(maps: Tensor, size: Size) -> Tensor:
    """Return maps [B, C, H, W] averaged to [B, C, *size], or to their own size where that is smaller."""
    height, width = maps.shape[2:]
    size = min(height, size[0]), min(width, size[1])
    if (height, width) == size:
        return maps
    if height % size[0] or width % size[1]:
        return adaptive_avg_pool2d(maps, size)
    return avg_pool2d(maps, (height // size[0], width // size[1]))  # its gradient is deterministic on a GPU too


def of_one_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps [B, C, H, W], the larger averaged to the size of the smaller."""
    return pooled(one, other.shape[2:]), pooled(other, one.shape[2:])


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean squared difference of two maps [B, C, H, W] in each example, [B], at the smaller size."""
    one, other = of_one_size(one, other)
    return (one - other).square().flatten(1).mean(1)


def regressor(inputs: int, outputs: int, *after: nn.Module) -> nn.Sequential:
    """Return a 1x1 convolution to as many channels as the teacher has, its batch normalisation and what comes after."""
    return nn.Sequential(conv1x1(inputs, outputs), BatchNorm(outputs), *after)


def demand_cams(course: Course, loss: str, least: int, key: str) -> None:
    """Raise ConfigError unless the classifiers of both networks can look at a place, and last maps have enough."""
    for who, shapes in (("student", course.student_shapes()), ("teacher", course.teacher_shapes())):
        if shapes.cams is None:
            raise ConfigError(f"loss {loss}: the {who}'s pre-logits are not the mean of its last map; choose another")
        height, width = shapes.cams.shape[2:]
        if min(height, width) < least:
            raise ConfigError(
                f"loss {loss}: {key}: got {least}; the {who}'s last map has {height}x{width} places; allowed: up to "
                f"{min(height, width)}"
            )
