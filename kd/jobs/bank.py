"""The rule bank, and the teacher that a student reads from banks or runs live."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from kd.core import files
from kd.core.attempts import at_work
from kd.core.errors import ConfigError, Damaged
from kd.jobs import making
from kd.jobs.places import Resources, place_of
from kd.study import products
from kd.study.cells import Cell
from kd.study.config import Recipe
from kd.study.judge import Judge
from kd.study.needs import Need
from kd.study.products import Product
from kd.study.staleness import code_behind_bank
from kd.train import bank as banks
from kd.train.device import Place
from kd.train.material import Prepared, prepared
from kd.train.published import MODEL, load_network, status_of
from kd.train.teachers import LiveTeacher, Teacher, together

log = logging.getLogger("kd")


def bank(
    judge: Judge, teacher: Cell, recipe: Recipe, needs: list[Need], resources: Resources, stamp: Path | None = None
) -> None:
    """Fill the bank of `teacher` with all that its students need."""
    if recipe.protocol.crop == "resized":
        raise ConfigError(
            "protocol.crop: resized crops cannot be enumerated, so no bank holds them; set teacher: online"
        )
    product = products.bank(teacher)
    making.with_inputs(judge, product)  # before `place_of` opens the data
    with contextlib.ExitStack() as held:
        # Take the place before the lock, as students do: in the other order a bank and a student could deadlock.
        where = place_of(teacher, recipe, _behind_bank(teacher, recipe), resources, held, trains=False)
        making.make(judge, product, stamp, lambda now: _fill(now, product, teacher, recipe, needs, where))


def teacher_of(cell: Cell, recipe: Recipe, have: Prepared, where: Place) -> Teacher:
    """Return the teacher of `cell`: a bank or a live network, or several of them for an ensemble."""
    have = have if cell.stage.fraction == 1 and not cell.stage.selection else _behind_bank(cell, recipe)
    voices = [_voice(member, cell, recipe, have, where) for member in cell.teacher.members]
    return together(voices, cell.teacher, cell.stage.objective.tau)


def _voice(teacher: Cell, student: Cell, recipe: Recipe, have: Prepared, where: Place) -> Teacher:
    """Return one teaching network; its bank is filled first if it lacks views, or belongs to other weights or data."""
    if not student.reads_banks(recipe.protocol):
        network, precision = load_network(teacher, have), recipe.protocol.teacher_precision
        return LiveTeacher(network, where.device, precision, student.stage.objective.needs.teacher)
    product, needs = products.bank(teacher), student.needs_of_bank(recipe.protocol)
    identity = _bank_identity(teacher, recipe, have)
    judge = Judge.of_recipe(recipe).asked({product: set(needs)})
    if not banks.serves(product.folder, identity, needs):
        with at_work(product.lock):
            if not banks.serves(product.folder, identity, needs):  # else another job filled it during the wait
                _fill(judge, product, teacher, recipe, needs, where)
    try:
        return banks.open_bank(product.folder, identity, needs, have.grid, where.device)
    except Damaged as error:  # filling it again costs only time
        log.warning("%s; the bank is filled anew", error)
        with at_work(product.lock):
            files.discard(product.manifest)
            _fill(judge, product, teacher, recipe, needs, where)
        return banks.open_bank(product.folder, identity, needs, have.grid, where.device)


def _fill(now: Judge, product: Product, teacher: Cell, recipe: Recipe, needs: list[Need], where: Place) -> None:
    """Add the needed views to what the bank already holds, and publish it. Call it while you hold the bank's lock."""
    have = _behind_bank(teacher, recipe)
    about, identity = making.about(now, product), _bank_identity(teacher, recipe, have)
    if status_of(teacher) != "ok":
        log.error("%s diverged: its bank is empty, and its students will be published as diverged", teacher)
        banks.leave_empty(product.folder, identity, about)
    else:
        network = load_network(teacher, have)
        banks.fill(product.folder, identity, needs, have.grid, network, have.examples, where, about)


def _behind_bank(cell: Cell, recipe: Recipe) -> Prepared:
    """Return the data of a bank: all examples of which a student may use a fraction or a selection."""
    return prepared(cell, recipe, cell.dataset.fraction)


def _bank_identity(teacher: Cell, recipe: Recipe, have: Prepared) -> banks.Identity:
    return banks.Identity(
        teacher=files.verified(Path(teacher.path), MODEL)["files"][MODEL],
        data=have.digests["data"],
        examples=have.digests["examples"],
        code=code_behind_bank(teacher, recipe.protocol),
        precision=recipe.protocol.teacher_precision,
        **vars(have.grid),
    )
