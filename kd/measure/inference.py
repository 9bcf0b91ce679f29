"""What a network costs to use: parameters, multiply-accumulates, and the time that one image takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

_PASSES = 30
_SECONDS = 2.0  # that the passes of one network may take; at least three are made


def multiply_accumulates(networks: Iterable[nn.Module], shape: Sequence[int]) -> int:
    """Return how many the convolutions and linear layers of `networks` make for one image [C, H, W]."""
    counts: list[int] = []

    def count(layer: nn.Module, _inputs: tuple, output: Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    for network in networks:
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)]
        hooks = [layer.register_forward_hook(count) for layer in layers]
        try:
            _answer(network, shape)
        finally:
            for hook in hooks:
                hook.remove()
    return sum(counts)


def cost(networks: Sequence[nn.Module], shape: Sequence[int]) -> dict[str, float]:
    """Return what using `networks`, which answer one after the other, costs for one image [C, H, W].

    `milliseconds` are of the fastest pass of several, in float32 and not compiled: what else runs on the machine only
    ever adds to the time.
    """
    return {
        "parameters": sum(parameter.numel() for network in networks for parameter in network.parameters()),
        "macs": multiply_accumulates(networks, shape),
        "milliseconds": sum(_milliseconds(network, shape) for network in networks),
    }


def _milliseconds(network: nn.Module, shape: Sequence[int]) -> float:
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < 3 or (len(found) < _PASSES and time.perf_counter() - began < _SECONDS):
        found.append(_answer(network, shape))
    return 1000 * min(found)


@torch.inference_mode()
def _answer(network: nn.Module, shape: Sequence[int]) -> float:
    """Let a network answer one image, and return the seconds that it took."""
    device = next(network.parameters()).device
    image = torch.zeros(1, *shape, device=device).to(memory_format=torch.channels_last)
    network.eval()
    _wait(device)
    began = time.perf_counter()
    network(image)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
