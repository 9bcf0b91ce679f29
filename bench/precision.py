"""Compare bf16 with fp32: accuracies of two runs of a study that differ only in precision, paired by cell.

python -m bench.precision reports/bf16/table.csv reports/fp32/table.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from scipy import stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs=2, type=Path)
    first, second = (pd.read_csv(path) for path in parser.parse_args().tables)
    print(compared(first, second).to_markdown(index=False))


def compared(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return, by network and objective, the paired difference of top-1 with its 95 % t interval and p."""
    pairs = keyed(first).merge(keyed(second), on="cell", suffixes=("", "_other"), validate="one_to_one")
    rows = []
    for (network, objective), group in pairs.groupby(["student", "objective"], sort=True):
        gap = group.test_top1 - group.test_top1_other
        low, high = stats.ttest_1samp(gap, 0).confidence_interval()
        rows.append(
            {
                "network": network,
                "objective": objective,
                "pairs": len(gap),
                "first": round(group.test_top1.mean(), 2),
                "second": round(group.test_top1_other.mean(), 2),
                "difference": round(gap.mean(), 2),
                "95 % interval": f"[{low:.2f}, {high:.2f}]",
                "p": round(stats.ttest_1samp(gap, 0).pvalue, 3),
            }
        )
    return pd.DataFrame(rows)


def keyed(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each cell, named by its path without the protocol."""
    cells = table.drop_duplicates("cell").copy()
    cells["cell"] = cells.cell.str.replace(r"^([^/]+/[^/]+)/[^/]+/", r"\1/", regex=True)
    return cells


if __name__ == "__main__":
    main()
