"""`kd status` and `kd verify` on studies of 1,000 to 20,000 published cells. Writes standing.csv."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from bench import RESULTS, write
from bench.scale import STUDY
from kd import cells, config, files

SIZES = {1_000: 11, 5_000: 56, 20_000: 222}  # cells: seeds, as in bench/scale.py
WEIGHTS = 300_000  # bytes of a cell's weights: between the networks of the demo and those of the paper


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
    """Lay down every cell of a study as if it were trained with the code of now; return how many."""
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    study = config.validate(values)
    every = cells.all_cells(study)
    for cell in every:
        home = folder / cell.path
        home.mkdir(parents=True, exist_ok=True)
        artefacts = {"model.safetensors": os.urandom(WEIGHTS), "metrics.csv": b"epoch\n1\n" * 200}
        for name, content in artefacts.items():
            (home / name).write_bytes(content)
        manifest = {
            "kind": "network",
            "cell": cell.path,
            "status": "ok",
            "code": cells.code_behind(cell, study.protocol),
            "protocol": study.protocol.model_dump(mode="json"),
            "files": {name: files.sha256(content) for name, content in artefacts.items()},
        }
        (home / files.MANIFEST).write_text(json.dumps(manifest))
    return len(every)


def timed(folder: str, verb: str) -> float:
    """Return the seconds that a verb takes, start of Python included: the best of three, files in the page cache."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        command = [sys.executable, "-m", "kd", verb]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
