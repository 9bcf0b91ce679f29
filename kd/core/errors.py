"""The ways in which kd stops, each with the exit code that a shell, Snakemake or SLURM sees.

Every message says where the error is, what kd found, what it allows, and the next command.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from kd.core.project import named


class KdError(Exception):
    """Stop with one clear message and `exit_code`. The user never sees a traceback."""

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
    """A published file is damaged, or the disk refused a write. Retry when the cause is removed."""

    exit_code = 74


class Damaged(StorageError):
    """A file is not the one that was written, or not the one that is asked for: kd makes it again.

    A file that cannot be read raises StorageError instead: it may be intact, so kd does not replace it.
    """


class Busy(KdError):
    """Another process holds the lock of this cell."""

    exit_code = 75


class Abandoned(KdError):
    """One of several processes that train a cell together has ended, so the others end too."""


class OutOfMemory(KdError):
    """The host or a GPU refused an allocation. A process that the kernel kills exits with 137, too."""

    exit_code = 137


class Unheard(KdError):
    """The reader of the output has gone, as `head` does after ten lines. This is no error, so kd prints nothing."""

    exit_code = 141  # as for a command that SIGPIPE ends


class Terminated(BaseException):
    """A signal arrived (SIGTERM: 143, SIGINT: 130); the same command goes on from what is saved.

    It is a BaseException, as KeyboardInterrupt is: it may arrive in any line of a library, and some catch Exception.
    """

    def __init__(self, signal: int, where: str) -> None:
        super().__init__(f"signal {signal}: {where}; the same command goes on from there")
        self.exit_code = 128 + signal


STOPS = (KdError, Terminated)  # they end a command with one message, and have an `exit_code`


def understood(error: BaseException) -> BaseException:
    """Translate `error` into one of STOPS (a full disk, no memory, Ctrl-C, a lost peer); return any other unchanged."""
    stop = error
    while stop is not None and not isinstance(stop, Terminated):
        stop = stop.__cause__ or stop.__context__
    if stop is not None:  # a library wrapped Terminated, or the cleanup after it failed
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
    """Return the fault of the machine behind an error in reading `path`, or None when the file is at fault.

    No memory, a signal, too many open files, a failing disk or network file system, no permission: the file may be
    intact, so no message may tell the user to replace it. Code that catches all errors of a decoder asks this first.
    """
    known = understood(error)
    if isinstance(known, OutOfMemory | Terminated):
        return known
    # A decoder raises OSError for a damaged file, too, but without an errno.
    if isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_THE_FILE:
        advice = _ADVICE.get(error.errno, "the file may be intact; the same command may well succeed")
        return StorageError(f"{_file(error) or path}: cannot read: {error.strerror}; {advice}")
    return None


def _file(error: OSError) -> object:
    """Return the file that an error names, relative to the project's root where it lies below it, or None."""
    return named(Path(error.filename)) if isinstance(error.filename, str) else error.filename


_OF_THE_FILE = frozenset({errno.ENOENT, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_ADVICE = {
    errno.EACCES: "it is not readable for you: ask its owner, or run as a user who may read it",
    errno.EMFILE: "this process may open no more files: raise `ulimit -n`",
}

# Messages of libraries that lack memory: torch's allocator, C++, oneDNN, threads, the loader of shared libraries.
_NO_MEMORY = (
    "can't allocate memory",
    "std::bad_alloc",
    "could not create a primitive",
    "can't start new thread",
    "failed to map segment",
    "is killed by signal: Killed",  # a worker that decodes images
)
# Messages of torch.distributed when a peer has ended. The peer's own message has the cause.
_NO_PEER = ("gloo/transport", "Connection closed by peer")


def _is_lack_of_memory(error: BaseException) -> bool:
    # By name and text: this module must not import torch, and torch has no class for a lack of memory on the host.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | ImportError) and any(text in str(error) for text in _NO_MEMORY)


def itemised(problems: Sequence[str], most: int = 10) -> str:
    """List the first `most` problems, one a line, and count the rest."""
    rest = [f"... and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join([*(f"  {problem}" for problem in problems[:most]), *rest])


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: in libraries, the lines after it are advice for programmers."""
    return (str(error).splitlines() or [type(error).__name__])[0]


_CLOSE = 0.75  # similarity from which a hint is given: a wrong hint costs the user more than none


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, whatever its case, else the list of what is known.

    A wrong number is rarely a typing error, so all known words that differ from `word` in numbers alone are listed.
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
