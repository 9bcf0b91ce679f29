"""Random resized crops as a pure function of (seed, epoch, example index), as padded crops are in kd.data.views.

A view is a 64-bit word. Which part of an image it shows follows from the word and the image's size. There are as many
views as words: no bank can hold a teacher's logits for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from kd.data import views
from kd.data.mix import mix, stream

# The crops of Szegedy et al., "Going deeper with convolutions" (CVPR 2015, sec. 6), as torchvision's RandomResizedCrop
# makes them.
SHARE = (0.08, 1.0)  # of the image's area
RATIO = (3 / 4, 4 / 3)  # width to height, uniform in its logarithm
_TRIES = 10
_CROP = stream("crop")

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class ResizedCrops:
    """The views of an image: any part of it, also mirrored if `flip`."""

    flip: bool

    def draw(self, seed: int, epoch: int, index: Tensor, which: int = 0) -> Tensor:
        """Return the view [B] int64 that each example index [B] shows in this epoch."""
        return views.words(seed, epoch, index, which)

    def of(self, word: Tensor) -> Tensor:
        """Return the view [B] that a word [B] decides: the word."""
        return word

    def mirrored(self, view: int) -> bool:
        """Say whether `view` shows a mirror image."""
        return self.flip and view < 0


def box(view: int, width: int, height: int) -> Box:
    """Return the part of an image of `width` x `height` pixels that `view` shows: its middle if no try fits into it."""
    for share, ratio, x, y in _tries(view):
        area = width * height * (SHARE[0] + (SHARE[1] - SHARE[0]) * share)
        shape = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    return _middle(width, height)


def _tries(view: int) -> Iterator[list[float]]:
    """Give four numbers, uniform in [0, 1), for each try."""
    bits = mix(view, _CROP, np.arange(4 * _TRIES)) >> np.uint64(11)
    yield from (bits * 2.0**-53).reshape(_TRIES, 4).tolist()


def _middle(width: int, height: int) -> Box:
    """Return the largest part in the middle whose ratio is allowed."""
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
