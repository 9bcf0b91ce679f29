"""How a cell is trained: its plan, its objective, the weights it begins with."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kd import losses, models
from kd.core.errors import ConfigError
from kd.data.views import Views
from kd.study.cells import Cell, spell_objective
from kd.study.config import Protocol
from kd.train import device  # noqa: F401 (how it runs: compiled, recorded, in which precision)
from kd.train.fit import Plan
from kd.train.material import Prepared

log = logging.getLogger("kd")


def begun(cell: Cell, have: Prepared) -> nn.Module:
    """Return the network of a cell as its training begins."""
    # The seed of the stage alone: students that differ in their loss start from the same weights, in pairs.
    torch.manual_seed(cell.stage.seed)
    return models.build(cell.stage.network, have.classes, have.channels)


def plan_of(cell: Cell, protocol: Protocol, grid: Views) -> Plan:
    """Return how a cell is trained."""
    return Plan(
        objective=objective_of(cell),
        grid=grid,
        seed=cell.stage.seed,
        epochs=cell.epochs(protocol),
        schedule_epochs=protocol.epochs,
        drops=protocol.drops,
        **protocol.model_dump(include={"batch", "lr", "momentum", "nesterov", "weight_decay", "schedule", "gamma"}),
    )


def objective_of(cell: Cell) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    """Return the objective of a cell: student and teacher logits [B, K], labels [B] -> loss [B]."""
    loss, resolved = losses.LOSSES[cell.stage.objective.loss], cell.stage.objective.resolved
    log.info("%s is %s with %s", spell_objective(cell.stage.objective), loss.description, resolved)
    return functools.partial(loss.function, **resolved)


def demand_examples(train: int, batch: int, processes: int) -> None:
    """Raise ConfigError unless each of several processes has two examples, for batch normalisation, of every batch."""
    least = min(batch, train % batch or batch)
    if processes > 1 and least < 2 * processes:
        raise ConfigError(
            f"protocol.batch: {train} examples in batches of {batch} leave one of {least}, of which {processes} "
            "processes cannot have two each; set another batch, or fewer gpus_per_cell"
        )
