"""The rule answers."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import safetensors.torch

from kd.core import files
from kd.jobs import making
from kd.jobs.places import Resources, place_of
from kd.measure import answers as measured
from kd.study import products
from kd.study.cells import ANSWERS, Cell
from kd.study.config import Recipe
from kd.study.judge import Judge
from kd.train.material import prepared
from kd.train.published import load_network, status_of


def answers(judge: Judge, cell: Cell, recipe: Recipe, resources: Resources, stamp: Path | None = None) -> None:
    """Publish the answers of the network of `cell`, for its analyses. A network that diverged has none."""
    product = products.answers(cell)

    def write(judge: Judge) -> None:
        # All examples before a selection, so that networks with different selections answer the same ones.
        have, status = prepared(cell, recipe, cell.fraction), status_of(cell)
        about = making.about(judge, product) | {"status": status, "class_names": list(have.class_names)}
        about["realised_rate"] = have.realised_rate
        tensors, in_fp32 = {}, dataclasses.replace(where, precision="fp32")
        if status == "ok":
            networks = [load_network(member, have) for member in cell.members]
            tensors = measured.answered(networks, cell.stage.ensemble, have.examples, have.clean, in_fp32)
        content = safetensors.torch.save(tensors, {"cell": cell.path})
        files.publish(Path(ANSWERS, cell.name), {measured.FILE: content}, about | in_fp32.describe())

    making.with_inputs(judge, product)
    with contextlib.ExitStack() as held:
        # Take the place before the lock, as `bank` does.
        where = place_of(cell, recipe, prepared(cell, recipe, cell.fraction), resources, held, trains=False)
        making.make(judge, product, stamp, write)
