"""The residual networks for 224x224 images (He et al., arXiv 1512.03385 sec. 4.1) behind a stem for 32x32 images.

The stem is a 3x3 convolution without stride, and no pooling follows it: the ResNet-18, 34 and 50 of CIFAR codes.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd.models.grouped import Group, GroupedNetwork
from kd.models.network import BatchNorm, Stem, conv1x1, conv3x3, initialise_convolutions

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Block(nn.Module):
    """Apply conv3x3-BN-ReLU-conv3x3-BN, add the shortcut, then ReLU."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride)
        self.norm1 = BatchNorm(width)
        self.conv2 = conv3x3(width, width)
        self.norm2 = BatchNorm(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, H / stride, W / stride] of [B, inputs, H, W]."""
        return self.edge(x).relu_()

    def edge(self, x: Tensor) -> Tensor:
        """Return the same before the last ReLU."""
        return self.norm2(self.conv2(self.norm1(self.conv1(x)).relu_())) + self.shortcut(x)


class Bottleneck(nn.Module):
    """Apply conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN, add the shortcut, then ReLU. The 3x3 convolution strides."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(inputs, width)
        self.norm1 = BatchNorm(width)
        self.conv2 = conv3x3(width, width, stride)
        self.norm2 = BatchNorm(width)
        self.conv3 = conv1x1(width, 4 * width)
        self.norm3 = BatchNorm(4 * width)
        self.shortcut = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 4 * width, H / stride, W / stride] of [B, inputs, H, W]."""
        return self.edge(x).relu_()

    def edge(self, x: Tensor) -> Tensor:
        """Return the same before the last ReLU."""
        x_ = self.norm1(self.conv1(x)).relu_()
        x_ = self.norm2(self.conv2(x_)).relu_()
        return self.norm3(self.conv3(x_)) + self.shortcut(x)


class CifarStemResNet(GroupedNetwork):
    """Build resnet<depth>-cifar: four groups of width 64, 128, 256 and 512, fourfold at depth 50."""

    def __init__(self, depth: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        block = Bottleneck if depth == 50 else Block
        self.stem = Stem(channels, 64, 3, padding=1, bias=False)
        self.norm = BatchNorm(64)
        inputs = 64
        for n, blocks in enumerate(BLOCKS[depth]):
            width = 64 << n
            outputs = width * block.expansion
            first = block(inputs, width, 2 if n else 1)
            self.add_module(f"stage{n + 1}", Group(first, *(block(outputs, width, 1) for _ in range(blocks - 1))))
            inputs = outputs
        self.classifier = nn.Linear(inputs, classes)
        initialise_convolutions(self)

    def begin(self, images: Tensor) -> Tensor:
        """Return what the stem makes, [B, 64, H, W]."""
        return self.norm(self.stem(images)).relu_()

    def norms(self) -> list[nn.BatchNorm2d]:
        """Return the last batch normalisation of each group, to which its edge adds a shortcut."""
        last = [group[-1] for group in self.groups()]
        return [block.norm3 if isinstance(block, Bottleneck) else block.norm2 for block in last]

    def groups(self) -> tuple[nn.Module, ...]:
        """Return the four groups."""
        return self.stage1, self.stage2, self.stage3, self.stage4


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(conv1x1(inputs, outputs, stride), BatchNorm(outputs))
