"""Sequential distillation: a row for every path of networks and mix of objectives, grouped by path."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from kd.report.comparisons import against_ce
from kd.report.figures import naming, wording
from kd.report.figures.dots import Panel, explained, forests, span
from kd.report.statistics import SETTING, summarise

_NARROW = 20  # letters of a row's name that half the width of a paper holds


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw a panel for each student and data; in it the shortest paths first, each row with its own teacher."""
    panels = [Panel(title, frame, _rows(frame)) for title, frame in _panels(rows)]
    long = max(len(label) for panel in panels for name, label in panel.rows if name) > _NARROW
    return forests(panels, against_ce(rows), 2 if len(panels) > 2 and not long else 1)


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say which path and mix has the highest mean, and how it stands against the best of every other path."""
    panels = _panels(rows)
    shows = (
        f"Test top-1 at the end of each path of networks, by mix of objectives ({wording.where(rows)}). The first "
        "network of a path learnt from the labels (CE) unless its objective is named. "
        f"{explained(rows, against_ce(rows))} Colour and mark are those of the last objective."
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


def _rows(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (row, label) from the top; a path's heading has no row."""
    shown = []
    for (stages, path), group in frame.sort_values("stages", kind="stable").groupby(
        ["stages", "networks_name"], sort=False
    ):
        shown.append(("", path if stages > 1 else f"{path} without a teacher"))
        mixes = group.drop_duplicates("lineage")
        shown += zip(mixes["lineage"], mixes["objectives_name"], strict=True)
    return shown
