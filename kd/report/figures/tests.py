"""Accuracy on further test sets: for each of them rows as `dots` has, seeds and the paired difference to CE."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from kd.measure.scores import tests_in
from kd.report.comparisons import Compared, against_ce
from kd.report.figures import dots, naming, wording
from kd.report.figures.dots import Panel
from kd.report.statistics import finished, settings


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw for each setting a panel for its own test set and for each further one."""
    panels, compared = _panels(rows)
    return dots.forests(panels, compared, 2 if len(panels) > 2 else 1)


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say of each test set which objective has the highest mean, and how it stands against CE and the second."""
    panels, compared = _panels(rows)
    used = wording.union(frame for _, frame in _settings(rows))
    drawn = wording.union(panel.frame for panel in panels)
    shows = (
        f"Top-1 by objective, on the test set and on further ones ("
        f"{wording.where(used)}). {dots.explained(drawn, compared)}"
    )
    said = [wording.best_words(panel.frame) for panel in panels]
    cut = wording.cut(dots.span(panel.frame)[0] for panel in panels)
    return wording.compose(shows, [panel.title for panel in panels], said, used, cut)


def _settings(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    found = settings(rows)
    return list(zip(naming.titles([key for key, _ in found]), [frame for _, frame in found], strict=True))


def _panels(rows: pd.DataFrame) -> tuple[list[Panel], dict[str, Compared]]:
    """Return a panel for each setting and test set, and how its cells, which each names anew, compare with CE."""
    further = tests_in(rows)
    if not further or not len(finished(rows)):
        raise wording.nothing("tests", "networks that were tested on further test sets", rows)
    shown = {"test": rows}
    for name, column in further.items():
        # What teachers reach there stands in their own rows, which belong to another experiment.
        there = rows.assign(test_top1=rows[column], teacher_top1=math.nan)
        shown[name] = there.assign(cell=f"{name}: " + rows["cell"])
    compared = {cell: one for frame in shown.values() for cell, one in against_ce(frame).items()}
    panels = []
    for same in zip(*map(_settings, shown.values()), strict=True):
        for name, (title, frame) in zip(shown, same, strict=True):
            objectives = frame["objective_name"].unique()
            titled = ", ".join(filter(None, [title, name]))
            panels.append(Panel(titled, frame.assign(row=frame["objective_name"]), [(one, one) for one in objectives]))
    return panels, compared
