"""MobileNetV2 of half width for 32x32 images (Sandler et al., arXiv 1801.04381), as in the KD benchmarks.

Theirs (arXiv 1910.10699, CRD) halves every width, rounded down, has ReLU instead of ReLU6, a 1x1 convolution in the
first block too, and halves the image three times.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd.models.grouped import Group, GroupedNetwork
from kd.models.network import Average, BatchNorm, Stem, conv1x1, initialise_convolutions
from kd.models.shuffled import depthwise

# The rows of arXiv 1801.04381's table 2, of half width, by the group they are in: channels, blocks, stride, expansion.
GROUPS = (
    ((8, 1, 1, 1), (12, 2, 1, 6)),
    ((16, 3, 2, 6),),
    ((32, 4, 2, 6), (48, 3, 1, 6)),
    ((80, 3, 2, 6), (160, 1, 1, 6)),
)


class Block(nn.Module):
    """Apply conv1x1-BN-ReLU, depthwise conv3x3-BN-ReLU and conv1x1-BN; add x where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.layers = nn.Sequential(
            conv1x1(inputs, width),
            BatchNorm(width),
            nn.ReLU(inplace=True),
            depthwise(width, stride),
            BatchNorm(width),
            nn.ReLU(inplace=True),
            conv1x1(width, outputs),
            BatchNorm(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H / stride, W / stride] of [B, inputs, H, W]."""
        return x + self.layers(x) if self.adds else self.layers(x)

    edge = forward  # no ReLU follows


class MobileNetV2Half(GroupedNetwork):
    """Build mobilenetv2-half: groups of 12, 16, 48 and 160 channels, then a 1x1 convolution to 1280."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        stem = Stem(channels, 16, 3, stride=2, padding=1, bias=False)
        self.stem = nn.Sequential(stem, BatchNorm(16), nn.ReLU(inplace=True))
        inputs = 16
        for n, rows in enumerate(GROUPS, start=1):
            made = []
            for outputs, blocks, stride, expansion in rows:
                first = Block(inputs, outputs, stride, expansion)
                made.append(Group(first, *(Block(outputs, outputs, 1, expansion) for _ in range(blocks - 1))))
                inputs = outputs
            self.add_module(f"stage{n}", Group(*made))
        self.last = nn.Sequential(conv1x1(inputs, 1280), BatchNorm(1280), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(1280, classes)
        initialise_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def begin(self, images: Tensor) -> Tensor:
        """Return what the stem makes, [B, 16, H / 2, W / 2]."""
        return self.stem(images)

    def norms(self) -> list[nn.BatchNorm2d]:
        """Return the last batch normalisation of each group, to which its edge may add a shortcut."""
        return [group[-1][-1].layers[-1] for group in self.groups()]

    def groups(self) -> tuple[nn.Module, ...]:
        """Return the four groups, of one row or two."""
        return self.stage1, self.stage2, self.stage3, self.stage4

    def after(self, edge: Tensor) -> Tensor:
        """Return the edge: no ReLU follows it."""
        return edge

    def tail(self) -> tuple[nn.Module, ...]:
        """Return the last convolution and the mean over the image."""
        return self.last, Average()
