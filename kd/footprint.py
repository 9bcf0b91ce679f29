"""How much of a GPU's memory a cell needs, worked out before it starts: that decides how many share one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kd import models
from kd.data.examples import Examples

_FIXED = 1 << 30  # CUDA's context, the libraries' workspaces, the allocator's and the graphs' pools
_SLACK = 1.25  # fragments, and the gradients of activations that are alive at once


def gpu_bytes(network: str, classes: int, examples: Examples, batch: int, rows: int = 0) -> int:
    """Return the bytes that training `network` on `examples` takes, with `rows` rows of a bank.

    Weights with gradients and momenta, what one batch keeps for its backward pass, and the data, which stay on the
    device. Activations count as float32: in bfloat16 it is less.
    """
    _, height, width, channels = examples.images.shape
    kept = _kept_by_a_step(network, classes, (batch, channels, height, width))
    data = sum(tensor.nbytes for tensor in vars(examples).values())
    bank = rows * (2 * classes + 8)  # float16 logits and an int64 key
    return math.ceil(_FIXED + data + bank + _SLACK * kept)


def _kept_by_a_step(network: str, classes: int, shape: tuple[int, ...]) -> int:
    """Return the bytes of weights, gradients, momenta and saved activations, counted without computing anything."""
    with torch.device("meta"):
        built = models.build(network, classes, shape[1]).train()
        images = torch.empty(shape)
    weights = sum(p.nbytes for p in built.parameters())
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # several views of one storage are kept once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = built(images)
    activations = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return activations + logits.nbytes + 2 * weights  # the weights themselves are saved for the backward pass
