"""Wide residual networks (Zagoruyko and Komodakis, arXiv 1605.07146), as arXiv 2105.08919 trained them."""

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
    normalised,
)


class Block(nn.Module):
    """Add BN-ReLU-conv3x3 twice to its input; between widths, to a 1x1 convolution of the pre-activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = BatchNorm(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm2 = BatchNorm(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut = None if inputs == outputs else conv1x1(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H / stride, W / stride] of [B, inputs, H, W]."""
        active = self.norm1(x).relu_()
        residual = self.conv2(self.norm2(self.conv1(active)).relu_())
        return residual + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(Network):
    """Build WRN-depth-width: (depth - 4) / 6 blocks in each of three groups, 16, 32 and 64 times width channels."""

    def __init__(self, depth: int, width: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.stem = Stem(channels, 16, 3, padding=1, bias=False)
        self.stage1 = group(Block, 16, 16 * width, blocks, stride=1)
        self.stage2 = group(Block, 16 * width, 32 * width, blocks, stride=2)
        self.stage3 = group(Block, 32 * width, 64 * width, blocks, stride=2)
        self.norm = BatchNorm(64 * width)
        self.classifier = nn.Linear(64 * width, classes)
        initialise_convolutions(self)
        nn.init.zeros_(self.classifier.bias)

    def features(self, images: Tensor) -> Tensor:
        """Return the pre-logits [B, 64 * width]."""
        x = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return average(self.norm(x).relu_())

    def maps(self, images: Tensor, edges: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Return the maps after each group, the last after its ReLU; their edges are what the next block activates."""
        first = self.stage1(self.stem(images))
        second = self.stage2(first)
        last = self.norm(self.stage3(second))
        maps = [first, second, last.relu()]
        if not edges:
            return maps, []
        one, other, _ = self.norms()
        return maps, [normalised(one, first), normalised(other, second), last]

    def norms(self) -> list[nn.BatchNorm2d]:
        """Return the batch normalisation that each edge comes from."""
        return [self.stage2[0].norm1, self.stage3[0].norm1, self.norm]

    def head(self) -> nn.Sequential:
        """Return the third group and all after it."""
        return nn.Sequential(self.stage3, self.norm, nn.ReLU(inplace=True), Average(), self.classifier)
