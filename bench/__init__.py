"""Measurements of kd: `make bench`, or `python -m bench.loops` and so on for one of them. Not part of the package."""

from pathlib import Path

import pandas as pd

RESULTS = Path("bench/results")


def write(path: Path, rows: list[dict], by: str) -> None:
    """Write rows as CSV; those that are there and whose `by` was not measured this time stay."""
    new = pd.DataFrame(rows)
    if path.exists():
        old = pd.read_csv(path)
        new = pd.concat([old[~old[by].isin(new[by])], new])
    path.parent.mkdir(parents=True, exist_ok=True)
    new.to_csv(path, index=False)
