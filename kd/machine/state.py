"""What a training run needs to go on after any stop: two generations on disk, sealed, safe to delete.

State is not a result (promise 2). It lies in state/<cell>/<fingerprint>/, where the fingerprint names the recipe,
the code and the inputs: a changed loss starts afresh and leaves the old state for whoever changes back.
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
_SAVING_SHARE = 0.03  # of a run's time may go into saving after an epoch
_PATIENCE_SECONDS = 60.0  # within an epoch, lose no more than this


class State:
    """The saved state of one run."""

    def __init__(self, folder: Path, header: dict) -> None:
        """Use `folder`; `header` says whose state it is and is checked when it is read."""
        self.folder = Path(folder)
        self.header = header
        self._saved_at = time.monotonic()
        self._cost = 0.0

    def load(self) -> dict | None:
        """Return the newest intact generation, or None where there is none.

        A damaged generation is passed over with a word in the log, and so is one that cannot be read where another can.
        Raises StorageError where none can, or when a state is another cell's: it was copied here by hand, and going on
        from it would publish wrong numbers.
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
        if unread is not None:  # to begin anew would cost all that it holds
            raise unread
        return None

    def save(self, content: dict) -> None:
        """Save `content` (tensors, numbers, strings, lists, dicts); the generation before it stays."""
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
        """Whether now is a moment to save: after an epoch unless saving is dear, within one after a minute."""
        since = time.monotonic() - self._saved_at
        return since * _SAVING_SHARE >= self._cost if epoch_ends else since >= _PATIENCE_SECONDS

    def clear(self) -> None:
        """Remove the saved generations."""
        for name in _GENERATIONS:
            on_disk(self.folder / name).unlink(missing_ok=True)


def _unpacked(path: Path, payload: bytes) -> dict:
    """Return the content of a state. Tensors and plain values only: anything else is refused, and nothing runs."""
    try:
        return torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    except Exception as error:  # what a malformed pickle raises has no common type
        raise Damaged(f"{path}: not a state that kd saved ({first_line(error)}); remove it") from error
