"""How much memory a cell needs of a GPU, and its weights anywhere, worked out before it starts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kd import models
from kd.data.examples import Examples
from kd.losses.objective import Objective
from kd.models.network import Network

_FIXED = 1 << 30  # CUDA's context, the libraries' workspaces, the allocator's and the graphs' pools
_SLACK = 1.25  # fragments, and the gradients of activations that are alive at once


def gpu_bytes(
    network: str,
    classes: int,
    examples: Examples,
    batch: int,
    bank: int = 0,
    objective: Objective | None = None,
    says: Collection[str] = (),
    copies: int = 1,
) -> int:
    """Return the bytes that training `network` on `examples` takes, with a bank of so many bytes and an objective.

    Weights with gradients and so many further `copies`, such as momenta, what one batch keeps for its backward pass,
    and the data, which stay on the device. Of the objective, which is on the meta device and looks at what the network
    `says`, its parameters with as many copies, what its adapters keep, and its buffers, which may remember every
    example. Activations count as float32: in bfloat16 it is less.
    """
    kept = _kept_by_a_step(network, classes, (batch, *examples.shape), objective, says)
    learned, held = (
        sum(tensor.nbytes for tensor in tensors)
        for tensors in ((objective.parameters(), objective.buffers()) if objective else ((), ()))
    )
    more = (copies - 1) * sum(p.nbytes for p in _shaped(network, classes, examples.shape[0]).parameters())
    return math.ceil(_FIXED + examples.nbytes + bank + (2 + copies) * learned + held + more + _SLACK * kept)


@functools.cache
def weight_bytes(network: str, classes: int) -> int:
    """Return the bytes of the weights of a network."""
    return sum(tensor.nbytes for tensor in _shaped(network, classes).state_dict().values())


@functools.cache
def width(network: str, classes: int) -> int:
    """Return the number of pre-logits of a network."""
    return _shaped(network, classes).classifier.in_features


class _NothingDrawn(TorchFunctionMode):
    """Leave weights as they are. To draw normal ones on the meta device imports torch._dynamo, which takes a second."""

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        return args[0] if function is Tensor.normal_ else function(*args, **(kwargs or {}))


def _shaped(network: str, classes: int, channels: int = 3) -> Network:
    """Return a network whose weights have shapes and no memory."""
    with torch.device("meta"), _NothingDrawn():
        return models.build(network, classes, channels)


def _kept_by_a_step(
    network: str,
    classes: int,
    shape: tuple[int, ...],
    objective: Objective | None = None,
    says: Collection[str] = (),
) -> int:
    """Return the bytes of weights, gradients, momenta and saved activations, counted without computing anything.

    Of an objective the activations of its adapters alone.
    """
    built = _shaped(network, classes, shape[1]).train()
    images = torch.empty(shape, device="meta")
    weights = sum(p.nbytes for p in built.parameters())
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # several views of one storage are kept once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        said = built.outputs(images, says)
        if objective is not None:
            said = objective.adapted(said)
    for parameter in objective.parameters() if objective is not None else ():
        saved.pop(parameter.untyped_storage()._cdata, None)
    activations = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return activations + said.logits.nbytes + 2 * weights  # the weights themselves are saved for the backward pass
