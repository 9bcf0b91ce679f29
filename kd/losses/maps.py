"""Losses of feature maps, one map at a time: FitNet, AT, VID, CAT-KD.

Maps of two sizes are compared at the smaller one. Where networks have unequal numbers of groups, the last ones are
compared.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from kd.core.errors import ConfigError
from kd.losses.matching import Beside, demand_cams, distance, of_one_size, paired, pooled, regressor
from kd.losses.objective import Course
from kd.models.network import conv1x1
from kd.models.output import Output

_LEAST = 1e-5  # of a variance, as published


class FitNet(Beside):
    """CE + weight * mean (r(f_s) - f_t)^2 of the maps after one group (Romero et al., arXiv 1412.6550).

    r is a 1x1 convolution, batch normalisation and ReLU, as in RepDistiller, which trains the hint beside CE and not in
    a phase of its own.
    """

    def __init__(self, course: Course, *, weight: float, layer: int) -> None:
        super().__init__(weight)
        student, teacher = course.student_shapes().maps, course.teacher_shapes().maps
        most = min(len(student), len(teacher))
        if layer > most:
            raise ConfigError(f"loss fitnet: layer: got {layer}; a network has {most} groups; allowed: 1 to {most}")
        self._layer = layer - 1
        self.adapter = regressor(student[self._layer].shape[1], teacher[self._layer].shape[1], nn.ReLU())

    def adapted(self, student: Output) -> Output:
        """Return the student's output, with the map as wide as the teacher's."""
        return student._replace(added=(self.adapter(student.maps[self._layer]),))

    def gap(self, said: Output, taught: Output) -> Tensor:
        """Return the mean squared difference, [B]."""
        return distance(said.added[0], taught.maps[self._layer])


class At(Beside):
    """CE + weight * sum over groups of mean (q_s - q_t)^2, q = mean_c f^2 at unit length (arXiv 1612.03928)."""

    def __init__(self, course: Course, *, weight: float) -> None:
        super().__init__(weight)

    def gap(self, said: Output, taught: Output) -> Tensor:
        """Return the squared difference of attention, mean over places, summed over groups, [B]."""
        pairs = (of_one_size(*pair) for pair in paired(said.maps, taught.maps))
        return sum((attention(s) - attention(t)).square().mean(1) for s, t in pairs)


def attention(maps: Tensor) -> Tensor:
    """Return the mean square over channels of maps [B, C, H, W], at unit length, [B, H W]."""
    return normalize(maps.square().mean(1).flatten(1))


class Vid(Beside):
    """CE + weight * sum over groups of mean ((mu(f_s) - f_t)^2 / var + log var) / 2 (Ahn et al., arXiv 1904.05835).

    mu is three 1x1 convolutions with ReLU between them; var, one number a channel, is learnt and begins at `variance`.
    The value has no lower bound at 0: log var is negative where var < 1.
    """

    def __init__(self, course: Course, *, weight: float, variance: float) -> None:
        super().__init__(weight)
        shapes = paired(course.student_shapes().maps, course.teacher_shapes().maps)
        self._sizes = [taught.shape[2:] for _, taught in shapes]
        widths = [(said.shape[1], taught.shape[1]) for said, taught in shapes]
        self.means = nn.ModuleList(
            nn.Sequential(conv1x1(s, t), nn.ReLU(), conv1x1(t, t), nn.ReLU(), conv1x1(t, t)) for s, t in widths
        )
        begins = math.log(math.expm1(variance - _LEAST))
        self.variances = nn.ParameterList(torch.full((t,), begins) for _, t in widths)

    def adapted(self, student: Output) -> Output:
        """Return the student's output, with what it says of the teacher's maps."""
        maps = zip(self.means, student.maps[-len(self.means) :], self._sizes, strict=True)
        return student._replace(added=tuple(mean(pooled(each, size)) for mean, each, size in maps))

    def gap(self, said: Output, taught: Output) -> Tensor:
        """Return the negative log-likelihood of the teacher's maps, mean over elements, summed over groups, [B]."""
        maps = zip(self.variances, paired(said.added, taught.maps), strict=True)
        return sum(unlikeliness(*of_one_size(*pair), softplus(raw) + _LEAST) for raw, pair in maps)


def unlikeliness(mean: Tensor, taught: Tensor, variance: Tensor) -> Tensor:
    """Return ((mean - taught)^2 / variance + log variance) / 2 of maps [B, C, H, W] and variances [C], mean, [B]."""
    variance = variance[:, None, None]
    return ((mean - taught).square() / variance + variance.log()).flatten(1).mean(1) / 2


class CatKd(Beside):
    """CE + weight * mean (CAM_s - CAM_t)^2 of class activation maps (Guo et al., arXiv 2304.12777).

    A CAM is the classifier without its bias at each place of the last map, averaged to resolution x resolution places.
    `cams: unit` divides that of each class by its length. The authors' code leaves the bias out of the logits too.
    """

    def __init__(self, course: Course, *, weight: float, resolution: int, cams: str) -> None:
        super().__init__(weight)
        demand_cams(course, "catkd", resolution, "resolution")
        self._size, self._unit = (resolution, resolution), cams == "unit"

    def gap(self, said: Output, taught: Output) -> Tensor:
        """Return the squared difference, mean over classes and places, [B]."""
        one, other = (self.shown(cams) for cams in (said.cams, taught.cams))
        return (one - other).square().mean((1, 2))

    def shown(self, cams: Tensor) -> Tensor:
        """Return class activation maps [B, K, H, W] as they are compared, [B, K, places]."""
        flat = pooled(cams, self._size).flatten(2)
        return normalize(flat, dim=2) if self._unit else flat
