"""Multi-level logit distillation: of examples, of pairs of examples, of pairs of classes (Jin et al., CVPR 2023)."""

from __future__ import annotations

from torch import Tensor

from kd.losses.hard import ce as cross_entropy
from kd.losses.kl import compared, kl
from kd.losses.objective import Batch, Course, Objective

TAUS = (2.0, 3.0, 4.0, 5.0, 6.0)


def examples_apart(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return what an example adds to N times the mean of (P_t P_t^T - P_s P_s^T)^2 over all pairs of examples, [N]."""
    p, q = _probabilities(student, teacher, tau)
    return (p @ p.T - q @ q.T).square().sum(1)


def classes_apart(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return ||P_t^T P_t - P_s^T P_s||^2 / K, []."""
    p, q = _probabilities(student, teacher, tau)
    return (p.T @ p - q.T @ q).square().sum() / p.shape[1]


def _probabilities(student: Tensor, teacher: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    return (teacher.double() / tau).softmax(-1), (student.double() / tau).softmax(-1)


class Mlkd(Objective):
    """ce (CE_w + CE_s) + sum over tau of [weak (instance KL_w + pairs BC_w + classes CC_w) + instance KL_s].

    _w is of the weak view, _s of the strong one. KL is times tau^2. BC and CC compare what teacher and student say of
    pairs of examples and of classes. Those of the strong view have no part, as in the authors' code.
    """

    def __init__(
        self, course: Course, *, instance: float, pairs: float, classes: float, weak: float, ce: float, logits: str
    ) -> None:
        super().__init__()
        self._instance, self._pairs, self._classes = instance, pairs, classes
        self._weak, self._ce, self._logits = weak, ce, logits

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        weak, strong = (view.logits for view in batch.student)
        taught, taught_strong = (view.logits for view in batch.teacher)
        labels = batch.labels
        values = self._ce * (cross_entropy(weak, None, labels) + cross_entropy(strong, None, labels))
        views = (weak, taught), (strong, taught_strong)
        pairs = [[compared(one.double(), self._logits) for one in view] for view in views]
        for tau in TAUS:
            of_weak, of_strong = (self._instance * kl(*pair, labels, tau=tau) for pair in pairs)
            of_weak = of_weak + self._pairs * examples_apart(weak, taught, tau)
            of_weak = of_weak + self._classes * classes_apart(weak, taught, tau)
            values = values + (self._weak * of_weak + of_strong).to(values.dtype)
        return values
