"""`kd adopt`: prove that the current code trains the same networks as the code before it (promise 8).

kd groups by kind the networks that are stale only because the code changed. Of each kind it takes the cheapest network
that was trained as this machine trains, and trains it again in a scratch folder: with `kd train`, from the published
data, labels and teacher. Then it compares the metrics epoch by epoch, and the bytes of the weights.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from kd.core import files
from kd.core.errors import ConfigError, KdError, StorageError
from kd.core.project import here, on_disk
from kd.core.startup import run_verb
from kd.jobs.train import METRICS
from kd.study import products
from kd.study.adopted import CLOSE, EQUAL, FILE, NONE, Adopted, Kind, described, kind_of
from kd.study.cells import RESULTS, STATE, Cell
from kd.study.config import Recipe
from kd.study.judge import OTHER_CODE, Judge, plural
from kd.study.paths import parse_cell
from kd.study.products import Product
from kd.study.recipes import made_with
from kd.train.device import place
from kd.train.published import MODEL

# The states of a dataset lie in state/DATASET. No dataset has one of these names.
SCRATCH, LOCK = Path(STATE, "adopt-scratch"), Path(STATE, "adopt.lock")

# On a GPU with nondeterministic kernels two runs of the same code differ, in weights the more the longer they run.
_LOSS_SHARE, _ACCURACY_POINTS = 0.1, 2.0


@dataclass(frozen=True)
class Candidate:
    """A published network that is stale only because the code changed."""

    cell: Cell
    manifest: dict
    recipe: dict  # for `kd train`
    judge: Judge
    code: str  # digest of the current code

    @property
    def kind(self) -> Kind:
        """Return its kind."""
        return kind_of(self.cell, self.manifest)

    @property
    def pair(self) -> dict:
        """Return the pair of code digests, old and new, that it can prove equal."""
        return {"old": self.manifest["code"], "new": self.code, "kind": self.kind}

    @property
    def made_from(self) -> list[Product]:
        """Return its data and labels, what was published for it, and all networks before it in its lineage."""
        led = [cell for cell in self.cell.lineage if cell != self.cell]
        read = [one for one in self.judge.inputs(products.network(self.cell)) if one.kind != "network"]
        return [*read, *map(products.network, led)]

    @property
    def cost(self) -> float:
        """Return how many examples its training sees, over all epochs."""
        data = self.judge.manifest(products.data(self.cell.dataset.name))
        return self.manifest["epochs"] * self.cell.fraction * data["counts"]["train"] if data else math.inf

    def cannot_prove(self, here: Mapping) -> str | None:
        """Return why training it again on this machine (`here`) would prove nothing, or None."""
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
    """Train `count` cells of each kind again, and record the kinds for which the new code gives the old numbers.

    With `unproved` kinds are also recorded when none of their cells can be trained again here. Raises KdError, and
    records nothing, when a cell gives other numbers.
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
    """Record pairs; a new pair replaces the recorded pair of the same codes and kind."""
    replaced = [_key(pair) for pair in found]
    before = Adopted.read().pairs
    Adopted([*(pair for pair in before if _key(pair) not in replaced), *found]).write()
    proved = sum(pair["proof"] != NONE for pair in found)
    print(f"{FILE}: proved {proved}, taken without a proof {len(found) - proved}")


def _retract(kind: Kind) -> None:
    """Remove the pairs of a kind that were recorded without a proof, because one of its cells gave other numbers."""
    before = Adopted.read().pairs
    kept = [pair for pair in before if pair["proof"] != NONE or pair["kind"] != kind]
    if kept != before:
        Adopted(kept).write()


def _key(pair: Mapping) -> str:
    return files.canonical_json([pair["old"], pair["new"], pair["kind"]])


def _proof(of_kind: list[Candidate], count: int, here: Mapping) -> tuple[str, list[str]]:
    """Return the proof for a kind and the paths of the cells trained again; print why, if there is no proof."""
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
    """Return, kind by kind, the networks that are stale only because the code changed, or that count without proof."""
    judges: dict[str, Judge] = {}
    kinds: dict[str, list[Candidate]] = {}
    for path in sorted(files.below(Path(RESULTS), f"**/{files.MANIFEST}")):
        with contextlib.suppress(ConfigError, StorageError):  # a path that this kd does not know; a damaged manifest
            cell, manifest = parse_cell(path.parent), files.read_manifest(path.parent)
            if cell.is_ensemble or cell.stage.weights:
                continue  # it has no epochs: making it again takes seconds and gives the same bytes
            recipe = made_with(cell, manifest)
            spelled = files.canonical_json(recipe)
            if spelled not in judges:
                judges[spelled] = Judge.of_recipe(Recipe.parse(recipe))
            judge, product = judges[spelled], products.network(cell)
            why = judge.reason(product)
            if why == OTHER_CODE or (why is None and judge.proof(product) == NONE):
                found = Candidate(cell, manifest, recipe, judge, judge.expected(product).code)
                kinds.setdefault(_key(found.pair), []).append(found)
    return list(kinds.values())


# -- trained again ----------------------------------------------------------------------------------------------------


def _trained_again(one: Candidate) -> tuple[str, str]:
    """Train a network again; return (proof, why there is none). Raises KdError when the numbers differ."""
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
                f"{one.cell}: trained again by the current code, it differs {differs}; nothing is adopted. "
                "If you meant to change it, run snakemake: it trains again what is stale"
            )
    return (EQUAL if exact else CLOSE), ""


def _train(one: Candidate, folder: Path) -> int:
    """Run `kd train` in `folder`; return its exit code."""
    processes = one.manifest.get("processes", 1)
    arguments = ["train", one.cell.path, "--recipe", json.dumps(one.recipe), "--processes", str(processes)]
    return run_verb([*arguments, "--threads", str(processes * one.manifest["threads"])], here() / folder)


@contextlib.contextmanager
def _scratch(one: Candidate) -> Iterator[Path]:
    """Make a folder with all inputs of a network, as published; in it they count as made by the current code.

    It links each file and no folder: a write in the scratch folder then replaces a link, not the published file.
    """
    shutil.rmtree(on_disk(SCRATCH), ignore_errors=True)  # a killed `kd adopt` leaves one
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
    """Return at which epoch and in what the network trained again differs from the published one, or None."""
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
    """Say whether two values of a metric are as close as two runs of the same code on a GPU."""
    if key.endswith("_loss"):
        return abs(was - became) <= _LOSS_SHARE * was
    return key not in ("epoch", "lr") and abs(was - became) <= _ACCURACY_POINTS
