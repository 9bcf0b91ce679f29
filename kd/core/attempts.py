"""Record what became of an attempt: a note beside the lock of a thing, from the start of the work until it succeeds.

A stage that fails writes the cause into its note. A killed stage cannot: it leaves a note with a start and no end, and
a lock that the kernel has released. `kd status` reads both.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import socket
import subprocess
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from kd.core import files, signals
from kd.core.errors import STOPS, StorageError, Terminated, understood
from kd.core.project import on_disk

_RESERVE = 2 << 20  # bytes of address space, freed when the work fails: if memory has run out, the note needs some


@contextlib.contextmanager
def at_work(lock: Path) -> Iterator[None]:
    """Wait for `lock`, hold it, and keep a note beside it until the block succeeds."""
    note = _note(lock)
    with files.lock(lock):
        files.sweep(note.parent, note.name)
        with _noted(note):
            yield


@contextlib.contextmanager
def _noted(path: Path) -> Iterator[None]:
    note = {
        "began": time.time(),  # to the last digit: a heartbeat of the same millisecond is not older
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }

    def ended(error: BaseException) -> None:
        code = error.exit_code if isinstance(error, STOPS) else 1
        with contextlib.suppress(StorageError):  # the disk may be full: the first error must stay the one that is seen
            _write(path, note | {"ended": time.time(), "exit": code, "cause": _cause(error)})

    reserve = mmap.mmap(-1, _RESERVE)
    _write(path, note)
    try:
        with signals.last_words(ended):
            yield
    except BaseException as error:
        reserve.close()
        traceback.clear_frames(error.__traceback__)  # frees the tensors that the frames of training still hold
        ended(understood(error))
        raise
    on_disk(path).unlink(missing_ok=True)


def last_attempt(lock: Path) -> dict | None:
    """Return the note of the attempt that runs now or of the last one, if that did not succeed; else None.

    Raises StorageError that names the note when it is damaged.
    """
    note = _note(lock)
    return files.unseal(note)[0] if on_disk(note).exists() else None


def _note(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.json")


def _write(path: Path, note: dict) -> None:
    files.seal(path, note, b"")


def _cause(error: BaseException) -> str:
    if isinstance(error, STOPS):
        limit = "time limit; " if isinstance(error, Terminated) and _time_is_up() else ""
        return f"{limit}{error}"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"


def _time_is_up() -> bool:
    """Say whether this process runs in a SLURM job that has reached its time limit."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return False
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["squeue", "--noheader", f"--jobs={job}", "--format=%L"]  # the time left
        left = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=5
        ).stdout.strip()
        return re.fullmatch(r"INVALID|0:0\d", left) is not None  # squeue prints INVALID for a negative time
    return False
