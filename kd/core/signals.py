"""SIGTERM and SIGINT end this process, whatever it is doing.

A handler that raises is not enough. Code that catches all exceptions, or a destructor, swallows what the handler
raises; in an import it may not raise at all; and while a library computes or waits in C, no handler runs. So a thread
insists: it sends the signal again until `main` has caught the exception, and after a while it ends the process itself.
Training gets the time to end its step and to save its state.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from kd.core.errors import Terminated

PATIENCE = 15.0  # seconds for a step of training to end; PATIENCE + GRACE is less than the 30 s after which SLURM kills
GRACE = 10.0  # seconds for main to catch the exception; then the thread ends the process
_EVERY = 2.0  # seconds between two tries
_LAST_WORDS = 2.0  # seconds for writing notes when the thread ends the process
_ASK = (signal.SIGTERM, signal.SIGINT)
_WARN = signal.SIGUSR1  # sent long before the time limit: training saves and stops, however long its step lasts

Words = Callable[[Terminated], object]
_last_words: list[Words] = []


class _Watch:
    """The thread that insists, and its state."""

    def __init__(self) -> None:
        self.noted: list[int] | None = None  # the signals that arrived in a block of `noted()`; None outside one
        self.saving = False
        self.expired = False  # training did not stop within PATIENCE
        self.caught = False  # main has caught the exception: raise no more
        self._asked = 0  # the signal that is to end the process, or 0
        self._since = 0.0
        self._main = threading.main_thread().ident
        self._told, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)  # CPython writes to it even while no handler can run
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def received(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: note it for training, or raise Terminated, or in an import end the process."""
        if self.noted is not None and not self.expired:
            self.noted.append(number)
        elif number != _WARN and not self.caught and not _is_under_way():
            self._asked = self._asked or number
            if _imports(frame):
                self._leave()
            raise self._stop(number)

    def ending(self) -> Terminated | None:
        """Return why this process is to end, or None."""
        return self._stop(self._asked) if self._asked else None

    def forget(self) -> None:
        """Ignore a signal that came when training was done: publishing takes a moment, so let it end."""
        self._asked = 0

    def _stop(self, number: int) -> Terminated:
        if self.expired:
            return Terminated(number, f"no step ended within {PATIENCE:.0f} s; the state that was saved before stays")
        return Terminated(number, "terminated" if number == signal.SIGTERM else "interrupted")

    def _watch(self) -> None:
        while True:
            asking = [number for number in os.read(self._told, 64) if number in _ASK]
            if asking:
                self._asked, self._since = asking[0], time.monotonic()
                self._insist()

    def _insist(self) -> None:
        while self._asked and signal.getsignal(self._asked) is _received:
            time.sleep(_EVERY)
            lasted = time.monotonic() - self._since
            if self.saving:
                self._since = time.monotonic()
                continue
            if self.noted is not None and not self.expired:
                if lasted < PATIENCE:
                    continue
                self.expired, self._since = True, time.monotonic()
            elif lasted > GRACE:
                self._leave()
            if self._asked:
                signal.pthread_kill(self._main, self._asked)

    def _leave(self) -> None:
        """End the process at once. The kernel releases its locks; unfinished files count as absent."""
        error = self._stop(self._asked)
        writer = threading.Thread(target=_say_last_words, args=(error,), daemon=True)
        writer.start()
        writer.join(_LAST_WORDS)
        with contextlib.suppress(OSError):
            os.write(2, f"kd: {error}\n".encode())
        leave_now(error.exit_code)


_watch: _Watch | None = None


def _started() -> _Watch:
    global _watch
    if _watch is None:
        _watch = _Watch()
        os.register_at_fork(after_in_child=_deaf_child)
    return _watch


def _deaf_child() -> None:
    """Unset the wakeup fd in a child. It shares the pipe, so its signals would look like signals to the parent."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)


def _received(number: int, frame: FrameType | None) -> None:
    _started().received(number, frame)


def _is_under_way() -> bool:
    """Say whether Terminated was already raised, and the interrupted code cleans up or writes a note because of it."""
    error = sys.exception()
    while error is not None and not isinstance(error, Terminated):
        error = error.__context__
    return error is not None


def _imports(frame: FrameType | None) -> bool:
    """Say whether the interrupted code imports a module.

    An exception there may be swallowed and leave half a module behind, and it aborts C++ code on its way.
    """
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _say_last_words(error: Terminated) -> None:
    for say in list(_last_words):
        with contextlib.suppress(Exception):
            say(error)


# -- a command --------------------------------------------------------------------------------------------------------


def heed() -> None:
    """Make SIGTERM and SIGINT raise Terminated from now on, and end the process if the exception is lost."""
    _started()
    for number in _ASK:
        signal.signal(number, _received)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASK)
    show = sys.unraisablehook
    sys.unraisablehook = lambda said: None if isinstance(said.exc_value, Terminated) else show(said)


def ending() -> Terminated | None:
    """Return the signal's Terminated if one is to end this process, else None.

    `main` asks this about any other exception: it may be a consequence, because some code swallowed Terminated.
    """
    return _watch.ending() if _watch else None


def caught() -> None:
    """Raise no more, because main has caught Terminated. It still has GRACE seconds to end."""
    _started().caught = True


def unheed(until_heeded: bool = False) -> None:
    """Restore the default action of SIGTERM and SIGINT without losing a signal that has just arrived.

    With `until_heeded` they stay blocked, until this program, started again by exec, calls `heed`.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _ASK)
    try:
        for number in _ASK:
            signal.signal(number, signal.SIG_DFL)
    except Terminated:
        until_heeded = False
        raise
    finally:
        if not until_heeded:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASK)


def leave_now(code: int) -> None:
    """End the process and its children at once."""
    if multiprocessing := sys.modules.get("multiprocessing"):
        with contextlib.suppress(Exception):
            for child in multiprocessing.active_children():
                child.terminate()
    os._exit(code)


# -- training ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def noted() -> Iterator[list[int]]:
    """Collect signals in a list while the block runs, instead of raising Terminated between two writes.

    If the block does not end within PATIENCE seconds after SIGTERM or SIGINT, Terminated is raised in it. Only the main
    thread can have handlers: in another thread the list stays empty.
    """
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    watch, arrived = _started(), []
    handlers = {number: signal.signal(number, _received) for number in (*_ASK, _WARN)}
    watch.noted, watch.expired = arrived, False
    try:
        yield arrived
        watch.forget()
    finally:
        watch.noted = None
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if handlers[signal.SIGTERM] is not _received:
            watch.forget()


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Stop the clocks of PATIENCE and GRACE while the block saves."""
    if _watch is None:  # no handlers: training runs outside the main thread
        yield
        return
    _watch.saving = True
    try:
        yield
    finally:
        _watch.saving = False


@contextlib.contextmanager
def last_words(say: Words) -> Iterator[None]:
    """Call `say` if the thread has to end the process while the block runs, because main did not."""
    _last_words.append(say)
    try:
        yield
    finally:
        _last_words.remove(say)
