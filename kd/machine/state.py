"""What a training run needs to go on after any stop: two sealed generations on disk. They may be deleted.

State is not a result (promise 2). It lies in state/<cell>/run-<fingerprint>/. The fingerprint covers the recipe, the
code and the inputs: with a changed loss training starts afresh, and the old state stays in case the user changes back.
"""

from __future__ import annotations

import io
import logging
import os
import time
from pathlib import Path

import torch

from kd.core import files
from kd.core.errors import Damaged, StorageError, first_line
from kd.core.project import on_disk

log = logging.getLogger("kd")

_GENERATIONS = ("last.pt", "previous.pt")
_SAVING_SHARE = 0.03  # saving after epochs may take at most this share of a run's time
_PATIENCE_SECONDS = 60.0  # within an epoch, a stop loses at most this much work


class State:
    """The saved state of one run."""

    def __init__(self, folder: Path, header: dict) -> None:
        """Keep the state in `folder`. `header` names its cell and fingerprint; `load` checks it."""
        self.folder = Path(folder)
        self.header = header
        self._saved_at = time.monotonic()
        self._cost = 0.0

    def load(self) -> dict | None:
        """Return the newest intact generation, or None if there is none.

        A generation that is damaged or cannot be read is skipped with a warning. Raises StorageError when one cannot be
        read and no other is intact, or when a state belongs to another cell: somebody copied it here, and going on from
        it would publish wrong numbers.
        """
        unread = None
        for name in _GENERATIONS:
            path = self.folder / name
            if not on_disk(path).exists():
                continue
            try:
                header, payload = files.unseal(path)
            except StorageError as error:
                unread = unread if isinstance(error, Damaged) else error
                log.warning("%s; going on from the generation before it", error)
                continue
            if header != self.header:
                raise StorageError(
                    f"{path}: this state is of {header}, but this run is {self.header}; "
                    f"remove {self.folder}, or train with --fresh, to start anew"
                )
            return _unpacked(path, payload)
        if unread is not None:  # it may be intact, and starting afresh would lose its work
            raise unread
        return None

    def save(self, content: dict) -> None:
        """Save `content` (tensors, numbers, strings, lists, dicts) and keep the generation before it."""
        began = time.monotonic()
        buffer = io.BytesIO()
        torch.save(content, buffer)
        last, previous = (self.folder / name for name in _GENERATIONS)
        if on_disk(last).exists():
            with files.storage(previous):
                os.replace(on_disk(last), on_disk(previous))
        files.seal(last, self.header, buffer.getvalue())
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began

    def due(self, epoch_ends: bool) -> bool:
        """Whether to save now: after an epoch, unless saving takes too long; within an epoch, once a minute."""
        since = time.monotonic() - self._saved_at
        return since * _SAVING_SHARE >= self._cost if epoch_ends else since >= _PATIENCE_SECONDS

    def clear(self) -> None:
        """Remove the saved generations."""
        for name in _GENERATIONS:
            on_disk(self.folder / name).unlink(missing_ok=True)


def _unpacked(path: Path, payload: bytes) -> dict:
    """Return the content of a state. Only tensors and plain values are accepted, so no code in the file can run."""
    try:
        return torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    except Exception as error:  # a malformed pickle raises errors of many types
        raise Damaged(f"{path}: not a state that kd saved ({first_line(error)}); remove it") from error
