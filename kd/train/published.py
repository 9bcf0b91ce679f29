"""A published network, opened: how it ended, and its weights."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

from kd import models
from kd.core import files
from kd.core.errors import Damaged
from kd.study.cells import Cell
from kd.train.material import Prepared

MODEL = "model.safetensors"


def status_of(cell: Cell) -> str:
    """Return the status of a published cell, ok or diverged."""
    return files.verified(Path(cell.path), MODEL)["status"]


def load_network(cell: Cell, have: Prepared) -> nn.Module:
    """Return the published network of `cell`, its weights checked against the manifest's digest."""
    files.verified(Path(cell.path), MODEL)
    network = models.build(cell.stage.network, have.classes, have.channels)
    try:
        network.load_state_dict(safetensors.torch.load_file(Path(cell.path, MODEL)))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise Damaged(f"{Path(cell.path, MODEL)}: not the weights of a {cell.stage.network}: {error}") from error
    return network
