"""Networks that no epoch trains: imported from a file, or several that are one. What is read is what was declared.

Nothing in a file is read before its SHA-256 agrees; then kd.train.checkpoints finds the network's weights in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from kd import models
from kd.core import files
from kd.core.errors import ConfigError, DataError, Diverged
from kd.data.examples import Examples
from kd.study.cells import Cell
from kd.study.config import Recipe, Weights
from kd.train.checkpoints import weights_in
from kd.train.device import Place
from kd.train.fit import History, Row, evaluate
from kd.train.material import Prepared
from kd.train.published import load_network, seeing_its_own, status_of
from kd.train.teachers import Ensemble, LiveTeacher

TOLERANCE = 0.5  # points of top-1: data, preprocessing and precision differ a little between codes


def load(network: nn.Module, name: str, declared: Weights) -> None:
    """Give `network`, the one called `name`, the declared weights. Raises DataError that names file and fault."""
    path = Path(declared.file).expanduser()
    weights = weights_in(_content(path, declared.sha256), path, network, name, declared.key)
    network.load_state_dict(weights, strict=False)  # without the counters of batch normalisation, if it has none


def measure(network: nn.Module, examples: Examples, place: Place, declared: Weights) -> Row:
    """Return the row of epoch 0: loss and top-1 (%) on test and held-out examples, evaluated as after training.

    Raises DataError where they are not what is declared: with other data or classes, the right weights are wrong.
    """
    row = at_epoch_0(network.eval().to(place.device, memory_format=torch.channels_last), examples, place)
    if not all(map(math.isfinite, row.values())):
        raise DataError(f"{declared.file}: with these weights the loss is no finite number: {row}")
    if declared.top1 is not None and abs(row["test_top1"] - declared.top1) > TOLERANCE:
        raise DataError(
            f"{declared.file}: its test top-1 is {row['test_top1']:.2f} %, not {declared.top1:g} % as the study says; "
            "are the classes in the same order, and the images normalised in the same way?"
        )
    return row


def at_epoch_0(forward: Callable[[Tensor], Tensor], examples: Examples, place: Place) -> Row:
    """Return the row of a network, or several, that no epoch has trained: loss and top-1 (%), as after training."""
    examples = examples.to(place.device)
    row = {"epoch": 0} | evaluate(forward, examples, "test", place)
    return row | evaluate(forward, examples, "heldout", place) if len(examples.heldout) else row


# -- reading ----------------------------------------------------------------------------------------------------------


def _content(path: Path, sha256: str) -> bytes:
    try:
        content = files.content_of(path)  # once: what is loaded is what was checked
    except OSError as error:
        raise DataError(f"{path}: cannot read these weights: {error.strerror}") from error
    found = files.sha256(content)
    if found != sha256:
        raise DataError(f"{path}: its sha256 is {found}, the study says {sha256}: another file, or a damaged one")
    return content


def imported(cell: Cell, recipe: Recipe, have: Prepared, where: Place, history: History) -> nn.Module:
    """Return the network with its declared weights; `history` has what it reaches as the row of epoch 0."""
    if recipe.weights is None:
        raise ConfigError(f"{cell}: this recipe does not say what the weights {cell.stage.weights!r} are")
    network = models.build(cell.stage.network, have.classes, have.channels)
    load(network, cell.stage.network, recipe.weights)
    network = seeing_its_own(network, have, recipe.weights.claim)
    history.rows.append(measure(network, have.examples, where, recipe.weights))
    return network


def combined(cell: Cell, recipe: Recipe, have: Prepared, where: Place, history: History) -> nn.Module:
    """Return the members of an ensemble; `history` has what they reach together as the row of epoch 0."""
    for member in cell.members:
        if status_of(member) != "ok":
            raise Diverged(f"its member {member} diverged")
    networks = nn.ModuleList(load_network(member, have) for member in cell.members)
    # As it teaches: in the teachers' precision, its probabilities those of tau = 1.
    voices = [LiveTeacher(network, where.device, recipe.protocol.teacher_precision) for network in networks]
    teacher = Ensemble(voices, cell.stage.ensemble)
    history.rows.append(at_epoch_0(lambda inputs: teacher.output(None, None, inputs).logits, have.examples, where))
    return networks
