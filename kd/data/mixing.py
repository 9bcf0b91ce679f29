"""Mixed images: mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899).

Whom an image is mixed with, and how, is a pure function of (seed, epoch, example index): a 64-bit word decides. So
there are as many mixed images as words, and no bank can hold a teacher's logits for them; a mean of two rows of a bank
is not what a teacher says of a mixed image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kd.data import views

_MIXED = 2  # which of an image's words: 0 and 1 are those of its views


class Mixed(NamedTuple):
    """Images that are mixed with others [B, C, H, W], the examples of both [B], and what share is the first's [B]."""

    inputs: Tensor
    index: Tensor
    partners: Tensor
    share: Tensor

    def of(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the loss [B] as if of each of the two examples, with its labels, by its share."""
        return self.share * loss(self.index) + (1 - self.share) * loss(self.partners)

    @property
    def larger(self) -> Tensor:
        """Which example [B] has the larger share."""
        return torch.where(self.share >= 0.5, self.index, self.partners)


@dataclass(frozen=True)
class Mixing:
    """How images are mixed: by mixup, by CutMix, or half of them by each where both have a parameter above 0.

    `mixup` and `cutmix` are the parameter of the symmetric beta distribution that shares are drawn from.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def partners(self, seed: int, epoch: int, index: Tensor) -> Tensor:
        """Return whom the examples [N] are mixed with, in the order in which an epoch shows them; each once."""
        return views.order(seed, epoch, index, which=1)

    def draw(self, seed: int, epoch: int, index: Tensor) -> Tensor:
        """Return the word [B] that decides how each example [B] is mixed in this epoch."""
        return views.words(seed, epoch, index, _MIXED)

    def mixed(self, examples: tuple[Tensor, Tensor], inputs: Sequence[Tensor], word: Tensor) -> Mixed:
        """Return the images [B, C, H, W] of examples [B] and of their partners mixed as words [B] say."""
        one, other = inputs
        mask = self.mask(word, *one.shape[2:])
        return Mixed(mask * one + (1 - mask) * other, *examples, mask.mean((1, 2, 3)))

    def mask(self, word: Tensor, height: int, width: int) -> Tensor:
        """Return how much of each pixel is the image's own, [B, 1, H, W] in 0..1; the rest is its partner's."""
        kind, *drawn = (_uniform(views.following(word, number)) for number in range(5))
        whole = torch.ones(1, 1, height, width, device=word.device)
        if not self.cutmix:
            return _share(*drawn[:2], self.mixup) * whole
        pasted = self._outside_a_box(*drawn, height, width)
        if not self.mixup:
            return pasted
        return torch.where((kind < 0.5)[:, None, None, None], _share(*drawn[:2], self.mixup) * whole, pasted)

    def _outside_a_box(self, u: Tensor, v: Tensor, x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
        """Return 0 in a box, 1 outside: its middle is anywhere, its area a drawn share, unless the border cuts it."""
        side = (1 - _share(u, v, self.cutmix)).sqrt()
        across, down = (
            ((torch.arange(size, device=u.device) + 0.5 - place[:, None, None, None] * size).abs() < side * size / 2)
            for size, place in ((width, x), (height, y))
        )
        return 1 - (down.transpose(2, 3) & across).float()


def _share(u: Tensor, v: Tensor, parameter: float) -> Tensor:
    """Return beta(parameter, parameter) of two uniform numbers [B], as [B, 1, 1, 1] (Devroye 1996, after Bailey)."""
    cosine = torch.cos(2 * math.pi * v)
    spread = 1 / (1 + 1 / ((u ** (-1 / parameter) - 1) * cosine.square())).sqrt()
    return (0.5 + 0.5 * cosine.sign() * spread).float()[:, None, None, None]


def _uniform(word: Tensor) -> Tensor:
    """Return a number above 0 and below 1, float64, of each word."""
    return (views.upper_bits(word).double() + 0.5) / 2**31
