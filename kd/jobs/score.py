"""The rule score."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from kd.core import files
from kd.core.errors import Damaged
from kd.data.arrays import open_dataset
from kd.data.testsets import on_testset
from kd.jobs import making
from kd.jobs.places import Resources, place_of
from kd.measure import scores, tested
from kd.measure.scores import Score
from kd.study import products
from kd.study.cells import DATA, Cell
from kd.study.judge import Judge
from kd.train.material import prepared
from kd.train.published import load_network, status_of


def score(judge: Judge, cell: Cell, resources: Resources, stamp: Path | None = None) -> None:
    """Publish how the network of `cell` scores on the study's further test sets; one that diverged has no score."""
    product, recipe = products.scores(cell), judge.recipe_of(cell)

    def write(judge: Judge) -> None:
        about = making.about(judge, product) | {"status": status_of(cell)}
        found, kept = _kept(judge, cell, about)
        about["inputs"] = kept | about["inputs"]
        if about["status"] == "ok":
            networks, dataset = [load_network(member, have) for member in cell.members], open_dataset(data)
            for name, source in judge.study.tests.items():
                if name not in found:
                    shown = on_testset(dataset, products.testset(data.name, name).folder, source)
                    examples = tested.examples_of(shown, recipe.protocol.crop)
                    found[name] = tested.scored(networks, cell.stage.ensemble, examples, in_fp32)
        files.publish(product.folder, {scores.FILE: scores.spelled(found)}, about | in_fp32.describe())

    making.with_inputs(judge, product)
    data = Path(DATA, cell.dataset.name)
    with contextlib.ExitStack() as held:
        # Take the place before the lock, as `bank` does.
        have = prepared(cell, recipe, cell.fraction)
        where = place_of(cell, recipe, have, resources, held, trains=False)
        in_fp32 = dataclasses.replace(where, precision="fp32")
        making.make(judge, product, stamp, write)


def _kept(judge: Judge, cell: Cell, about: dict) -> tuple[dict[str, Score], dict[str, dict]]:
    """Return the published scores that still hold, by test set, and these test sets as the manifest names them."""
    old = judge.manifest(products.scores(cell))
    if old is None or old["code"] != about["code"]:
        return {}, {}
    now, then = about["inputs"], old["inputs"]
    changed = {name for name in now if then.get(name, {}).get("digest") != now[name]["digest"]}
    if any("@" not in name for name in changed):
        return {}, {}  # another network, or other data
    same = {name: one for name, one in then.items() if "@" in name and name not in changed}
    wanted = {name.rpartition("@")[2] for name in same}
    try:
        return {name: one for name, one in scores.read(cell).items() if name in wanted}, same
    except Damaged:  # all are made anew
        return {}, {}
