"""Give a job its share of the machine."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kd.core.errors import ConfigError
from kd.losses.objective import Objective
from kd.machine import kernels
from kd.machine.footprint import gpu_bytes
from kd.machine.processor import processor
from kd.machine.room import view_bytes
from kd.machine.shares import served
from kd.study.cells import Cell
from kd.study.config import Protocol, Recipe
from kd.train.arithmetic import compiling_pays, precision_of, tune
from kd.train.device import EVALUATION_BATCH, Place, place
from kd.train.material import Prepared
from kd.train.peers import ALONE, Peers

log = logging.getLogger("kd")


@dataclass(frozen=True)
class Resources:
    """What a cell may use of the machine."""

    threads: int = 1  # of all its processes together, image workers included
    cells_per_gpu: int = 1  # 0: as many as fit into its memory
    workers: int = 0  # processes that decode streamed images, for each process that trains


def place_of(
    cell: Cell,
    recipe: Recipe,
    have: Prepared,
    resources: Resources,
    held: contextlib.ExitStack,
    peers: Peers = ALONE,
    trains: bool = True,
    objective: Callable[[], Objective] | None = None,
) -> Place:
    """Take a place for training `cell` with this objective, or for running it as a teacher, until `held` closes."""
    protocol = cell.protocol_of(recipe.protocol)
    threads = max(1, resources.threads // peers.count - resources.workers)

    def need() -> int:
        batch, banks = math.ceil(protocol.batch / peers.count), _bytes_of_banks(cell, protocol, have)
        built, says = (objective().to("meta"), cell.stage.objective.needs.student) if objective else (None, ())
        precision = precision_of(protocol.precision, torch.device("cuda"))
        more = (built, says, protocol.copies, EVALUATION_BATCH["cuda"], precision)
        return max(
            gpu_bytes(network, have.classes, have.examples, batch, banks, *more) for network in cell.stage.networks
        )

    where = held.enter_context(
        place(protocol.precision, threads, resources.cells_per_gpu, need, peers, protocol.deterministic)
    )
    pixels = math.prod(have.examples.shape[1:]) * len(have.examples.train) * cell.epochs(protocol)
    if where.device.type == "cuda" and resources.cells_per_gpu != 1 and not served():
        log.warning("cells that share a GPU take turns here; to train at once they need: nvidia-cuda-mps-control -d")
    tune(where.device, pixels, protocol.deterministic)
    compiles = trains and compiling_pays(pixels, protocol.compile, peers.count)
    if compiles:
        try:
            held.enter_context(kernels.kept(processor()))
        except ConfigError as error:
            if protocol.compile == "always":
                raise
            log.warning("not compiled: %s", error)
            compiles = False
    return dataclasses.replace(where, compiles=compiles)


def _bytes_of_banks(cell: Cell, protocol: Protocol, have: Prepared) -> int:
    """Return the bytes of all views that `cell` can read from its teachers' banks."""
    if not cell.reads_banks(protocol):
        return 0
    # A bank also holds the examples that a selection leaves out.
    count = len(have.examples.labels) if cell.stage.selection else len(have.examples.train) / cell.stage.fraction
    views = have.grid.count * count
    read = [
        view_bytes(teacher.stage.network, have.classes, need.output)
        for teacher in cell.teacher.members
        for need in cell.needs_of_bank(protocol)
    ]
    return round(views * sum(read))
