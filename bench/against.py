"""Compare kd with an earlier commit: seconds to plan, to find nothing to do, and to return from a finished verb.

python -m bench.against REV      writes against.csv: median seconds of each, and the ratio of the medians
"""

from __future__ import annotations

import argparse
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
from bench.scale import SIZES, STUDY

ROOT = Path(__file__).parent.parent
ROUNDS = 5
PARTS = ("Snakefile", "config.yaml", "kd", "profiles", "workflow")
VERBS = {  # run in a finished demo, so that each finds its product current
    "kd train": "train results/digits/demo/wrn-10-2.ce.s0 --configfile demo.yaml",
    "kd collect": "collect --configfile demo.yaml",
    "kd status": "status demo.yaml",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rev", help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 20_000], help="cells of the dry runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = {"before": checkout(options.rev, Path(folder, "before")), "now": copy(Path(folder, "now"))}
        rows = [measured(f"dry run of {size:,} cells", sides, dry_run(size), options.rounds) for size in options.sizes]
        for side in sides.values():
            demo = yaml.safe_load((ROOT / "workflow" / "studies" / "demo.yaml").read_text())
            demo["protocol"]["epochs"] = 1  # training is not timed
            (side / "demo.yaml").write_text(yaml.safe_dump(demo))
            run(side, *snakemake("demo.yaml", "--cores", "2"))
        rows.append(measured("second run of the demo", sides, second_run, options.rounds))
        for name, verb in VERBS.items():
            rows.append(measured(f"{name}, nothing to do", sides, by_hand(verb), options.rounds))
    write(options.out / "against.csv", rows, by="what")


def checkout(rev: str, folder: Path) -> Path:
    """Write the files of a commit to `folder`."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", rev, *PARTS], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
    return folder


def copy(folder: Path) -> Path:
    """Write the current files to `folder`."""
    folder.mkdir()
    for part in PARTS:
        take = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        take(ROOT / part, folder / part)
    return folder


def measured(what: str, sides: dict[str, Path], action: object, rounds: int) -> dict:
    """Return the median seconds of an action on each side. The sides take turns; the first turn does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            seconds[name].append(action(side))
    medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    ratio = medians["now"] / medians["before"]
    row = {"what": what, **{f"{name}_seconds": round(median, 3) for name, median in medians.items()}}
    print(row | {"ratio": round(ratio, 2)}, flush=True)
    return row | {"ratio": round(ratio, 2), "rounds": rounds}


def dry_run(size: int) -> object:
    """Return an action that plans a study of `size` cells of which nothing is made."""

    def plan(side: Path) -> float:
        path = side / f"{size}.yaml"
        path.write_text(yaml.safe_dump({**STUDY, "seeds": list(range(SIZES[size]))}))
        return run(side, *snakemake(path.name, "--dry-run", "--quiet", "--cores", "8"))

    return plan


def second_run(side: Path) -> float:
    """Return the seconds of a run that finds everything done."""
    return run(side, *snakemake("demo.yaml", "--cores", "2"))


def by_hand(verb: str) -> object:
    """Return an action that calls a verb of kd."""
    return lambda side: run(side, sys.executable, "-m", "kd", *verb.split())


def snakemake(study: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", *arguments, "--configfile", study]


def run(side: Path, *command: str) -> float:
    """Run a command in the folder of a side; return the seconds that it takes."""
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(side)}
    ended = subprocess.run(command, cwd=side, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed in {side}:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
