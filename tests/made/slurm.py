"""A project that runs on a SLURM."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from conftest import ROOT

from kd.__main__ import main
from made.project import SMALL, Project

ACCOUNTING = os.environ.get("KD_TEST_CLUSTER") == "accounting"
EPOCHS = 50  # seconds of an idle core
LONG = {
    **SMALL,
    "protocol": {"name": "long", "epochs": EPOCHS, "batch": 64, "precision": "fp32"},
    "seeds": [0],
    "experiments": {"one": {"student": "resnet8", "loss": "ce"}},
}
CELL = "digits/long/resnet8.ce.s0"


class OnSlurm(Project):
    """A project that runs with `--profile slurm`, and records each epoch it trains and each state it saves."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        shutil.copytree(ROOT / "slurm", folder / "slurm")
        self.shims = folder / "shims"
        self.shims.mkdir()
        for module, line, event in (
            ("machine/progress", '        text = (\n            f"epoch', "epoch {self._name} {row['epoch']}"),
            # after the state is on the disk, because a job that is killed before has saved nothing
            (
                "machine/state",
                "        self._cost = self._saved_at",
                "saved {self.folder} {content['position']['epoch']}",
            ),
        ):
            note = f'        with open("events.txt", "a") as events:\n            print(f"{event}", file=events)\n'
            self.edit(f"kd/{module}.py", line, note + line)
        # The executor asks about the jobs after 2 seconds, then after 12 more, 22, 32: most of a test would be waiting.
        last = "\n    plugin.Executor.check_active_jobs = checked"
        self.edit("kd/core/patches.py", last, f"        executor.next_seconds_between_status_checks = 2\n{last}")
        self.target: list[str] = []
        self.controller: subprocess.Popen | None = None
        self.profile(**{"slurm-init-seconds-before-status-checks": 2, "max-status-checks-per-second": 1})

    def profile(self, **options: object) -> None:
        """Replace options of the profile, as a user would for a cluster."""
        path = self.folder / "slurm" / "config.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **options}))

    def resources(self, rule: str, **resources: object) -> None:
        """Replace resources of a rule in the profile."""
        profile = yaml.safe_load((self.folder / "slurm" / "config.yaml").read_text())
        profile["set-resources"].setdefault(rule, {}).update(resources)
        self.profile(**profile)

    def command(self, *arguments: str) -> list[str]:
        return [*super().command(*self.target, *arguments), "--profile", "slurm"]

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.shims}:{os.environ['PATH']}"
        return {**super().environment, "PATH": path}

    def kd(self, *arguments: str) -> str:
        """Return what a verb prints, whatever its exit code."""
        command = [sys.executable, "-m", "kd", *arguments]
        run = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        return run.stdout + run.stderr

    def slurm(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=True
        ).stdout

    def shim(self, name: str, script: str) -> None:
        """Replace a command of SLURM by a script, which can call the real command as $real."""
        path = self.shims / name
        path.write_text(f"#!/bin/bash\nreal={shutil.which(name)}\ncount={self.folder}/{name}.count\n{script}\n")
        path.chmod(0o755)

    def jobs(self, state: str = "all") -> list[str]:
        """Return this project's jobs in `state`."""
        lines = self.slurm("squeue", "--noheader", f"--states={state}", "--format=%A %Z").splitlines()
        return [line.split()[0] for line in lines if line.split()[1] == str(self.folder)]

    def events(self, kind: str) -> list[int]:
        """Return the epochs of the recorded events `epoch` or `saved`, in order."""
        path = self.folder / "events.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [int(line.split()[-1]) for line in lines if line.startswith(kind)]

    def running(self, epochs: int = 10) -> str:
        """Wait until so many more epochs are trained; return the job that trains them."""
        before = len(self.events("epoch"))
        wait_for(lambda: len(self.events("epoch")) >= before + epochs and self.jobs("running"))
        return self.jobs("running")[0]

    def ended(self, snakemake: subprocess.Popen, code: int = 0, seconds: float = 500) -> str:
        assert snakemake.wait(seconds) == code, self.said()
        return self.said()

    def start(self) -> subprocess.Popen:
        self.controller = super().start(forks=False)
        return self.controller

    def close(self) -> None:
        """End all jobs and processes, however the test ended."""
        if self.controller:
            self.controller.kill()
            self.controller.wait()
        for job in self.jobs("running,pending,suspended,completing"):
            self.slurm("scancel", job)
        for pid in self.processes("snakemake"):  # its node may have been down when its job was cancelled
            os.kill(pid, 9)

    def said(self) -> str:
        return (self.folder / "started.log").read_text() + self.logs()


def wait_for(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.2)


def assert_nothing_saved_was_trained_again(project: OnSlurm, epochs: int = EPOCHS) -> None:
    """Assert that all epochs are trained in order, and that after a stop training goes on from the last saved one."""
    saved = 0
    expected = 1
    for line in (project.folder / "events.txt").read_text().splitlines():
        epoch = int(line.split()[-1])
        if line.startswith("saved"):
            saved = epoch
        else:
            assert epoch in (expected, saved + 1), line
            expected = epoch + 1
    assert expected == epochs + 1


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[OnSlurm]:
    """Yield a project with one cell to train and its data prepared; end all its jobs afterwards."""
    made = OnSlurm(folder)
    made.study(LONG)
    made.target = ["students"]
    with contextlib.chdir(folder):
        assert main(["data", "digits", "--configfile", "study.yaml"]) == 0
    yield made
    made.close()
