"""A network of groups that follow each other, of which each can say what it makes before its last ReLU."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from kd.models.network import Average, Network
from kd.models.output import Output


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
        return self.pooled(x)

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

    def outputs(self, images: Tensor, names: Collection[str]) -> Output:
        """Return what `names` says of what the network says of images [B, C, H, W]; logits always.

        Class activation maps are of what the mean over the image reads, which the tail may have made of the last map.
        """
        if "cams" not in names:
            return super().outputs(images, names)
        maps, edges = self.maps(images, "edges" in names)
        *layers, mean = self.tail()
        read = maps[-1]
        for layer in layers:  # once: batch normalisation counts every pass
            read = layer(read)
        prelogits = mean(read)
        cams = nn.functional.conv2d(read, self.classifier.weight[:, :, None, None])
        return Output(self.classifier(prelogits), prelogits, tuple(maps), tuple(edges), cams=cams)

    def pooled(self, last: Tensor) -> Tensor:
        """Return the pre-logits [B, D] of the last map."""
        for module in self.tail():
            last = module(last)
        return last

    def head(self) -> nn.Sequential:
        """Return the last group and all after it."""
        return nn.Sequential(self.groups()[-1], *self.tail(), self.classifier)
