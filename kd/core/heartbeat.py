"""How far a training is: some numbers in a file beside its lock, written every few seconds while it runs.

A heartbeat is state, no result, and nothing is decided by it. If it cannot be written, the training goes on; if it is
damaged, it counts as absent.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from kd.core.duration import spelled
from kd.core.files import pending_name
from kd.core.project import on_disk

EVERY = 10.0  # seconds between two heartbeats


class Beat(NamedTuple):
    """How far a run was at a moment. What it does not know yet is None."""

    at: float  # seconds since 1970
    epoch: int  # epochs that are finished
    epochs: int
    share: float  # of all steps of the run, done in this process or before
    images_per_second: float | None = None
    test_top1: float | None = None  # %
    seconds_left: float | None = None

    def __str__(self) -> str:
        told = [f"epoch {self.epoch}/{self.epochs}"]
        told += [f"{self.test_top1:.2f} %"] if self.test_top1 is not None else []
        told += [f"{self.images_per_second:,.0f} images/s"] if self.images_per_second is not None else []
        told += [f"{spelled(self.seconds_left)} left"] if self.seconds_left is not None else []
        return "  ".join(told)


def write(lock: Path, beat: Beat) -> None:
    """Write the heartbeat of the run that holds `lock`, if the disk allows it."""
    place = on_disk(_path(lock))
    pending = pending_name(place)
    with contextlib.suppress(OSError):
        try:
            pending.write_text(json.dumps(beat._asdict()), encoding="utf-8")
            os.replace(pending, place)
        except OSError:
            pending.unlink(missing_ok=True)


def read(lock: Path) -> Beat | None:
    """Return the last heartbeat of the run that holds `lock`, or held it; None if it left none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        beat = Beat(**json.loads(on_disk(_path(lock)).read_text(encoding="utf-8")))
        if isinstance(beat.at + beat.share, int | float) and str(beat):  # what is no number raises TypeError
            return beat
    return None


def clear(lock: Path) -> None:
    """Remove the heartbeat of a run that has succeeded."""
    with contextlib.suppress(OSError):
        on_disk(_path(lock)).unlink(missing_ok=True)


def _path(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.beat.json")
