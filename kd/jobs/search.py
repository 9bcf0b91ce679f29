"""The rules propose and trial: a round of a search, and the score of each of its settings."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from kd.core import files
from kd.core.errors import StorageError
from kd.jobs import making
from kd.study import products
from kd.study.cells import Cell
from kd.study.judge import Judge
from kd.study.products import Product
from kd.study.search import SAMPLERS, SCORE, Trial, proposed


def propose(judge: Judge, product: Product, stamp: Path | None = None) -> None:
    """Publish the settings that a round tries, from the scores of the rounds before it."""
    name, number, _ = product.slot
    search = judge.study.searches[name]

    def write(judge: Judge) -> None:
        rounds: list[list[Trial]] = [[] for _ in range(number - 1)]
        for one in judge.inputs(product):
            rounds[one.slot[1] - 1].append(scored(one))
        settings = proposed(search.sampler, search.axes, rounds, search.batch, search.seed)
        needs = SAMPLERS[search.sampler].needs
        libraries = {needs: version(needs)} if needs else {}
        _publish(judge, product, {"settings": settings}, {"libraries": libraries})

    making.make(judge, product, stamp, write)


def cell_of(judge: Judge, product: Product) -> Cell:
    """Return the cell that a trial trains, after waiting for its proposal. Raises StorageError where there is none."""
    proposal = products.proposal(*product.slot[:2])
    cell = making.with_inputs(judge, product, (proposal,)).tried(product)
    if cell is None:
        raise StorageError(f"{proposal}: changed while it was read; {files.AGAIN}")
    return cell


def trial(judge: Judge, product: Product, stamp: Path | None = None) -> None:
    """Publish the score of a trial whose cell is trained."""

    def write(judge: Judge) -> None:
        cell = judge.tried(product)
        manifest = judge.manifest(products.network(cell))
        score = manifest["last"][SCORE] if manifest["status"] == "ok" else None
        _publish(judge, product, {"cell": cell.path, "setting": judge.setting(product), "score": score}, {})

    making.make(judge, product, stamp, write)


def scored(product: Product) -> Trial:
    """Return a published trial."""
    found = json.loads(files.content_of(product.folder / product.files[0]))
    return Trial(found["setting"], found["score"])


def _publish(judge: Judge, product: Product, content: dict, more: dict) -> None:
    made = {product.files[0]: (json.dumps(content, indent=1) + "\n").encode()}
    files.publish(product.folder, made, making.about(judge, product) | more, product.manifest)
