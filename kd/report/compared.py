"""Compare two recipes by their trained networks, all seeds that there are, outside of any study: `kd compare`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from kd.core import files
from kd.core.errors import ConfigError, DataError, StorageError
from kd.measure.frames import setting
from kd.report.comparisons import HIGHER, LOWER, SMALLEST, judge_family
from kd.report.identity import identity
from kd.report.statistics import SETTING, Paired, against, side, summarise
from kd.report.table import headline
from kd.study import products
from kd.study.cells import RESULTS, Cell
from kd.study.config import Protocol, Recipe
from kd.study.judge import Judge, plural
from kd.study.paths import parse_cell
from kd.study.recipes import changed, made_with

_DIFFER = {"labelled": "labels", "protocol": "protocol", "fraction": "fraction", "networks": "networks"}
_DIFFER |= {"objectives": "objectives", "teacher_lineage": "teacher"}


def compared(first: str, second: str) -> list[str]:
    """Compare the recipes of two cells over the seeds that both have, and say it in lines.

    All seeds count, not those of the two paths alone. Raises ConfigError when it is one recipe, DataError when the
    accuracies are not of the same test set or one protocol's name stands for two, StorageError for what is not there.
    """
    a, b = parse_cell(first), parse_cell(second)
    if _recipe_of(a) == _recipe_of(b):
        raise ConfigError(f"{second}: the same recipe as {first}; a comparison is of two, each over all its seeds")
    of_a, of_b = _trained(a), _trained(b)
    stale = _demand_alike({**of_a, **of_b})
    frames = [_rows(of) for of in (of_a, of_b)]
    differ = [
        f"{word}: {left or 'none'} | {right or 'none'}"
        for column, word in _DIFFER.items()
        for left, right in [[frame[column].iloc[0] for frame in frames]]
        if left != right
    ]
    found = against(*map(side, frames), f"{a} against {b}", apart={*SETTING} - {"dataset"})
    (judged,) = judge_family([found], [SMALLEST])
    lines = [line for name, cell, frame in zip("ab", (a, b), frames, strict=True) for line in _side(name, cell, frame)]
    word = "a is " if judged["verdict"] in (HIGHER, LOWER) else ""
    differ = [f"differ in {one}" for one in differ]
    return [*lines, *differ, *_difference(found), f"verdict: {word}{judged['statement']}", *stale]


def _recipe_of(cell: Cell) -> tuple[str, str, str]:
    return str(cell.dataset), cell.protocol, cell.seedless


def _trained(wanted: Cell) -> dict[Cell, dict]:
    """Return the manifests of all networks of a cell's recipe, whatever their seeds. Raises StorageError for none."""
    found = {}
    folder = Path(RESULTS, str(wanted.dataset), wanted.protocol)
    for path in sorted(files.below(folder, "/".join(["*"] * len(wanted.stages) + [files.MANIFEST]))):
        with contextlib.suppress(ConfigError):  # a network or loss that this kd does not know is another one
            cell = parse_cell(path.parent)
            if _recipe_of(cell) == _recipe_of(wanted):
                found[cell] = files.verified(path.parent, "metrics.csv")
    if not found:
        raise StorageError(f"{wanted}: not trained, with any seed; `kd train` with this path trains it")
    return found


def _demand_alike(found: dict[Cell, dict]) -> list[str]:
    """Say which networks are not current. Raises DataError when they were tested on different data, or one name of a
    protocol stands for different values."""
    data: dict[str, str] = {}
    protocols: dict[str, dict] = {}
    stale = []
    for cell, manifest in found.items():
        name, made = products.data(cell.dataset.name).name, made_with(cell, manifest)
        digest = manifest["inputs"][name]["digest"]
        if data.setdefault("digest", digest) != digest:
            raise DataError(f"{cell}: tested on other data than the others; compare within one dataset")
        protocol = protocols.setdefault(cell.protocol, made["protocol"])
        if why := changed(protocol, made["protocol"], {"protocol": Protocol.since()}, part="protocol"):
            raise DataError(f"{cell}: trained by other values of protocol {cell.protocol} than the others: {why}")
        if why := Judge.of_recipe(Recipe.parse(made)).to_do(products.network(cell)):
            stale.append(f"note: {cell} is not current: {why}")
    return stale


def _rows(found: dict[Cell, dict]) -> pd.DataFrame:
    rows = [
        {"cell": cell.path, "labelled": cell.dataset.labelled, "protocol": cell.protocol}
        | setting(cell, manifest)
        | identity(cell)
        | headline(manifest)
        | {key: manifest[key] for key in ("epochs", "status")}
        for cell, manifest in found.items()
    ]
    return pd.DataFrame(rows).astype({"teacher_seed": "Int64"})


def _side(name: str, cell: Cell, rows: pd.DataFrame) -> Iterator[str]:
    one = summarise(rows, ["objectives"]).iloc[0]
    interval = f", 95 % interval {one['low']:.2f} to {one['high']:.2f}" if one["n"] > 1 else ""
    diverged = f", {one['diverged']} diverged" if one["diverged"] else ""
    mean = f"{one['mean']:.2f} %" if one["n"] else "no number"
    yield f"{name}  {cell.dataset} / {cell.protocol} / {cell.seedless}: {mean}{interval}, n = {one['n']}{diverged}"
    several = rows["teacher_seed"].nunique() > 1
    teachers = [f"teacher s{seed}: " if several else "" for seed in rows["teacher_seed"]]
    each = zip(teachers, rows["seed"], rows["test_top1"], strict=True)
    yield "   " + "  ".join(f"{teacher}s{seed} {top1:.2f}" for teacher, seed, top1 in each)


def _difference(found: Paired) -> list[str]:
    """Say the mean difference in points of test top-1, with interval, test and n."""
    if not found.n:
        return ["a - b: no pair of equal seeds"]
    line = f"a - b = {found.effect:+.2f} points of test top-1, {found.n} {plural('pair', found.n)} of equal seeds"
    if found.teachers > 1:
        line += f" of {found.teachers} teachers"
    if found.tested:
        line += f", 95 % interval {found.low:+.2f} to {found.high:+.2f}"
        line += f", paired t({found.df:.3g}) = {found.effect / found.se:.2f}, p = {found.p:.2g}"
    return [line, *([f"left out: {found.left_out}, not in both or diverged"] if found.left_out else [])]
