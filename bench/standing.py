"""Time `kd status` and `kd verify` on studies of 1,000 to 20,000 published cells. Writes standing.csv."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import yaml

from bench import RESULTS, write
from bench.scale import STUDY
from kd.core import files
from kd.jobs import making
from kd.study import config
from kd.study.judge import Judge

SIZES = {1_000: 11, 5_000: 56, 20_000: 222}  # cells: seeds, as in bench/scale.py
WEIGHTS = 300_000  # bytes of a cell's weights: between the demo's networks and the paper's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for seeds in SIZES.values():
        with tempfile.TemporaryDirectory() as folder:
            count = published(Path(folder), {**STUDY, "seeds": list(range(seeds))})
            rows.append(
                {
                    "cells": count,
                    "megabytes": round(count * WEIGHTS / 1e6),
                    "status_seconds": round(timed(folder, "status"), 2),
                    "verify_seconds": round(timed(folder, "verify"), 2),
                }
            )
            print(rows[-1], flush=True)
    write(options.out / "standing.csv", rows, by="cells")


def published(folder: Path, values: dict) -> int:
    """Publish every cell of a study as if the current code had trained it; return how many."""
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    judge = Judge.of_study(config.validate(values))
    made_from = [product for product in judge.everything if product.kind in ("data", "labels", "network")]
    # without fsync, which would take most of the time and only helps after a power cut
    with contextlib.chdir(folder), mock.patch.object(os, "fsync", return_value=None):
        for product in made_from:
            artefacts = {"model.safetensors": os.urandom(WEIGHTS), "metrics.csv": b"epoch\n1\n" * 200}
            about = making.about(judge, product) | {"status": "ok", "content": product.name}
            files.publish(product.folder, artefacts if product.kind == "network" else {}, about)
    return len(judge.cells)


def timed(folder: str, verb: str) -> float:
    """Return the seconds of a verb with the start of Python: the best of three, with files in the page cache."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        command = [sys.executable, "-m", "kd", verb]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
