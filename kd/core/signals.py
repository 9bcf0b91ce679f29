"""SIGTERM and SIGINT end this process, whatever it is doing.

A handler that raises is no guarantee. Code that catches everything swallows what it raises, and so do destructors;
through an import nothing may be raised; and while a library computes or waits in its own code, no handler runs. So a
thread insists: it has the handler run again until what was raised arrives in `main`, and after a while it ends the
process itself. Training is given the time to end its step and to save its state.
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

PATIENCE = 15.0  # seconds for a step of training to end: with GRACE, less than the 30 s after which SLURM kills
GRACE = 10.0  # seconds for what was raised to arrive in main, before the process ends without it
_EVERY = 2.0  # seconds between two tries
_LAST_WORDS = 2.0  # seconds for notes to be written when the process ends without main
_ASK = (signal.SIGTERM, signal.SIGINT)
_WARN = signal.SIGUSR1  # long before the end: training saves its state and stops, however long its step lasts

Words = Callable[[Terminated], object]
_last_words: list[Words] = []


class _Watch:
    """The thread that insists, and what it knows."""

    def __init__(self) -> None:
        self.noted: list[int] | None = None  # the signals that training has been told of, while it asks
        self.saving = False
        self.expired = False  # training has not reacted
        self.caught = False  # main has what was raised: raise no more
        self._asked = 0  # the signal by which the process is to end
        self._since = 0.0
        self._main = threading.main_thread().ident
        self._told, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)  # written to at once, even while no handler can run
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def received(self, number: int, frame: FrameType | None) -> None:
        """Note a signal, raise Terminated, or end the process where it imports: what the handler does."""
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
        """Do not insist on a signal that came when all was done but to publish it."""
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
        """End the process where it stands. The kernel drops its locks, and what is half written counts for nothing."""
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
    """Keep the signals of a child, which has no such thread, from being taken for its parent's."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)


def _received(number: int, frame: FrameType | None) -> None:
    _started().received(number, frame)


def _is_under_way() -> bool:
    """Say whether the interrupted code is at work because of what was raised: cleaning up, or writing it down."""
    error = sys.exception()
    while error is not None and not isinstance(error, Terminated):
        error = error.__context__
    return error is not None


def _imports(frame: FrameType | None) -> bool:
    """Say whether the interrupted code imports a module.

    What is raised there may be swallowed and leave half a module behind, and C++ code that it goes through aborts.
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
    """Have SIGTERM and SIGINT raise Terminated from now on, and end the process if that does not."""
    _started()
    for number in _ASK:
        signal.signal(number, _received)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASK)
    show = sys.unraisablehook
    sys.unraisablehook = lambda said: None if isinstance(said.exc_value, Terminated) else show(said)


def ending() -> Terminated | None:
    """Return why this process is to end although what was raised is not what arrived, or None.

    Where code swallows it, what arrives is what fails because of that.
    """
    return _watch.ending() if _watch else None


def caught() -> None:
    """Raise no more: main has what was raised. It still has GRACE seconds to end."""
    _started().caught = True


def unheed(until_heeded: bool = False) -> None:
    """Have SIGTERM and SIGINT end the process as they do by themselves, and lose none that is on its way.

    Or have them wait, until this program, started again, calls `heed`.
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
    """End the process and those it has started, and wait for nothing."""
    if multiprocessing := sys.modules.get("multiprocessing"):
        with contextlib.suppress(Exception):
            for child in multiprocessing.active_children():
                child.terminate()
    os._exit(code)


# -- training ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def noted() -> Iterator[list[int]]:
    """Collect the signals that ask for an end in a list while the block runs, instead of raising between two writes.

    Where the block does not end within PATIENCE seconds of one, Terminated is raised in it. Only a main thread can have
    handlers: in another one the list stays empty.
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
    """Let what the block saves take its time, whatever signals arrive."""
    if _watch is None:  # nobody listens: not the main thread
        yield
        return
    _watch.saving = True
    try:
        yield
    finally:
        _watch.saving = False


@contextlib.contextmanager
def last_words(say: Words) -> Iterator[None]:
    """Have `say` called if the process must end while the block runs, and main cannot."""
    _last_words.append(say)
    try:
        yield
    finally:
        _last_words.remove(say)
