"""The overhead of a cell on SLURM: as a job of its own, in an array, in packs. Writes slurm.csv.

It needs a SLURM without other jobs: `tests/cluster.sh start`. Only one job runs at a time, so that none slows another.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from bench import RESULTS, write

ROOT = Path(__file__).parent.parent
CELLS, ROUNDS = 12, 3
CONTESTANTS = {
    "a job for each cell": {},
    "an array": {"slurm-array-jobs": "train"},
    "a pack of 12": {"group-components": ["cells=12"]},
}
STUDY = {
    "study": "slurm",
    "dataset": "digits",
    "protocol": {"name": "slurm", "epochs": 60, "batch": 64, "precision": "fp32"},
    "experiments": {"cells": {"student": "resnet8", "loss": "ce"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for turn in range(ROUNDS):
        for name, profile in CONTESTANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                rows.append({"round": turn, "contestant": name, **measured(Path(folder), profile)})
            print(rows[-1], flush=True)
    for name in CONTESTANTS:
        costs = [row["seconds_beside_training"] for row in rows if row["contestant"] == name]
        print(f"{name}: {statistics.median(costs):.1f} s a cell")
    write(options.out / "slurm.csv", rows, by="contestant")


def measured(folder: Path, profile: dict) -> dict:
    """Run the study in `folder`; return the seconds per cell of its training, and of the rest of its job."""
    for name in ("Snakefile", "config.yaml", "kd", "profiles", "workflow", "slurm"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    path = folder / "slurm" / "config.yaml"
    options = yaml.safe_load(path.read_text())
    options["set-resources"]["train"] |= {"slurm_partition": "frail", "cpus_per_task": 8}  # all of its only node
    path.write_text(yaml.safe_dump(options | profile))
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "seeds": list(range(CELLS))}))
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run([sys.executable, "-m", "kd", "data", "digits"], cwd=folder, env=environment, check=True)
    command = [sys.executable, "-m", "snakemake", "students", "--cores", "all", "--profile", "slurm"]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--configfile", "study.yaml"], cwd=folder, env=environment, check=True, capture_output=True
    )
    elapsed = time.perf_counter() - began
    trained = [json.loads(path.read_text())["seconds"] for path in folder.glob("results/**/manifest.json")]
    beside = sum(job_seconds(folder)) - sum(trained)
    return {
        "cells": len(trained),
        "training_seconds": round(statistics.mean(trained), 2),
        "seconds_beside_training": round(beside / len(trained), 2),
        "wall_seconds": round(elapsed, 1),
    }


def job_seconds(folder: Path) -> list[int]:
    """Return how many seconds each job from `folder` ran on its node."""
    command = ["squeue", "--noheader", "--states=all", "--array", "--format=%Z %M"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    clocks = [line.split()[1] for line in lines if line.split()[0] == str(folder)]
    return [sum(60**n * int(part) for n, part in enumerate(reversed(clock.split(":")))) for clock in clocks]


if __name__ == "__main__":
    main()
