"""A copy of the project in which Snakemake runs, and functions that read what it printed and published."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from made.starting import STARTER

SMALL = {
    "study": "small",
    "dataset": "digits",
    "protocol": {"name": "quick", "epochs": 2, "batch": 64, "precision": "fp32"},
    "seeds": [0, 1],
    "experiments": {
        "losses": {
            "teacher": "resnet14",
            "student": "resnet8",
            "loss": ["ce", {"kl": {"tau": [3]}}, "mse"],
            "figure": ["dots", "curves"],
        }
    },
}
TEACHER = "digits/quick/resnet14.ce.s0"
KL3 = {f"{TEACHER}/resnet8.kl-tau3.s{seed}" for seed in (0, 1)}
MSE = {f"{TEACHER}/resnet8.mse.s{seed}" for seed in (0, 1)}
CE = {f"digits/quick/resnet8.ce.s{seed}" for seed in (0, 1)}


class Project:
    """A copy of the project in which a test may run, edit and break things."""

    forks = True  # whether `run` and `kd` fork from processes that have already imported torch (made/starting.py)

    def __init__(self, folder: Path, copy: bool = True) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for name in ("Snakefile", "config.yaml", "kd", "profiles", "workflow") if copy else ():
            take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            take(ROOT / name, folder / name)
        if copy:
            self.study(SMALL)

    def study(self, values: dict) -> None:
        """Write the study that `snakemake` runs."""
        (self.folder / "study.yaml").write_text(yaml.safe_dump(values))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", *arguments, "--cores", "2", "--configfile", "study.yaml"]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.folder)}

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run Snakemake to its end and return what it printed."""
        _, _, _, *given = self.command(*arguments)  # after `python -m snakemake`
        ended, output = STARTER.run(given, self.folder, self.environment, self.forks)
        assert ended == code, output[-6000:] + self.logs()
        return output

    def kd(self, *arguments: str, code: int = 0) -> str:
        """Run a verb to its end and return what it printed."""
        command = [STARTER.python if self.forks else sys.executable, "-m", "kd", *arguments]
        run = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert run.returncode == code, run.stdout + run.stderr
        return run.stdout + run.stderr

    def start(self, forks: bool = True) -> subprocess.Popen:
        """Start Snakemake and leave it running; without `forks` each of its jobs is a process of Python's own."""
        log = open(self.folder / "started.log", "wb")  # noqa: SIM115 (a pipe that nobody reads would fill)
        python, *arguments = self.command()
        command = [STARTER.controller if forks else python, *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def logs(self) -> str:
        return "".join(f"\n--- {path}\n{path.read_text()[-1500:]}" for path in (self.folder / "logs").rglob("*.log"))

    def planned(self, *arguments: str) -> tuple[Counter, set[str]]:
        """Return the jobs that a dry run prints: ({rule: number of jobs}, cells to train)."""
        return jobs_in(self.run("--dry-run", *arguments))

    def published(self) -> dict[str, str]:
        """Return {cell: text of its manifest}. Two trainings of a cell differ in it, because it has the seconds."""
        results = self.folder / "results"
        return {str(p.parent.relative_to(results)): p.read_text() for p in results.rglob("manifest.json")}

    def processes(self, pattern: str) -> list[int]:
        """Return the processes with a matching command that run in this folder; other tests use the same cells."""
        found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()
        return [int(pid) for pid in found if working_directory(pid) == str(self.folder.resolve())]

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text, f"{old!r} is not in {name}"
        (self.folder / name).write_text(text.replace(old, new, 1))

    def change(self, name: str) -> None:
        """Change the code of a module, but not its results."""
        with open(self.folder / name, "a") as file:
            file.write("\nCHANGED = 1\n")


def jobs_in(output: str) -> tuple[Counter, set[str]]:
    """Return the jobs that Snakemake printed: ({rule: number of jobs}, cells to train)."""
    jobs = Counter(re.findall(r"^ *(?:local)?rule (\w+):$", output, re.MULTILINE))  # jobs of a group are indented
    return jobs, {name.partition("/")[2] for name in made_by(output) if name.startswith("results/")}


def made_by(output: str) -> set[str]:
    """Return the names of the products of the jobs that Snakemake printed."""
    return set(re.findall(r"^ +output: state/stamps/q-\w+/(\S+)\.stamp\b", output, re.MULTILINE))


def working_directory(pid: str) -> str | None:
    with contextlib.suppress(OSError):  # the process may have ended
        return os.readlink(f"/proc/{pid}/cwd")
    return None


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Return the cells that were published between two calls of `published`."""
    return {name for name, manifest in after.items() if before.get(name) != manifest}


def with_losses(*losses: object, **keys: object) -> dict:
    experiment = {**SMALL["experiments"]["losses"], "loss": list(losses), **keys}
    return {**SMALL, "experiments": {"losses": experiment}}


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all test processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def wait_for(condition: object, running: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def waiting(project: Project, verb: str) -> int | None:
    """Return the process of a verb that waits for a lock of another process, or None."""
    blocked = re.findall(r"-> FLOCK +ADVISORY +WRITE (\d+) ", Path("/proc/locks").read_text())
    return next((pid for pid in project.processes(f"kd {verb}") if str(pid) in blocked), None)
