"""The ways in which kd stops, each with the exit code that a shell, Snakemake or SLURM sees.

Every message says where, what was got, what is allowed, and the next command.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from kd.core.project import named


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


class Damaged(StorageError):
    """What lies there is not what was written, or not what is asked for: it is made anew.

    Of a file that could not be read nothing is known: that is a StorageError, and what it holds still counts.
    """


class Busy(KdError):
    """Another process holds the lock of this cell."""

    exit_code = 75


class Abandoned(KdError):
    """One of several processes that trained a cell together is gone, and the others with it."""


class OutOfMemory(KdError):
    """An allocation was refused, on the host or on a GPU. 137 is also what a shell says of a killed process."""

    exit_code = 137


class Unheard(KdError):
    """Whoever was to read what is printed has gone, as `head` does. Nothing is wrong, and nobody is told."""

    exit_code = 141  # what a shell says of a command that SIGPIPE ends


class Terminated(BaseException):
    """A signal arrived (SIGTERM: 143, SIGINT: 130); the same command goes on from what is saved.

    No Exception, as KeyboardInterrupt is none: it arrives in any line, of libraries too, some of which catch all.
    """

    def __init__(self, signal: int, where: str) -> None:
        super().__init__(f"signal {signal}: {where}; the same command goes on from there")
        self.exit_code = 128 + signal


STOPS = (KdError, Terminated)  # what ends a command with one message, and has an `exit_code`


def understood(error: BaseException) -> BaseException:
    """Return `error` as one of STOPS that it amounts to: a full disk, no memory, Ctrl-C, a lost peer; else itself."""
    stop = error
    while stop is not None and not isinstance(stop, Terminated):
        stop = stop.__cause__ or stop.__context__
    if stop is not None:  # what cleaning up after it raised, or a library made of it
        return stop
    if _is_lack_of_memory(error):
        return OutOfMemory(f"out of memory: {first_line(error)}; give it more, or train fewer cells at once")
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_PEER):
        return Abandoned(
            f"another process that trained this cell has ended ({first_line(error)}); the same command goes "
            "on from the last saved state"
        )
    if isinstance(error, BrokenPipeError):
        return Unheard("nobody reads what is printed")
    if isinstance(error, OSError):
        return StorageError(f"{_file(error) or 'storage'}: {error.strerror or error}")
    if isinstance(error, KeyboardInterrupt):
        return Terminated(2, "interrupted")
    return error


def of_the_machine(error: BaseException, path: object) -> BaseException | None:
    """Return what the machine did that was taken for a fault of `path`, or None where that file is at fault.

    No memory, a signal, too many open files, a disk or a network file system that fails, no permission: the file is as
    it was, so nobody may be told to replace it. Whoever catches all that a decoder raises asks this first.
    """
    known = understood(error)
    if isinstance(known, OutOfMemory | Terminated):
        return known
    # A decoder that calls a file damaged raises OSError too, without a number.
    if isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_THE_FILE:
        advice = _ADVICE.get(error.errno, "nothing is known of what it holds; the same command may well succeed")
        return StorageError(f"{_file(error) or path}: cannot read: {error.strerror}; {advice}")
    return None


def _file(error: OSError) -> object:
    """Return which file an error is of, spelled as elsewhere, or None."""
    return named(Path(error.filename)) if isinstance(error.filename, str) else error.filename


_OF_THE_FILE = frozenset({errno.ENOENT, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_ADVICE = {
    errno.EACCES: "it is not readable for you: ask its owner, or run as who may read it",
    errno.EMFILE: "this process may open no more files: raise `ulimit -n`",
}

# What the libraries below say of it: torch's allocator, C++, oneDNN, threads, and the loader of shared libraries.
_NO_MEMORY = (
    "can't allocate memory",
    "std::bad_alloc",
    "could not create a primitive",
    "can't start new thread",
    "failed to map segment",
    "is killed by signal: Killed",  # a worker that decodes images
)
# What torch.distributed says of a process that has ended: its message, not this one, has the cause.
_NO_PEER = ("gloo/transport", "Connection closed by peer")


def _is_lack_of_memory(error: BaseException) -> bool:
    # By name and text: this module must not import torch, which has a class for a GPU's memory and none for the host's.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | ImportError) and any(text in str(error) for text in _NO_MEMORY)


def itemised(problems: Sequence[str], most: int = 10) -> str:
    """Return problems one to a line, `most` of them before the rest is counted."""
    rest = [f"... and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join([*(f"  {problem}" for problem in problems[:most]), *rest])


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; those of libraries go on with advice that is not for users."""
    return (str(error).splitlines() or [type(error).__name__])[0]


_CLOSE = 0.75  # a hint that points elsewhere costs more than none


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, whatever its case, else the list of what is known.

    A number is no slip of the pen: of words that differ in their numbers alone, all are listed.
    """
    known = sorted(known)
    by_lower = {one.lower(): one for one in known}
    if close := difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=_CLOSE):
        alike = [one for one in known if _numberless(one) == _numberless(word)]
        if close[0] == word.lower() or not alike:
            return f"; did you mean '{by_lower[close[0]]}'?"
        known = alike
    return f"; known: {', '.join(known)}"


def _numberless(word: str) -> str:
    return re.sub("[0-9]+", "0", word.lower())
