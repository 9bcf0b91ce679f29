"""Networks whose every weight is a formula, so that what they answer can be compared with numbers made elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

# Facts of the publishers' own classes, 100 classes, float64: sizes, answers for `formula_images`, names of their layers
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "networks.json").read_text(encoding="utf-8"))


def filled(network: nn.Module) -> nn.Module:
    """Fill a float64 network by the formula of the vectors: of the place of a tensor and that of a number in it."""
    with torch.no_grad():
        for place, (name, tensor) in enumerate(network.state_dict().items()):
            if name.endswith("num_batches_tracked"):
                continue
            i = torch.arange(tensor.numel())
            drawn = 2 * ((i * i + 7919 * i + 104729 * place) % 65537).double() / 65537 - 1
            if tensor.dim() > 1:
                values = drawn * math.sqrt(3 / tensor[0].numel())
            else:
                values = 0.25 * drawn + (1 if name.endswith(("weight", "running_var")) else 0)
            tensor.copy_(values.view(tensor.shape))
    return network.eval()


def formula_images(size: int) -> Tensor:
    """Return the two images [2, 3, size, size] that the vectors answer for."""
    b, c, y, x = torch.meshgrid(*(torch.arange(n).double() for n in (2, 3, size, size)), indexing="ij")
    return torch.sin(1.7 * b + 0.9 * c + 0.31 * y + 0.17 * x + 0.013 * y * x)


def as_published(name: str, publisher: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of network `name` under the names that a publisher's own class has, in their order."""
    layers = {own.rpartition(".")[0]: None for own in state}
    theirs = dict(zip(layers, VECTORS["names"][name][publisher].split(), strict=True))
    parts = ((own.rpartition("."), value) for own, value in state.items())
    return {f"{theirs[layer]}.{leaf}": value for (layer, _, leaf), value in parts}


def multiply_accumulates(network: nn.Module, images: Tensor) -> int:
    """Count those of convolutions and linear layers in one forward pass of one image."""
    counts = []

    def count(layer: nn.Module, _inputs: tuple, output: Tensor) -> None:
        counts.append(output[0].numel() * layer.weight[0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    network(images)
    return sum(counts)
