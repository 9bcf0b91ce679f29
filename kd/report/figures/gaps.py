"""What forward, reverse and adaptive KL learn first: sum |p - q| over the teacher's head and tail, per epoch.

The head is the classes that hold the first `mu` of the teacher's probability (Wu et al., arXiv 2404.02657, fig. 1).
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from kd.report.figures import epochs, naming, style, wording
from kd.report.figures.epochs import View
from kd.report.statistics import finished, settings


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw the gap of the head, the gap of the tail and test top-1 side by side."""
    return epochs.draw(_panels(rows, curves), _views)


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say how large both gaps are in the first epoch and in the last, by objective."""
    panels, used = _panels(rows, curves), _logging(rows, curves)
    found = settings(used)
    shows = (
        f"Sum of |p − q| over the head and the tail of the teacher's classes ({wording.where(used)}), as networks are "
        f"trained, and test top-1. {epochs.SEEDS}{epochs.falls(panels)}"
    )
    said = [_said(frame, curves) for _, frame in found]
    return wording.compose(shows, naming.titles([key for key, _ in found]), said, used)


def _logging(rows: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of losses that log the gaps: networks that diverged too, which have no epochs."""
    logged = curves[curves["head_gap"].notna()]["cell"] if "head_gap" in curves else []
    return rows[rows["loss"].isin(rows.loc[rows["cell"].isin(logged), "loss"])]


def _panels(rows: pd.DataFrame, curves: pd.DataFrame) -> list[epochs.Panel]:
    return epochs.panels("gaps", _logging(rows, curves), curves, "head_gap", "and log the gaps, as akl does")


def _views(shown: pd.DataFrame) -> list[View]:
    limits = [(0.0, style.limits(shown[value])[1]) for value in ("head_gap", "tail_gap", "test_top1")]
    return [
        View("head", shown, "head_gap", "sum of |p − q| over the head", limits[0]),
        View("tail", shown, "tail_gap", "sum of |p − q| over the tail", limits[1]),
        View("test", shown, "test_top1", style.TEST, limits[2]),
    ]


def _said(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    parts = []
    for name, frame in rows.groupby("objective_name", sort=False):
        own = curves[curves["cell"].isin(finished(frame)["cell"])].drop_duplicates(["cell", "epoch"])
        counted = wording.count(own["cell"].nunique(), (frame["status"] == "diverged").sum())
        means = own.groupby("epoch")[["head_gap", "tail_gap"]].mean()
        words = [
            f"{gap} from {means[f'{gap}_gap'].iloc[0]:.2f} to {means[f'{gap}_gap'].iloc[-1]:.2f}"
            for gap in ("head", "tail")
            if len(means)
        ]
        parts.append(f"{name}: {', '.join(words) or 'diverged'} ({counted})")
    return "; ".join(parts)
