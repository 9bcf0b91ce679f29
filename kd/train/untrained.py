"""A network that no epoch trains: the weights that training begins with, and statistics of its images."""

from __future__ import annotations

import torch
from torch import nn

from kd.core.errors import Diverged
from kd.study.cells import Cell
from kd.study.config import Recipe
from kd.train.averages import fit_statistics
from kd.train.device import Place
from kd.train.fit import History
from kd.train.lesson import begun
from kd.train.material import Prepared
from kd.train.weights import at_epoch_0


def untrained(cell: Cell, recipe: Recipe, have: Prepared, where: Place, history: History) -> nn.Module:
    """Return the network of a cell as its training begins; `history` has what it reaches as the row of epoch 0.

    Batch normalisation has the statistics of one pass over what would be learnt from, as it is: with those that it is
    built with, no network would ever be evaluated. Raises Diverged where its loss is no finite number.
    """
    network = begun(cell, have).to(where.device, memory_format=torch.channels_last).eval()
    examples = have.examples.to(where.device)
    size = min(cell.protocol_of(recipe.protocol).batch, len(examples.train))
    whole = examples.train[: len(examples.train) // size * size]  # equal batches weigh alike in the mean
    fit_statistics([network], network, examples.plain("train", whole, size))
    row = at_epoch_0(network, have.examples, where)
    if not torch.tensor(row["test_loss"]).isfinite():
        raise Diverged(f"untrained, its test loss is {row['test_loss']}")
    history.rows.append(row)
    return network
