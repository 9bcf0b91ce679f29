"""The examples of a cell, as training and the view bank read them.

`fit` asks any examples, these or those of kd.data.streamed, for three things: what a step is given of each batch
(`fetch`), what the network sees of that (`inputs`), and images as they are, to evaluate on (`plain`). Where several
processes train one cell, `own` takes from a batch the part that is this process's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kd.data import views
from kd.data.arrays import Dataset

if TYPE_CHECKING:
    from kd.data.randaugment import RandAugment

Own = Callable[[Tensor], Tensor]  # [B, ...] -> a part of it
# Of one batch: example indices [B], the views [B] in which they are shown, and the views that there are.
Asked = tuple[Tensor, Tensor, views.Views]


@dataclass(frozen=True)
class Examples:
    """A dataset as training reads it, on one device.

    `images` [N, H, W, C] uint8 and `labels` [N] int64 are all there are; `train` and `heldout` are the
    example indices in use; `test_images`, `test_labels` are only ever evaluated. `clean` [N] are the true labels where
    some of `labels` are wrong: nothing is learned from them.
    """

    images: Tensor
    labels: Tensor
    train: Tensor
    heldout: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    clean: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    @property
    def nbytes(self) -> int:
        """Bytes that these examples take of a device."""
        return sum(tensor.nbytes for tensor in vars(self).values() if tensor is not None)

    def to(self, device: torch.device) -> Examples:
        """Return the examples with every tensor on `device`."""
        return Examples(**{name: None if tensor is None else tensor.to(device) for name, tensor in vars(self).items()})

    def truth(self, index: Tensor) -> Tensor | None:
        """Return the true labels [B] of examples `index` [B], None where no label is wrong."""
        return None if self.clean is None else self.clean[index]

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images [B, C, H, W] as a network wants them, float32."""
        return views.normalise(images, self.mean, self.std)

    def fetch(self, batches: Iterable[Asked], own: Own) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the indices [B] of each batch, and what `inputs` needs of this process's part: its views."""
        for index, view, _ in batches:
            yield index, own(view)

    def inputs(self, index: Tensor, fetched: Tensor, grid: views.Grid | RandAugment) -> Tensor:
        """Return examples `index` [B] in their views, `fetched` [B], as a network wants them: [B, C, H, W]."""
        return self.normalise(grid.render(self.images[index], fetched))

    def plain(self, split: str, index: Tensor, size: int) -> Iterator[Tensor]:
        """Yield images of `train` or `test` at `index` [N] as they are, `size` at a time, as a network wants them."""
        images = self.test_images if split == "test" else self.images
        for some in index.split(size):
            yield self.normalise(images[some].permute(0, 3, 1, 2))

    def evaluated(self, part: str) -> tuple[str, Tensor, Tensor]:
        """Return of a part, `train`, `heldout` or `test`: the split that holds its images, indices [N], labels [N].

        The images of `heldout` lie in the split `train`.
        """
        if part != "test":
            index = self.heldout if part == "heldout" else self.train
            return "train", index, self.labels[index]
        return "test", torch.arange(len(self.test_labels), device=self.test_labels.device), self.test_labels


def opened(
    dataset: Dataset, pad: int, flip: bool, workers: int, parts: Mapping[str, Tensor]
) -> tuple[views.Grid, Examples]:
    """Return the views of a dataset of arrays, and its examples; `parts` are what `Examples` has beside images."""
    images, test_images = tensor(dataset.train_images), tensor(dataset.test_images)
    return views.Grid(pad, flip), Examples(images=images, test_images=test_images, **parts)


def tensor(array: np.ndarray) -> Tensor:
    """Return an array as a tensor of the same memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # memory-mapped read-only, and never written
        return torch.from_numpy(array)
