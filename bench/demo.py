"""The demo's figure in README.md and docs/results.md, and the rows of the demo's table.

python -m bench.demo              draw the figure again from reports/demo.csv, which takes a second
python -m bench.demo --trained    after `make demo`: copy the rows first

It prints the numbers that the texts beside the figure must have; tests/test_demo.py checks the texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pandas as pd

from kd.core.files import write_atomic
from kd.machine.processor import cpu_name, processor
from kd.report.figures import draw, style
from kd.report.own_claims import read_table
from kd.study import products
from kd.study.config import merged, validate
from kd.study.expansion import cells_of
from kd.study.judge import Judge
from kd.study.plain_yaml import read_yaml
from kd.study.recipes import brief, since

STUDY, EXPERIMENT, FIGURE = Path("workflow/studies/demo.yaml"), "noise", "tau"
ROWS, PICTURE = Path("reports/demo.csv"), Path("reports/demo-noise.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", action="store_true", help="take the rows of reports/demo/table.csv")
    if parser.parse_args().trained:
        taken(Path("reports/demo/table.csv")).to_csv(ROWS, index=False)
    rows = read_table(ROWS)
    write_atomic(PICTURE, picture(rows))
    low, high = gain(rows)
    print(f"{PICTURE}: {rows['commit'].iloc[0]}; with wrong labels {low} to {high} points above CE")


def taken(table: Path) -> pd.DataFrame:
    """Return the students' rows of a table, each with a digest of its recipe, the commit and the machine."""
    rows = pd.read_csv(table)
    rows = rows[rows["experiment"] != "teachers"].dropna(axis="columns", how="all")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
    return rows.assign(recipe=rows["cell"].map(recipes()), commit=f"commit {commit.stdout.strip()}", machine=machine())


def machine() -> str:
    """Name the processor and torch's version: they decide the bits of a network that is trained on one thread."""
    return f"{cpu_name()} {processor()}, torch {metadata.version('torch')}"


def recipes() -> dict[str, str]:
    """Return {path of a student: digest of its recipe}. The code is not part of it."""
    study = validate(merged(read_yaml(STUDY)))
    judge = Judge.of_study(study)
    students = [cell for name in study.experiments for cell in cells_of(study, name)]
    return {cell.path: _digest(judge.expected(products.network(cell)).recipe) for cell in students}


def _digest(recipe: dict) -> str:
    said = json.dumps(brief(recipe, since("network", recipe)), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def picture(rows: pd.DataFrame) -> Callable[[Path], None]:
    """Return a function that writes the figure as PNG."""
    figure, _ = draw(FIGURE, rows[rows["experiment"] == EXPERIMENT], pd.DataFrame())
    return style.pictures(figure, "demo")["demo.png"]


def above(rows: pd.DataFrame) -> pd.Series:
    """Return how many points the mean of each distilled objective is above the mean of CE, under label noise."""
    means = rows[rows["noise_rate"] > 0].groupby("objective")["test_top1"].mean()
    return means.drop("ce") - means["ce"]


def gain(rows: pd.DataFrame) -> tuple[int, int]:
    """Return the smallest and largest of these gains, in whole points, as the texts give them."""
    return round(above(rows).min()), round(above(rows).max())


if __name__ == "__main__":
    main()
