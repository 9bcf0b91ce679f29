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

    def to(self, device: torch.device) -> Examples:
        """Return the examples with every tensor on `device`."""
        return Examples(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images [B, C, H, W] as a network wants them, float32."""
        return views.normalise(images, self.mean, self.std)
