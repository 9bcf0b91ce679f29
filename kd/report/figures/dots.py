"""Objectives compared: a row for each, with its seeds as points, their mean and its 95 % interval.

The hollow tick above a mean is the mean of the best epochs on the test set: what selecting on the test set would
have added (promise 7).
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd.report.figures import naming, style, wording
from kd.report.statistics import finished, settings, summarise

_COLUMNS = 3
ROW = 0.27  # inches
MARKS = (
    "Marks are means, bars their intervals, small dots seeds, hollow ticks means of the best epochs on the test set."
)


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw one panel per student, data and noise."""
    panels = _panels(rows)
    names = wording.objectives(rows, [frame for _, frame in panels])
    columns = min(len(panels), _COLUMNS)
    lines = -(-len(panels) // columns)
    figure = style.canvas(style.SINGLE if columns == 1 else style.DOUBLE, lines * (0.75 + ROW * len(names)) + 0.3)
    grid = style.panel_grid(figure, lines, columns, len(panels), sharey=True)
    for axis, (title, frame) in zip(grid.flat, panels, strict=False):
        forest(axis, frame.assign(row=frame["objective_name"]), names, wordy=columns < _COLUMNS)
        style.head(axis, title, columns)
    for line in grid:
        label_rows(line[0], names)
    legend(figure)
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say which objective has the highest mean for each student, and how it stands against CE and the second."""
    panels = _panels(rows)
    used = wording.union(frame for _, frame in panels)
    said = [wording.best_words(frame) for _, frame in panels]
    shows = f"Test top-1 by objective ({wording.where(used)}). {MARKS}{dotted(used)}"
    cut = wording.cut(span(frame)[0] for _, frame in panels)
    return wording.compose(shows, [title for title, _ in panels], said, used, cut)


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    found = settings(rows)
    return list(zip(naming.titles([key for key, _ in found]), [frame for _, frame in found], strict=True))


# ---- rows of seeds, mean and interval: also what `chains` is made of ------------------------------------------------


def dotted(rows: pd.DataFrame) -> str:
    """Explain the dotted line, where there is one."""
    alone = rows[(rows["stages"] == 1) & (rows["loss"] == "ce") & (rows["status"] == "ok")]
    return " The dotted line is CE without a teacher." if len(alone) else ""


def forest(axis: Axes, frame: pd.DataFrame, names: list[str], wordy: bool = True) -> None:
    """Draw a line for each of `names`, the values of column `row`, from the top; "" leaves a line free.

    The mean of CE without a teacher, if there is one, goes on as a dotted line; `wordy` writes the means at the right.
    """
    table = summarise(frame, ["row"]).set_index("row")
    usual = style.usual_n(frame, ["row"])
    for place, name in enumerate(names):
        if name in table.index:
            axis.axhline(place, color="#e4e4e4", linewidth=0.5, zorder=0)
            _row(axis, frame[frame["row"] == name], table.loc[name], place)
            _margin(axis, table.loc[name], place, usual, wordy)
    alone = finished(frame[(frame["stages"] == 1) & (frame["loss"] == "ce")])
    if len(alone):
        axis.axvline(alone["test_top1"].mean(), color=style.GREY, linestyle=":", linewidth=0.8, zorder=1)
    axis.set(
        xlabel=f"{style.TEST}, n = {usual}", xlim=span(frame), ylim=(len(names) - 0.45, -0.6), yticks=range(len(names))
    )
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)


def span(frame: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of the accuracy axis (percent) of one panel."""
    ok, table = finished(frame), summarise(frame, ["objectives", "networks"])
    return style.limits(ok["test_top1"], ok["best_test_top1"], table["low"], table["high"])


def label_rows(axis: Axes, labels: list[str]) -> None:
    """Write the names of the rows at the left of `axis`."""
    axis.set_yticks(range(len(labels)), labels)
    axis.tick_params(axis="y", labelleft=True)


def legend(figure: Figure) -> None:
    """Explain the marks above the panels."""
    marks = [
        Line2D([], [], color=style.GREY, marker="o", markersize=4.5, linewidth=1.3, label="mean, 95 % interval"),
        Line2D([], [], color=style.GREY, marker="o", markersize=2, linestyle="none", label="seed"),
        _tick([], [], label="best on test"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=3, handletextpad=0.4, columnspacing=1.4)


def _tick(x: list, y: list, **more: object) -> Line2D:
    look = {"marker": "v", "markersize": 3.6, "markerfacecolor": "none", "markeredgecolor": "#8a8a8a"}
    return Line2D(x, y, linestyle="none", markeredgewidth=0.7, **look, **more)


def draw_group(axis: Axes, group: pd.DataFrame, line: pd.Series, place: int) -> None:
    """Draw the interval, the mean and the seeds of a group of networks; nothing where all diverged."""
    look = group["look"].iloc[0]
    ok = finished(group)
    if line["n"] > 1:
        axis.plot([line["low"], line["high"]], [place, place], color=look.color, linewidth=1.3, zorder=2)
    if line["n"]:
        axis.plot(line["mean"], place, marker=look.marker, color=look.color, markersize=5, zorder=3)
        axis.plot(ok["test_top1"], [place + 0.26] * len(ok), "o", color=look.color, markersize=2, zorder=3)


def _row(axis: Axes, group: pd.DataFrame, line: pd.Series, place: int) -> None:
    draw_group(axis, group, line, place)
    if line["n"]:
        axis.add_line(_tick([finished(group)["best_test_top1"].mean()], [place - 0.26], zorder=2))


def _margin(axis: Axes, line: pd.Series, place: int, usual: int, wordy: bool) -> None:
    """Write the mean at the right where there is room, and n wherever it is not the usual one."""
    odd = line["diverged"] or line["n"] != usual
    counted = wording.count(line["n"], line["diverged"]) if odd else ""
    mean = wording.half_words(line) if wordy and line["n"] else ""
    words = f"{mean}\n{counted if wordy else counted.replace(', ', chr(10))}".strip()
    at = ("axes fraction", "data"), "offset points"
    axis.annotate(words, (1, place), (4, 0), *at, va="center", fontsize=7)
