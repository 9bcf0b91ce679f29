"""The examples of a cell, as training and the view bank read them.

`fit` asks any examples, these or those of kd.data.streamed, for three things: what a step is given of each batch
(`shown`), what the network sees of that (`inputs`), and what is only ever evaluated (`evaluated`). Where several
processes train one cell, `own` takes from a batch the part that is this process's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kd.data import views

Own = Callable[[Tensor], Tensor]  # [B, ...] -> a part of it
Batch = tuple[Tensor, Tensor]  # example indices [B], and the views [B] in which they are shown


@dataclass(frozen=True)
class Examples:
    """A dataset as training reads it, on one device.

    `images` [N, H, W, C] uint8 and `labels` [N] int64 are all there are; `train` and `heldout` are the
    example indices in use; `test_images`, `test_labels` are only ever evaluated.
    """

    images: Tensor
    labels: Tensor
    train: Tensor
    heldout: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    @property
    def nbytes(self) -> int:
        """Bytes that these examples take of a device."""
        return sum(tensor.nbytes for tensor in vars(self).values())

    def to(self, device: torch.device) -> Examples:
        """Return the examples with every tensor on `device`."""
        return Examples(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images [B, C, H, W] as a network wants them, float32."""
        return views.normalise(images, self.mean, self.std)

    def shown(self, batches: Iterable[Batch], own: Own) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the indices [B] of each batch, and what `inputs` needs of this process's part: its views."""
        for index, view in batches:
            yield index, own(view)

    def inputs(self, index: Tensor, shown: Tensor, grid: views.Grid) -> Tensor:
        """Return examples `index` [B] in their views, `shown` [B], as a network wants them: [B, C, H, W]."""
        return self.normalise(grid.render(self.images[index], shown))

    def truth(self, part: str) -> Tensor:
        """Return all labels [N] of `test` or `heldout`."""
        return self.test_labels if part == "test" else self.labels[self.heldout]

    def evaluated(self, part: str, size: int, own: Own) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs [B, C, H, W] and labels [B] of this process's part of `test` or `heldout`, `size` at a time."""
        images = self.test_images if part == "test" else self.images[self.heldout]
        labels = self.truth(part)
        for batch, truth in zip(own(images).split(size), own(labels).split(size), strict=True):
            yield self.normalise(batch.permute(0, 3, 1, 2)), truth
