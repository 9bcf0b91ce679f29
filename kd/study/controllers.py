"""The Snakemakes that work in a folder at the same time, the controllers, and whether another one may start.

Each controller holds a lock on a file in state/controllers/ that says what it makes. Controllers that make the same
things from the same values share the work. A controller that would replace the results of another does not start.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from kd.core import files
from kd.core.errors import ConfigError, StorageError
from kd.core.project import on_disk
from kd.data import label_file
from kd.study.cells import STATE, Cell
from kd.study.config import DeclaredDataset, Protocol, Study, Weights
from kd.study.expansion import memberships, taught_by
from kd.study.judge import data_recipe
from kd.study.recipes import brief

FOLDER = Path(STATE, "controllers")
_GATE = Path(STATE, "controllers.lock")  # held while a controller compares itself with the others and enters


def enter(study: Study, every: Sequence[Cell]) -> contextlib.ExitStack:
    """Enter this process as a controller of `study`, until the returned stack is closed or the process ends.

    Raises ConfigError, in one line, when another process makes something else in the same place.
    """
    mine, held = _presence(study, every), contextlib.ExitStack()
    with files.lock(_GATE):
        for path in sorted(files.below(FOLDER, "*.json")):
            if not files.is_locked(path):
                with files.storage(path, verb="remove"):
                    on_disk(path).unlink(missing_ok=True)  # its controller has ended
                continue
            other = _said(path)
            conflict = _conflict(mine, other)
            if conflict:
                where = f"process {other['pid']} on {other['host']}"
                raise ConfigError(f"another Snakemake is at work in this folder ({where}) and {conflict}")
        path = FOLDER / f"{mine['host']}-{mine['pid']}.json"
        files.seal(path, mine, b"")
        held.enter_context(files.lock(path))
    return held


def alive() -> bool:
    """Say whether a Snakemake works in this folder."""
    return any(map(files.is_locked, files.below(FOLDER, "*.json")))


def _presence(study: Study, every: Sequence[Cell]) -> dict:
    values = study.protocol.model_dump(mode="json")
    rows = sorted((experiment, cell.path) for experiment, cell in memberships(study, taught_by(every)))
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "study": study.study,
        "cells": files.sha256(files.canonical_json(rows).encode()),
        "protocols": {f"{cell.dataset}/{cell.protocol}": values for cell in every},
        "dataset": {name: _brief(data_recipe(d.model_dump()), d) for name, d in study.datasets.items()},
        "label file": {name: _digest(path) for name, path in study.label_files.items()},
        "weights": {name: _brief(declared.claim, declared) for name, declared in study.weights.items()},
        "search": {name: one.model_dump(mode="json", exclude={"rounds"}) for name, one in study.searches.items()},
    }


def _brief(recipe: dict, of: DeclaredDataset | Weights) -> dict:
    return brief(recipe, {"": of.since()})  # the other controller may run a version of kd that lacks a key


def _digest(named: str) -> str | None:
    path, key = label_file(named)
    with contextlib.suppress(OSError):
        return files.file_digest(path) + (f":{key}" if key else "")
    return None


def _conflict(mine: dict, other: dict) -> str | None:
    """Return how another controller would make something else in the same place, or None if it would not."""
    for place, values in mine["protocols"].items():
        theirs = Protocol.since() | other["protocols"].get(place, values)
        for key in values:
            if values[key] != theirs[key]:
                name = place.rpartition("/")[2]
                return (
                    f"trains protocol {name} with {key} {theirs[key]}, this study has {values[key]}; wait for it, "
                    "or give the protocol another name"
                )
    for kind in ("dataset", "label file", "weights", "search"):
        for name, what in mine[kind].items():
            theirs = other[kind].get(name, what)
            if theirs != what and None not in (theirs, what):
                return f"has another {kind} {name}; wait for it, or give yours another name"
    if mine["study"] == other["study"] and mine["cells"] != other["cells"]:
        return f"makes study {mine['study']} of other cells; wait for it, or give the study another name"
    return None


def _said(path: Path) -> dict:
    """Read what another process says that it makes."""
    try:
        return files.unseal(path)[0]
    except StorageError as error:
        raise StorageError(f"{error}; another Snakemake is at work in this folder: wait for it") from error
