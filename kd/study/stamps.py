"""Stamps: all that Snakemake sees of what is current. They are empty files, the outputs and inputs of its rules.

state/stamps/<question>/ has a stamp for each product that is not to do; of data, labels, selections, banks and
answers, that would not be to do if they were asked for. The question is a digest of the study's values
and of kd's code: whoever asks something else has stamps of their own. A verb removes the stamp of what it is about to
replace, under its lock, and makes it when what it published is current. The Snakemake that a user starts projects the
judge's verdicts onto the stamps whenever it reads the Snakefile, so that a stamp that was lost, copied, dated or left
behind decides nothing.
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
PREFIX = "q-"  # no dataset, whose states lie in state/, has a protocol of such a name
VARIABLE = "KD_STAMPS"  # tells the jobs of a Snakemake its folder
DATE = 1  # seconds after 1970, of every stamp: times decide nothing
_PATIENCE_SECONDS = 20.0  # for who works on a product to have removed its stamp


def question(values: object) -> str:
    """Return the folder of who asks for a study of these values with the code of now, its plug-ins' too."""
    package = Path(__file__).parent.parent
    sources = b"".join(place.read_bytes() for place in sorted(package.rglob("*.py")))
    asked = [files.sha256(sources), code.plugins(), _plain(values)]
    digest = files.sha256(files.canonical_json(asked).encode())
    return f"{TOP}/{PREFIX}{digest[:16]}"


def _plain(values: object) -> object:
    """Return values as JSON can spell them: YAML also has infinity."""
    if isinstance(values, dict):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return list(map(_plain, values))
    return values if values is None or isinstance(values, str | bool | int) else repr(values)


def asked_for(path: str, folder: str, known: Collection[str]) -> str:
    """Return the stamp of what a published file belongs to, as a path in `folder`; any other path as it is.

    Raises SystemExit, which names the nearest, where no product of that name is `known`.
    """
    name = owner(os.path.normpath(path)) if not os.path.isabs(path) else None
    if name is None:
        return path
    if name not in known:
        raise SystemExit(f"kd: {path}: the study makes no such thing{nearest(name, known)}")
    return f"{folder}/{name}.stamp"


def make(path: Path) -> None:
    """Make a stamp. Call it while holding the lock of its product."""
    files.sweep(path.parent, path.name)
    if _date(path) == DATE:
        return
    pending = files.pending_name(on_disk(path))  # another user's stamp cannot be dated, but replaced
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
    """Remove a stamp. Call it while holding the lock of its product, before replacing that."""
    with files.storage(path):
        on_disk(path).unlink(missing_ok=True)


# -- projection -------------------------------------------------------------------------------------------------------


def project(judge: Judge, folder: str) -> None:
    """Have a stamp in `folder` for each product that is not to do, and none for those that are."""
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
            # Somebody is at work on it: the job of a thing without a stamp waits for the lock, and looks. Who asks the
            # same removes the stamp at once; who asks something else does not, and may be at work for hours.
            if not on_disk(stamp).exists() or time.monotonic() > deadline:
                return
            time.sleep(0.05)


def _settle(product: Product, judge: Judge, stamp: Path) -> None:
    """Make or remove a stamp by a verdict of now: the one that is remembered may be older than what was published."""
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


# -- whose folders live -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def living(folder: str) -> Iterator[None]:
    """Hold the folder of a question, shared with others who ask it, while the block runs; sweep those nobody holds."""
    mine = Path(f"{folder}.lock")
    with files.lock(mine, shared=True):
        _sweep(mine)
        yield


def _sweep(mine: Path) -> None:
    # a folder, too, that has no lock: a job has outlived its Snakemake, and another start the folder
    for path in {found.with_suffix(".lock") for found in files.below(Path(TOP), f"{PREFIX}*")} - {mine}:
        with contextlib.suppress(StorageError, OSError, Busy), files.lock(path, wait=False):
            shutil.rmtree(on_disk(path.with_suffix("")), ignore_errors=True)
            on_disk(path).unlink(missing_ok=True)  # last, and while it is held: who waits looks whether it is there
