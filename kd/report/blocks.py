"""One table of several folders: of a study that was trained in blocks, each on a machine of its own.

A block is a folder reports/STUDY, as `kd collect` or Snakemake left it; nothing else of its machine is read. So a block
is whole or not there, and a machine that is lost costs one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kd.core import files
from kd.core.errors import ConfigError, DataError, StorageError, itemised
from kd.core.project import on_disk
from kd.measure.frames import Artefacts, frame_files, read_frame
from kd.report.table import CURVES, MEMORY, ROWS
from kd.study import products

# What the same network may differ in: when, where and how fast it was trained.
_OF_MACHINES = ["seconds", "lineage_seconds", *MEMORY, "device", "threads", "code", "compiled", "unproved"]
_SPREAD = ["experiment", "dataset", "noise", "noise_rate", "seed", "teacher_seed"]  # what the networks of a pair share


def joined(folders: Sequence[Path]) -> tuple[Artefacts, pd.DataFrame]:
    """Return table and curves of all folders, as CSV and parquet, and the table.

    A network of two folders stands once. Raises ConfigError where the folders train by other protocols of one name,
    DataError that names the networks of which two folders have other numbers.
    """
    _demand_one_protocol(folders)
    blocks = [read_frame(_table(folder)) for folder in folders]
    rows = pd.concat(blocks, ignore_index=True)
    _demand_equal(rows, np.repeat([str(folder) for folder in folders], list(map(len, blocks))))
    rows = _ordered(rows.drop_duplicates(["experiment", "cell"], ignore_index=True))
    curves = pd.concat([read_frame(folder / f"{CURVES}.parquet") for folder in folders], ignore_index=True)
    curves = _ordered(curves.drop_duplicates(["experiment", "cell", "epoch"], ignore_index=True))
    return frame_files(rows, ROWS) | frame_files(curves, CURVES), rows


def told(folders: Sequence[Path], rows: pd.DataFrame) -> Iterator[str]:
    """Say how many networks each machine trained, and which pairs of networks two machines would have to compare."""
    networks = rows.drop_duplicates("cell")
    count = "1 folder" if len(folders) == 1 else f"{len(folders)} folders"
    yield f"{len(networks)} networks of {count}"
    for device, number in networks["device"].value_counts(sort=False).items():
        yield f"{number} on {device}"
    kinds = rows[rows["stages"] > 1].groupby(_SPREAD, dropna=False)["device"].nunique()
    mixed = sorted({int(seed) for seed in kinds[kinds > 1].index.get_level_values("seed")})
    if mixed:
        yield f"pairs of seed {', '.join(map(str, mixed))} lie on two kinds of machine: block by seeds instead"


def demand_free(folder: Path) -> None:
    """Raise ConfigError if a folder has the table of a study: that is made anew of the study alone."""
    if on_disk(folder / products.MANIFESTS / f"{ROWS}.json").exists():
        raise ConfigError(f"--into {folder}: has the table of a study; name another folder, such as {folder}-blocks")


def _table(folder: Path) -> Path:
    found = folder / f"{ROWS}.parquet"
    if on_disk(found).exists():
        return found
    tables = [str(path.parent) for path in files.below(folder, f"reports/*/{ROWS}.parquet")]
    hint = f"; did you mean {' or '.join(sorted(tables))}" if tables else "; a block is a folder such as reports/demo"
    raise StorageError(f"{folder}: no {found.name} in it{hint}")


def _demand_one_protocol(folders: Sequence[Path]) -> None:
    """Raise ConfigError if pages of two studies tell of other values of one protocol; not all blocks have a page."""
    known: dict[str, tuple[Path, dict]] = {}
    for folder in folders:
        page = files.read_manifest(folder, at=folder / products.MANIFESTS / "page.json") or {}
        protocol = page.get("recipe", {}).get("protocol")
        if protocol is None:
            continue
        first, values = known.setdefault(protocol["name"], (folder, protocol))
        other = [key for key in protocol if key in values and protocol[key] != values[key]]
        if other:
            raise ConfigError(
                f"{first} and {folder}: protocol {protocol['name']} has {other[0]} {values[other[0]]} in one and "
                f"{protocol[other[0]]} in the other; give one of them another name"
            )


def _demand_equal(rows: pd.DataFrame, where: np.ndarray) -> None:
    """Raise DataError that names the networks of which two folders, `where` each row is from, have other numbers."""
    measured = rows.drop(columns=[name for name in _OF_MACHINES if name in rows])
    distinct = measured.drop_duplicates()
    twice = distinct[distinct.duplicated(["experiment", "cell"], keep=False)].drop_duplicates("cell")["cell"]
    if twice.empty:
        return
    found = [f"{cell}: {', '.join(dict.fromkeys(where[(rows['cell'] == cell).to_numpy()]))}" for cell in twice]
    raise DataError(
        f"no table: {len(found)} networks have other numbers in another folder, as another kind of machine makes them; "
        f"let blocks share no network: part the study by seeds, with teacher_seeds: matched\n{itemised(found)}"
    )


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by experiment, network and seed, the first two as they come first."""
    ranks = {name: pd.factorize(frame[name])[0] for name in ("experiment", "lineage")}
    keys = pd.DataFrame(ranks | {"seed": frame["seed"], "epoch": frame.get("epoch", 0)})
    return frame.loc[keys.sort_values([*keys], kind="stable").index].reset_index(drop=True)
