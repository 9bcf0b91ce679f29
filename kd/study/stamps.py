"""Stamps are empty files, the outputs and inputs of Snakemake's rules. Snakemake sees nothing else.

state/stamps/<question>/ has a stamp for each product that is not to do (judged as if asked for, where it may be
deleted). The question is a digest of the study's values and of kd's code, so that another study, or other code, has
stamps of its own. Under the product's lock a verb removes the stamp before it replaces the product, and makes it when
the published product is current. Whenever a user's Snakemake reads the Snakefile, kd makes and removes stamps as the
judge says (it projects them). So a stamp that was lost, copied, touched or left behind decides nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from kd.core import code, files
from kd.core.errors import Busy, StorageError, nearest
from kd.core.project import on_disk
from kd.study.cells import STATE
from kd.study.judge import Judge
from kd.study.leftovers import forget_what_is_published
from kd.study.products import Product, owner

TOP = f"{STATE}/stamps"
PREFIX = "q-"  # states lie in state/DATASET/PROTOCOL, and no protocol has a name with a dash
VARIABLE = "KD_STAMPS"  # Snakemake's jobs read their folder of stamps from it
DATE = 1  # seconds after 1970: all stamps have the same time, so that times decide nothing
_PATIENCE_SECONDS = 20.0  # how long to wait until a job at work has removed its stamp


def question(values: object) -> str:
    """Return the folder of stamps for a study of these values with the current code of kd and of its plug-ins."""
    package = Path(__file__).parent.parent
    sources = b"".join(place.read_bytes() for place in sorted(package.rglob("*.py")))
    asked = [files.sha256(sources), code.plugins(), _plain(values)]
    digest = files.sha256(files.canonical_json(asked).encode())
    return f"{TOP}/{PREFIX}{digest[:16]}"


def _plain(values: object) -> object:
    """Return values as JSON can spell them; YAML, unlike JSON, has infinity."""
    if isinstance(values, dict):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return list(map(_plain, values))
    return values if values is None or isinstance(values, str | bool | int) else repr(values)


def asked_for(path: str, folder: str, known: Collection[str]) -> str:
    """Replace the path of a published file by the stamp of its product in `folder`; return any other path unchanged.

    Raises SystemExit that names the nearest product, if no product of that name is `known`.
    """
    name = owner(os.path.normpath(path)) if not os.path.isabs(path) else None
    if name is None:
        return path
    if name not in known:
        raise SystemExit(f"kd: {path}: the study makes no such thing{nearest(name, known)}")
    return f"{folder}/{name}.stamp"


def make(path: Path) -> None:
    """Make a stamp. Call it while you hold the lock of its product."""
    files.sweep(path.parent, path.name)
    if _date(path) == DATE:
        return
    pending = files.pending_name(on_disk(path))  # a rename can replace another user's stamp, os.utime cannot date it
    try:
        with files.storage(path):
            pending.parent.mkdir(parents=True, exist_ok=True)
            pending.touch()
            os.utime(pending, (DATE, DATE))
            os.replace(pending, on_disk(path))
    except StorageError:
        with contextlib.suppress(OSError):
            pending.unlink(missing_ok=True)
        raise


def remove(path: Path) -> None:
    """Remove a stamp. Call it before you replace its product, while you hold the product's lock."""
    with files.storage(path):
        on_disk(path).unlink(missing_ok=True)


# -- projection -------------------------------------------------------------------------------------------------------


def project(judge: Judge, folder: str) -> None:
    """Make a stamp in `folder` for each product that is not to do, and remove the stamps of those that are."""
    judge.look_at(judge.everything)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for product in judge.everything:
        _project(product, judge, Path(product.stamp(folder)), deadline)


def _project(product: Product, judge: Judge, stamp: Path, deadline: float) -> None:
    date = _date(stamp)
    if judge.is_to_do(product) == (date is None):
        if date not in (None, DATE):
            make(stamp)
        return
    while True:
        try:
            with files.lock(product.lock, wait=False):
                _settle(product, judge, stamp)
                return
        except Busy:
            # Another process is at work on it. If it asks the same question, it soon removes the stamp; if not, it may
            # work for hours: give up. The job of a product without a stamp waits for the lock, and then judges again.
            if not on_disk(stamp).exists() or time.monotonic() > deadline:
                return
            time.sleep(0.05)


def _settle(product: Product, judge: Judge, stamp: Path) -> None:
    """Judge again and make or remove a stamp: the product may be newer than the verdict that is remembered."""
    if not judge.same(product):
        judge = judge.again()
    if judge.is_to_do(product):
        remove(stamp)
    else:
        forget_what_is_published(product, judge.manifest(product))
        make(stamp)


def _date(stamp: Path) -> float | None:
    try:
        return os.stat(on_disk(stamp)).st_mtime
    except OSError:
        return None


# -- folders in use ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def living(folder: str) -> Iterator[None]:
    """Hold the folder of a question while the block runs, shared with other processes; remove folders nobody holds."""
    mine = Path(f"{folder}.lock")
    with files.lock(mine, shared=True):
        _sweep(mine)
        yield


def _sweep(mine: Path) -> None:
    # Also folders without a lock: a job made a stamp after its Snakemake had ended and another had removed the folder.
    for path in {found.with_suffix(".lock") for found in files.below(Path(TOP), f"{PREFIX}*")} - {mine}:
        with contextlib.suppress(StorageError, OSError, Busy), files.lock(path, wait=False):
            shutil.rmtree(on_disk(path.with_suffix("")), ignore_errors=True)
            on_disk(path).unlink(missing_ok=True)  # last, and under the lock: a process that waits for it checks for it
