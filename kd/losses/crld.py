"""Cross-view consistency: KL within a view and across views, where the teacher is sure (Zhang et al., ACM MM 2024)."""

from __future__ import annotations

from torch import Tensor

from kd.losses.hard import ce as cross_entropy
from kd.losses.kl import kl
from kd.losses.objective import Batch, Course, Objective


class Crld(Objective):
    """ce (CE(weak) + CE(strong)) + same [KL_ww + KL_ss] 1_w + cross [KL_sw + KL_ws] 1_s, KL times tau^2.

    KL_sw is of what the student says of the strong view to what the teacher says of the weak one. 1_w: the teacher's
    largest probability in the weak view is at least `sure_weak`; 1_s likewise. An example that is masked counts as 0.
    """

    def __init__(
        self, course: Course, *, tau: float, same: float, cross: float, sure_weak: float, sure_strong: float, ce: float
    ) -> None:
        super().__init__()
        self._tau, self._same, self._cross, self._ce = tau, same, cross, ce
        self._sure_weak, self._sure_strong = sure_weak, sure_strong

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        weak, strong = (view.logits for view in batch.student)
        taught, taught_strong = (view.logits for view in batch.teacher)
        labels = batch.labels

        def gap(student: Tensor, teacher: Tensor) -> Tensor:
            return kl(student, teacher, labels, tau=self._tau)

        hard = cross_entropy(weak, None, labels) + cross_entropy(strong, None, labels)
        same = gap(weak, taught) + gap(strong, taught_strong)
        cross = gap(strong, taught) + gap(weak, taught_strong)
        sure = taught.softmax(-1).amax(-1) >= self._sure_weak
        sure_strong = taught_strong.softmax(-1).amax(-1) >= self._sure_strong
        return self._ce * hard + self._same * sure * same + self._cross * sure_strong * cross
