"""Objectives compared: a row for each, with the accuracy of its seeds and their paired difference to CE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd.report.comparisons import Compared, against_ce
from kd.report.figures import differences, naming, style, wording
from kd.report.statistics import finished, settings, summarise

ROW = 0.24  # inches
_MARKS = "On the left marks are seeds, short lines their means; numbers are means ± half their interval."
_LONG = 20  # letters of a name that leave room beside them in one column of a paper
_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # so that no line goes through a heading
_BELOW = 3  # settings that stand below each other; more stand in two columns


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw accuracy, and if there is CE the difference to it, for each student, data and noise."""
    panels, compared = _panels(rows), against_ce(rows)
    shown = [
        Panel(
            title,
            frame.assign(row=frame["objective_name"]),
            [(name, name) for name in frame["objective_name"].unique()],
        )
        for title, frame in panels
    ]
    return forests(shown, compared, 2 if len(panels) > _BELOW else 1)


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say which objective has the highest mean for each student, and how it stands against CE and the second."""
    panels, compared = _panels(rows), against_ce(rows)
    used = wording.union(frame for _, frame in panels)
    said = [wording.best_words(frame) for _, frame in panels]
    shows = f"Test top-1 by objective ({wording.where(used)}). {explained(used, compared)}"
    cut = wording.cut(span(frame)[0] for _, frame in panels)
    return wording.compose(shows, [title for title, _ in panels], said, used, cut)


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    found = settings(rows)
    return list(zip(naming.titles([key for key, _ in found]), [frame for _, frame in found], strict=True))


# ---- rows of seeds and differences: also what `chains` is made of ---------------------------------------------------


class Panel(NamedTuple):
    """The networks of one setting, and from the top the values of their column `row` with labels; "" is a heading."""

    title: str
    frame: pd.DataFrame
    rows: list[tuple[str, str]]


def forests(panels: Sequence[Panel], compared: Mapping[str, Compared], columns: int = 1) -> Figure:
    """Draw the accuracy of each row, and beside it the difference to CE where there is one."""
    wide = 1 + any(cell in compared for panel in panels for cell in panel.frame["cell"])
    lines = -(-len(panels) // columns)
    tall = lines * (0.8 + 0.15 * (columns > 1) + ROW * max(len(panel.rows) for panel in panels)) + 0.3
    long = max(len(label) for panel in panels for _, label in panel.rows) > _LONG
    figure = style.canvas(style.SINGLE if columns * wide == 1 and not long else style.DOUBLE, tall)
    grid = style.panel_grid(figure, lines, columns * wide, len(panels) * wide)
    for place, panel in enumerate(panels):
        axes = grid.flat[place * wide : (place + 1) * wide]
        _accuracy(axes[0], panel, wordy=columns == 1)
        style.head(axes[0], panel.title, columns)
        if wide > 1:
            _differences(axes[1], panel, compared, wordy=columns == 1)
    _legend(figure, wording.union(panel.frame for panel in panels), compared)
    return figure


def explained(rows: pd.DataFrame, compared: Mapping[str, Compared]) -> str:
    """Say how to read what `forests` draws of `rows`."""
    alone = " The line is the mean of CE without a teacher." if len(_alone(rows)) else ""
    taught = " The dotted line is the teacher." if _teachers(rows).any() else ""
    return f"{_MARKS}{alone}{taught}{differences.explained(_shown(rows, compared))}"


def _shown(rows: pd.DataFrame, compared: Mapping[str, Compared]) -> list[Compared]:
    return [compared[cell] for cell in rows["cell"] if cell in compared]


def _alone(rows: pd.DataFrame) -> pd.DataFrame:
    return finished(rows[(rows["stages"] == 1) & (rows["loss"] == "ce")])


def _teachers(rows: pd.DataFrame) -> pd.Series:
    """Return the accuracy (percent) of each network's teacher."""
    return rows["teacher_top1"].dropna()


def span(frame: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of the accuracy axis (percent) of one panel."""
    return style.limits(finished(frame)["test_top1"], _teachers(frame))


def _accuracy(axis: Axes, panel: Panel, wordy: bool) -> None:
    """Draw seeds, mean and teacher of each row; `wordy` writes the means at the right."""
    frame = panel.frame
    table = summarise(frame, ["row"]).set_index("row")
    usual = style.usual_n(frame, ["row"])
    alone = _alone(frame)
    if len(alone):
        axis.axvline(alone["test_top1"].mean(), color="#000000", linewidth=0.6, zorder=1)
    _frame(axis, panel)
    for place, (name, label) in enumerate(panel.rows):
        if not name:
            at = ("axes fraction", "data"), "offset points"
            axis.annotate(label, (0, place), (0, -2), *at, va="center", fontsize=7, fontweight="bold", bbox=_WHITE)
        else:
            group, line = frame[frame["row"] == name], table.loc[name]
            draw_seeds(axis, group, place)
            for top1 in _teachers(group).unique():
                axis.plot([top1, top1], [place - 0.5, place + 0.5], ":", color=style.GREY, linewidth=1, zorder=1)
            odd = line["diverged"] or line["n"] != usual
            counted = wording.count(line["n"], line["diverged"]) if odd else ""
            mean = wording.half_words(line) if wordy and line["n"] else ""
            beside(axis, f"{mean}\n{counted if wordy else counted.replace(', ', chr(10))}".strip(), place)
    axis.set(xlabel=f"{style.TEST}, n = {usual}", xlim=span(frame))
    label_rows(axis, [label if name else "" for name, label in panel.rows])


def _differences(axis: Axes, panel: Panel, compared: Mapping[str, Compared], wordy: bool) -> None:
    axis.set_xlim(differences.ends(_shown(panel.frame, compared)))
    axis.axvline(0, color="#000000", linewidth=0.6, zorder=1)
    _frame(axis, panel)
    axis.set(xlabel=differences.LABEL if wordy else differences.NARROW, yticks=[])
    for place, (name, _) in enumerate(panel.rows):
        group = panel.frame[panel.frame["row"] == name]
        if name and (one := compared.get(group["cell"].iloc[0])):
            differences.draw(axis, one, group["look"].iloc[0], place)
            if wordy:
                beside(axis, differences.words(one), place)


def _frame(axis: Axes, panel: Panel) -> None:
    for place, (name, _) in enumerate(panel.rows):
        if name:
            axis.axhline(place, color="#e4e4e4", linewidth=0.5, zorder=0)
    axis.set_ylim(len(panel.rows) - 0.45, -0.6)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)


def draw_seeds(axis: Axes, group: pd.DataFrame, place: float, upright: bool = False) -> None:
    """Draw the seeds of a group of networks and their mean; nothing where all diverged. `upright`: over x."""
    look, values, wide = group["look"].iloc[0], finished(group)["test_top1"], 0.1 if upright else 0.3
    if len(values):
        points, mean = (values, [place] * len(values)), ([values.mean()] * 2, [place - wide, place + wide])
        turn = slice(None, None, -1 if upright else 1)
        axis.plot(*points[turn], look.marker, color=look.color, markersize=3.5, alpha=0.8, markeredgewidth=0, zorder=3)
        axis.plot(*mean[turn], color=look.color, linewidth=1.6, zorder=4)


def seed_marks(upright: bool = False) -> list[Line2D]:
    """Return what a legend says of the marks of `draw_seeds`."""
    mean = {"marker": "_" if upright else "|", "markersize": 7, "markeredgewidth": 1.6}
    return [
        Line2D([], [], color=style.GREY, marker="o", markersize=3.5, linestyle="none", label="seed"),
        Line2D([], [], color=style.GREY, linestyle="none", label="mean", **mean),
    ]


def label_rows(axis: Axes, labels: list[str]) -> None:
    """Write the names of the rows at the left of `axis`."""
    axis.set_yticks(range(len(labels)), labels)
    axis.tick_params(axis="y", labelleft=True)


def beside(axis: Axes, words: str, place: float) -> None:
    """Write `words` at the right of a row."""
    axis.annotate(words, (1, place), (4, 0), ("axes fraction", "data"), "offset points", va="center", fontsize=7)


def _legend(figure: Figure, rows: pd.DataFrame, compared: Mapping[str, Compared]) -> None:
    """Explain the marks above the panels."""
    marks = seed_marks()
    if len(_alone(rows)):
        marks.append(Line2D([], [], color="#000000", linewidth=0.6, label="CE"))
    if _teachers(rows).any():
        marks.append(Line2D([], [], color=style.GREY, linestyle=":", linewidth=1, label="teacher"))
    marks += differences.marks(_shown(rows, compared))
    figure.legend(handles=marks, loc="outside upper center", ncols=6, handletextpad=0.4, columnspacing=1.4)
