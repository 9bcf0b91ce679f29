"""Snakemake, started from a process that has imported it already: the same code in less than half the time.

A test asks `Starter.run`. Its server, this file run as a program, imports Snakemake and forks for each order: the child
is what `python -m snakemake` would be, with the folder, environment and arguments of the order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


class Starter:
    """A process that has Snakemake imported and starts it for others, one after the other."""

    def __init__(self) -> None:
        self._server: subprocess.Popen | None = None

    def run(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
        """Run Snakemake to its end; return its exit code and what it printed."""
        if self._server is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._server = subprocess.Popen([sys.executable, __file__], **pipes)  # it ends when this process does
        with tempfile.NamedTemporaryFile("r", suffix=".log", errors="replace") as log:
            order = {"arguments": arguments, "folder": str(folder), "environment": environment, "log": log.name}
            print(json.dumps(order), file=self._server.stdin, flush=True)
            return int(self._server.stdout.readline()), log.read()


STARTER = Starter()


def serve() -> None:
    """Start Snakemake for each line that is read."""
    import smart_open  # noqa: F401
    import snakemake.cli
    from snakemake.workflow import Workflow

    snakemake.cli.get_argument_parser()  # and with it all plugins
    orders = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in orders:
        child = os.fork()
        if child == 0:
            order = json.loads(line)
            become(order)
            Workflow._rundir = order["folder"]  # as it would be when Snakemake is imported there
            snakemake.cli.main()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(order: dict) -> None:
    """Have what an order says that a process has from its start."""
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    for folder in reversed(order["environment"].get("PYTHONPATH", "").split(os.pathsep)):
        sys.path.insert(0, folder)
    sys.argv = ["snakemake", *order["arguments"]]


if __name__ == "__main__":
    sys.path.pop(0)
    serve()
