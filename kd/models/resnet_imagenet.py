"""Residual networks for 224x224 images (He et al., arXiv 1512.03385 sec. 4.1): torchvision's, as a `Network`."""

from __future__ import annotations

import torchvision
from torch import Tensor, nn

from kd.models.network import Network, initialise_convolutions


class ImageNetResNet(Network):
    """Hold torchvision's resnet<depth>, its parts under torchvision's names save `fc`, which is `classifier`."""

    def __init__(self, depth: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        body = getattr(torchvision.models, f"resnet{depth}")(num_classes=classes)
        for name, part in body.named_children():
            self.add_module("classifier" if name == "fc" else name, part)
        if channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            initialise_convolutions(self.conv1)

    def features(self, images: Tensor) -> Tensor:
        """Return the pre-logits [B, 512] (depth 18, 34) or [B, 2048]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x))))).flatten(1)

    def maps(self, images: Tensor, edges: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Return the maps after each of the four groups and, if asked, their edges."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps, before = [], []
        for each in (self.layer1, self.layer2, self.layer3, self.layer4):
            edge = _edge(each[-1], each[:-1](x))
            x = edge.relu()
            maps.append(x)
            before += [edge] if edges else []
        return maps, before

    def norms(self) -> list[nn.BatchNorm2d]:
        """Return the last batch normalisation of each group, to which its edge adds a shortcut."""
        last = [each[-1] for each in (self.layer1, self.layer2, self.layer3, self.layer4)]
        return [block.bn3 if isinstance(block, torchvision.models.resnet.Bottleneck) else block.bn2 for block in last]

    def pooled(self, last: Tensor) -> Tensor:
        """Return the pre-logits [B, D] of the last map."""
        return self.avgpool(last).flatten(1)

    def head(self) -> nn.Sequential:
        """Return the fourth group and all after it."""
        return nn.Sequential(self.layer4, self.avgpool, nn.Flatten(), self.classifier)


def _edge(block: nn.Module, x: Tensor) -> Tensor:
    """Return what a block of torchvision makes of x before its last ReLU."""
    out = block.relu(block.bn1(block.conv1(x)))
    out = block.bn2(block.conv2(out))
    if isinstance(block, torchvision.models.resnet.Bottleneck):
        out = block.bn3(block.conv3(block.relu(out)))
    return out + (x if block.downsample is None else block.downsample(x))
