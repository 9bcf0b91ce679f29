"""Forward and reverse KL, mixed by where the student is behind (adaptive KL, Wu et al., arXiv 2404.02657)."""

from __future__ import annotations

import torch
from torch import Tensor

from kd.losses.hard import blend
from kd.losses.kl import divergence
from kd.losses.objective import Batch, Course, Objective


def gaps(student: Tensor, teacher: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    """Return sum |p - q| over the teacher's head and over its tail, [B] each; given probabilities [B, K].

    The head is the teacher's first class, and every class up to which its sorted probabilities sum to at most `mu`.
    """
    ordered, order = teacher.sort(dim=-1, descending=True, stable=True)
    gap = (student - teacher).abs().gather(-1, order)
    head = ordered.cumsum(-1) <= mu if mu < 1 else torch.ones_like(ordered, dtype=torch.bool)  # sums may round to > 1
    head[:, 0] = True
    return (gap * head).sum(-1), (gap * ~head).sum(-1)


class Akl(Objective):
    """(1 - alpha) CE + alpha weight tau^2 (r KL(p || q) + (1 - r) KL(q || p)), r the head's share of sum |p - q|.

    In the paper tau = 1: it writes of language models, whose teachers are unsure. A temperature is kd's extension,
    because at tau = 1 a teacher of images is so sure that its head is one class, and then r is at most 1/2.
    `ratio` forward and reverse hold r at 1 and 0: KL and reverse KL, beside the same columns of metrics.csv.
    """

    def __init__(self, course: Course, *, tau: float, mu: float, ratio: str, alpha: float, weight: float) -> None:
        super().__init__()
        self._tau, self._mu, self._ratio, self._alpha, self._weight = tau, mu, ratio, alpha, weight
        self.log("head_gap", "tail_gap")

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        said, taught = batch.student[0].logits, batch.teacher[0].logits
        p, q = ((logits.double() / self._tau).log_softmax(-1) for logits in (taught, said))
        head, tail = gaps(q.detach().exp(), p.exp(), self._mu)
        self.note("head_gap", head)
        self.note("tail_gap", tail)
        soft = self._weight * self._tau**2 * self.mixed(p, q, head, tail)
        return blend(said, batch.labels, self._alpha, soft.to(said.dtype))

    def mixed(self, p: Tensor, q: Tensor, head: Tensor, tail: Tensor) -> Tensor:
        """Return KL in both directions between log-probabilities [B, K], mixed as `ratio` says, [B]."""
        if self._ratio == "forward":
            return divergence(p, q)
        if self._ratio == "reverse":
            return divergence(q, p)
        both = head + tail
        share = torch.where(both > 0, head / both.clamp(min=1e-300), 0.5)  # 0/0 where the student is its teacher
        return share * divergence(p, q) + (1 - share) * divergence(q, p)
