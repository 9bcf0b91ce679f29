"""Losses of how the examples of a batch relate to each other: SP, RKD, PKT, CC.

Networks of any widths can be compared, without adapters, but for CC. A batch of one example has no relations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, smooth_l1_loss

from kd.losses.matching import Beside
from kd.losses.objective import Course
from kd.models.output import Output

_EPS = 1e-7  # PKT's, as published
_TINY = 1e-12  # the least squared distance of two examples, and the least mean distance


class Sp(Beside):
    """CE + weight * ||G_s - G_t||_F^2 / B^2 (Tung and Mori, arXiv 1907.09682).

    G = F F^T with rows of unit length, F [B, C H W] the last map of each example.
    """

    def __init__(self, course: Course, *, weight: float) -> None:
        super().__init__(weight)

    def gap(self, said: Output, taught: Output) -> Tensor:
        """Return the mean squared difference of each example's row, [B]."""
        return (similarities(said.maps[-1]) - similarities(taught.maps[-1])).square().mean(1)


def similarities(features: Tensor) -> Tensor:
    """Return the products of each example's features [B, ...] with those of all, a row at unit length, [B, B]."""
    flat = features.flatten(1)
    return normalize(flat @ flat.T)


class Rkd(Beside):
    """CE + distance * Huber of distances + angle * Huber of angles, of pre-logits (Park et al., arXiv 1904.05068).

    Distances [B, B] are divided by their mean; angles [B, B, B] are cosines at each example between each two others.
    """

    def __init__(self, course: Course, *, distance: float, angle: float) -> None:
        super().__init__(1.0)
        self._distance, self._angle = distance, angle

    def gap(self, said: Output, taught: Output) -> Tensor:
        """Return the mean Huber losses of each example's distances and of the angles at it, weighted, [B]."""
        (near, sharp), (near_t, sharp_t) = (geometry(one.prelogits) for one in (said, taught))
        distances = smooth_l1_loss(near, near_t, reduction="none").mean(1)
        angles = smooth_l1_loss(sharp, sharp_t, reduction="none").mean((1, 2))
        return self._distance * distances + self._angle * angles


def geometry(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances over their mean [B, B], and at each example the cosines between all others [B, B, B]."""
    count = len(features)
    between = features[None] - features[:, None]  # [B, B, D]
    apart = ~torch.eye(count, dtype=torch.bool, device=features.device)
    distances = between.square().sum(2).clamp(min=_TINY).sqrt() * apart
    mean = distances.sum() / max(1, count * (count - 1))
    directions = normalize(between, dim=2)
    return distances / mean.clamp(min=_TINY), directions @ directions.mT


class Pkt(Beside):
    """CE + weight * mean_ij p_ij log((p_ij + eps) / (q_ij + eps)) (Passalis and Tefas, arXiv 1803.10837).

    p and q are the teacher's and the student's cosines of pre-logits, taken to [0, 1], each row divided by its sum. All
    is computed in float64, because the weight multiplies rounding errors.
    """

    def __init__(self, course: Course, *, weight: float) -> None:
        super().__init__(weight)

    def gap(self, said: Output, taught: Output) -> Tensor:
        """Return the mean of each example's row, [B]."""
        q, p = (probabilities(one.prelogits.double()) for one in (said, taught))
        return (p * ((p + _EPS) / (q + _EPS)).log()).mean(1).to(said.prelogits.dtype)


def probabilities(features: Tensor) -> Tensor:
    """Return how alike all are to each example, by features [B, D], as shares of a row, [B, B]."""
    unit = features / (features.norm(dim=1, keepdim=True) + _EPS)
    alike = (unit @ unit.T + 1) / 2
    return alike / alike.sum(1, keepdim=True)


class Cc(Beside):
    """CE + weight * mean_n sum_d |d_n| |d_n+1|, d the difference of embeddings of examples (Peng et al., 1904.01802).

    The form is RepDistiller's. Both embeddings are linear, of pre-logits, and learnt. The term is spread evenly.
    """

    def __init__(self, course: Course, *, weight: float, dimensions: int) -> None:
        super().__init__(weight)
        self.student, self.teacher = embeddings(course, dimensions)

    def gap(self, said: Output, taught: Output) -> Tensor:
        """Return the term, the same for each example, [B]."""
        return correlation(self.student(said.prelogits), self.teacher(taught.prelogits))


def embeddings(course: Course, dimensions: int) -> list[nn.Linear]:
    """Return linear embeddings of the student's and of the teacher's pre-logits."""
    shapes = course.student_shapes(), course.teacher_shapes()
    return [nn.Linear(one.prelogits.shape[1], dimensions) for one in shapes]


def correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over neighbours of sum_d |d_n| |d_n+1|, d = s - t [B, D], spread evenly, [B]."""
    apart = (student - teacher).abs()
    term = (apart[:-1] * apart[1:]).sum() / max(1, len(apart) - 1)
    return term.expand(len(apart))
