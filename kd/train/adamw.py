"""AdamW (Loshchilov & Hutter, arXiv 1711.05101), beside kd.train.fit's SGD, in steps that a GPU can replay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from kd.train.plan import Plan

_EPSILON = 1e-8


class AdamW:
    """AdamW as torch.optim.AdamW computes it to rounding, but no decay of 1-D parameters unless asked for."""

    def __init__(self, parameters: Iterable[nn.Parameter], plan: Plan) -> None:
        self._parameters = sorted(parameters, key=lambda p: p.ndim <= 1)
        self._decayed = sum(p.ndim > 1 or plan.decay_1d for p in self._parameters)
        self._means, self._squares = (
            [torch.zeros_like(p, memory_format=torch.preserve_format) for p in self._parameters] for _ in range(2)
        )
        # Steps so far: a tensor, because a recorded step would replay a Python number as it was.
        self._count = torch.zeros((), dtype=torch.float64, device=self._parameters[0].device)
        self._plan = plan

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Take one step at learning rate `lr` along the gradients, and drop them."""
        first, second = self._plan.betas
        gradients = [p.grad for p in self._parameters]
        torch._foreach_lerp_(self._means, gradients, 1 - first)
        torch._foreach_mul_(self._squares, second)
        torch._foreach_addcmul_(self._squares, gradients, gradients, 1 - second)
        self._count += 1
        scale = torch._foreach_sqrt(self._squares)
        torch._foreach_mul_(scale, (1 - second**self._count).rsqrt().float())
        torch._foreach_add_(scale, _EPSILON)
        direction = torch._foreach_div(self._means, scale)
        torch._foreach_mul_(direction, (lr / (1 - first**self._count)).float())
        if self._plan.weight_decay:
            torch._foreach_mul_(self._parameters[: self._decayed], 1 - lr * self._plan.weight_decay)
        torch._foreach_sub_(self._parameters, direction)
        for parameter in self._parameters:
            parameter.grad = None

    def state(self) -> list[Tensor]:
        """Return the running means of gradients and of their squares, and the number of steps."""
        return [*self._means, *self._squares, self._count]
