"""The examples of a cell, as training and the view bank read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kd.data import views


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

    def to(self, device: torch.device) -> Examples:
        """Return the examples with every tensor on `device`."""
        return Examples(**{name: None if tensor is None else tensor.to(device) for name, tensor in vars(self).items()})

    def truth(self, index: Tensor) -> Tensor | None:
        """Return the true labels [B] of examples `index` [B], None where no label is wrong."""
        return None if self.clean is None else self.clean[index]

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images [B, C, H, W] as a network wants them, float32."""
        return views.normalise(images, self.mean, self.std)
