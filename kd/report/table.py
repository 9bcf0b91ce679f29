"""The tidy table, one row per experiment and cell, and the curves, one row per epoch; complete, or not written.

An error names the cells that are missing, damaged or half trained, or that have a number that is not finite although
they did not diverge (promise 5). A diverged cell has a row without numbers. Rows stand in the order in which figures
show them: by experiment, then by objectives, then as in the study.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from kd.core import files
from kd.core.errors import DataError, StorageError, itemised
from kd.data import MEASURES
from kd.measure.frames import Artefacts, frame_files, setting, with_hyperparameters
from kd.measure.scores import column_of
from kd.measure.scores import read as read_scores
from kd.report.identity import identity, order
from kd.report.latex import longtable
from kd.study.cells import Cell
from kd.study.config import Study
from kd.study.expansion import memberships
from kd.study.judge import Judge

ROWS, CURVES = "table", "curves"
MEMORY = ("memory_mib", "gpu_memory_mib")
_SHOWN = {"networks": "networks_name", "objectives": "objectives_name", "data": "dataset", "labels": "noise_name"}
_SHOWN |= {"seed": "seed"}
_PERCENT = {"test": "test_top1", "train": "train_top1", "best on test": "best_gap"}


@dataclass(frozen=True)
class Result:
    """A published cell: its manifest and its rows of metrics, one per epoch."""

    cell: Cell
    manifest: dict
    epochs: pd.DataFrame
    scores: Mapping[str, float] = field(default_factory=dict)  # top-1 on further test sets, by name


def collect(study: Study, judge: Judge) -> Artefacts:
    """Return table and curves of `study`, as CSV and parquet. Raises DataError that names every bad cell."""
    results = read_results(judge)
    members = memberships(study, judge.students)
    place = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in members))}
    members.sort(key=lambda member: (place[member[0]], order(member[1])))
    unproved = frozenset(judge.unproved)
    rows = pd.DataFrame(
        [_row(name, cell, results, study.tests) | {"unproved": cell.path in unproved} for name, cell in members]
    )
    rows = rows.astype({"teacher_seed": "Int64"})
    curves = pd.concat([_curve(name, results[cell]) for name, cell in members], ignore_index=True)
    rows, curves = (with_hyperparameters(frame, results) for frame in (rows, curves))
    return frame_files(rows, ROWS) | frame_files(curves, CURVES) | {f"{ROWS}.tex": in_latex(rows).encode()}


def in_latex(rows: pd.DataFrame) -> str:
    """Return every network of the table in LaTeX: what it is, and its numbers of the last epoch."""
    cells = rows.drop_duplicates("cell")
    shown = {name: cells[column] for name, column in _SHOWN.items()}
    shown |= {name: cells[column].map(_percent) for name, column in _PERCENT.items()}
    about = (
        "All networks: top-1 in percent after the last epoch, and how much higher the best epoch on the test set reads."
    )
    return longtable(pd.DataFrame(shown), [0.25, 0.2, 0.12, 0.17, 0.04, 0.05, 0.05, 0.06], about)


# -- reading ----------------------------------------------------------------------------------------------------------


def read_results(judge: Judge) -> dict[Cell, Result]:
    """Return every cell's result. Raises DataError that names the cells that are missing, damaged or unsound."""
    results, problems, tested = {}, [], frozenset(judge.tested)
    for cell in judge.cells:
        try:
            results[cell] = _read(judge.study, cell, tested=cell in tested)
        except (DataError, StorageError) as error:
            problems.append(str(error))
    if problems:
        raise DataError(
            f"no table: {len(problems)} of the study's cells cannot stand in it; run snakemake\n{itemised(problems)}"
        )
    return results


def _read(study: Study, cell: Cell, tested: bool = False) -> Result:
    manifest = files.verified(Path(cell.path), "metrics.csv")
    epochs = _metrics(Path(cell.path, "metrics.csv"))
    if manifest["status"] == "ok":
        _check_sound(cell, epochs, cell.epochs(study.protocol), study.protocol.evaluate)
        if epochs.iloc[-1].to_dict() != manifest["last"]:
            raise DataError(f"{cell}: its manifest and its metrics.csv do not agree on the last epoch")
    scores = read_scores(cell) if tested and manifest["status"] == "ok" else {}
    return Result(cell, manifest, epochs, {name: one.top1 for name, one in scores.items()})


def _metrics(path: Path) -> pd.DataFrame:
    content = files.content_of(path)
    return (
        pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""])
        if content
        else pd.DataFrame({"epoch": []})
    )


def _check_sound(cell: Cell, epochs: pd.DataFrame, expected: int, every: int | str) -> None:
    # Imported weights, ensembles and untrained networks have no epochs, but one row, for epoch 0.
    if list(epochs["epoch"]) != list(range(min(1, expected), expected + 1)):
        raise DataError(f"{cell}: its metrics are not one row for each of {expected} epochs")
    evaluated = epochs["epoch"].eq(expected) | (False if every == "last" else epochs["epoch"] % every == 0)
    for column in epochs:
        values = epochs.loc[evaluated, column] if column.startswith(("test_", "heldout_")) else epochs[column]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values.tolist()):
            raise DataError(f"{cell}: {column} is not a finite number in every epoch, though the cell is not diverged")


# -- rows -------------------------------------------------------------------------------------------------------------


def _row(experiment: str, cell: Cell, results: Mapping[Cell, Result], tests: Iterable[str]) -> dict:
    manifest = results[cell].manifest
    return {
        "experiment": experiment,
        "cell": cell.path,
        **setting(cell, manifest),
        "protocol": cell.protocol,
        **identity(cell),
        "epochs": manifest["epochs"],
        "status": manifest["status"],
        **headline(manifest),
        **{column_of(name): results[cell].scores.get(name, math.nan) for name in tests},
        "teacher_top1": headline(results[cell.teacher].manifest)["test_top1"] if cell.teacher else math.nan,
        **_selection(manifest.get("selection") or {}),
        "parameters": manifest.get("parameters", 0),
        # of networks of before they were measured, nothing is known
        **{key: manifest.get(key, math.nan) for key in ("macs", "milliseconds")},
        "objective_parameters": manifest.get("objective_parameters", 0),
        "seconds": manifest["seconds"],
        "lineage_seconds": sum(results[one].manifest["seconds"] for one in cell.lineage),
        **_memory(manifest.get("memory") or {}),
        **{key: manifest[key] for key in ("device", "precision", "compiled", "threads", "code")},
    }


def _memory(peak: Mapping[str, int]) -> dict[str, float]:
    """Return the most memory (MiB) that the process and its GPU held; NaN for what is not known."""
    return {column: peak.get(key, math.nan) for column, key in zip(MEMORY, ("host_mib", "gpu_mib"), strict=True)}


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def headline(manifest: dict) -> dict:
    """Return the headline (last epoch), and the best on test beside it; all NaN if the cell diverged."""
    last = manifest.get("last", {}) if manifest["status"] == "ok" else {}
    best = manifest.get("best_on_test", {}) if last else {}
    measured = [f"{of}_{what}" for of in ("train", "test", "heldout") for what in ("loss", "top1")]
    measured += ["train_top1_running", "train_memorised", "train_recovered"]  # the last two: on mislabelled examples
    after = {"train_top1": manifest["train_top1"]} if last and "train_top1" in manifest else {}
    numbers = {key: (last | after).get(key, math.nan) for key in measured}
    numbers |= {key: last[key] for key in last if key.startswith(("test_", "heldout_"))}  # an objective may add some
    best_top1 = best.get("test_top1", math.nan)
    return numbers | {
        "best_test_top1": best_top1,
        "best_epoch": best.get("epoch", 0),
        "best_gap": best_top1 - numbers["test_top1"],
    }


def _selection(found: dict) -> dict:
    """Return how well the selection that a network learnt from excludes wrong labels; NaN if it has no selection.

    The measures by class stand in one string, in the order of the classes.
    """
    given = {"kept": found.get("kept"), **{f"kept_{name}": found.get(name) for name in MEASURES}}
    given["selected_after"] = found.get("teacher_epochs")
    each = {name: found.get(f"{name}_by_class") or () for name in MEASURES}
    by_class = {f"kept_{name}_by_class": " ".join(map(_shown, values)) for name, values in each.items()}
    return {key: math.nan if value is None else value for key, value in given.items()} | by_class


def _shown(measure: float | None) -> str:
    return "-" if measure is None else f"{measure:.4f}"


def _curve(experiment: str, result: Result) -> pd.DataFrame:
    identity = {"experiment": experiment, "cell": result.cell.path, **setting(result.cell, result.manifest)}
    return result.epochs.assign(**identity)[[*identity, *result.epochs.columns]]
