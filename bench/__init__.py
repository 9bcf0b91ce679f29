"""Measurements of kd: `make bench`, or one of them, such as `python -m bench.loops`. Not part of the package."""

from pathlib import Path

import pandas as pd

RESULTS = Path("bench/results")


def write(path: Path, rows: list[dict], by: str) -> None:
    """Write rows as CSV. Rows of the old file stay if their value of `by` was not measured this time."""
    new = pd.DataFrame(rows)
    if path.exists():
        old = pd.read_csv(path)
        new = pd.concat([old[~old[by].isin(new[by])], new])
    path.parent.mkdir(parents=True, exist_ok=True)
    new.to_csv(path, index=False)
