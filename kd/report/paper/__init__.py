"""What was published: by Kim et al., as far as its numbers are known, in the words of kd's own table; and by others."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

from kd.measure.frames import setting, with_hyperparameters
from kd.report.identity import identity
from kd.study.paths import parse_cell


def published() -> pd.DataFrame:
    """Return one row per published number: the table's columns of the cell that is trained as theirs was, metric,
    `value` (percent), source and doubt.

    Those of the authors' 2020 draft are the best of 3 runs, each at its best epoch on the test set, whatever seed the
    cell has. Of the IJCAI paper's own numbers none is known but what `doubt` calls retold.
    """
    with files(__name__).joinpath("published.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file, keep_default_na=False)
    cells = list(map(parse_cell, rows["cell"]))
    about = pd.DataFrame([setting(cell, {"realised_rate": 0.0}) | identity(cell) for cell in cells])
    return with_hyperparameters(pd.concat([rows, about], axis=1), cells)


def benchmarks() -> pd.DataFrame:
    """Return what papers published of the pairs of RepDistiller's tables, a row for each number.

    Its columns are networks, loss, tau, alpha, logits (NaN or "" where any will do), top1 and sd (percent), source,
    rule and note.
    """
    with files(__name__).joinpath("benchmarks.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, na_values={"sd": [""], "tau": [""], "alpha": [""]})
