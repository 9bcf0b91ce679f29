"""A published network, opened: how it ended, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from kd import models
from kd.core import files
from kd.core.errors import ConfigError, Damaged
from kd.study.cells import Cell
from kd.train.material import Prepared
from kd.train.tensors import tensors_of

MODEL = "model.safetensors"


def status_of(cell: Cell) -> str:
    """Return the status of a published cell, ok or diverged."""
    return files.verified(Path(cell.path), MODEL)["status"]


def load_network(cell: Cell, have: Prepared) -> nn.Module:
    """Return the published network of `cell`, its weights checked against the manifest's digest."""
    manifest, path = files.verified(Path(cell.path), MODEL), Path(cell.path, MODEL)
    network, weights = models.build(cell.stage.network, have.classes, have.channels), tensors_of(path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise Damaged(f"{path}: not the weights of a {cell.stage.network}: {error}") from error
    return seeing_its_own(network, have, manifest["recipe"].get("weights", {}))


def seeing_its_own(network: nn.Module, have: Prepared, weights: Mapping) -> nn.Module:
    """Return `network`, which sees images normalised by `mean` and `std` of its weights if these have their own.

    Its first convolution turns them from the dataset's normalisation into that, before it pads them: as in training.
    """
    if weights.get("mean") is None:
        return network
    mean, std = (torch.tensor(weights[key]) for key in ("mean", "std"))
    if len(mean) != have.channels:
        raise ConfigError(f"weights.mean: got {len(mean)} numbers for images of {have.channels} channels")
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    examples = have.examples
    for name, values in (("scale", examples.std.cpu() / std), ("shift", (examples.mean.cpu() - mean) / std)):
        first.register_buffer(name, values.reshape(-1, 1, 1), persistent=False)  # it moves along, and is no weight
    first.register_forward_pre_hook(lambda conv, images: (images[0] * conv.scale + conv.shift,))
    return network
