"""Estimate a cell's GPU memory and the size of its weights before anything starts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kd import models
from kd.data.examples import Examples
from kd.losses.objective import Objective
from kd.models.network import Network

_FIXED = 1 << 30  # CUDA's context, the libraries' workspaces, the allocator's and the graphs' pools
_SLACK = 1.25  # for fragmentation, and for the gradients of activations that exist at the same time
# What an evaluation adds, in largest activations of its batch as float32: above all workspaces of convolutions. WRNs of
# three sizes took up to 16 in float32 and up to 1 in bfloat16 on an H200 (bench/gpu.py).
_WHILE_EVALUATED = {"fp32": 18, "bf16": 2}


def gpu_bytes(
    network: str,
    classes: int,
    examples: Examples,
    batch: int,
    bank: int = 0,
    objective: Objective | None = None,
    says: Collection[str] = (),
    copies: int = 1,
    evaluated: int = 0,
    precision: str = "fp32",
) -> int:
    """Return the GPU bytes that training `network` on `examples` takes, with banks of `bank` bytes and an objective.

    Counted are the weights with gradients and so many `copies` (momenta and the like), the activations that one batch
    keeps for its backward pass, what it takes to evaluate `evaluated` images at a time in this `precision`, and the
    data, which stay on the device. The objective, built on the meta device, adds its parameters with gradients and
    copies, the activations of its adapters, and its buffers, which may remember every example. `says` names the outputs
    that it reads. Activations count as float32, so in bfloat16 the estimate is too high.
    """
    kept = _kept_by_a_step(network, classes, (batch, *examples.shape), objective, says)
    evaluation = evaluated * _WHILE_EVALUATED[precision] * _largest_activation(network, classes, examples.shape)
    learned, held = (
        sum(tensor.nbytes for tensor in tensors)
        for tensors in ((objective.parameters(), objective.buffers()) if objective else ((), ()))
    )
    more = (copies - 1) * sum(p.nbytes for p in _shaped(network, classes, examples.shape[0]).parameters())
    return math.ceil(
        _FIXED + examples.nbytes + bank + (2 + copies) * learned + held + more + evaluation + _SLACK * kept
    )


@functools.cache
def weight_bytes(network: str, classes: int) -> int:
    """Return the bytes of the weights of a network."""
    return sum(tensor.nbytes for tensor in _shaped(network, classes).state_dict().values())


@functools.cache
def width(network: str, classes: int) -> int:
    """Return the number of pre-logits of a network."""
    return _shaped(network, classes).classifier.in_features


class _NothingDrawn(TorchFunctionMode):
    """Skip the drawing of normal weights: on the meta device it imports torch._dynamo, which takes a second."""

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        return args[0] if function is Tensor.normal_ else function(*args, **(kwargs or {}))


def _shaped(network: str, classes: int, channels: int = 3) -> Network:
    """Build a network on the meta device: its weights have shapes but take no memory."""
    with torch.device("meta"), _NothingDrawn():
        return models.build(network, classes, channels)


def _largest_activation(network: str, classes: int, shape: tuple[int, int, int]) -> int:
    """Return the bytes of the largest output of a convolution, of one image [C, H, W] in float32."""
    built, sizes = _shaped(network, classes, shape[0]).eval(), [0]
    for layer in built.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: sizes.append(output.nbytes))
    with torch.no_grad():
        built(torch.empty(1, *shape, device="meta"))
    return max(sizes)


def _kept_by_a_step(
    network: str,
    classes: int,
    shape: tuple[int, ...],
    objective: Objective | None = None,
    says: Collection[str] = (),
) -> int:
    """Return the bytes of weights, gradients, momenta and saved activations; nothing is computed.

    Of an objective only the activations of its adapters count.
    """
    built = _shaped(network, classes, shape[1]).train()
    images = torch.empty(shape, device="meta")
    weights = sum(p.nbytes for p in built.parameters())
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # views of the same storage count once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        said = built.outputs(images, says)
        if objective is not None:
            said = objective.adapted(said)
    for parameter in objective.parameters() if objective is not None else ():
        saved.pop(parameter.untyped_storage()._cdata, None)
    activations = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return activations + said.logits.nbytes + 2 * weights  # `activations` already has the weights, saved for backward
