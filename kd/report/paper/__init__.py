"""What Kim et al. published, as far as its numbers are known, in the words of kd's own table."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

from kd.report.figures import naming


def published() -> pd.DataFrame:
    """Return one row per published number: networks, objectives, metric, `value` (percent), source and doubt.

    Those of the authors' 2020 draft are the best of 3 runs, each at its best epoch on the test set. Of the IJCAI
    paper's own tables no number is known but what `doubt` calls unverified.
    """
    with files(__name__).joinpath("published.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file, keep_default_na=False)
    last = rows["objectives"].str.rpartition(" > ")[2]
    parsed = [naming.parse(objective) for objective in last]
    return rows.assign(
        objective=last,
        loss=[loss for loss, _, _ in parsed],
        tau=[numbers.get("tau") for _, numbers, _ in parsed],
        alpha=[None if loss == "ce" else numbers.get("alpha", 1.0) for loss, numbers, _ in parsed],
        stages=rows["objectives"].str.count(">") + 1,
    )
