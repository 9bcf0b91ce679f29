"""Residual networks for 32x32 images (He et al., arXiv 1512.03385 sec. 4.2), in the variants of the KD benchmarks.

The benchmarks of arXiv 1910.10699 (CRD) use a 1x1 convolution wherever a shortcut changes shape (option B) and
add resnet8x4 and resnet32x4, of fourfold width behind a stem of 32 channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd.models.network import (
    Average,
    BatchNorm,
    Network,
    Stem,
    average,
    conv1x1,
    conv3x3,
    group,
    initialise_convolutions,
)


class Block(nn.Module):
    """Apply conv3x3-BN-ReLU-conv3x3-BN, add the shortcut, then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm1 = BatchNorm(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.norm2 = BatchNorm(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), BatchNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H / stride, W / stride] of [B, inputs, H, W]."""
        return self.edge(x).relu_()

    def edge(self, x: Tensor) -> Tensor:
        """Return the same before the last ReLU."""
        residual = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu_()))
        return residual + self.shortcut(x)


class CifarResNet(Network):
    """Build resnet<depth>x<width>: (depth - 2) / 6 blocks in each of three groups of 16, 32, 64 x width channels."""

    def __init__(self, depth: int, width: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        stem = 16 if width == 1 else 32
        self.stem = Stem(channels, stem, 3, padding=1, bias=False)
        self.norm = BatchNorm(stem)
        self.stage1 = group(Block, stem, 16 * width, blocks, stride=1)
        self.stage2 = group(Block, 16 * width, 32 * width, blocks, stride=2)
        self.stage3 = group(Block, 32 * width, 64 * width, blocks, stride=2)
        self.classifier = nn.Linear(64 * width, classes)
        initialise_convolutions(self)

    def features(self, images: Tensor) -> Tensor:
        """Return the pre-logits [B, 64 * width]."""
        x = self.norm(self.stem(images)).relu_()
        return average(self.stage3(self.stage2(self.stage1(x))))

    def maps(self, images: Tensor, edges: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Return the maps after each group and, if asked, their edges."""
        x = self.norm(self.stem(images)).relu_()
        maps, before = [], []
        for each in (self.stage1, self.stage2, self.stage3):
            edge = each[-1].edge(each[:-1](x))
            x = edge.relu()
            maps.append(x)
            before += [edge] if edges else []
        return maps, before

    def norms(self) -> list[nn.BatchNorm2d]:
        """Return the last batch normalisation of each group, to which its edge adds a shortcut."""
        return [each[-1].norm2 for each in (self.stage1, self.stage2, self.stage3)]

    def head(self) -> nn.Sequential:
        """Return the third group and all after it."""
        return nn.Sequential(self.stage3, Average(), self.classifier)
