"""Show a training run: a bar on a terminal, or one line for each epoch in a log; and a heartbeat for `kd status`."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from kd.core import heartbeat
from kd.core.heartbeat import Beat

log = logging.getLogger("kd")

_lock: Path | None = None  # of the run whose heartbeat is written


@contextlib.contextmanager
def heard(lock: Path) -> Iterator[None]:
    """Have the run in this block leave heartbeats beside `lock`. They go when it succeeds, and stay when it fails."""
    global _lock
    _lock = lock
    try:
        yield
        heartbeat.clear(lock)
    finally:
        _lock = None


class Progress:
    """Show a run of `epochs` epochs of `steps` steps."""

    def __init__(self, name: str, epochs: int, steps: int, is_first: bool = True) -> None:
        self._name, self._epochs, self._steps = name, epochs, steps
        self._began = self._step = 0.0
        self._lock = _lock if is_first else None
        self._beaten = -heartbeat.EVERY
        self._known: dict[str, float | None] = {}
        self._bar = None
        if is_first and sys.stderr.isatty():
            from tqdm import tqdm  # only a terminal needs it

            self._bar = tqdm(total=epochs * steps, desc=name[-40:], unit="step", dynamic_ncols=True)

    def at(self, step: int) -> None:
        """Say that `step` steps of the whole run are done."""
        if not self._began:
            self._mark(step)  # steps of an earlier process say nothing about this one's speed
        if self._bar:
            self._bar.update(step - self._bar.n)
        if self._lock and time.monotonic() - self._beaten >= heartbeat.EVERY:
            self._beat(step)

    def epoch(self, row: Mapping[str, float], images_per_second: float) -> None:
        """Show the numbers of an epoch that ended."""
        text = (
            f"epoch {row['epoch']}/{self._epochs}  lr {row['lr']:g}  "
            f"train {row['train_loss']:.4f} {row['train_top1_running']:.2f} %  "
            f"{_tested(row)}{images_per_second:,.0f} images/s"
        )
        if self._bar:
            self._bar.set_postfix_str(_tested(row).strip())
        else:
            log.info(text)
        if not self._known:
            self._mark(row["epoch"] * self._steps)  # the first epoch compiles, which says nothing about the others
        self._known |= {"images_per_second": images_per_second}
        self._known |= {"test_top1": row["test_top1"]} if "test_top1" in row else {}

    def _mark(self, step: int) -> None:
        self._began, self._step = time.monotonic(), step

    def _beat(self, step: int) -> None:
        self._beaten = time.monotonic()
        done, every = step - self._step, self._steps * self._epochs
        left = (self._beaten - self._began) / done * (every - step) if done else None
        beat = Beat(time.time(), step // self._steps, self._epochs, step / every, seconds_left=left)
        heartbeat.write(self._lock, beat._replace(**self._known))

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar:
            self._bar.close()


def _tested(row: Mapping[str, float]) -> str:
    """Return an epoch's results on the test set as text, "" if it was not evaluated."""
    return f"test {row['test_loss']:.4f} {row['test_top1']:.2f} %  " if "test_top1" in row else ""
