"""Write and read frames, and give them the columns that name a cell."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kd.core import files
from kd.core.errors import StorageError, first_line
from kd.core.project import on_disk
from kd.study.cells import Cell, spell_objective

# The seal in a parquet file's metadata: its key, the bytes that announce a string of 64 bytes, and a placeholder.
_SEAL, _LENGTH, _UNSEALED = b"kd_sha256", b"\x18\x40", b"0" * 64

AXES = ("tau", "alpha")  # figures draw over these hyperparameters, so every frame has their columns

Artefacts = dict[str, bytes | Callable[[Path], object]]  # what `kd.core.files.publish` writes


def setting(cell: Cell, manifest: dict) -> dict:
    """Return the columns by which tables and analyses name a cell. Its `manifest` has the realised rate of noise."""
    return {
        "dataset": cell.dataset.name,
        **_noise(cell, manifest["realised_rate"]),
        "fraction": cell.fraction,
        "networks": " > ".join(stage.title for stage in cell.stages),
        "objectives": " > ".join(spell_objective(stage.objective) for stage in cell.stages),
        "lineage": cell.seedless,
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


def with_hyperparameters(frame: pd.DataFrame, cells: Iterable[Cell]) -> pd.DataFrame:
    """Add a column for each hyperparameter of the losses in `frame`; `cells` must include its networks.

    The column has the hyperparameter's name, or `loss.NAME` if the frame already has a column of that name. It is NaN
    for a network whose loss has no such hyperparameter.
    """
    named = set(frame["cell"])
    resolved = {cell.path: _given(cell) for cell in cells if cell.path in named}
    columns = {
        f"loss.{name}" if name in frame else name: frame["cell"].map(
            {path: values.get(name, math.nan) for path, values in resolved.items()}
        )
        for name in dict.fromkeys([*AXES, *(name for values in resolved.values() for name in values)])
    }
    place = frame.columns.get_loc("objective") + 1
    parts = frame.iloc[:, :place], pd.DataFrame(columns, index=frame.index), frame.iloc[:, place:]
    return pd.concat(parts, axis=1)


def _given(cell: Cell) -> dict:
    """Return the hyperparameters of a cell's loss that are not None."""
    return {name: value for name, value in cell.stage.objective.resolved.items() if value is not None}


def frame_files(frame: pd.DataFrame, name: str) -> Artefacts:
    """Return a frame as `name`.csv, which any program reads, and `name`.parquet, which keeps types and every digit."""
    return {
        f"{name}.csv": frame.to_csv(index=False, lineterminator="\n").encode(),
        f"{name}.parquet": _sealed_parquet(frame),
    }


def _sealed_parquet(frame: pd.DataFrame) -> bytes:
    """Return a frame as parquet with a digest of itself in its metadata, which checks copies that have no manifest."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**table.schema.metadata, _SEAL: _UNSEALED})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return _with_seal(buffer.getvalue(), lambda unsealed: files.sha256(unsealed).encode())


def _with_seal(content: bytes, seal: Callable[[bytes], bytes]) -> bytes:
    """Write the digest of the unsealed parquet into its seal; return parquet without a seal unchanged."""
    place = content.rfind(_SEAL + _LENGTH)
    if place < 0:
        return content
    begin = place + len(_SEAL + _LENGTH)
    before, after = content[:begin], content[begin + len(_UNSEALED) :]
    return before + seal(before + _UNSEALED + after) + after


def read_frame(path: Path) -> pd.DataFrame:
    """Read a frame from parquet. Raises StorageError that says what to do."""
    try:
        content = on_disk(path).read_bytes()
        if _with_seal(content, lambda unsealed: files.sha256(unsealed).encode()) != content:
            raise ValueError("damaged (it does not match its own digest)")
        frame = pd.read_parquet(io.BytesIO(content))
        if "lineage" not in frame:
            raise ValueError("it has no column lineage, so that another version of kd collected it")
        return frame
    except MemoryError:
        raise
    except Exception as error:  # a file that is not parquet raises errors of many types
        raise StorageError(f"{path}: cannot read this table: {_why(error)}; run snakemake to collect it") from error


def _why(error: Exception) -> str:
    return (error.strerror or first_line(error)) if isinstance(error, OSError) else first_line(error)
