"""FIGURES: the table of contents. A figure is one file here, `kd/report/figures/NAME.py`, and one line below.

A file defines `draw(rows, curves) -> Figure` and `caption(rows, curves) -> str`; both get the rows of one experiment,
with a `look` for each (kd.report.figures.style). They take axes and names from the table's columns.
One that shows what networks answer gets an analysis (kd.measure.analyses) in the place of the curves: `ANALYSES` says
which.
Reading this list imports neither pandas nor matplotlib, so that a study can be checked in no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kd.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FIGURES: dict[str, str] = {
    "heatmap": "alpha x tau grid of one student: test top-1 beside train top-1",
    "dots": "objectives compared, one row each: seeds, mean, 95 % interval",
    "tau": "test top-1 against tau under label noise, CE and MSE as references",
    "chains": "sequential distillation: every path and mix of objectives",
    "curves": "learning curves by objective: test and train top-1 per epoch",
    "memorised": "label noise: wrong labels memorised and true ones recovered, per epoch",
    "selection": "best epoch on the test set against the last: what selecting on the test set adds",
    "fidelity": "how near students are to their teacher: agreement, KL, CKA, mean logit",
    "calibration": "calibration error, NLL, entropy, and the gap between train and test",
    "densities": "densities of the distance to the teacher's logits, pre-logit norm, true-class margin",
    "planes": "pre-logits of three classes on the plane of their templates",
    "limits": "the gradient of KL against its limits, label matching and logit matching, over tau",
}
ANALYSES: dict[str, str] = {
    "fidelity": "measures",
    "calibration": "measures",
    "densities": "densities",
    "planes": "planes",
    "limits": "limits",
}


def draw(name: str, rows: pd.DataFrame, more: pd.DataFrame) -> tuple[Figure, str]:
    """Return the figure `name` of one experiment's `rows`, with its caption; `more` are the curves, or its analysis.

    Raises ConfigError for an unknown name, or rows that hold nothing for this figure to show.
    """
    if name not in FIGURES:
        raise ConfigError(f"figure: no figure '{name}'{nearest(name, FIGURES)}")
    if not len(rows):
        raise ConfigError(f"figure {name}: needs the rows of an experiment, got none; collect the table again")
    module = importlib.import_module(f"kd.report.figures.{name}")
    style = importlib.import_module("kd.report.figures.style")
    rows = rows.assign(look=style.looks(rows))
    with style.paper():
        return module.draw(rows, more), module.caption(rows, more)
