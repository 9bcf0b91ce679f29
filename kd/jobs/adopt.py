"""`kd adopt`: prove that the code of now trains what the code before it has trained (promise 8).

Networks that are stale by their code alone are grouped by kind. The cheapest of each kind that this machine has trained
is trained again in a scratch folder, from its data, labels and teacher as published, by the verb that trains any cell.
What comes out is compared with what is published: metrics epoch by epoch, then the bytes of the weights.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import kd
from kd.core import files
from kd.core.errors import ConfigError, KdError, StorageError
from kd.core.project import here, on_disk
from kd.jobs.train import METRICS
from kd.study import products
from kd.study.adopted import CLOSE, EQUAL, FILE, NONE, Adopted, Kind, described, kind_of
from kd.study.cells import RESULTS, STATE, Cell
from kd.study.config import DeclaredDataset, Protocol, Recipe
from kd.study.judge import OTHER_CODE, Judge, plural
from kd.study.paths import parse_cell
from kd.study.products import Product
from kd.train.device import place
from kd.train.published import MODEL

# No dataset, whose states lie in state/, has such a name.
SCRATCH, LOCK = Path(STATE, "adopt-scratch"), Path(STATE, "adopt.lock")

# On a GPU whose kernels are not deterministic two runs of one code differ, and in weights the more the longer they are.
_LOSS_SHARE, _ACCURACY_POINTS = 0.1, 2.0


@dataclass(frozen=True)
class Candidate:
    """A published network that is stale by its code alone."""

    cell: Cell
    manifest: dict
    recipe: dict  # with which `kd train` makes it
    judge: Judge
    code: str  # of now

    @property
    def kind(self) -> Kind:
        """Return of which kind it is."""
        return kind_of(self.cell, self.manifest)

    @property
    def pair(self) -> dict:
        """Return the pair of codes that its proof would be of."""
        return {"old": self.manifest["code"], "new": self.code, "kind": self.kind}

    @property
    def made_from(self) -> list[Product]:
        """Data, labels, and all networks that led to it."""
        led = [cell for cell in self.cell.lineage if cell != self.cell]
        read = [one for one in self.judge.inputs(products.network(self.cell)) if one.kind != "network"]
        return [*read, *map(products.network, led)]

    @property
    def cost(self) -> float:
        """Return how many examples it is shown."""
        data = self.judge.manifest(products.data(self.cell.dataset.name))
        return self.manifest["epochs"] * self.cell.fraction * data["counts"]["train"] if data else math.inf

    def cannot_prove(self, here: Mapping) -> str | None:
        """Return why, trained again `here`, it would prove nothing, or None."""
        if self.manifest["status"] != "ok":
            return "it diverged"
        for key in ("device", "torch"):
            if self.manifest[key] != here[key]:
                return f"it was trained with {key} {self.manifest[key]}, here is {here[key]}"
        for one in self.made_from:
            if self.judge.manifest(one) is None:
                return f"{one}: {self.judge.reason(one)}"
        try:
            files.verified(Path(self.cell.path))
        except StorageError as error:
            return str(error)
        return None


def adopt(count: int, unproved: bool) -> None:
    """Record which code gives the numbers of the code before it; train `count` cells of each kind again to prove it.

    `unproved` also records the kinds of which no cell can be trained again here. Raises KdError, and records nothing,
    where a cell gives other numbers.
    """
    if count < 1:
        raise ConfigError(f"--cells {count}: expected 1 or more")
    with files.lock(LOCK, wait=False):
        kinds = _stale()
        if not kinds:
            print("nothing to adopt: no network that is trained is stale by its code alone")
            return
        with place("fp32", 1) as where:
            here = where.describe()
        found = []
        for number, of_kind in enumerate(kinds, 1):
            networks = f"{len(of_kind)} {plural('network', len(of_kind))}"
            print(f"\n{number}/{len(kinds)}  {described(of_kind[0].kind)}: {networks}")
            proof, cells = _proof(of_kind, count, here)
            if proof != NONE or unproved:
                found.append({**of_kind[0].pair, "proof": proof, "cells": cells})
        if found:
            _record(found)


def _record(found: list[dict]) -> None:
    """Add pairs to those that are recorded, in the place of what they prove anew."""
    replaced = [_key(pair) for pair in found]
    before = Adopted.read().pairs
    Adopted([*(pair for pair in before if _key(pair) not in replaced), *found]).write()
    proved = sum(pair["proof"] != NONE for pair in found)
    print(f"{FILE}: proved {proved}, taken without a proof {len(found) - proved}")


def _retract(kind: Kind) -> None:
    """Have nothing of a kind count without a proof any more: one of it was found to differ."""
    before = Adopted.read().pairs
    kept = [pair for pair in before if pair["proof"] != NONE or pair["kind"] != kind]
    if kept != before:
        Adopted(kept).write()


def _key(pair: Mapping) -> str:
    return files.canonical_json([pair["old"], pair["new"], pair["kind"]])


def _proof(of_kind: list[Candidate], count: int, here: Mapping) -> tuple[str, list[str]]:
    """Return what it rests on that a kind is as before, and the cells that were trained again; say why, if nothing."""
    fit, why = [], ""
    for one in sorted(of_kind, key=lambda one: one.cost):
        if len(fit) == count:
            break
        if cannot := one.cannot_prove(here):
            why = why or f"{one.cell}: {cannot}"
        else:
            fit.append(one)
    proofs, cells = [], []
    for one in fit:
        proof, why = _trained_again(one)
        if proof != NONE:
            proofs.append(proof)
            cells.append(one.cell.path)
    if not proofs:
        print(f"  stays unproved: {why}")
        return NONE, []
    print(f"  the same{' to the bit' if set(proofs) == {EQUAL} else ', as far as a GPU tells'}: {', '.join(cells)}")
    return (CLOSE if CLOSE in proofs else EQUAL), cells


# -- what is stale ----------------------------------------------------------------------------------------------------


def _stale() -> list[list[Candidate]]:
    """Return the trained networks that are stale by their code alone, or count without a proof, kind by kind."""
    judges: dict[str, Judge] = {}
    kinds: dict[str, list[Candidate]] = {}
    for path in sorted(files.below(Path(RESULTS), f"**/{files.MANIFEST}")):
        with contextlib.suppress(ConfigError, StorageError):  # of no cell that this kd knows; damaged
            cell, manifest = parse_cell(path.parent), files.read_manifest(path.parent)
            if cell.is_ensemble or cell.stage.weights:
                continue  # no epoch trains it: it is made again in no time, to the same bytes
            recipe = _recipe_of(cell, manifest)
            spelled = files.canonical_json(recipe)
            if spelled not in judges:
                judges[spelled] = Judge.of_recipe(Recipe.parse(recipe))
            judge, product = judges[spelled], products.network(cell)
            why = judge.reason(product)
            if why == OTHER_CODE or (why is None and judge.proof(product) == NONE):
                found = Candidate(cell, manifest, recipe, judge, judge.expected(product).code)
                kinds.setdefault(_key(found.pair), []).append(found)
    return list(kinds.values())


def _recipe_of(cell: Cell, manifest: Mapping) -> dict:
    """Return, from manifests alone, the recipe by which a network would be trained again as it was."""
    data = products.data(cell.dataset.name)
    prepared = files.read_manifest(data.folder) or {}
    dataset = _known(DeclaredDataset, manifest["inputs"][data.name]["recipe"])
    folder = (prepared.get("declared") or {}).get("folder") or "gone"
    first = Cell(cell.dataset, cell.protocol, cell.stages[:1])
    began = (files.read_manifest(Path(first.path)) or manifest)["recipe"]
    claim = began.get("weights")
    return {
        # Where no size is declared it is a built-in dataset, and where that came from plays no part.
        "dataset": {**dataset, "folder": str(here() / Path(folder).expanduser())} if dataset["size"] else None,
        # Of a stage with values of its own the protocol is that of its first teacher, which has none.
        "protocol": _known(Protocol, (began if cell.stage.own else manifest["recipe"])["protocol"]),
        "weights": claim and {**claim, "file": "gone"},
    }


def _known(model: type[Protocol | DeclaredDataset], made: Mapping) -> dict:
    """Return the keys that there are now, as they were; one that a manifest lacks as it was introduced."""
    return {key: value for key, value in {**model.since(), **made}.items() if key in model.model_fields}


# -- trained again ----------------------------------------------------------------------------------------------------


def _trained_again(one: Candidate) -> tuple[str, str]:
    """Train a network again; return what that proves, and why it proves nothing. Raises KdError where it differs."""
    with _scratch(one) as folder:
        code = _train(one, folder)
        again = files.read_manifest(folder / one.cell.path)
        if again is None:
            return NONE, f"{one.cell}: trained again it ended with exit code {code}"
        for key in ("device", "torch", "threads", "precision", "compiled"):
            if again[key] != one.manifest[key]:
                return NONE, f"{one.cell}: it was trained with {key} {one.manifest[key]}, here with {again[key]}"
        exact = "gpu_mib" not in again["memory"] or one.recipe["protocol"]["deterministic"]
        if differs := difference(Path(one.cell.path), folder / one.cell.path, exact):
            _retract(one.kind)
            raise KdError(
                f"{one.cell}: trained again by the code of now, it differs {differs}; nothing is adopted. "
                "Where that is meant, run snakemake: it trains again what is stale"
            )
    return (EQUAL if exact else CLOSE), ""


def _train(one: Candidate, folder: Path) -> int:
    """Train a network in `folder` by the verb that does so anywhere; return the exit code."""
    processes = one.manifest.get("processes", 1)
    command = [sys.executable, "-m", "kd", "train", one.cell.path, "--recipe", json.dumps(one.recipe)]
    command += ["--processes", str(processes), "--threads", str(processes * one.manifest["threads"])]
    package = str(Path(kd.__file__).parent.parent)
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.stdout.flush()
    with subprocess.Popen(command, cwd=here() / folder, env={**os.environ, "PYTHONPATH": path}) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            raise


@contextlib.contextmanager
def _scratch(one: Candidate) -> Iterator[Path]:
    """Hold a folder with all that a network is trained from, as published; there it counts as made by the code of now.

    It has links to single files, because what replaces a file there replaces the link alone.
    """
    shutil.rmtree(on_disk(SCRATCH), ignore_errors=True)  # of one that was killed
    banks = [products.bank(cell) for cell in one.cell.teacher.members] if one.cell.teacher else []
    try:
        for product in (*one.made_from, *banks):
            on_disk(SCRATCH / product.folder).mkdir(parents=True, exist_ok=True)
            for path in files.below(product.folder, "*"):
                if on_disk(path).is_file():
                    on_disk(SCRATCH / path).symlink_to(here() / path)
        codes = {(one.judge.manifest(made)["code"], one.judge.expected(made).code) for made in one.made_from}
        Adopted({"old": old, "new": new, "kind": None, "proof": NONE} for old, new in codes).write(SCRATCH)
        yield SCRATCH
    finally:
        shutil.rmtree(on_disk(SCRATCH), ignore_errors=True)


# -- compared ---------------------------------------------------------------------------------------------------------


def difference(published: Path, again: Path, exact: bool) -> str | None:
    """Return where, and in what, a network that was trained again differs from the published one; None if nowhere."""
    then, now = (
        list(csv.DictReader(on_disk(folder / METRICS).open(newline="", encoding="utf-8")))
        for folder in (published, again)
    )
    for before, after in zip_longest(then, now, fillvalue={}):
        for key in {**before, **after}:
            was, became = before.get(key), after.get(key)
            if was != became and (exact or None in (was, became) or not _close(key, float(was), float(became))):
                return f"from epoch {(before or after)['epoch']} on ({key} {was} -> {became})"
    if exact and files.file_digest(published / MODEL) != files.file_digest(again / MODEL):
        return f"in the weights after epoch {then[-1]['epoch']}, and in no metric"
    return None


def _close(key: str, was: float, became: float) -> bool:
    """Say whether a metric is as close as two runs of one code come on a GPU."""
    if key.endswith("_loss"):
        return abs(was - became) <= _LOSS_SHARE * was
    return key not in ("epoch", "lr") and abs(was - became) <= _ACCURACY_POINTS
