"""`kd mirror`: copy the published metrics of a study, one way, to where others look at curves.

It reads metrics.csv of networks that are published, after their training, and never the other way round. A tracker that
fails stops nothing but its own mirror.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from kd.cli.options import study_of
from kd.core import files
from kd.core.errors import ConfigError, Terminated, first_line, nearest
from kd.core.project import here, on_disk
from kd.study import products
from kd.study.judge import Judge

_NOTE = "kd-mirrored.json"  # in the folder of the mirror: {cell: digest of its metrics.csv}
_METRICS = "metrics.csv"  # as in kd.jobs.train, which imports torch

Curves = Mapping[int, Mapping[str, float]]  # {epoch: {metric: value}}
Write = Callable[[str, Curves], object]  # takes the name of a network


def mirror(options: argparse.Namespace) -> int:
    """Copy the metrics of published networks to TensorBoard or trackio; what is there already is not copied again."""
    tracker, folder = options.to[0], Path(options.to[1]).expanduser()
    if tracker not in _TRACKERS:
        raise ConfigError(f"--to {tracker}: no such tracker{nearest(tracker, _TRACKERS)}")
    study = study_of(options)
    try:
        write = _TRACKERS[tracker](on_disk(folder), study.study)
    except ImportError as error:
        raise ConfigError(f"--to {tracker}: {error}; pip install 'kd[{tracker}]'") from error
    judge, note = Judge.of_study(study), _noted(folder / _NOTE)
    copied = failed = 0
    for cell in judge.cells:
        manifest = judge.manifest(products.network(cell))
        digest = manifest and manifest["files"].get(_METRICS)
        curves = _curves(Path(cell.path)) if digest and note.get(cell.path) != digest else {}
        if not curves:
            continue
        try:
            write(cell.name, curves)
        except Terminated:
            raise
        except Exception as error:  # trackers raise errors of any type
            failed += 1
            print(f"kd: {tracker}: {cell}: {type(error).__name__}: {first_line(error)}", file=sys.stderr)
            continue
        copied += 1
        note[cell.path] = digest
        files.write_atomic(folder / _NOTE, json.dumps(note).encode())
    print(f"networks copied to {folder}: {copied}" + f"; refused by {tracker}: {failed}" * bool(failed))
    return int(failed > 0)


def _noted(path: Path) -> dict[str, str]:
    with contextlib.suppress(FileNotFoundError, ValueError, AttributeError):
        return dict(json.loads(files.content_of(path)).items())
    return {}


def _curves(folder: Path) -> Curves:
    """Return the rows of a published metrics.csv. Raises StorageError when it is damaged."""
    files.verified(folder, _METRICS)
    rows = csv.DictReader(files.content_of(folder / _METRICS).decode("utf-8").splitlines())
    return {
        int(row["epoch"]): {name: float(value) for name, value in row.items() if value and name != "epoch"}
        for row in rows
    }


def _tensorboard(folder: Path, study: str) -> Write:
    """Return what writes the event file of a network in a folder of its own, in place of an earlier one."""
    from torch.utils.tensorboard import SummaryWriter

    def write(name: str, curves: Curves) -> None:
        place = on_disk(folder / name)
        for entry in place.glob("events.out.tfevents.*"):
            entry.unlink()
        with SummaryWriter(str(place)) as writer:
            for epoch, row in curves.items():
                for metric, value in row.items():
                    writer.add_scalar(metric, value, epoch)

    return write


def _trackio(folder: Path, study: str) -> Write:
    """Return what writes a run into trackio's local database: with no server, account or network."""
    os.environ["TRACKIO_DIR"] = str(here() / folder)  # trackio reads it when it is imported
    from trackio.sqlite_storage import SQLiteStorage

    def write(name: str, curves: Curves) -> None:
        SQLiteStorage.delete_run(study, name)
        SQLiteStorage.bulk_log(study, name, list(map(dict, curves.values())), list(curves))

    return write


_TRACKERS = {"tensorboard": _tensorboard, "trackio": _trackio}
