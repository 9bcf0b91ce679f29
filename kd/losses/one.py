"""On-the-fly native ensemble: branches of a network that their gated ensemble teaches (Lan et al., arXiv 1806.04606).

The branches share all of the network but its last group and classifier. The first branch is the student itself: what
is published is a plain network. The other branches and the gate are this objective's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd.core.errors import ConfigError
from kd.losses.hard import ce
from kd.losses.kl import kl
from kd.losses.objective import Batch, Course, Objective
from kd.models.network import average
from kd.models.output import Output


def ensemble(branches: Sequence[Tensor], gate: Tensor) -> Tensor:
    """Return sum_i g_i z_i, [B, K], of the logits z of M branches, [B, K] each, and the gate g [B, M]."""
    return (torch.stack(list(branches), -1) * gate[:, None]).sum(-1)


class One(Objective):
    """sum_i CE(z_i) + CE(z_e) + w rising(epoch) tau^2 sum_i KL(softmax(z_e/tau) || softmax(z_i/tau)).

    z_e = sum_i g_i z_i, without gradient in the KL. The gate g = softmax(ReLU(BN(FC(the shared map's mean)))), or 1/M
    each (`gate: mean`). The authors' code adds 1e-7 to the softmax of z_e before its logarithm, which is left out here.
    """

    def __init__(self, course: Course, *, tau: float, branches: int, gate: str, rampup: float, w: float) -> None:
        super().__init__()
        self._tau, self._w = tau, w
        self._rises = max(1, round(rampup * course.epochs)) if rampup else 0
        self.branches = nn.ModuleList(_head(course.student(number)) for number in range(1, branches))
        self.branches.to(memory_format=torch.channels_last)  # as the student is
        self.gate = None
        if gate == "learned":
            channels = course.student_shapes().maps[-2].shape[1]
            self.gate = nn.Sequential(nn.Linear(channels, branches), nn.BatchNorm1d(branches))

    def adapted(self, student: Output) -> Output:
        """Return the student's output, with the logits of the other branches, and of the gate before its ReLU."""
        shared = student.maps[-2]
        added = [branch(shared) for branch in self.branches]
        return student._replace(added=(*added, self.gate(average(shared))) if self.gate else tuple(added))

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        branches, gate = self._said(batch.student[0])
        labels, together = batch.labels, ensemble(branches, gate)
        hard = sum(ce(one, None, labels) for one in (*branches, together))
        if not self._w:
            return hard
        soft = sum(kl(one, together.detach(), labels, tau=self._tau) for one in branches)
        return hard + self._w * self.rising(batch.epoch) * soft

    def rising(self, epoch: Tensor) -> Tensor | float:
        """Return what KL counts in an epoch: exp(-5 (1 - e/E)^2), e from 0, until it is 1 after E epochs."""
        if not self._rises:
            return 1.0
        return torch.exp(-5 * (1 - ((epoch.double() - 1) / self._rises).clamp(max=1)) ** 2)

    def measured(self, student: Output, labels: Tensor) -> dict[str, Tensor]:
        """Return whether each branch but the first, and their ensemble, is right, and the gate of each branch."""
        branches, gate = self._said(student)
        said = {f"branch{n}": one for n, one in enumerate(branches[1:], 2)} | {"ensemble": ensemble(branches, gate)}
        right = {f"{name}_top1": logits.argmax(1) == labels for name, logits in said.items()}
        return right | {f"gate{n}": each for n, each in enumerate(gate.unbind(1), 1)}

    def _said(self, student: Output) -> tuple[list[Tensor], Tensor]:
        """Return the logits of all branches, [B, K] each, and the gate [B, M]."""
        others, scores = student.added[: len(self.branches)], student.added[len(self.branches) :]
        branches = [student.logits, *others]
        if scores:
            return branches, scores[0].relu().softmax(-1)
        return branches, torch.full_like(student.logits[:, :1], 1 / len(branches)).expand(-1, len(branches))


def _head(network: nn.Module) -> nn.Module:
    try:
        return network.head()
    except (AttributeError, NotImplementedError):
        raise ConfigError(
            f"loss one: got a network, {type(network).__name__}, that has no `head` of which branches could be made; "
            "allowed: kd's own networks, and those that define `head` (kd.models.network.Network)"
        ) from None
