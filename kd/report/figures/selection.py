"""Best on test against last epoch: what choosing the epoch on the test set adds to each objective, and whether it
changes their order.

The paper's draft reports the best of all epochs, and of three runs. Nothing else here is selected on the test set.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd.report.figures import style, wording
from kd.report.figures.dots import ROW, label_rows
from kd.report.statistics import finished, summarise

_GAP = "best on test − last (points)"


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw a row of panels for each setting: means of last and best, and the gap of every seed."""
    panels = wording.panels("selection", rows)
    names = wording.objectives(rows, [frame for _, frame in panels])
    figure = style.canvas(style.DOUBLE, len(panels) * (0.75 + ROW * len(names)) + 0.3)
    grid = figure.subplots(len(panels), 2, squeeze=False, sharey=True, width_ratios=[3, 2])
    for (left, right), (title, frame) in zip(grid, panels, strict=True):
        _top1(left, frame, names)
        _gaps(right, frame, names)
        style.head(left, title, 2)
        label_rows(left, names)
    _legend(figure)
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say how large the gap is, where it is largest, and which objectives change places by it."""
    panels = wording.panels("selection", rows)
    used = wording.union(frame for _, frame in panels)
    shows = (
        f"Test top-1 after the last epoch and in the epoch that is best on the test set ({wording.where(used)}): means "
        f"over seeds, and the gap of each seed with the mean's 95 % interval. Ranks are by the mean."
    )
    return wording.compose(shows, [title for title, _ in panels], [_said(frame) for _, frame in panels], used)


def _means(frame: pd.DataFrame) -> pd.DataFrame:
    """Return last, best, and gap with its interval, for each objective; NaN where all its networks diverged."""
    of = {
        name: summarise(frame, ["objective_name", "look"], column).set_index("objective_name")
        for name, column in (("last", "test_top1"), ("best", "best_test_top1"), ("gap", "best_gap"))
    }
    return of["gap"].assign(last=of["last"]["mean"], best=of["best"]["mean"])


def _said(frame: pd.DataFrame) -> str:
    table = _means(frame)[lambda means: means["n"] > 0]
    most, ranks = table["mean"].idxmax(), table[["last", "best"]].rank(ascending=False, method="min")
    moved = [name for name in table.index if ranks.loc[name, "last"] != ranks.loc[name, "best"]]
    change = f"{len(moved)} of {len(table)} objectives change rank: {', '.join(moved)}" if moved else "no rank changes"
    return (
        f"the gap is {table['mean'].mean():.2f} points on average and largest for {most}, "
        f"{wording.half_words(table.loc[most])} ({wording.count(*table.loc[most, ['n', 'diverged']])}); {change}"
    )


def _top1(axis: Axes, frame: pd.DataFrame, names: list[str]) -> None:
    table = _means(frame)
    for place, name in enumerate(names):
        axis.axhline(place, color="#e4e4e4", linewidth=0.5, zorder=0)
        if name not in table.index:
            continue
        line, look = table.loc[name], table.loc[name, "look"]
        axis.plot([line["last"], line["best"]], [place, place], color=look.color, linewidth=1, zorder=2)
        mark = {"marker": look.marker, "color": look.color, "markersize": 5, "zorder": 3}
        axis.plot(line["last"], place, **mark)
        axis.plot(line["best"], place, markerfacecolor="white", **mark)
    axis.set(xlabel=style.TEST, xlim=style.limits(table["last"], table["best"]), ylim=(len(names) - 0.45, -0.6))
    _bare(axis)


def _gaps(axis: Axes, frame: pd.DataFrame, names: list[str]) -> None:
    table, ok, usual = _means(frame), finished(frame), style.usual_n(frame, ["objective_name"])
    for place, name in enumerate(names):
        axis.axhline(place, color="#e4e4e4", linewidth=0.5, zorder=0)
        if name not in table.index:
            continue
        line, colour = table.loc[name], table.loc[name, "look"].color
        if line["n"] > 1:
            axis.plot([line["low"], line["high"]], [place, place], color=colour, linewidth=1.3, zorder=2)
        axis.plot(line["mean"], place, "|", color=colour, markersize=7, markeredgewidth=1.3, zorder=3)
        gaps = ok.loc[ok["objective_name"] == name, "best_gap"]
        axis.plot(gaps, [place + 0.26] * len(gaps), "o", color=colour, markersize=2, zorder=3)
        if line["diverged"] or line["n"] != usual:
            counted = wording.count(line["n"], line["diverged"])
            axis.annotate(
                counted, (1, place), (4, 0), ("axes fraction", "data"), "offset points", va="center", fontsize=7
            )
    axis.axvline(0, color=style.GREY, linestyle=":", linewidth=0.8, zorder=1)
    axis.set(xlabel=f"{_GAP}, n = {usual}")
    _bare(axis)


def _bare(axis: Axes) -> None:
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)


def _legend(figure: Figure) -> None:
    marks = [
        Line2D([], [], color=style.GREY, marker="o", linestyle="none", markersize=5, label="last epoch"),
        Line2D(
            [], [], color=style.GREY, marker="o", linestyle="none", markersize=5, markerfacecolor="white",
            label="best epoch on the test set",
        ),
        Line2D([], [], color=style.GREY, marker="|", markersize=7, linewidth=1.3, label="mean gap, 95 % interval"),
        Line2D([], [], color=style.GREY, marker="o", markersize=2, linestyle="none", label="seed"),
    ]  # fmt: skip
    figure.legend(handles=marks, loc="outside upper center", ncols=4, handletextpad=0.4, columnspacing=1.4)
