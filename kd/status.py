"""Where a study stands, cell by cell, and what is damaged: no torch, no pandas, seconds for thousands of cells."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from kd import files, slurm
from kd.attempts import last_attempt
from kd.cells import (
    ANSWERS,
    BANKS,
    CONTROLLERS,
    DATA,
    LOGS,
    RESULTS,
    Cell,
    all_cells,
    analysed,
    answers_lock,
    bank_lock,
    cell_lock,
    data_lock,
    stale,
    taught_by,
)
from kd.config import Study
from kd.errors import StorageError

STATUSES = ("done", "diverged", "stale", "running", "failed", "waiting")
_CAUSES = {2: "refused", 74: "storage", 75: "busy", 130: "interrupted", 137: "out of memory", 143: "terminated"}
_EPOCH = re.compile(rb"epoch (\d+/\d+) ")
_TAIL = 4096  # bytes at the end of a log, in which the last epoch stands
_THREADS = min(8, os.cpu_count() or 1)  # that wait for the disk and compute digests


@dataclass(frozen=True)
class Standing:
    """Where a piece of work stands: a cell, or a bank or dataset that cells wait for, or a cell's answers."""

    name: str
    status: str  # one of STATUSES
    detail: str = ""  # cause, or how far it is
    log: str = ""
    slurm_job: str = ""  # in which it was killed

    def __str__(self) -> str:
        return "  ".join(filter(None, [self.name, self.detail, self.log]))


# -- where a study stands ---------------------------------------------------------------------------------------------


def standings(study: Study) -> tuple[list[Standing], list[Standing]]:
    """Return where every cell of `study` stands, and what else is being made or has failed: banks, data, answers."""
    cells = all_cells(study)
    of_cells = [_of_cell(study, cell) for cell in cells]
    names = dict.fromkeys(name for cell in cells for name in (cell.dataset.name, cell.dataset.labelled))
    others = [_work(f"{DATA}/{name}", data_lock(name), f"{LOGS}/{DATA}/{name}.log") for name in names]
    others += [_work(f"{BANKS}/{t.name}", bank_lock(t), f"{LOGS}/{t.name}.bank.log") for t in taught_by(cells)]
    others += [_work(f"{ANSWERS}/{c.name}", answers_lock(c), f"{LOGS}/{c.name}.answers.log") for c in analysed(study)]
    explained = _explained([*of_cells, *filter(None, others)])
    return _blocked(cells, explained[: len(cells)]), explained[len(cells) :]


def _of_cell(study: Study, cell: Cell) -> Standing:
    try:
        manifest = files.read_manifest(Path(cell.path))
    except StorageError as error:
        return Standing(cell.path, "failed", str(error))
    reason = stale(cell, manifest, study) if manifest else None
    if manifest and not reason:
        status = "diverged" if manifest["status"] == "diverged" else "done"
        return Standing(cell.path, status, manifest.get("cause", ""))
    under_way = _work(cell.path, cell_lock(cell), f"{LOGS}/{cell.name}.log")
    return under_way or Standing(cell.path, "stale" if manifest else "waiting", reason or "")


def _work(name: str, lock: Path, log: str) -> Standing | None:
    """Return what the note beside `lock` tells: work that is going on, or that failed; None where there is none."""
    note = last_attempt(lock)
    if note is None:
        return None
    log = log if Path(log).exists() else ""
    if files.is_locked(lock):
        return Standing(name, "running", _how_far(log, note), log)
    if "ended" in note:
        cause = note["cause"]
        if note["exit"] in _CAUSES and not cause.startswith("time limit"):
            cause = f"{_CAUSES[note['exit']]}: {cause}"
        return Standing(name, "failed", cause, log)
    return Standing(name, "failed", "killed, most often for lack of memory (137)", log, note["slurm_job"] or "")


def _how_far(log: str, note: dict) -> str:
    tail = b""
    if log:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            tail = file.read()
    epochs = _EPOCH.findall(tail)
    minutes = (time.time() - note["began"]) / 60
    where = f"{note['host']}, {'job ' + note['slurm_job'] if note['slurm_job'] else 'process ' + str(note['pid'])}"
    return "  ".join([*(f"epoch {epoch.decode()}" for epoch in epochs[-1:]), f"{minutes:.0f} min on {where}"])


def _explained(standings: list[Standing]) -> list[Standing]:
    """Return `standings` with SLURM's word on those that were killed, asked for all at once."""
    states = slurm.job_states(s.slurm_job for s in standings if s.slurm_job)
    return [
        replace(s, detail=f"{slurm.CAUSES[states[s.slurm_job]]} (SLURM job {s.slurm_job})")
        if states.get(s.slurm_job) in slurm.CAUSES
        else s
        for s in standings
    ]


def _blocked(cells: Sequence[Cell], standings: list[Standing]) -> list[Standing]:
    """Return `standings` of `cells`, where those that wait for a teacher or a member that failed say so."""
    failed = {s.name for s in standings if s.status == "failed"}

    def told(cell: Cell, standing: Standing) -> Standing:
        awaited = [("teacher", cell.teacher), *(("member", member) for member in cell.members)]
        lost = [f"its {what} {one} failed" for what, one in awaited if one and one != cell and one.path in failed]
        return replace(standing, detail=lost[0]) if lost and standing.status == "waiting" else standing

    return list(map(told, cells, standings))


def controller_lives() -> bool:
    """Say whether a Snakemake is at work in this folder."""
    return files.is_locked(Path(CONTROLLERS))


# -- what is damaged --------------------------------------------------------------------------------------------------


def damaged(root: Path = Path()) -> tuple[int, list[tuple[Path, str]]]:
    """Return how many published folders are below `root`, and (folder, what is wrong) for each damaged one.

    Every byte of results, data, banks and answers is read and compared with the digests in the manifests.
    """
    folders = [folder for top in (RESULTS, DATA, BANKS, ANSWERS) for folder in _published(root / top)]
    with ThreadPoolExecutor(_THREADS) as pool:  # hashing lets go of the interpreter
        wrong = list(pool.map(_wrong_with, folders))
    return len(folders), [(folder, what) for folder, what in zip(folders, wrong, strict=True) if what]


def _published(top: Path) -> Iterator[Path]:
    return (Path(folder) for folder, _, names in os.walk(top) if files.MANIFEST in names)


def _wrong_with(folder: Path) -> str | None:
    try:
        manifest = files.verified(folder)
    except StorageError as error:
        return str(error)
    if manifest.get("kind") == "network" and Path(manifest["cell"]) != folder:
        return (
            f"{folder}: a copy of {manifest['cell']}; remove {folder / files.MANIFEST} and run the same command again"
        )
    return None


def discard(folder: Path) -> None:
    """Make what is in `folder` count as absent, so that the next run makes it anew."""
    (folder / files.MANIFEST).unlink(missing_ok=True)
