"""Spreads of paired differences in the tables that the project keeps. Writes kd/report/spreads.csv, for `kd plan`.

Networks of one student on the same data make a table of arms (networks and losses) by seeds. What is left of an
accuracy after its arm's mean and its seed's has the spread of one network; a difference of two has sqrt(2) times that.
All arms count as equally spread, so that few seeds of many arms measure it. tests/test_planned.py computes it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
SOURCES = {
    "reports/record/table.csv": "reports/record",
    "reports/demo.csv": "the demo",
    "reports/capacity-gap/table.csv": "reports/capacity-gap",
}
VALUES = ("test_top1", "train_top1")
_DATA = ["dataset", "fraction", "noise_rate", "student"]


def main() -> None:
    frame = pd.DataFrame(measured())
    frame.to_csv(ROOT / "kd/report/spreads.csv", index=False, lineterminator="\n")
    print(frame.to_string())


def measured() -> Iterator[dict]:
    """Yield the spread of each student on each data, as sd (points) of a difference with its degrees of freedom."""
    for path, source in SOURCES.items():
        rows = pd.read_csv(ROOT / path, keep_default_na=False, na_values=[""])
        rows = rows[rows["experiment"] != "teachers"].drop_duplicates("cell") if "experiment" in rows else rows
        for (dataset, fraction, rate, student), group in rows.groupby(_DATA):
            for value in filter(group.columns.__contains__, VALUES):
                sd, df = spread(group, value)
                about = {"dataset": dataset, "fraction": fraction, "noisy": rate > 0, "student": student}
                yield {**about, "value": value, "sd": round(sd, 3), "df": df, "source": f"{source}, {df} df"}


def spread(rows: pd.DataFrame, value: str) -> tuple[float, int]:
    """Return the sd of a difference of two arms of one seed, and its degrees of freedom."""
    table = rows.pivot_table(value, ["networks", "objectives"], "seed").dropna().to_numpy()
    arms, seeds = table.shape
    rest = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    df = (arms - 1) * (seeds - 1)
    return math.sqrt(2 * float(np.square(rest).sum()) / df), df


if __name__ == "__main__":
    main()
