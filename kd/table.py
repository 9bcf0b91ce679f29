"""The tidy table: one row per experiment and cell, and one per epoch; whole and honest or not written.

It refuses, naming the cells: what is missing, damaged, half trained or trained with other code, and numbers
that are not finite in a cell that claims to be well (promise 5). A diverged cell has its row, without numbers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kd import files
from kd.cells import Cell, memberships, spell_objective
from kd.config import Study
from kd.errors import DataError, StorageError, first_line, itemised
from kd.judge import Judge

ROWS, CURVES = "table", "curves"
# A key of a parquet file's metadata, the bytes by which parquet says that a text of 64 follows, and a text of 64.
_SEAL, _LENGTH, _UNSEALED = b"kd_sha256", b"\x18\x40", b"0" * 64

Artefacts = dict[str, bytes | Callable[[Path], object]]  # what `kd.files.publish` writes


@dataclass(frozen=True)
class Result:
    """A published cell: its manifest and its rows of metrics, one per epoch."""

    cell: Cell
    manifest: dict
    epochs: pd.DataFrame


def collect(study: Study, judge: Judge) -> Artefacts:
    """Return table and curves of `study`, as CSV and parquet. Raises DataError that names every bad cell."""
    results = read_results(judge)
    members = memberships(study, judge.students)
    rows = pd.DataFrame([_row(name, results[cell]) for name, cell in members])
    rows = rows.astype({"teacher_seed": "Int64"})
    curves = pd.concat([_curve(name, results[cell]) for name, cell in members], ignore_index=True)
    return frame_files(rows, ROWS) | frame_files(curves, CURVES)


def frame_files(frame: pd.DataFrame, name: str) -> Artefacts:
    """Return a frame as `name`.csv, to be read by anyone, and `name`.parquet, which keeps types and every digit."""
    return {
        f"{name}.csv": frame.to_csv(index=False, lineterminator="\n").encode(),
        f"{name}.parquet": _sealed_parquet(frame),
    }


def _sealed_parquet(frame: pd.DataFrame) -> bytes:
    """Return a frame as parquet with a digest of itself in its metadata, to check copies that have no manifest."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**table.schema.metadata, _SEAL: _UNSEALED})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return _with_seal(buffer.getvalue(), lambda unsealed: files.sha256(unsealed).encode())


def _with_seal(content: bytes, seal: Callable[[bytes], bytes]) -> bytes:
    """Return parquet with the seal that belongs to what it is without one; parquet that has no place for one, as is."""
    place = content.rfind(_SEAL + _LENGTH)
    if place < 0:
        return content
    begin = place + len(_SEAL + _LENGTH)
    before, after = content[:begin], content[begin + len(_UNSEALED) :]
    return before + seal(before + _UNSEALED + after) + after


def read_frame(path: Path) -> pd.DataFrame:
    """Read a frame that was written as parquet. Raises StorageError that says what to do."""
    try:
        content = path.read_bytes()
        if _with_seal(content, lambda unsealed: files.sha256(unsealed).encode()) != content:
            raise ValueError("damaged (it does not match its own digest)")
        return pd.read_parquet(io.BytesIO(content))
    except MemoryError:
        raise
    except Exception as error:  # what a file that is no parquet raises has no common type
        raise StorageError(f"{path}: cannot read this table: {_why(error)}; run snakemake to collect it") from error


def _why(error: Exception) -> str:
    return (error.strerror or first_line(error)) if isinstance(error, OSError) else first_line(error)


# -- reading ----------------------------------------------------------------------------------------------------------


def read_results(judge: Judge) -> dict[Cell, Result]:
    """Return every cell's result. Raises DataError naming the cells that are missing, damaged or unsound."""
    results, problems = {}, []
    for cell in judge.cells:
        try:
            results[cell] = _read(judge.study, cell)
        except (DataError, StorageError) as error:
            problems.append(str(error))
    if problems:
        raise DataError(
            f"no table: {len(problems)} of the study's cells cannot stand in it; run snakemake\n{itemised(problems)}"
        )
    return results


def _read(study: Study, cell: Cell) -> Result:
    manifest = files.verified(Path(cell.path), "metrics.csv")
    epochs = _metrics(Path(cell.path, "metrics.csv"))
    if manifest["status"] == "ok":
        _check_sound(cell, epochs, cell.epochs(study.protocol))
        if epochs.iloc[-1].to_dict() != manifest["last"]:
            raise DataError(f"{cell}: its manifest and its metrics.csv do not agree on the last epoch")
    return Result(cell, manifest, epochs)


def _metrics(path: Path) -> pd.DataFrame:
    content = files.content_of(path)
    return pd.read_csv(io.BytesIO(content), keep_default_na=False) if content else pd.DataFrame({"epoch": []})


def _check_sound(cell: Cell, epochs: pd.DataFrame, expected: int) -> None:
    # Imported weights and ensembles, of no epoch, have one row: that of epoch 0.
    if list(epochs["epoch"]) != list(range(min(1, expected), expected + 1)):
        raise DataError(f"{cell}: its metrics are not one row for each of {expected} epochs")
    for column in epochs:
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in epochs[column].tolist()):
            raise DataError(f"{cell}: {column} is not a finite number in every epoch, though the cell is not diverged")


# -- rows -------------------------------------------------------------------------------------------------------------


def _row(experiment: str, result: Result) -> dict:
    cell, manifest = result.cell, result.manifest
    resolved = cell.stage.objective.resolved
    return {
        "experiment": experiment,
        "cell": cell.path,
        **setting(cell, manifest),
        "protocol": cell.protocol,
        "stages": len(cell.stages),
        "teacher": cell.teacher.stage.title if cell.teacher else "",
        "loss": cell.stage.objective.loss,
        "tau": resolved.get("tau", math.nan),
        "alpha": resolved.get("alpha", math.nan),
        "teacher_seed": cell.teacher.stage.seed if cell.teacher else pd.NA,
        "epochs": manifest["epochs"],
        "status": manifest["status"],
        **_numbers(manifest),
        "parameters": manifest.get("parameters", 0),
        "seconds": manifest["seconds"],
        **{key: manifest[key] for key in ("device", "precision", "compiled", "threads", "code")},
    }


def setting(cell: Cell, manifest: dict) -> dict:
    """Return the columns by which tables and analyses name a cell; its manifest has the realised label noise."""
    return {
        "dataset": cell.dataset.name,
        **_noise(cell, manifest["realised_rate"]),
        "fraction": cell.fraction,
        "networks": " > ".join(stage.title for stage in cell.stages),
        "objectives": " > ".join(spell_objective(stage.objective) for stage in cell.stages),
        "student": cell.stage.title,
        "objective": spell_objective(cell.stage.objective),
        "seed": cell.stage.seed,
    }


def _noise(cell: Cell, realised: float) -> dict:
    noise = cell.dataset.noise
    if noise is None:
        return {"noise": "none", "noise_rate": 0.0, "realised_rate": 0.0}
    if noise.kind == "labels":
        return {"noise": f"labels-{noise.amount}", "noise_rate": realised, "realised_rate": realised}
    return {"noise": noise.kind, "noise_rate": noise.amount, "realised_rate": realised}


def _numbers(manifest: dict) -> dict:
    """Return the headline (last epoch), and the best on test beside it; NaN throughout where the cell diverged."""
    last = manifest.get("last", {}) if manifest["status"] == "ok" else {}
    best = manifest.get("best_on_test", {}) if last else {}
    measured = [f"{of}_{what}" for of in ("train", "test", "heldout") for what in ("loss", "top1")]
    measured += ["train_memorised", "train_recovered"]  # of mislabelled examples
    numbers = {key: last.get(key, math.nan) for key in measured}
    best_top1 = best.get("test_top1", math.nan)
    return numbers | {
        "best_test_top1": best_top1,
        "best_epoch": best.get("epoch", 0),
        "best_gap": best_top1 - numbers["test_top1"],
    }


def _curve(experiment: str, result: Result) -> pd.DataFrame:
    identity = {"experiment": experiment, "cell": result.cell.path, **setting(result.cell, result.manifest)}
    return result.epochs.assign(**identity)[[*identity, *result.epochs.columns]]
