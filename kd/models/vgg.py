"""VGG with batch normalisation for 32x32 images (Simonyan and Zisserman, arXiv 1409.1556), as in the KD benchmarks.

Their networks (arXiv 1910.10699, CRD) end in a mean over the image and one linear layer instead of three. The first of
the five blocks keeps the size of the image and counts as the stem: it gives no map.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from kd.models.grouped import GroupedNetwork
from kd.models.network import BatchNorm, Stem, initialise_convolutions

CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
NEVER = 1 << 30


class Block(nn.Sequential):
    """Pool by two what is of `pooled_from` pixels a side or more, then apply conv3x3-BN-ReLU `count` times."""

    def __init__(self, inputs: int, outputs: int, count: int, pooled_from: int, kind: type[nn.Conv2d]) -> None:
        layers: list[nn.Module] = [kind(inputs, outputs, 3, padding=1), BatchNorm(outputs)]
        for _ in range(count - 1):
            layers += [nn.ReLU(inplace=True), nn.Conv2d(outputs, outputs, 3, padding=1), BatchNorm(outputs)]
        super().__init__(*layers)
        self.pooled_from = pooled_from

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H / 2, W / 2] of [B, inputs, H, W]."""
        return self.edge(x).relu_()

    def edge(self, x: Tensor) -> Tensor:
        """Return the same before the last ReLU."""
        return super().forward(max_pool2d(x, 2) if x.shape[2] >= self.pooled_from else x)


class Vgg(GroupedNetwork):
    """Build vgg<depth>: a block at full size, then four groups that halve it; the last one only maps from 8x8 on."""

    def __init__(self, depth: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        one, two, three, four, five = CONVOLUTIONS[depth]
        self.stage0 = Block(channels, 64, one, NEVER, Stem)
        self.stage1 = Block(64, 128, two, 2, nn.Conv2d)
        self.stage2 = Block(128, 256, three, 2, nn.Conv2d)
        self.stage3 = Block(256, 512, four, 2, nn.Conv2d)
        self.stage4 = Block(512, 512, five, 8, nn.Conv2d)
        self.classifier = nn.Linear(512, classes)
        initialise_convolutions(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def begin(self, images: Tensor) -> Tensor:
        """Return what the first block makes, [B, 64, H, W]."""
        return self.stage0(images)

    def norms(self) -> list[nn.BatchNorm2d]:
        """Return the batch normalisation that each edge comes from."""
        return [group[-1] for group in self.groups()]

    def groups(self) -> tuple[nn.Module, ...]:
        """Return the four groups that halve the image."""
        return self.stage1, self.stage2, self.stage3, self.stage4
