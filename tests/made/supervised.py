"""Run work in a forked child, and decide for each of its storage calls: allow it, fail it, or kill the child.

It uses seccomp's user notification. The child stops in every system call that its filter names, whichever library makes
it, until this process says whether the kernel does the call or returns an error number. It needs Linux on x86-64.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CALLS = {  # numbers on x86-64
    1: "write",
    2: "open",
    18: "pwrite",
    20: "writev",
    26: "msync",
    74: "fsync",
    75: "fdatasync",
    76: "truncate",
    77: "ftruncate",
    82: "rename",
    83: "mkdir",
    84: "rmdir",
    85: "creat",
    87: "unlink",
    257: "openat",
    258: "mkdirat",
    263: "unlinkat",
    264: "renameat",
    280: "utimensat",
    285: "fallocate",
    296: "pwritev",
    316: "renameat2",
}
_OF_HANDLES = {"write", "pwrite", "writev", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate"}
_AT = {"openat": 1, "mkdirat": 1, "unlinkat": 1, "renameat": 1, "renameat2": 1, "utimensat": 1}  # {call: path argument}
_FLAGS = {"open": 1, "openat": 2}  # {call: argument that has the flags}
_TO = {"rename": 1, "renameat": 3, "renameat2": 3}  # {call: argument that has the new name}

_ARCH_X86_64, _ALLOW, _NOTIFY = 0xC000003E, 0x7FFF0000, 0x7FC00000
_SECCOMP, _NO_NEW_PRIVS, _LISTENER = 317, 38, 1 << 3
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_NOTIFICATION = struct.Struct("<QIIiIQ6Q")  # id, pid, flags; number, architecture, instruction pointer, arguments
_ANSWER = struct.Struct("<QqiI")  # id, value, error, flags
KILL = -1


class Call(NamedTuple):
    """A storage call: its kind and its file. The kind `openw` opens for writing, `openr` for reading."""

    kind: str
    path: str
    to: str = ""  # of a rename

    @property
    def changes(self) -> bool:
        """Whether the call changes what is stored, so that a full disk may refuse it."""
        return self.kind != "openr"


class Ended(NamedTuple):
    """How a child ended."""

    code: int
    said: str
    calls: list[Call]  # on files below its folder


def refusal() -> str | None:
    """Return why this machine cannot supervise calls, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "no seccomp of Linux on x86-64"
    try:
        if "user_notif" not in Path("/proc/sys/kernel/seccomp/actions_avail").read_text():
            return "a kernel without seccomp's user notification"
        supervised(lambda: 0, Path("/nowhere"))
    except OSError as error:
        return f"seccomp is refused: {error}"
    return None


def supervised(
    work: Callable[[], int], folder: Path, decide: Callable[[Call], int | None] = lambda call: None
) -> Ended:
    """Run `work` in `folder` in a child; return how the child ended. What `work` returns is its exit code.

    `decide` says what happens to each call below the folder: None allows it, an error number is returned instead of it,
    and KILL kills the child. Call it from a process without threads.
    """
    folder = Path(folder).resolve()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    said = os.memfd_create("said")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ours.close()
            os.dup2(said, 1)
            os.dup2(said, 2)
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            if folder.is_dir():
                os.chdir(folder)
            _watch(theirs)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    theirs.close()
    calls: list[Call] = []
    try:
        handles = array.array("i")
        word, sent, _, _ = ours.recvmsg(8, socket.CMSG_LEN(4))
        for _, _, data in sent:
            handles.frombytes(data[:4])
        if not handles:
            os.waitpid(child, 0)
            raise OSError(int(word or b"0"), "no listener")
        _attend(handles[0], child, f"{folder}/", decide, calls)
        os.close(handles[0])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Ended(code, os.pread(said, 1 << 24, 0).decode(errors="replace"), calls)
    finally:
        ours.close()
        os.close(said)


def _watch(parent: socket.socket) -> None:
    """Make this process stop in each of CALLS, and send the listener to the parent."""
    libc = ctypes.CDLL(None, use_errno=True)
    instruction = struct.Struct("<HBBI")
    numbers = sorted(CALLS)
    program = [(0x20, 0, 0, 4), (0x15, 1, 0, _ARCH_X86_64), (0x06, 0, 0, _ALLOW), (0x20, 0, 0, 0)]
    program += [(0x15, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    program += [(0x06, 0, 0, _ALLOW), (0x06, 0, 0, _NOTIFY)]
    code = ctypes.create_string_buffer(b"".join(instruction.pack(*line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code)))
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = libc.syscall(_SECCOMP, 1, _LISTENER, ctypes.byref(header))
    if listener < 0:
        parent.sendmsg([b"%d" % ctypes.get_errno()])
        os._exit(1)
    parent.sendmsg([b"0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
    os.close(listener)
    parent.close()


def _attend(listener: int, child: int, below: str, decide: Callable[[Call], int | None], calls: list[Call]) -> None:
    """Answer every call until all supervised processes have ended."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        ((_, events),) = poll.poll()
        if not events & select.POLLIN:
            return
        received = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, received)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # the caller was killed
                continue
            raise
        number, task, _, nr, _, _, *arguments = _NOTIFICATION.unpack(received)
        answer = None
        call = _understood(task, CALLS[nr], arguments)
        if call and (call.path.startswith(below) or call.to.startswith(below)):
            inside = Call(call.kind, call.path.removeprefix(below), call.to.removeprefix(below))
            calls.append(inside)
            answer = decide(inside)
        if answer == KILL:
            os.kill(child, signal.SIGKILL)
            continue
        said = _ANSWER.pack(number, 0, 0, _CONTINUE) if answer is None else _ANSWER.pack(number, 0, -answer, 0)
        try:
            fcntl.ioctl(listener, _SEND, bytearray(said))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise


def _understood(task: int, kind: str, arguments: list[int]) -> Call | None:
    """Return the call in which a task stopped, or None if it is not on a file or cannot be read."""
    try:
        if kind == "msync":
            return Call(kind, _mapped(task, arguments[0]))
        if kind in _OF_HANDLES:
            return Call(kind, os.readlink(f"/proc/{task}/fd/{arguments[0] & 0xFFFFFFFF}"))
        place = _AT.get(kind, 0)
        folder = ctypes.c_int(arguments[0] & 0xFFFFFFFF).value if place else -100
        path = _absolute(task, folder, _text(task, arguments[place])) if arguments[place] else _handle(task, folder)
        to = ""
        if kind in _TO:
            at = ctypes.c_int(arguments[2] & 0xFFFFFFFF).value if _TO[kind] == 3 else -100
            to = _absolute(task, at, _text(task, arguments[_TO[kind]]))
        if kind in _FLAGS:
            flags = arguments[_FLAGS[kind]]
            kind = "openw" if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) else "openr"
        return Call({"creat": "openw"}.get(kind, kind), path, to)
    except OSError:
        return None


def _text(task: int, address: int) -> str:
    with open(f"/proc/{task}/mem", "rb", buffering=0) as memory:
        found = b""
        while b"\0" not in found and len(found) < 4096:
            memory.seek(address + len(found))
            found += memory.read(256 - (address + len(found)) % 256)  # within a page, because the next may be unmapped
    return os.fsdecode(found.partition(b"\0")[0])


def _absolute(task: int, folder: int, path: str) -> str:
    if not path.startswith("/"):
        top = os.readlink(f"/proc/{task}/cwd") if folder == -100 else _handle(task, folder)
        path = f"{top}/{path}"
    return os.path.normpath(path)


def _handle(task: int, handle: int) -> str:
    return os.readlink(f"/proc/{task}/fd/{handle}")


def _mapped(task: int, address: int) -> str:
    for line in Path(f"/proc/{task}/maps").read_text().splitlines():
        if line.startswith(f"{address:x}-"):
            return line.split(maxsplit=5)[-1]
    return ""
