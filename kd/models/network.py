"""What every network is: features, then a linear classifier."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """Map images [B, C, H, W] to logits [B, K] through pre-logits [B, D] and `classifier`, a linear layer."""

    classifier: nn.Linear

    def features(self, images: Tensor) -> Tensor:
        """Return the pre-logits [B, D]: what the classifier sees."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        return self.classifier(self.features(images))


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size of the image up to its stride."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return the 1x1 convolution of a shortcut between widths."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


def initialise_convolutions(network: nn.Module) -> None:
    """Draw every convolution from normal(0, sqrt(2 / (k * k * outputs))) (He et al., arXiv 1502.01852, by fan-out)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def stage(block: type[nn.Module], inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Return `blocks` blocks, the first of which changes width and size."""
    first = block(inputs, outputs, stride)
    return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(blocks - 1)))
