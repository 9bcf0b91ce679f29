"""Where a study stands, cell by cell, and what is damaged. It takes seconds for thousands of cells."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kd.core import files, heartbeat, slurm
from kd.core.attempts import last_attempt
from kd.core.duration import spelled
from kd.core.errors import Damaged, StorageError
from kd.core.heartbeat import Beat
from kd.core.project import named, on_disk
from kd.core.threads import each
from kd.study import adopted, products
from kd.study.cells import (
    ANSWERS,
    BANKS,
    DATA,
    LOGS,
    RELATIONS,
    REPORTS,
    RESULTS,
    SCORES,
    SEARCH,
    SELECTIONS,
    Cell,
)
from kd.study.expansion import all_cells, analysed, taught_by
from kd.study.judge import ABSENT, Judge
from kd.study.products import MANIFESTS, Product

STATUSES = ("done", "diverged", "stale", "running", "failed", "waiting")
_CAUSES = {2: "refused", 74: "storage", 75: "busy", 130: "interrupted", 137: "out of memory", 143: "terminated"}
_SILENT = 10 * heartbeat.EVERY  # seconds after which status says that a run was not heard of
_THREADS = min(8, os.cpu_count() or 1)  # that read files and compute digests


@dataclass(frozen=True)
class Standing:
    """Where a piece of work stands: a cell, a dataset, a selection, a relation, a bank, a cell's answers or scores."""

    name: str
    status: str  # one of STATUSES
    detail: str = ""  # cause, or progress
    log: str = ""
    slurm_job: str = ""  # the job in which it was killed
    beat: Beat | None = None  # of what runs

    def __str__(self) -> str:
        return "  ".join(filter(None, [self.name, self.detail, self.log]))


# -- where a study stands ---------------------------------------------------------------------------------------------


def standings(judge: Judge) -> tuple[list[Standing], list[Standing]]:
    """Return the standings of all cells, and those of all that is made for them that run or have failed."""
    cells = all_cells(judge.study)
    judge.look_at(judge.everything)
    trials = [one for one in judge.everything if one.kind == "trial"]
    tried = {cell: one for one in reversed(trials) if (cell := judge.tried(one)) and cell not in cells}
    of_cells = [_of_cell(judge, cell, f"{LOGS}/{cell.name}.log") for cell in cells]
    of_cells += [_of_cell(judge, cell, f"{LOGS}/{one.name}.log") for cell, one in tried.items()]
    of_cells += [Standing(one.name, "waiting") for one in trials if judge.tried(one) is None]
    names = dict.fromkeys(name for cell in cells for name in (cell.dataset.name, cell.dataset.labelled))
    others = [_work(products.data(name), f"{LOGS}/{DATA}/{name}.log") for name in names]
    chosen = [one for one in judge.everything if one.kind in ("testset", "selection", "relation", "proposal", "trial")]
    others += [_work(one, f"{LOGS}/{one.name}.log") for one in chosen]
    others += [_work(products.bank(t), f"{LOGS}/{t.name}.bank.log") for t in taught_by(cells)]
    others += [_work(products.answers(c), f"{LOGS}/{c.name}.answers.log") for c in analysed(judge.study)]
    others += [_work(products.scores(c), f"{LOGS}/{c.name}.scores.log") for c in judge.tested]
    explained = _explained([*of_cells, *filter(None, others)])
    of_cells, others = explained[: len(of_cells)], explained[len(of_cells) :]
    return [*_blocked([*cells, *tried], of_cells), *of_cells[len(cells) + len(tried) :]], others


def _of_cell(judge: Judge, cell: Cell, log: str) -> Standing:
    product = products.network(cell)
    why = judge.to_do(product)
    if why is None:
        manifest = judge.manifest(product)
        status = "diverged" if manifest["status"] == "diverged" else "done"
        return Standing(cell.path, status, manifest.get("cause", ""))
    under_way = _work(product, log)
    return under_way or (Standing(cell.path, "waiting") if why == ABSENT else Standing(cell.path, "stale", why))


def _work(product: Product, log: str) -> Standing | None:
    """Read the note beside a product's lock: work that runs, or that failed; None if there is no note."""
    name, lock = product.name, product.lock
    log = log if on_disk(Path(log)).exists() else ""
    try:
        note = last_attempt(lock)
    except StorageError as error:
        return Standing(name, "running" if files.is_locked(lock) else "failed", str(error), log)
    if note is None:
        return None
    if files.is_locked(lock):
        beat = heartbeat.read(lock)
        if beat and beat.at < note["began"]:  # an earlier attempt's
            beat = None
        return Standing(name, "running", _how_far(beat, note), log, beat=beat)
    if "ended" in note:
        cause = note["cause"]
        if note["exit"] in _CAUSES and not cause.startswith("time limit"):
            cause = f"{_CAUSES[note['exit']]}: {cause}"
        return Standing(name, "failed", cause, log)
    return Standing(name, "failed", "killed, most often for lack of memory (137)", log, note["slurm_job"] or "")


def _how_far(beat: Beat | None, note: dict) -> str:
    now = time.time()
    where = f"{note['host']}, {'job ' + note['slurm_job'] if note['slurm_job'] else 'process ' + str(note['pid'])}"
    silent = [f"not heard of for {spelled(now - beat.at)}"] if beat and now - beat.at > _SILENT else []
    return "  ".join([*([str(beat)] if beat else []), *silent, f"{(now - note['began']) / 60:.0f} min on {where}"])


def _explained(standings: list[Standing]) -> list[Standing]:
    """Ask SLURM once why jobs were killed, and write the causes into `standings`."""
    states = slurm.job_states(s.slurm_job for s in standings if s.slurm_job)
    return [
        replace(s, detail=f"{slurm.CAUSES[states[s.slurm_job]]} (SLURM job {s.slurm_job})")
        if states.get(s.slurm_job) in slurm.CAUSES
        else s
        for s in standings
    ]


def _blocked(cells: Sequence[Cell], standings: list[Standing]) -> list[Standing]:
    """Write into the standings of waiting cells that their teacher or a member failed."""
    failed = {s.name for s in standings if s.status == "failed"}

    def waiting_for(cell: Cell, standing: Standing) -> Standing:
        awaited = [("teacher", cell.teacher), *(("member", member) for member in cell.members)]
        lost = [f"its {what} {one} failed" for what, one in awaited if one and one != cell and one.path in failed]
        return replace(standing, detail=lost[0]) if lost and standing.status == "waiting" else standing

    return list(map(waiting_for, cells, standings))


# -- what is damaged --------------------------------------------------------------------------------------------------


def faulty() -> tuple[int, list[tuple[Path, StorageError]]]:
    """Return how many products are published, and (manifest, what is wrong) for each damaged one.

    It reads every byte and compares it with the digests in the manifests. For folders of images it compares the names
    and sizes of their files.
    """
    tops = (RESULTS, DATA, SELECTIONS, RELATIONS, SEARCH, BANKS, ANSWERS, SCORES, REPORTS)
    manifests = [path for top in tops for path in _manifests(Path(top))]
    manifests += [path for path in [adopted.FILE] if on_disk(path).exists()]
    wrong = each(_wrong_with, manifests, _THREADS)  # hashing releases the GIL, so threads help
    return len(manifests), [(path, what) for path, what in zip(manifests, wrong, strict=True) if what]


def _manifests(top: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(on_disk(top), onerror=_unread):
        in_reports = f"/{MANIFESTS}" in folder
        for name in names:
            if name == files.MANIFEST or (in_reports and name.endswith(".json") and not files.is_pending(name)):
                yield named(Path(folder, name))


def _unread(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise StorageError(f"{named(Path(error.filename))}: cannot read this folder: {error.strerror}") from error


def _wrong_with(path: Path) -> StorageError | None:
    try:
        manifest = files.read_manifest(path.parent, path)
        if path == adopted.FILE:
            return None
        product = Product(manifest["kind"], manifest["name"])
        if product.manifest != path:
            return Damaged(f"{path.parent}: a copy of {product}; remove {path} and {files.AGAIN}")
        files.verified(product.folder, at=path)
        return _other_images(manifest, path)
    except StorageError as error:
        return error


def _other_images(manifest: dict, path: Path) -> Damaged | None:
    """Return an error if a folder of images holds other files than when kd read it; None if not, or if it is gone."""
    if "listing" not in manifest:
        return None
    from kd.data.prepare import holds_other_files

    folder, made = manifest["declared"]["folder"], path.parent
    if holds_other_files(manifest, folder):
        again = f"run `kd {manifest['kind']} {made.name}`"
        return Damaged(f"{folder}: holds other files than when {made} was made from it; {again}")
    return None
