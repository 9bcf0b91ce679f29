"""Show a training run: a bar on a terminal, or one line for each epoch in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping

log = logging.getLogger("kd")


class Progress:
    """Show a run of `epochs` epochs of `steps` steps."""

    def __init__(self, name: str, epochs: int, steps: int, is_first: bool = True) -> None:
        self._name, self._epochs = name, epochs
        self._began = time.monotonic()
        self._done_before: int | None = None
        self._bar = None
        if is_first and sys.stderr.isatty():
            from tqdm import tqdm  # only a terminal needs it

            self._bar = tqdm(total=epochs * steps, desc=name[-40:], unit="step", dynamic_ncols=True)

    def at(self, step: int) -> None:
        """Say that `step` steps of the whole run are done."""
        if self._done_before is None:
            self._done_before = step  # steps of an earlier process say nothing about this one's speed
        if self._bar:
            self._bar.update(step - self._bar.n)

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

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar:
            self._bar.close()


def _tested(row: Mapping[str, float]) -> str:
    """Return an epoch's results on the test set as text, "" if it was not evaluated."""
    return f"test {row['test_loss']:.4f} {row['test_top1']:.2f} %  " if "test_top1" in row else ""
