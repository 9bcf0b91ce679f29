"""`kd import`: what a study must say of a network that others trained, with its digest and its measured accuracy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from kd.core import files
from kd.core.errors import ConfigError, DataError
from kd.jobs.places import Resources, place_of
from kd.study.cells import Cell
from kd.study.config import Recipe, Weights, checked
from kd.study.values import NAME
from kd.train.fit import History
from kd.train.material import prepared
from kd.train.weights import imported


def claim_of(file: Path, name: str, **given: object) -> Weights:
    """Return what a study would say of a file of weights, but for its accuracy. Raises ConfigError, DataError."""
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"{name!r}: not a name; expected letters, digits and _, such as theirs")
    try:
        digest = files.file_digest(file.expanduser())
    except OSError as error:
        raise DataError(f"{file}: cannot read these weights: {error.strerror}") from error
    return checked(Weights, {"file": str(file), "sha256": digest, **given})


def measured(cell: Cell, recipe: Recipe, resources: Resources) -> tuple[float, int, int]:
    """Return (test top-1 in %, parameters, test images) of the network whose weights a recipe declares.

    Raises DataError when the file does not hold the weights of this network, or the loss with them is not finite.
    """
    have, history = prepared(cell, recipe), History()
    with contextlib.ExitStack() as held:
        where = place_of(cell, recipe, have, resources, held, trains=False)
        network = imported(cell, recipe, have, where, history)
    parameters = sum(one.numel() for one in network.parameters())
    return history.rows[-1]["test_top1"], parameters, len(have.examples.test_labels)


def block(cell: Cell, claim: Weights, found: Sequence[float]) -> str:
    """Return the `weights:` block to paste into a study, with what was measured and how the network is used."""
    top1, parameters, images = found
    network, name = cell.stage.network, cell.stage.weights
    said = claim.model_dump(mode="json", exclude_none=True)
    if not 0 < top1 <= 1:  # a study refuses it, because others write 0.78 for 78 %
        said["top1"] = round(top1, 2)
    return f"""\
# {network}, {parameters:,} parameters: {top1:.2f} % test top-1 on {cell.dataset} ({images:,} images), measured by kd.
# Is that what its publisher says? If not: are the classes in the same order, and the images normalised in the same way?
{yaml.safe_dump({"weights": {name: said}}, sort_keys=False)}\
# It teaches in an experiment with teacher: {network} and teacher_weights: {name}
"""
