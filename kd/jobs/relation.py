"""The rule relation."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from kd.core import files
from kd.data.arrays import npy
from kd.jobs import making
from kd.jobs.places import Resources, place_of
from kd.study import products
from kd.study.cells import Cell
from kd.study.config import Recipe
from kd.study.judge import Judge
from kd.study.values import Related
from kd.train.material import RELATION, Prepared, prepared
from kd.train.published import status_of
from kd.train.relating import related


def relation(
    judge: Judge, teacher: Cell, by: Related, recipe: Recipe, resources: Resources, stamp: Path | None = None
) -> None:
    """Publish how `teacher` relates classes, for its students. A teacher that diverged relates none.

    Raises ConfigError when a class has fewer than two examples.
    """
    product = products.relation(teacher, by)

    def opened() -> Prepared:
        return prepared(teacher, recipe, min(by.fraction, teacher.dataset.fraction), by=by.selection)

    def write(judge: Judge) -> None:
        about, status = making.about(judge, product), status_of(teacher)
        found = related(teacher, by, opened(), where.device).numpy() if status == "ok" else np.zeros((0, 0), "f4")
        files.publish(product.folder, {RELATION: npy(found)}, about | {"status": status})

    making.with_inputs(judge, product)
    with contextlib.ExitStack() as held:
        # Take the place before the lock, as `bank` does.
        where = place_of(teacher, recipe, opened(), resources, held, trains=False)
        making.make(judge, product, stamp, write)
