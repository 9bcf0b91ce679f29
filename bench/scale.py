"""Time and memory of dry runs of studies of 100 to 20,000 cells, and kd's share of the time. Writes scale.csv."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from bench import RESULTS, write

SIZES = {100: 1, 1_000: 11, 5_000: 56, 20_000: 222}  # {cells: seeds}; each seed adds 90 cells
STUDY = {
    "study": "scale",
    "dataset": "cifar100",
    "protocol": {"name": "scale", "epochs": 200},
    "experiments": {
        "grid": {
            "teacher": ["wrn-28-4", "wrn-16-4"],
            "student": ["wrn-16-2", "wrn-28-2"],
            "label_noise": {"symmetric": [0, 0.4]},
            "loss": ["ce", {"kl": {"tau": [1, 3, 5, 20, "inf"], "alpha": [0.5, 1]}}, "mse"],
            "figure": "dots",
        }
    },
}
_KD = """
import time
began = time.perf_counter()
from kd.study import config, expansion, plain_yaml
imported = time.perf_counter()
study = config.validate(config.merged(plain_yaml.read_yaml({path!r})))
found = expansion.all_cells(study)
expansion.taught_by(found)
print(len(found), imported - began, time.perf_counter() - imported)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, seeds in SIZES.items():
            path = Path(folder, f"{size}.yaml")
            path.write_text(yaml.safe_dump({**STUDY, "seeds": list(range(seeds))}))
            code = [sys.executable, "-c", _KD.format(path=str(path))]
            cells, imports, study = subprocess.run(code, check=True, capture_output=True, text=True).stdout.split()
            seconds, memory = dry_run(path)
            rows.append(
                {
                    "cells": int(cells),
                    "dry_run_seconds": round(seconds, 2),
                    "dry_run_mib": memory,
                    "kd_import_seconds": round(float(imports), 3),
                    "kd_study_seconds": round(float(study), 3),
                }
            )
            print(rows[-1], flush=True)
    write(options.out / "scale.csv", rows, by="cells")


def dry_run(path: Path) -> tuple[float, int]:
    """Return the seconds and the peak resident MiB of `snakemake --dry-run`."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "--cores", "8", "--configfile", str(path)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed")
    return time.perf_counter() - began, used.ru_maxrss // 1024


if __name__ == "__main__":
    main()
