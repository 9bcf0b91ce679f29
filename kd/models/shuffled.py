"""What both ShuffleNets are made of."""

from __future__ import annotations

from torch import Tensor, nn


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of x [B, C, H, W] out over `groups` (Zhang et al., arXiv 1707.01083 sec. 3.1)."""
    last = x.permute(0, 2, 3, 1)  # channels last, as kd's networks have them in memory: one copy instead of two
    return last.unflatten(-1, (groups, -1)).transpose(-1, -2).flatten(-2).permute(0, 3, 1, 2)


def depthwise(channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution of each channel alone."""
    return nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
