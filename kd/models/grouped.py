"""A network of groups that follow each other, of which each can say what it makes before its last ReLU."""

from __future__ import annotations

from torch import Tensor, nn

from kd.models.network import Average, Network


class Group(nn.Sequential):
    """Blocks one after another; the last one tells its `edge`."""

    def edge(self, x: Tensor) -> Tensor:
        """Return what the blocks make of x [B, C, H, W] before their last ReLU."""
        *before, last = self
        for block in before:
            x = block(x)
        return last.edge(x)


class GroupedNetwork(Network):
    """Pass images through `stem`, the groups and `tail`. A subclass says what these are."""

    def begin(self, images: Tensor) -> Tensor:
        """Return what the first group reads of images [B, C, H, W]."""
        raise NotImplementedError

    def groups(self) -> tuple[nn.Module, ...]:
        """Return the groups, each with an `edge`."""
        raise NotImplementedError

    def tail(self) -> tuple[nn.Module, ...]:
        """Return what makes pre-logits [B, D] of the last map."""
        return (Average(),)

    def after(self, edge: Tensor) -> Tensor:
        """Return the map that follows an edge."""
        return edge.relu()

    def features(self, images: Tensor) -> Tensor:
        """Return the pre-logits [B, D]."""
        x = self.begin(images)
        for group in self.groups():
            x = group(x)
        return self.pooled(self.read(x))

    def maps(self, images: Tensor, edges: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Return the maps after each group and, if asked, their edges."""
        x = self.begin(images)
        maps, before = [], []
        for group in self.groups():
            edge = group.edge(x)
            x = self.after(edge)
            maps.append(x)
            before += [edge] if edges else []
        return maps, before

    def read(self, last: Tensor) -> Tensor:
        """Return what the tail makes of the last map before its mean."""
        for module in self.tail()[:-1]:
            last = module(last)
        return last

    def pooled(self, last: Tensor) -> Tensor:
        """Return the pre-logits [B, D] of what the mean reads [B, D, H, W]."""
        return self.tail()[-1](last)

    def head(self) -> nn.Sequential:
        """Return the last group and all after it."""
        return nn.Sequential(self.groups()[-1], *self.tail(), self.classifier)
