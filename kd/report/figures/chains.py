"""Sequential distillation: a row for every path of networks and mix of objectives, grouped by path."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd.report.figures import naming, style, wording
from kd.report.figures.dots import MARKS, ROW, dotted, forest, label_rows, legend, span
from kd.report.statistics import SETTING, summarise

_NARROW = 34  # letters of a path that half the width of a paper holds


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw one panel per student and data; in it the shortest paths first."""
    panels = _panels(rows)
    names = [_names(frame) for _, frame in panels]
    long = max(len(label) for shown in names for name, label in shown if not name) > _NARROW
    wide = long or len(panels) > 1
    columns = 1 if long else min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure = style.canvas(style.DOUBLE if wide else style.SINGLE, lines * (0.7 + ROW * max(map(len, names))) + 0.3)
    grid = style.panel_grid(figure, lines, columns, len(panels))
    for axis, (title, frame), shown in zip(grid.flat, panels, names, strict=False):
        forest(axis, frame, [name for name, _ in shown])
        label_rows(axis, [label if name else "" for name, label in shown])
        _head(axis, shown)
        style.head(axis, title, columns)
    legend(figure)
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say which path and mix has the highest mean, and how it stands against the best of every other path."""
    panels = _panels(rows)
    shows = (
        f"Test top-1 at the end of each path of networks, by mix of objectives ({wording.where(rows)}). The first "
        "network of a path learnt from the labels (CE) unless its objective is named. "
        f"{MARKS} Colour and mark are those of the last objective.{dotted(rows)}"
    )
    said = [_best(frame) for _, frame in panels]
    cut = wording.cut(span(frame)[0] for _, frame in panels)
    return wording.compose(shows, [title for title, _ in panels], said, rows, cut)


def _best(frame: pd.DataFrame) -> str:
    """Compare the best row with the best of every other path."""
    table = summarise(frame, ["networks", "lineage"]).sort_values("mean", ascending=False, kind="stable")
    tops = table.dropna(subset="mean").drop_duplicates("networks")["lineage"].tolist()
    full = {
        row["lineage"]: f"{row['objectives_name']} along {row['networks_name']}"
        if row["stages"] > 1
        else f"{row['objective_name']} without a teacher"
        for row in frame.to_dict("records")
    }
    return wording.best_words(frame, full.__getitem__, column="lineage", against=tops)


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if not (rows["stages"] > 1).any():
        raise wording.nothing("chains", "students: a path of two or more networks", rows)
    rows = rows.assign(row=rows["lineage"])
    keys = [*SETTING, "noise_name", "student_name"]
    groups = list(rows.sort_values("noise_rate", kind="stable").groupby(keys, sort=False))
    found = [dict(zip([*keys[:-1], "networks_name"], key, strict=True)) for key, _ in groups]
    return list(zip(naming.titles(found), [frame for _, frame in groups], strict=True))


def _names(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (row, label) from the top; a path's heading has no row."""
    shown = []
    for (stages, path), group in frame.sort_values("stages", kind="stable").groupby(
        ["stages", "networks_name"], sort=False
    ):
        shown.append(("", path if stages > 1 else f"{path} without a teacher"))
        mixes = group.drop_duplicates("lineage")
        shown += zip(mixes["lineage"], mixes["objectives_name"], strict=True)
    return shown


def _head(axis: Axes, shown: list[tuple[str, str]]) -> None:
    """Write the paths over their rows, on white, so that no line goes through a name."""
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for place, (name, label) in enumerate(shown):
        if not name:
            at = ("axes fraction", "data"), "offset points"
            axis.annotate(label, (0, place), (0, -2), *at, va="center", fontsize=7, fontweight="bold", bbox=white)
