"""Accuracy against temperature under label noise: a panel per noise rate, with CE and MSE as reference lines.

Panels, not colours, tell the rates apart: with their reference lines and intervals four rates in one panel would be
twelve lines, and 40 points of accuracy between the rates would flatten the effect of tau.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from kd.report.figures import naming, style, wording
from kd.report.statistics import finished, settings, summarise

_LABEL = 0.13  # inches that the name of a line needs
_BANDS = 4  # lines whose intervals one panel keeps apart


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw one panel per noise rate, student and weight alpha."""
    panels = _panels(rows)
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    lines = -(-len(panels) // columns)
    most = max(len(_references(frame, line)) for _, frame, line in panels)
    tall = max(2.25, _LABEL * most + 0.8)
    figure = style.canvas(style.SINGLE if columns == 1 else style.DOUBLE, tall * lines + 0.1)
    grid = style.panel_grid(figure, lines, columns, len(panels))
    for axis, (title, frame, line) in zip(grid.flat, panels, strict=False):
        axis.set_ylim(_ends(frame))
        _panel(axis, frame, line, columns, tall - 0.8)
        usual = style.usual_n(frame, ["objective_name"])
        style.head(axis, title, columns, *wording.odd(frame, usual))
        axis.set(xlabel="temperature τ", ylabel=f"{style.TEST}, n = {usual}")
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say for each noise rate which tau has the highest mean, and how it stands against the other objectives."""
    panels = _panels(rows)
    used = wording.union(frame for _, frame, _ in panels)
    said = [
        wording.best_words(frame, among=set(line["objective_name"]), against=_references(frame, line))
        for _, frame, line in panels
    ]
    most = max(len(_references(frame, line)) for _, frame, line in panels)
    few = f", which more than {_BANDS} lines in a panel go without" if most > _BANDS else ""
    names = dict.fromkeys(name for _, _, line in panels for name in line["family_name"])
    shows = (
        f"Test top-1 against temperature τ of {' and '.join(names)} ({wording.where(used)}); τ = ∞ is the closed-form "
        "limit. Marks are means, bars their intervals, small dots seeds; horizontal lines are the other objectives, "
        f"bands their intervals{few}."
    )
    cut = wording.cut(_ends(frame)[0] for _, frame, _ in panels)
    return wording.compose(shows, [title for title, _, _ in panels], said, used, cut)


def _references(frame: pd.DataFrame, line: pd.DataFrame) -> list[str]:
    return frame.loc[~frame["cell"].isin(line["cell"]), "objective_name"].unique().tolist()


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Return (title, rows shown, those of the line over tau) for each setting, family and alpha with several tau.

    A family that has no alpha has one line.
    """
    found, kinds = [], ["family", "family_name", "alpha"]
    for key, frame in settings(rows):
        groups = frame[frame["tau"].notna()].groupby(kinds, dropna=False, sort=False)
        lines = [(dict(zip(kinds, kind, strict=True)), line) for kind, line in groups if line["tau"].nunique() > 1]
        others = frame[~frame["cell"].isin([cell for _, line in lines for cell in line["cell"]])]
        found += [({**key, **kind}, pd.concat([others, line]), line) for kind, line in lines]
    if not found:
        raise wording.nothing("tau", "an objective at two or more tau, such as kl", rows)
    titles = naming.titles([key for key, _, _ in found])
    return [(title, *frames) for title, (_, *frames) in zip(titles, found, strict=True)]


def _ends(frame: pd.DataFrame) -> tuple[float, float]:
    """Return the ends (percent) of a panel's accuracy axis."""
    table = summarise(frame, ["objective_name"])
    return style.limits(finished(frame)["test_top1"], table["low"], table["high"])


def _panel(axis: Axes, frame: pd.DataFrame, line: pd.DataFrame, columns: int, tall: float) -> None:
    places = style.tau_axis(line["tau"], least=0.16 * columns)
    _draw_references(axis, frame[~frame["cell"].isin(line["cell"])], tall)
    table = summarise(line, ["tau", "look"]).sort_values("tau")
    table["place"] = table["tau"].map(places)
    known = table[table["n"] > 0]
    finite = known[known["tau"] < float("inf")]
    axis.plot(finite["place"], finite["mean"], color=style.GREY, linewidth=1, zorder=2)
    if len(finite) < len(known):
        axis.plot(known["place"].tail(2), known["mean"].tail(2), color=style.GREY, linewidth=1, linestyle=":", zorder=2)
    for point in table.to_dict("records"):
        _point(axis, point, finished(line[line["tau"] == point["tau"]])["test_top1"])
    axis.set_xticks(list(places.values()), [naming.number(tau) for tau in places])
    ends = list(places.values())
    axis.set_xlim(ends[0] - 0.2, ends[-1] + 0.2)
    axis.grid(axis="y", color="#ececec")
    axis.set_axisbelow(True)


def _point(axis: Axes, point: dict, seeds: pd.Series) -> None:
    look, place = point["look"], point["place"]
    if point["n"] > 1:
        axis.plot([place, place], [point["low"], point["high"]], color=look.color, linewidth=1.3, zorder=3)
    if point["n"]:
        axis.plot(place, point["mean"], marker=look.marker, color=look.color, markersize=4.5, zorder=4)
        beside = offset_copy(axis.transData, axis.figure, x=5, units="points")
        axis.plot([place] * len(seeds), seeds, "o", color=look.color, markersize=1.8, zorder=4, transform=beside)


def _draw_references(axis: Axes, frame: pd.DataFrame, tall: float) -> None:
    """Draw the objectives that do not vary in tau as lines with their intervals, named at the right end.

    The axis is `tall` inches or more.
    """
    if frame.empty:
        return
    table = summarise(frame, ["objective_name", "look"])
    known = table[table["n"] > 0].to_dict("records")
    low, high = axis.get_ylim()
    heights = style.spread([line["mean"] for line in known], _LABEL / tall * (high - low), (low, high))
    for line, height in zip(known, heights, strict=True):
        look = line["look"]
        axis.axhline(line["mean"], color=look.color, linestyle=look.linestyle, linewidth=1, zorder=1)
        if line["n"] > 1 and len(table) <= _BANDS:
            axis.axhspan(line["low"], line["high"], color=look.color, alpha=0.1, linewidth=0, zorder=0)
        across = {"transform": axis.get_yaxis_transform(), "clip_on": False}
        axis.plot([1, 1.05], [line["mean"], height], color=look.color, linestyle=look.linestyle, linewidth=1, **across)
        at = ("axes fraction", "data"), "offset points"
        axis.annotate(line["objective_name"], (1.05, height), (3, 0), *at, va="center", fontsize=7, color=look.color)
