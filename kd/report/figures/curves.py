"""Learning curves: top-1 per epoch by objective, the mean over seeds; test, its end, and train.

The end of training stands beside the whole, since the objectives part there by a point or two.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from kd.report.figures import epochs, naming, style, wording
from kd.report.figures.epochs import View
from kd.report.statistics import settings

_WARM = 0.05  # share of the epochs that the accuracy axis may cut off at the start
_END = 0.7  # share of the epochs that the enlarged end leaves out
_FEWEST = 3  # epochs that are worth enlarging


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw test, its end where the run is long, and train side by side, for each setting and handful of objectives."""
    return epochs.draw(epochs.panels("curves", rows, curves), _views)


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say what the curves are of, and how they end."""
    panels = epochs.panels("curves", rows, curves)
    found = settings(rows)
    used = wording.union(frame for _, frame in found)
    said = [wording.best_words(frame) for _, frame in found]
    enlarged = ", the end of test enlarged, and" if any(len(_views(panel.epochs)) > 2 for panel in panels) else " and"
    shows = (
        f"Top-1 per epoch by objective ({wording.where(used)}): test{enlarged} train. {epochs.SEEDS}"
        f"{epochs.falls(panels)} Train is running: of each batch before its step."
    )
    cut = wording.cut(view.limits[0] for panel in panels for view in _views(panel.epochs))
    return wording.compose(shows, naming.titles([key for key, _ in found]), said, used, cut)


def _views(shown: pd.DataFrame) -> list[View]:
    """Return the axes of a panel; the end, if epochs enough are in it, begins with the last learning rate."""
    last = shown["epoch"].max()
    begin = max([_END * last, *(step for step in epochs.steps(shown) if step < 0.9 * last)])
    end = shown[shown["epoch"] >= begin]
    views = [("test", shown, "test_top1"), ("test, the end", end, "test_top1"), ("train", shown, "train_top1_running")]
    if end["epoch"].nunique() < _FEWEST:
        del views[1]
    return [View(title, of, value, style.AXES[value], _limits(of, value)) for title, of, value in views]


def _limits(shown: pd.DataFrame, value: str) -> tuple[float, float]:
    """Return the ends of the accuracy axis (percent), leaving the very first epochs below it."""
    warm = shown[shown["epoch"] > _WARM * shown["epoch"].max()]
    return style.limits(warm[value], margin=0.04)
