"""FIGURES: the table of contents. A figure is one file here, `kd/figures/NAME.py`, and one line below.

A file defines `draw(rows, curves) -> Figure` and `caption(rows, curves) -> str`; both get the rows of one experiment.
Reading this list imports neither pandas nor matplotlib, so that a study can be checked in no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kd.errors import ConfigError, nearest

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
}


def draw(name: str, rows: pd.DataFrame, curves: pd.DataFrame) -> tuple[Figure, str]:
    """Return the figure `name` of one experiment's `rows` and `curves`, with its caption.

    Raises ConfigError for an unknown name, or rows that hold nothing for this figure to show.
    """
    if name not in FIGURES:
        raise ConfigError(f"figure: no figure '{name}'{nearest(name, FIGURES)}")
    if not len(rows):
        raise ConfigError(f"figure {name}: needs the rows of an experiment, got none; collect the table again")
    module = importlib.import_module(f"kd.figures.{name}")
    style = importlib.import_module("kd.figures.style")
    with style.paper():
        return module.draw(rows, curves), module.caption(rows, curves)
