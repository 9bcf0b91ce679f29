"""Augmentation as a pure function of (seed, epoch, example index) -> view.

A *view* is a number: which crop of the zero-padded image, mirrored or not. Padding by p gives (2p+1)^2 crops, so
pad 4 with flips has 162 views. Because the views of an image are finite and named, a teacher's logits for
each of them can be computed once, and because they depend on no generator's state, training resumes anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad as zero_pad

_ORDER, _VIEW = 1, 2  # independent streams of the same seed and epoch
_FURTHER = 1000  # from the stream of a view to that of a further view of the same image
_WORD = 1 << 64
# Constants of splitmix64 (Steele, Lea, Flood 2014).
_GAMMA, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Views(Protocol):
    """The ways in which an image may be shown, each with a number."""

    def draw(self, seed: int, epoch: int, index: Tensor, which: int = 0) -> Tensor:
        """Return the view [B] int64 that each example index [B] shows in this epoch."""


@dataclass(frozen=True)
class Grid:
    """The views of an image: every crop after padding by `pad` pixels, each also mirrored if `flip`."""

    pad: int
    flip: bool

    @property
    def count(self) -> int:
        """Number of views of one image."""
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    def draw(self, seed: int, epoch: int, index: Tensor, which: int = 0) -> Tensor:
        """Return the view [B] int64 that each example index [B] shows in this epoch; a second has `which` 1."""
        return self.of(words(seed, epoch, index, which))

    def of(self, word: Tensor) -> Tensor:
        """Return the view [B] that a word [B] decides."""
        return upper_bits(word) % self.count

    def render(self, images: Tensor, view: Tensor) -> Tensor:
        """Return view [B] of images [B, H, W, C] uint8 as [B, C, H, W] uint8 with channels last in memory."""
        if self.pad:
            images = self._crop(images, view)
        if self.flip:
            mirrored = view >= (2 * self.pad + 1) ** 2
            images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
        return images.permute(0, 3, 1, 2)

    def _crop(self, images: Tensor, view: Tensor) -> Tensor:
        side = 2 * self.pad + 1
        batch, height, width, channels = images.shape
        padded = zero_pad(images, (0, 0, self.pad, self.pad, self.pad, self.pad))
        n, y, x, c = padded.stride()
        # Every crop of every image as a strided window: picking one is a gather, nothing is copied twice.
        windows = padded.as_strided((batch, side, side, height, width, channels), (n, y, x, y, x, c))
        offset = view % side**2
        return windows[torch.arange(batch, device=view.device), offset // side, offset % side]


def order(seed: int, epoch: int, index: Tensor, which: int = 0) -> Tensor:
    """Return the example indices [N] in the order in which this epoch shows them; a second order has `which` 1."""
    return index[_words(seed, epoch, _ORDER + which * _FURTHER, index).argsort(stable=True)]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return uint8 images [B, C, H, W] as float32 with mean 0 and deviation 1 per channel (`mean`, `std` in 0..1)."""
    scale = 1 / (255 * std)
    return images.float().mul_(scale[:, None, None]).sub_((mean / std)[:, None, None])


def words(seed: int, epoch: int, index: Tensor, which: int = 0) -> Tensor:
    """Return the 64-bit word (int64 [B]) that decides which view each example index [B] shows in this epoch."""
    return _words(seed, epoch, _VIEW + which * _FURTHER, index)


def following(word: Tensor, number: int) -> Tensor:
    """Return another word [B] that follows from each word [B], for a further choice about the same view."""
    return _mix(word + _signed(_GAMMA * (number + 1) % _WORD))


def _words(seed: int, epoch: int, stream: int, index: Tensor) -> Tensor:
    """Return one 64-bit word per index (int64 [B]), the same bits on every device."""
    key = 0
    for part in (seed, epoch, stream):
        key = _mix_int(key + _GAMMA * (part + 1))
    return _mix(index * _signed(_GAMMA) + _signed(key))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(_MIX1)
    x = (x ^ _shift(x, 27)) * _signed(_MIX2)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    # int64 shifts copy the sign; the mask makes it the shift of an unsigned word
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def upper_bits(word: Tensor) -> Tensor:
    """Return the upper 31 bits of words, as numbers that are not negative."""
    return _shift(word, 33)


def _mix_int(x: int) -> int:
    x %= _WORD
    x = (x ^ (x >> 30)) * _MIX1 % _WORD
    x = (x ^ (x >> 27)) * _MIX2 % _WORD
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    return x - _WORD if x >= _WORD >> 1 else x
