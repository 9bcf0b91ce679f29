"""ShuffleNetV2 for 32x32 images (Ma et al., arXiv 1807.11164), as in the KD benchmarks.

Theirs (arXiv 1910.10699, CRD) has a 1x1 convolution as its stem, and no pooling after it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd.core.errors import ConfigError
from kd.models.grouped import Group, GroupedNetwork
from kd.models.network import Average, BatchNorm, Stem, conv1x1
from kd.models.shuffled import depthwise, shuffle


class Block(nn.Module):
    """Hand half of the channels on, pass the others through conv1x1, depthwise conv3x3 and conv1x1, then shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 2
        self.conv1 = conv1x1(width, width)
        self.norm1 = BatchNorm(width)
        self.conv2 = depthwise(width)
        self.norm2 = BatchNorm(width)
        self.conv3 = conv1x1(width, width)
        self.norm3 = BatchNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H, W] of as much."""
        kept, made = self._halves(x)
        return shuffle(torch.cat([kept, made.relu_()], 1), 2)

    def edge(self, x: Tensor) -> Tensor:
        """Return the same before the last ReLU: what is handed on was made by one, and is not negative."""
        return shuffle(torch.cat(self._halves(x), 1), 2)

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, made = x.chunk(2, 1)
        made = self.norm2(self.conv2(self.norm1(self.conv1(made)).relu_()))
        return kept, self.norm3(self.conv3(made))


class Down(nn.Module):
    """Halve the image on two ways, of which each gives half of the channels, then shuffle."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        width = outputs // 2
        self.conv1 = depthwise(inputs, 2)
        self.norm1 = BatchNorm(inputs)
        self.conv2 = conv1x1(inputs, width)
        self.norm2 = BatchNorm(width)
        self.conv3 = conv1x1(inputs, width)
        self.norm3 = BatchNorm(width)
        self.conv4 = depthwise(width, 2)
        self.norm4 = BatchNorm(width)
        self.conv5 = conv1x1(width, width)
        self.norm5 = BatchNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H / 2, W / 2] of [B, inputs, H, W]."""
        left = self.norm2(self.conv2(self.norm1(self.conv1(x)))).relu_()
        right = self.norm4(self.conv4(self.norm3(self.conv3(x)).relu_()))
        right = self.norm5(self.conv5(right)).relu_()
        return shuffle(torch.cat([left, right], 1), 2)


class ShuffleNetV2(GroupedNetwork):
    """Build shufflenetv2: groups of 4, 8 and 4 blocks of 116, 232 and 464 channels, then a 1x1 convolution to 1024."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.stem = Stem(channels, 24, 1, bias=False)
        self.norm = BatchNorm(24)
        self.stage1 = _group(24, 116, 4)
        self.stage2 = _group(116, 232, 8)
        self.stage3 = _group(232, 464, 4)
        self.last = nn.Sequential(conv1x1(464, 1024), BatchNorm(1024), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(1024, classes)

    def begin(self, images: Tensor) -> Tensor:
        """Return what the stem makes, [B, 24, H, W]."""
        return self.norm(self.stem(images)).relu_()

    def norms(self) -> list[nn.BatchNorm2d]:
        """Raise ConfigError: half of the channels of an edge come from an earlier block, so none normalises all."""
        raise ConfigError(
            "shufflenetv2: no batch normalisation makes all channels of its edges; another network can teach"
        )

    def groups(self) -> tuple[nn.Module, ...]:
        """Return the three groups."""
        return self.stage1, self.stage2, self.stage3

    def tail(self) -> tuple[nn.Module, ...]:
        """Return the last convolution and the mean over the image."""
        return self.last, Average()


def _group(inputs: int, outputs: int, blocks: int) -> Group:
    return Group(Down(inputs, outputs), *(Block(outputs) for _ in range(blocks - 1)))
