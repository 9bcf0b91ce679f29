"""Compare whole training loops: kd, its peers, and the convolutions alone. Writes loops.csv.

Every contestant is one process with two threads, or two processes with one. All start once and then take turns, so that
every ratio compares runs that were close in time. Numbers are medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch

from bench import RESULTS, write
from bench.worker import TRAIN, write_bank
from kd import __version__
from kd.core.startup import KEEP_MEMORY, VARIABLE
from kd.train.device import Place

ROWS = 256
FAST = 4  # epochs in a turn of a fast contestant, so that all turns take about equal time


@dataclass
class Contestant:
    """What is measured: a worker's options, the number of its processes, and whether they keep memory as kd does."""

    name: str
    student: str
    options: dict
    processes: int = 1
    keeps_memory: bool = True
    images: int = TRAIN * FAST  # images of one process in a turn
    environment: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    memory: dict = field(default_factory=dict)

    def start(self) -> None:
        environment = {**os.environ, VARIABLE: KEEP_MEMORY if self.keeps_memory else "", **self.environment}
        shared = {"student": self.student, "threads": max(1, 2 // self.processes), "epochs": FAST}
        options = json.dumps({**shared, **self.options})
        self.workers = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.worker", options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
            )
            for _ in range(self.processes)
        ]

    def wait(self) -> None:
        for worker in self.workers:
            line = worker.stdout.readline()
            if not line:
                raise RuntimeError(f"{self.name} died")
            self.memory = json.loads(line)

    def turn(self) -> None:
        began = time.perf_counter()
        for worker in self.workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        self.wait()
        self.seconds.append(time.perf_counter() - began)

    def stop(self) -> None:
        for worker in self.workers:
            worker.stdin.close()
            worker.wait()

    @property
    def rate(self) -> float:
        """Images a second, all its processes together."""
        return self.processes * self.images / median(self.seconds)


def contestants(student: str, bank: Path) -> list[Contestant]:
    """Return the contestants that train one student."""

    def kd(
        name: str, precision: str, compiles: bool, processes: int, teacher: str = "bank", epochs: int = FAST
    ) -> Contestant:
        options = {"loop": "kd", "precision": precision, "compiles": compiles, "teacher": teacher, "bank": str(bank)}
        return Contestant(name, student, {**options, "epochs": epochs}, processes, images=TRAIN * epochs)

    def peer(name: str, kind: str) -> Contestant:
        return Contestant(name, student, {"loop": "peer", "peer": kind}, keeps_memory=False, images=TRAIN)

    return [
        peer("as the paper's code", "Paper"),
        peer("as mdistiller", "Mdistiller"),
        kd("kd, teacher online", "bf16", True, 2, teacher="online", epochs=1),
        kd("kd, bank, fp32, compiled", "fp32", True, 2, epochs=1),
        kd("kd, bank, bf16, eager", "bf16", False, 2),
        kd("kd, bank, bf16, compiled, 1 cell x 2 threads", "bf16", True, 1),
        kd("kd, bank, bf16, compiled", "bf16", True, 2),
        replace(kd("kd, bank, bf16, compiled, malloc's defaults", "bf16", True, 2), keeps_memory=False),
        Contestant("convolutions alone, bf16", student, {"loop": "convolutions", "precision": "bf16"}, 2),
    ]


def teachers() -> list[Contestant]:
    """Return the contestants that fill banks, and those that only run the forward passes."""
    made = []
    for precision, rows in (("fp32", ROWS), ("bf16", 4 * ROWS)):
        for loop in ("fill", "passes"):
            options = {"loop": loop, "precision": precision, "rows": rows}
            made.append(Contestant(f"{loop}, {precision}", "bank", options, 2, images=rows))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--students", nargs="+", default=["wrn-16-2", "wrn-16-4"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder, "rows.npy")
        write_bank(bank)
        for group in [teachers(), *(contestants(student, bank) for student in options.students)]:
            rows += measured(group, options.rounds)
    write(options.out / "loops.csv", rows, by="student")
    (options.out / "machine.txt").write_text(machine() + "\n")


def machine(device: str = "cpu") -> str:
    """Describe this machine in a sentence."""
    here = Place(torch.device(device), "bf16").describe()
    where = f"{os.cpu_count()} cores of {here['device']}"
    if device != "cpu":
        cuda = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        where = f"{here['device']} and {os.cpu_count()} cores, {cuda}"
    versions = f"torch {here['torch']}, Python {here['python']}, kd {__version__}"
    return f"{where}, {versions}, {datetime.date.today()}."


def in_turns(group: list[Contestant], rounds: int) -> None:
    """Start all contestants, give each its turns, and end them."""
    with contextlib.ExitStack() as ending:
        for contestant in group:
            contestant.start()
            ending.callback(contestant.stop)
        for contestant in group:
            contestant.wait()  # until it has warmed up and compiled; all do so at once, before the timed turns
        for _ in range(rounds):
            for contestant in group:
                contestant.turn()


def measured(group: list[Contestant], rounds: int) -> list[dict]:
    """Give each contestant its turns, and return a row for each."""
    in_turns(group, rounds)
    for contestant in group:
        print(f"{contestant.student:10} {contestant.name:45} {contestant.rate:8.1f} images/s", flush=True)
    return [
        {
            "student": contestant.student,
            "loop": contestant.name,
            "processes": contestant.processes,
            "threads": 2 // contestant.processes,
            "images_per_second": round(contestant.rate, 2),
            "fastest": round(contestant.processes * contestant.images / min(contestant.seconds), 2),
            "slowest": round(contestant.processes * contestant.images / max(contestant.seconds), 2),
            "anonymous_mib": contestant.memory.get("RssAnon"),
            "file_mib": contestant.memory.get("RssFile"),
            "rounds": rounds,
        }
        for contestant in group
    ]


if __name__ == "__main__":
    main()
