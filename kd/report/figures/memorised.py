"""What is memorised of wrong labels: of the mislabelled examples, how many are answered with their wrong label, how
many with their true one, per epoch while they are trained on (Liu et al. 2020, arXiv 2007.00151, look at the same two).

The rest of them are answered with a third class. Beside them the test top-1, which memorising costs.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from kd.report.figures import epochs, naming, style, wording
from kd.report.figures.epochs import View
from kd.report.statistics import settings, summarise


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw wrong labels memorised, true ones recovered and test top-1 side by side, for each noise rate."""
    return epochs.draw(_panels(rows, curves), _views)


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say how much the objectives have memorised in the last epoch, the most and the least of them."""
    panels = _panels(rows, curves)
    used = rows[rows["noise_rate"] > 0]
    found = settings(used)
    shows = (
        f"Of the training examples with a wrong label ({wording.where(used)}): how many the network answers with that "
        f"label (memorised), how many with the true one (recovered), as it is trained on them, augmented; and test "
        f"top-1. {epochs.SEEDS}{epochs.falls(panels)}"
    )
    return wording.compose(shows, naming.titles([key for key, _ in found]), [_said(frame) for _, frame in found], used)


def _panels(rows: pd.DataFrame, curves: pd.DataFrame) -> list[epochs.Panel]:
    noisy = rows[rows["noise_rate"] > 0]
    return epochs.panels("memorised", noisy, curves, "train_memorised", "and have wrong labels")


def _views(shown: pd.DataFrame) -> list[View]:
    top = style.limits(shown["train_memorised"], shown["train_recovered"])[1]
    of_wrong = "of mislabelled examples (%)"
    return [
        View("memorised", shown, "train_memorised", of_wrong, (0.0, top)),
        View("recovered", shown, "train_recovered", of_wrong, (0.0, top)),
        View("test", shown, "test_top1", style.TEST, (0.0, style.limits(shown["test_top1"])[1])),
    ]


def _said(rows: pd.DataFrame) -> str:
    """Spell the objectives that memorise most and least, each with what it recovers."""
    memorised, recovered = (
        summarise(rows, ["objective_name"], column).set_index("objective_name")
        for column in ("train_memorised", "train_recovered")
    )
    known = memorised[memorised["n"] > 0].sort_values("mean", kind="stable")
    if known.empty:
        return f"all {len(rows)} networks diverged (n = 0)"
    ends = dict.fromkeys([known.index[-1], known.index[0]])
    return "; ".join(
        f"{one} memorises {wording.mean_words(known.loc[one])} and recovers {wording.half_words(recovered.loc[one])} %"
        for one in ends
    )
