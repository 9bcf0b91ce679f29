"""The ways in which kd stops, each with the exit code that a shell, Snakemake or SLURM sees.

Every message says where, what was got, what is allowed, and the next command.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KdError(Exception):
    """Stop with one clear message and `exit_code`; never shown as a traceback."""

    exit_code = 1


class ConfigError(KdError):
    """A study, a path or an option says something that kd does not know. Retrying cannot help."""

    exit_code = 2


class DataError(KdError):
    """A dataset, label file or table is missing, damaged or not what it should be."""

    exit_code = 2


class Diverged(KdError):
    """A loss became NaN or infinite. The cell is published as diverged and not retried."""

    exit_code = 65


class StorageError(KdError):
    """A published file is damaged, or the disk refused a write. Worth a retry once the cause is mended."""

    exit_code = 74


class Busy(KdError):
    """Another process holds the lock of this cell."""

    exit_code = 75


class Terminated(KdError):
    """A signal arrived (SIGTERM: 143, SIGINT: 130); the state is saved and the same command goes on from it."""

    def __init__(self, signal: int, where: str) -> None:
        super().__init__(f"signal {signal}: {where}; the state is saved, the same command goes on from there")
        self.exit_code = 128 + signal


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, else the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
