"""What a network says."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """What a network says of one view of a batch; float32, whatever autocast did."""

    logits: Tensor  # [B, K]
    prelogits: Tensor | None = None  # [B, D]
    maps: tuple[Tensor, ...] = ()  # [B, C, H, W] after each group
    edges: tuple[Tensor, ...] = ()  # the same before their last ReLU
    added: tuple[Tensor, ...] = ()  # what adapters of an objective make of these
    cams: Tensor | None = None  # [B, K, H, W], the classifier without its bias at each place of the last map

    def float(self) -> Output:
        """Return the same in float32."""
        return self.mapped(Tensor.float)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Output:
        """Return what `function` makes of each tensor."""
        prelogits, cams = (None if each is None else function(each) for each in (self.prelogits, self.cams))
        maps, edges, added = (tuple(map(function, each)) for each in (self.maps, self.edges, self.added))
        return Output(function(self.logits), prelogits, maps, edges, added, cams)
