"""Early-learning regularisation: what the student said of an example in earlier epochs holds it against a wrong label.

Liu et al., arXiv 2007.00151.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd.losses.hard import ce
from kd.losses.objective import Batch, Course, Objective

_LEAST = 1e-4  # of a probability: the published clamp


class Elr(Objective):
    """CE + weight log(1 - <t, p>), where t is the running mean over visits of what the student said of the example.

    t starts at 0 and takes in p before it is used: t <- beta t + (1 - beta) p / sum p, p clamped to 1e-4 from 0 and 1.
    It has no gradient. The second term is negative, and so may the loss be.
    """

    def __init__(self, course: Course, *, beta: float, weight: float) -> None:
        super().__init__()
        self._beta, self._weight = beta, weight
        self.register_buffer("said", torch.zeros(len(course.labels), course.classes))  # by example number, of all

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        logits = batch.student[0].logits
        # In float64: where memory and student are both sure, 1 - <t, p> is what rounding leaves of it.
        p = logits.double().softmax(-1).clamp(_LEAST, 1 - _LEAST)
        with torch.no_grad():
            before = self.said[batch.index].double()
            kept = self._beta * before + (1 - self._beta) * p / p.sum(-1, keepdim=True)
            self.said[batch.index] = kept.to(self.said.dtype)
        agreement = (kept * p).sum(-1)
        return ce(logits, None, batch.labels) + self._weight * (1 - agreement).log().to(logits.dtype)
