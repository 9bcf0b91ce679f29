"""Start Snakemake and kd as forks of processes that have already done the slow imports.

`STARTER.run` runs Snakemake. `STARTER.python` is a program to start in the place of Python; the jobs of that Snakemake
use it, and so do the jobs of a Snakemake that `STARTER.controller` starts. Behind each is a server, this file run as a
program, which forks for each order: the child does what `python -m snakemake` or `python -m kd` would do, with the
folder, environment and arguments of the order. A server imports none of kd's own code, because each project folder has
its own copy.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import logging
import multiprocessing.util
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

SHARED = "KD_TEST_PYTHON"  # the program of a server that all test processes of a session share


class Starter:
    """The servers of this process. They start at the first order and end when this process ends."""

    def __init__(self) -> None:
        self._snakemake: subprocess.Popen | None = None

    def run(
        self, arguments: list[str], folder: Path, environment: dict[str, str], forks: bool = True
    ) -> tuple[int, str]:
        """Run Snakemake to its end; return its exit code and what it printed. With `forks` its jobs are forked."""
        if self._snakemake is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._snakemake = subprocess.Popen([sys.executable, __file__], **pipes)
        with tempfile.NamedTemporaryFile("r", suffix=".log", errors="replace") as log:
            order = {"arguments": arguments, "folder": str(folder), "environment": environment, "log": log.name}
            order["python"] = self.python if forks else sys.executable
            print(json.dumps(order), file=self._snakemake.stdin, flush=True)
            return int(self._snakemake.stdout.readline()), log.read()

    @functools.cached_property
    def python(self) -> str:
        """A program that does what Python does with the same arguments, but in a forked process."""
        program = Path(os.environ.get(SHARED) or self.begin())
        deadline = time.monotonic() + 120
        while not program.with_name("socket").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return str(program)

    def begin(self) -> str:
        """Start the server behind `python`, and return that program, which works as soon as the server listens."""
        folder = Path(tempfile.mkdtemp(prefix="kd-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        where = str(folder / "socket")
        self._server = subprocess.Popen([sys.executable, __file__, where], stdin=subprocess.PIPE, env=_tuned())
        client = shlex.join([sys.executable, "-IS", __file__, "--ask", where])  # with -IS it starts in 15 ms
        return _program(folder / "python", client)

    @functools.cached_property
    def controller(self) -> str:
        """A program that does what Python does with `-m snakemake` and arguments; only the jobs are forked.

        It is a process like any other, to which a test may send signals.
        """
        code = (
            f"import sys; sys.executable = {self.python!r}; sys.argv[:3] = ['snakemake'];"
            "from snakemake.cli import main; main()"
        )
        return _program(
            Path(self.python).with_name(f"controller-{os.getpid()}"), shlex.join([sys.executable, "-c", code])
        )

    def commands(self, folder: Path) -> Path:
        """Write the commands `kd` and `snakemake` to a folder, which fork; return it, for PATH."""
        folder.mkdir()
        _program(folder / "kd", shlex.join([self.python, "-m", "kd"]))
        _program(folder / "snakemake", shlex.join([self.controller, "-m", "snakemake"]))
        return folder


STARTER = Starter()


def _program(path: Path, command: str) -> str:
    """Write a program that runs a command with its own arguments; return its path."""
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return str(path)


def _tuned() -> dict[str, str]:
    from kd.core.startup import KEEP_MEMORY, VARIABLE

    return {VARIABLE: KEEP_MEMORY, **os.environ}


# -- Snakemake --------------------------------------------------------------------------------------------------------


def serve_snakemake() -> None:
    """Run Snakemake once for each line on stdin."""
    import smart_open  # noqa: F401
    import snakemake.cli
    from snakemake.workflow import Workflow

    snakemake.cli.get_argument_parser()  # imports all plugins
    prepare_to_fork()
    orders = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in orders:
        child = os.fork()
        if child == 0:
            order = json.loads(line)
            log = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
            become(order, [0, log, log])
            sys.argv, sys.executable = ["snakemake", *order["arguments"]], order["python"]
            Workflow._rundir = order["folder"]  # Snakemake sets it when it is imported, to the folder of that time
            to_its_end(snakemake.cli.main)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def prepare_to_fork() -> None:
    """Have forks start and end fast: what was imported here is neither searched for garbage nor taken apart by them."""
    import pydantic

    pydantic.create_model("First", value=(int | None, 0))  # now it imports the rest of itself, and looks for plug-ins
    atexit._clear()  # those of torch and others take 0.1 s
    weakref.finalize._registry.clear()
    for each in (logging.shutdown, weakref.finalize._exitfunc, multiprocessing.util._exit_function):
        atexit.register(each)
    gc.freeze()


def become(order: dict, streams: list[int]) -> None:
    """Take the streams, folder, environment and import path of an order."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    for folder in reversed(order["environment"].get("PYTHONPATH", "").split(os.pathsep)):
        sys.path.insert(0, folder)


def to_its_end(main: Callable[[], object]) -> NoReturn:
    """Run a program and end as Python does, but take nothing apart: that would take longer than most programs."""
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


# -- kd ---------------------------------------------------------------------------------------------------------------

# All slow modules that some verb of kd imports.
_IMPORTED = [
    "torch",
    "torch.nn",
    "torch.func",
    "torchvision",
    "numpy",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "scipy.stats",
    "seaborn",
    "sklearn.datasets",
    "PIL.Image",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
    "fontTools.subset",
    "safetensors.torch",
    "yaml",
    "jinja2",
    "tqdm",
    "multiprocessing",
    "argparse",
]


class Served(NamedTuple):
    """An order at work: its process, and the client that waits for it."""

    pid: int
    client: socket.socket

    def told(self) -> None:
        """Pass on a signal that the client sent; kill the process if the client has died."""
        said = b""
        with contextlib.suppress(OSError):
            said = self.client.recv(1)
        os.kill(self.pid, next(iter(said), signal.SIGKILL))

    def ended(self) -> None:
        """Report to the client how the process ended."""
        with self.client, contextlib.suppress(OSError):  # the client may have gone
            self.client.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))


def serve_python(where: str) -> None:
    """Run Python for each connection, in a process of its own, until stdin ends and no process is left."""
    for name in _IMPORTED:
        __import__(name)
    prepare_to_fork()
    at_work: dict[int, Served] = {}  # by a file descriptor of the process
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(where + ".new")
        server.listen()
        os.rename(where + ".new", where)
        orders: list = [server, 0]
        while orders or at_work:
            clients = [one.client for one in at_work.values()]
            ready = select.select([*orders, *at_work, *clients], [], [])[0]
            for process in [process for process, one in at_work.items() if {process, one.client} & {*ready}]:
                if process in ready:
                    at_work.pop(process).ended()
                    os.close(process)
                else:
                    at_work[process].told()
            if server in ready:
                client, _ = server.accept()
                if pid := begun(
                    client, [server.fileno(), *at_work, *(one.client.fileno() for one in at_work.values())]
                ):
                    at_work[os.pidfd_open(pid)] = Served(pid, client)
            elif 0 in ready:
                orders = []


def begun(client: socket.socket, of_server: list[int]) -> int | None:
    """Start a client's order in a process that holds no file of the server; return its number, None if it has gone."""
    text, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
    while not text.endswith(b"\n"):
        if not (more := client.recv(1 << 20)):
            return None
        text += more
    pid = os.fork()
    if pid == 0:
        for file in (client.detach(), *of_server):
            os.close(file)
        run(json.loads(text), streams)
    for stream in streams:
        os.close(stream)
    return pid


def run(order: dict, streams: list[int]) -> None:
    """Do what `python ARGUMENTS` does."""
    os.setpgid(0, 0)
    become(order, streams)
    option, module, *_ = order["arguments"]
    assert option == "-m"
    sys.path.insert(0, order["folder"])
    sys.orig_argv = [sys.executable, *order["arguments"]]
    Path("/proc/self/comm").write_text(" ".join(order["arguments"][1:3])[:15])  # its command line is the server's
    sys.argv = order["arguments"][1:]
    to_its_end(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))


def ask(where: str, arguments: list[str]) -> int:
    """Let the server run Python with these arguments; return its exit code, or die of the signal that killed it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(where)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, lambda number, frame: connection.send(bytes([number])))
        order = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        text = json.dumps(order).encode() + b"\n"
        sent = socket.send_fds(connection, [text], [0, 1, 2])
        connection.sendall(text[sent:])
        code = int(connection.recv(16) or 1)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ask"]:
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
    sys.path.pop(0)
    serve_python(sys.argv[1]) if sys.argv[1:] else serve_snakemake()
    os._exit(0)  # here, too, nothing is taken apart
