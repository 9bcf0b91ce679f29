"""RandAugment as a pure function of (seed, epoch, example index): strong views (Cubuk et al., arXiv 1909.13719).

A view is a 64-bit word. Which part of the image it shows follows from the word, and so do two operations out of 14 with
their magnitudes. There are as many views as words: no bank can hold a teacher's logits for them.

All is arithmetic of whole numbers, so that an image has the same bits on every device and in every batch. The ranges of
the operations are those of torchvision, whose results differ by the rounding of a pixel.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kd.data import views
from kd.data.crops import ResizedCrops
from kd.data.views import Grid

HIGHEST = 30  # magnitude
_AT_A_TIME = 2  # operations on an image, one after the other
_GREY = 125  # of a cutout
_OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
_NUMBER = {name: number for number, name in enumerate(_OPERATIONS)}
_ONE = 1 << 16  # a coordinate's 1
_THOUSAND = 1000  # a blending factor's 1


@dataclass(frozen=True)
class RandAugment:
    """The views of an image that `views` are, each changed by two operations of a magnitude from 0 to 30.

    Without a magnitude each operation has another, and a grey square of up to half the image's side is put anywhere
    after them: FixMatch's form (Sohn et al., arXiv 2001.07685), which distillation from strong views has taken over.
    """

    views: Grid | ResizedCrops
    magnitude: int | None = None

    def draw(self, seed: int, epoch: int, index: Tensor, which: int = 0) -> Tensor:
        """Return the view [B] int64 that each example index [B] shows in this epoch: the crop is that of `views`."""
        return views.words(seed, epoch, index, which)

    def render(self, images: Tensor, view: Tensor) -> Tensor:
        """Return view [B] of images [B, H, W, C] uint8 as [B, C, H, W] uint8 with channels last in memory."""
        shown = self.views.render(images, self.views.of(view)).permute(0, 2, 3, 1)
        return self.changed(shown, view).permute(0, 3, 1, 2)

    def changed(self, images: Tensor, view: Tensor) -> Tensor:
        """Return images [B, H, W, C] uint8, which show a part already, after the operations of view [B]."""
        for turn in range(_AT_A_TIME):
            word = views.upper_bits(views.following(view, turn))
            operation, word = word % len(_OPERATIONS), word // len(_OPERATIONS)
            level = word % (HIGHEST + 1) if self.magnitude is None else torch.full_like(word, self.magnitude)
            sign = 1 - 2 * (word // (HIGHEST + 1) % 2)
            images = operated(images, operation, sign * level)
        return images if self.magnitude is not None else _cut_out(images, view)


def operated(images: Tensor, operation: Tensor, level: Tensor) -> Tensor:
    """Return images [B, H, W, C] uint8, each after one operation [B] at a level [B] from -30 to 30.

    Every operation is computed of every image and one is taken, because a recorded step cannot branch.
    """
    pixels = _moved(images, operation, level).flatten(1, 2).int()  # [B, HW, C]
    grey, rows = _grey(pixels), _rows(pixels)
    factor = _THOUSAND + level[:, None].int() * (9 * _THOUSAND // (10 * HIGHEST))
    found = _tables(pixels, grey, rows, operation, level.int(), factor).flatten()[rows]
    colour, sharp = ((operation == _NUMBER[name])[:, None, None] for name in ("color", "sharpness"))
    other = torch.where(colour, grey, _smooth(pixels, images.shape[1]))
    return torch.where(colour | sharp, _blend(other, pixels, factor[..., None]), found).to(torch.uint8).view_as(images)


def _moved(images: Tensor, operation: Tensor, level: Tensor) -> Tensor:
    """Return images [B, H, W, C] after shear, translation and rotation: the nearest pixel, black from outside."""
    _, height, width, channels = images.shape
    matrix = _matrices(height, width, images.device)[operation, level + HIGHEST]  # [B, 6]
    x, y = (2 * torch.arange(size, device=images.device) + 1 for size in (width, height))  # middles of pixels, doubled
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    column = (a * x + b * y[:, None] + 2 * c) >> 17
    row = (d * x + e * y[:, None] + 2 * f) >> 17
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten(1)[..., None]
    found = images.flatten(1, 2).gather(1, place.expand(-1, -1, channels)).view_as(images)
    return found * inside[..., None]


@functools.cache
def _matrices(height: int, width: int, device: torch.device) -> Tensor:
    """Return where the pixels of each operation at each level come from, [14, 61, 6] int64: x' = ax + by + c, y' ..."""
    rows = []
    for name in _OPERATIONS:
        for level in range(-HIGHEST, HIGHEST + 1):
            share = level / HIGHEST
            a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
            if name == "shear_x":
                b = 0.3 * share
            elif name == "shear_y":
                d = 0.3 * share
            elif name == "translate_x":
                c = -int(150 / 331 * width * share)
            elif name == "translate_y":
                f = -int(150 / 331 * height * share)
            elif name == "rotate":
                angle = math.radians(30 * share)
                a, b, d, e = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
                c = width / 2 - a * width / 2 - b * height / 2
                f = height / 2 - d * width / 2 - e * height / 2
            rows.append([round(each * _ONE) for each in (a, b, c, d, e, f)])
    return torch.tensor(rows, device=device).view(len(_OPERATIONS), 2 * HIGHEST + 1, 6)


def _tables(pixels: Tensor, grey: Tensor, rows: Tensor, operation: Tensor, level: Tensor, factor: Tensor) -> Tensor:
    """Return what each value of each channel becomes, [B, C, 256], where that depends on the value alone."""
    batch, count, channels = pixels.shape
    value = torch.arange(256, device=pixels.device, dtype=torch.int32)
    strength = level.abs()[:, None]
    lost = (8 * strength + HIGHEST) // (2 * HIGHEST)  # bits, up to 4
    mean = (2 * grey.sum((1, 2), dtype=torch.int32) + count) // (2 * count)
    tables = value.expand(batch, 256)
    for name, table in (
        ("brightness", _blend(torch.zeros_like(factor), value, factor)),
        ("contrast", _blend(mean[:, None], value, factor)),
        ("posterize", (value >> lost) << lost),
        ("solarize", torch.where(value * HIGHEST >= 255 * (HIGHEST - strength), 255 - value, value)),
    ):
        tables = torch.where((operation == _NUMBER[name])[:, None], table, tables)
    tables = tables[:, None].expand(-1, channels, -1)
    stretched, equalized = _by_histogram(pixels, rows.flatten(), value)
    for name, table in (("autocontrast", stretched), ("equalize", equalized)):
        tables = torch.where((operation == _NUMBER[name])[:, None, None], table, tables)
    return tables


def _by_histogram(pixels: Tensor, rows: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tables [B, C, 256] that spread the values of a channel: evenly, and each as often as any other."""
    batch, count, channels = pixels.shape
    histogram = torch.zeros(batch * channels * 256, dtype=torch.int32, device=pixels.device)
    histogram = histogram.scatter_add_(0, rows, torch.ones_like(rows, dtype=torch.int32)).view(batch, channels, 256)
    low, high = (extreme(1)[..., None] for extreme in (pixels.amin, pixels.amax))
    spread = (high - low).clamp(min=1)
    stretched = torch.where(high > low, ((value - low) * 255 // spread).clamp(0, 255), value)
    step = (count - histogram.gather(2, high.long())) // 255
    before = histogram.cumsum(2, dtype=torch.int32) - histogram
    equalized = torch.where(step > 0, ((step // 2 + before) // step.clamp(min=1)).clamp(max=255), value)
    return stretched, equalized


def _rows(pixels: Tensor) -> Tensor:
    """Return where the entry of each pixel [B, HW, C] stands in flattened tables [B, C, 256]."""
    batch, _, channels = pixels.shape
    first = torch.arange(batch * channels, device=pixels.device).view(batch, 1, channels) * 256
    return first + pixels


def _grey(pixels: Tensor) -> Tensor:
    """Return the luma [B, HW, 1] of pixels [B, HW, C], as Pillow computes it; of one channel the channel."""
    if pixels.shape[-1] == 1:
        return pixels
    red, green, blue = pixels[..., :3].split(1, -1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _smooth(pixels: Tensor, height: int) -> Tensor:
    """Return pixels [B, HW, C], each within the border the mean of 3x3 in which it counts five times."""
    channels = pixels.shape[-1]
    lines = pixels.flatten(1).unflatten(1, (height, -1))  # [B, H, WC]
    three = lines[..., : -2 * channels] + lines[..., channels:-channels] + lines[..., 2 * channels :]
    within = slice(None), slice(1, -1), slice(channels, -channels)
    smooth = lines.clone()
    smooth[within] = (2 * (three[:, :-2] + three[:, 1:-1] + three[:, 2:] + 4 * lines[within]) + 13) // 26
    return smooth.view_as(pixels)


def _blend(one: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Return `other` as far from `one` as the factor says, in thousandths, rounded down; 0 to 255."""
    return ((one * _THOUSAND + (other - one) * factor) // _THOUSAND).clamp(0, 255)


def _cut_out(images: Tensor, view: Tensor) -> Tensor:
    """Return images [B, H, W, C] with a grey square of up to half their side, which the border may cut."""
    height, width = images.shape[1:3]
    side, left, top = (views.upper_bits(views.following(view, _AT_A_TIME + turn))[:, None] for turn in range(3))
    side = side % (width // 2 + 1)
    left, top = left % width - side // 2, top % height - side // 2
    x, y = (torch.arange(size, device=images.device) for size in (width, height))
    across, down = (x >= left) & (x < left + side), (y >= top) & (y < top + side)
    return torch.where((down[:, :, None] & across[:, None])[..., None], _GREY, images)
