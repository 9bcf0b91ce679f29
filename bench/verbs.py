"""Train the networks of a study by kd's verbs, where there is no Snakemake: python -m bench.verbs STUDY [--at-once N].

Networks of one generation are trained N at once, after a bank of each of their teachers is filled; on a GPU under MPS,
where that runs. What is done already is not done again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kd
from bench.mps import service


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as served:
        os.environ |= served
        sys.exit(made())


def made() -> int:
    """Make the study that the command line names; return 1 if a verb failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--at-once", type=int, default=1)
    options = parser.parse_args()
    shares = ["--cells-per-gpu", str(options.at_once)]

    def verb(name: str, what: str, *more: str) -> int:
        began = time.monotonic()
        said = [*more, "--configfile", options.study]
        code = subprocess.run([sys.executable, "-m", "kd", name, what, *said], check=False).returncode
        print(f"{time.monotonic() - began:7.1f} s  exit {code}  kd {name} {what}", flush=True)
        return code

    cells = sorted(kd.open(options.study).cells(), key=lambda cell: len(cell.stages))
    failed = [verb("data", name) for name in {str(cell.dataset) for cell in cells}]
    for _, generation in itertools.groupby(cells, key=lambda cell: len(cell.stages)):
        trained = list(generation)
        teachers = {cell.teacher.path for cell in trained if cell.teacher and cell.stage.objective.needs_teacher}
        failed += [verb("bank", path, *shares) for path in sorted(teachers)]
        with ThreadPoolExecutor(options.at_once) as pool:
            failed += pool.map(lambda path: verb("train", path, *shares), [cell.path for cell in trained])
        if any(failed):
            return 1
    return 0


if __name__ == "__main__":
    main()
