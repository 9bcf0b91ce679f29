"""Residual networks for 224x224 images (He et al., arXiv 1512.03385 sec. 4.1): torchvision's, as a `Network`."""

from __future__ import annotations

from collections.abc import Mapping

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


def from_torchvision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's state dict of a resnet under the names that `ImageNetResNet.load_state_dict` takes."""
    return {_renamed(name): value for name, value in weights.items()}


def _renamed(name: str) -> str:
    return f"classifier.{name.removeprefix('fc.')}" if name.startswith("fc.") else name
