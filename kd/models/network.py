"""What every network is: features, then a linear classifier."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from kd.models.output import Output


class Network(nn.Module):
    """Map images [B, C, H, W] to logits [B, K] through pre-logits [B, D] and `classifier`, a linear layer."""

    classifier: nn.Linear

    def features(self, images: Tensor) -> Tensor:
        """Return the pre-logits [B, D]: what the classifier sees."""
        raise NotImplementedError

    def maps(self, images: Tensor, edges: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Return the maps [B, C, H, W] after each group and, if asked, the same before their last ReLU."""
        raise NotImplementedError

    def norms(self) -> list[nn.BatchNorm2d]:
        """Return the batch normalisation that each edge comes from, or its branch where a shortcut is added to it."""
        raise NotImplementedError

    def read(self, last: Tensor) -> Tensor:
        """Return what the mean over the image reads [B, D, H, W]: the last map, or what is made of it."""
        return last

    def pooled(self, last: Tensor) -> Tensor:
        """Return the pre-logits [B, D] of the last map [B, D, H, W]."""
        return average(last)

    def head(self) -> nn.Sequential:
        """Return what makes logits [B, K] of the last map but one: the last group and all after it, not copied."""
        raise NotImplementedError

    def outputs(self, images: Tensor, names: Collection[str]) -> Output:
        """Return what `names` says of what the network says of images [B, C, H, W]; logits always.

        There are no class activation maps where the pre-logits are not the mean of the last map.
        """
        if not {"maps", "edges", "cams"} & set(names):
            prelogits = self.features(images)
            return Output(self.classifier(prelogits), prelogits if "prelogits" in names else None)
        maps, edges = self.maps(images, "edges" in names)
        read = self.read(maps[-1])  # once: batch normalisation counts every pass
        prelogits, cams = self.pooled(read), None
        if "cams" in names and read.shape[1] == self.classifier.in_features:
            cams = nn.functional.conv2d(read, self.classifier.weight[:, :, None, None])
        return Output(self.classifier(prelogits), prelogits, tuple(maps), tuple(edges), cams=cams)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, K]."""
        return self.classifier(self.features(images))


class Outputs(nn.Module):
    """A network as a module that says more than its logits."""

    def __init__(self, network: Network, names: Collection[str]) -> None:
        super().__init__()
        self.network, self._names = network, names

    def forward(self, images: Tensor) -> Output:
        """Return what the network says of images [B, C, H, W]."""
        return self.network.outputs(images, self._names)


class Stem(nn.Conv2d):
    """The first convolution. Its 3 input channels fill no bfloat16 tile: on a CPU it is computed in float32.

    There bfloat16 takes ten times as long on an EPYC with AVX512-BF16 and as long on a Xeon with AMX (bench/parts.py).
    The result has the dtype that autocast asks for, so what follows is the same on every device.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, outputs, H', W'] of [B, C, H, W]."""
        if images.is_cuda or not torch.is_autocast_enabled("cpu"):
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            return super().forward(images.float()).to(torch.get_autocast_dtype("cpu"))


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation, written so that the compiler makes one pass of sums and one of products of it on a CPU.

    Inductor's own form is Welford's recurrence, in which each row waits for the one before it, and keeps the
    statistics in the dtype of the activations. Sums make a compiled step a tenth faster (bench/parts.py) and stay
    float32. Not compiled, or on a GPU, it is nn.BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H, W], normalised over B, H and W while training."""
        if x.is_cuda or not (self.training and torch.compiler.is_compiling()):
            return super().forward(x)
        count = x.numel() // x.shape[1]
        # Near the mean, so that the variance is no difference of large numbers. Not the running mean: the backward pass
        # would read it again after this step has moved it (AOTAutograd keeps the buffer, not its value).
        pivot = x[0].detach().float().mean((1, 2))
        centred = x.float() - _channels(pivot)
        mean = centred.sum((0, 2, 3)) / count
        variance = centred.square().sum((0, 2, 3)) / count - mean.square()
        scale = self.weight * torch.rsqrt(variance + self.eps)
        with torch.no_grad():
            self.running_mean.lerp_(pivot + mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        return (centred * _channels(scale) + _channels(self.bias - mean * scale)).to(x.dtype)


def _channels(values: Tensor) -> Tensor:
    return values[:, None, None]


def normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Return what `norm` makes of x [B, C, H, W], and leave its running statistics as they are."""
    mean, variance = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    return nn.functional.batch_norm(x, mean, variance, norm.weight, norm.bias, norm.training, 0.0, norm.eps)


def average(x: Tensor) -> Tensor:
    """Return the mean over the image [B, C] of [B, C, H, W]; its gradient has channels last, as what it meets."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


class Average(nn.Module):
    """The mean over the image as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C] of [B, C, H, W]."""
        return average(x)


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


def group(block: type[nn.Module], inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Return a group of blocks, the first of which changes width and size.

    Networks call theirs stage1, stage2, ...: these are names in the weights that are published.
    """
    first = block(inputs, outputs, stride)
    return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(blocks - 1)))
