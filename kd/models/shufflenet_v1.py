"""ShuffleNet for 32x32 images (Zhang et al., arXiv 1707.01083), as in the KD benchmarks.

Theirs (arXiv 1910.10699, CRD) has 3 groups behind a 1x1 convolution to 24 channels, and no pooling after it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd.models.grouped import Group, GroupedNetwork
from kd.models.network import BatchNorm, Stem
from kd.models.shuffled import depthwise, shuffle

GROUPS = 3
STEM = 24


class Block(nn.Module):
    """Apply grouped conv1x1-BN-ReLU, shuffle, depthwise conv3x3-BN-ReLU and grouped conv1x1-BN; join x, then ReLU.

    With stride 1, x is added. With stride 2 its mean over 3x3 pixels is appended as further channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        made = outputs if stride == 1 else outputs - inputs
        width = made // 4
        self.groups = 1 if inputs == STEM else GROUPS
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, width, 1, groups=self.groups, bias=False)
        self.norm1 = BatchNorm(width)
        self.conv2 = depthwise(width, stride)
        self.norm2 = BatchNorm(width)
        self.conv3 = nn.Conv2d(width, made, 1, groups=GROUPS, bias=False)
        self.norm3 = BatchNorm(made)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H / stride, W / stride] of [B, inputs, H, W]."""
        return self.edge(x).relu_()

    def edge(self, x: Tensor) -> Tensor:
        """Return the same before the last ReLU."""
        made = shuffle(self.norm1(self.conv1(x)).relu_(), self.groups)
        made = self.norm3(self.conv3(self.norm2(self.conv2(made)).relu_()))
        return made + x if self.stride == 1 else torch.cat([made, nn.functional.avg_pool2d(x, 3, 2, 1)], 1)


class ShuffleNetV1(GroupedNetwork):
    """Build shufflenetv1: groups of 4, 8 and 4 blocks of 240, 480 and 960 channels."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.stem = Stem(channels, STEM, 1, bias=False)
        self.norm = BatchNorm(STEM)
        self.stage1 = _group(STEM, 240, 4)
        self.stage2 = _group(240, 480, 8)
        self.stage3 = _group(480, 960, 4)
        self.classifier = nn.Linear(960, classes)

    def begin(self, images: Tensor) -> Tensor:
        """Return what the stem makes, [B, 24, H, W]."""
        return self.norm(self.stem(images)).relu_()

    def norms(self) -> list[nn.BatchNorm2d]:
        """Return the last batch normalisation of each group, to which its edge adds a shortcut."""
        return [group[-1].norm3 for group in self.groups()]

    def groups(self) -> tuple[nn.Module, ...]:
        """Return the three groups."""
        return self.stage1, self.stage2, self.stage3


def _group(inputs: int, outputs: int, blocks: int) -> Group:
    return Group(Block(inputs, outputs, 2), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))
