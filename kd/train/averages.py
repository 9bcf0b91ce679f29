"""Means of weights over the steps or epochs of a training, beside the weights that are trained.

Two kinds: an exponential moving average over the steps (`ema`), and the mean of the weights after each of the last
epochs (`swa`; Izmailov et al., arXiv 1803.05407). Where there is one it is what is evaluated and published. The running
statistics of batch normalisation are those of the trained weights, so they are measured anew for the mean.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from kd.train.plan import Plan


class Averages:
    """The mean of the weights of `modules`: none where the plan asks for none.

    Both kinds reach back over a share of the epochs of the whole schedule: `ema` of 0.01 forgets all but 1/e of what
    is older than one hundredth of them, and begins without a bias towards the first weights.
    """

    def __init__(self, modules: Iterable[nn.Module], plan: Plan, steps: int) -> None:
        self._modules = list(modules)
        self._parameters = [p for module in self._modules for p in module.parameters()]
        self._keep = math.exp(-1 / (plan.ema * plan.schedule_epochs * steps)) if plan.ema else 0.0
        last = max(1, round(plan.swa * plan.schedule_epochs))
        self._from = plan.schedule_epochs - last if plan.swa else math.inf
        kept = self._parameters if plan.ema or plan.swa else []
        self._means = [torch.zeros_like(p, memory_format=torch.preserve_format) for p in kept]
        # How often weights were taken in: a tensor, because a recorded step would replay a Python number as it was.
        self._count = torch.zeros((), dtype=torch.float64, device=self._parameters[0].device)

    def step_ends(self) -> None:
        """Take in the weights after a step; a GPU may record it."""
        if self._keep:
            self._count += 1
            self._take_in((1 - self._keep) / (1 - self._keep**self._count))

    def epoch_ends(self, epoch: int) -> None:
        """Take in the weights after an epoch, counted from 0: once, even if it is resumed in its evaluation."""
        if epoch >= self._from and self._count <= epoch - self._from:
            self._count += 1
            self._take_in(1 / self._count)

    @torch.no_grad()
    def _take_in(self, share: Tensor) -> None:
        gaps = torch._foreach_sub([p.detach() for p in self._parameters], self._means)
        torch._foreach_mul_(gaps, share.float())
        torch._foreach_add_(self._means, gaps)

    def put_in(self, fitted: Callable[[], None]) -> None:
        """Give the modules the mean weights, if there are any, and statistics that `fitted` makes fit them."""
        if self._exist:
            with torch.no_grad():
                torch._foreach_copy_(self._parameters, self._means)
            fitted()

    @contextlib.contextmanager
    def shown(self, fitted: Callable[[], None]) -> Iterator[None]:
        """Let the modules have the mean weights while the block runs, as `put_in` gives them."""
        held = [*self._parameters, *(buffer for module in self._modules for buffer in module.buffers())]
        before = [tensor.detach().clone() for tensor in held] if self._exist else []
        self.put_in(fitted)
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(held, before, strict=False):
                    tensor.copy_(value)

    @property
    def _exist(self) -> bool:
        return bool(self._means) and bool(self._count)

    def state(self) -> list[Tensor]:
        """Return the means, and how often weights were taken in; nothing where there is no mean."""
        return [*self._means, self._count] if self._means else []


@torch.no_grad()
def fit_statistics(modules: Iterable[nn.Module], run: Callable[[Tensor], object], batches: Iterable[Tensor]) -> None:
    """Measure the running statistics of the batch normalisation in `modules` anew, the mean over equal batches.

    `run` runs the modules, which are in evaluation mode, on images [B, C, H, W], as they are and not compiled.
    """
    norms = [each for module in modules for each in module.modules() if isinstance(each, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a mean over all batches
        norm.train()
    for images in batches if norms else ():
        run(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
