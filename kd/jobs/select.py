"""The rule select."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import numpy as np

from kd.core import files
from kd.data.arrays import npy
from kd.data.select import detected
from kd.jobs import making
from kd.jobs.places import Resources, place_of
from kd.study import products
from kd.study.cells import Cell
from kd.study.config import Recipe
from kd.study.judge import Judge
from kd.study.values import Selected
from kd.train.material import KEPT, prepared
from kd.train.published import load_network, status_of
from kd.train.selecting import kept

log = logging.getLogger("kd")


def select(
    judge: Judge, teacher: Cell, by: Selected, recipe: Recipe, resources: Resources, stamp: Path | None = None
) -> None:
    """Publish which examples `teacher` selects for its students, and how well that separates right from wrong labels.

    A teacher that diverged selects nothing. Raises DataError when nothing can be selected from a class.
    """
    product = products.selection(teacher, by)

    def write(judge: Judge) -> None:
        have, status = prepared(teacher, recipe, teacher.dataset.fraction), status_of(teacher)
        about = making.about(judge, product) | {"status": status, "teacher_epochs": teacher.epochs(recipe.protocol)}
        train, found = have.examples.train.numpy(), {}
        keep = np.zeros(len(train), bool)
        if status == "ok":
            learnt = prepared(teacher, recipe).examples.train.numpy()
            keep = kept(load_network(teacher, have), have, learnt, by, where)
            found = detected(keep, have.examples.labels.numpy()[train], have.clean[train])
            log.info("%s: %d of %d examples are kept", product, keep.sum(), len(keep))
        files.publish(product.folder, {KEPT: npy(train[keep])}, about | found)

    making.with_inputs(judge, product)
    with contextlib.ExitStack() as held:
        # Take the place before the lock, as `bank` does.
        where = place_of(teacher, recipe, prepared(teacher, recipe), resources, held, trains=False)
        making.make(judge, product, stamp, write)
