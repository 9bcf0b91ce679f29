"""Accuracy against what it cost: the seconds that a network took to train, and all that led to it.

A student in two phases pays for its teacher; a network that learns by ONE has none (Lan et al., arXiv 1806.04606).
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd.report.figures import style, wording
from kd.report.statistics import finished, summarise

_LINE = 0.16  # inches that a line of the legend takes
_UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}
_MEMORY = {"memory_mib": "", "gpu_memory_mib": " on the GPU"}
_MACHINE = ["device", "precision", "threads"]


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw a panel for each setting: test top-1 against training time."""
    panels = wording.panels("cost", rows, "lineage_seconds")
    names = wording.objectives(rows, [frame for _, frame in panels])
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure = style.canvas(style.DOUBLE, max(2.5 * lines, _LINE * (len(names) + 4)) + 0.2)
    grid = style.panel_grid(figure, lines, columns, len(panels))
    for axis, (title, frame) in zip(grid.flat, panels, strict=False):
        _panel(axis, frame)
        style.head(axis, title, columns + 1, *wording.odd(frame, style.usual_n(frame, ["objective_name"])))
    _legend(figure, rows[rows["objective_name"].isin(names)])
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say for each setting which accuracy each objective reached after how long."""
    panels = wording.panels("cost", rows, "lineage_seconds")
    used = wording.union(frame for _, frame in panels)
    shows = (
        f"Test top-1 against the time that training took ({wording.where(used)}): of a network and of all that led to "
        "it, filled, and of the network alone, hollow. Marks are means, bars their intervals, small dots seeds; what "
        "took nearly equal time is moved apart. What it took to fill the bank of a teacher is not in it. MiB are the "
        "most memory that the process of a training held, Python and its libraries included."
    )
    said = [_said(frame) for _, frame in panels]
    cut = wording.cut(_ends(frame)[0] for _, frame in panels)
    return wording.compose(shows, [title for title, _ in panels], said, used, cut, _imported(used), _machines(used))


def _unit(seconds: pd.Series) -> str:
    """Return the largest unit of which the longest time is two or more."""
    return next((name for name, size in _UNITS.items() if seconds.max() >= 2 * size), "s")


def _ends(frame: pd.DataFrame) -> tuple[float, float]:
    """Return the ends (percent) of a panel's accuracy axis."""
    table = summarise(frame, ["objective_name"])
    return style.limits(finished(frame)["test_top1"], table["low"], table["high"])


def _panel(axis: Axes, frame: pd.DataFrame) -> None:
    ok = finished(frame)
    unit = _unit(ok["lineage_seconds"])
    ok = ok.assign(whole=ok["lineage_seconds"] / _UNITS[unit], alone=ok["seconds"] / _UNITS[unit])
    table = summarise(ok, ["objective_name", "look"])
    whole = ok.groupby("objective_name", sort=False)["whole"].mean()
    apart = min(0.02, 0.15 / len(whole)) * (whole.max() or 1)
    places = dict(zip(whole.index, style.spread(whole.tolist(), apart), strict=True))
    for line in table.to_dict("records"):
        _point(axis, line, ok[ok["objective_name"] == line["objective_name"]], places[line["objective_name"]])
    axis.set(
        xlabel=f"training time, teachers' included ({unit})",
        ylabel=f"{style.TEST}, n = {style.usual_n(frame, ['objective_name'])}",
        xlim=(0, 1.06 * max(*places.values(), ok["whole"].max()) or 1),
        ylim=_ends(frame),
    )
    axis.locator_params(axis="x", nbins=6)
    axis.grid(axis="y", color="#ececec")
    axis.set_axisbelow(True)


def _point(axis: Axes, line: dict, own: pd.DataFrame, place: float) -> None:
    """Draw the networks of one objective; the mark of their mean stands at `place`, near its time."""
    look, mean, alone, whole = line["look"], line["mean"], own["alone"].mean(), own["whole"].mean()
    mark = {"marker": look.marker, "color": look.color, "markersize": 5}
    if alone < whole:
        axis.plot([alone, place], [mean, mean], color=look.color, linewidth=0.8, linestyle=":", zorder=2)
        axis.plot(alone, mean, markerfacecolor="white", markeredgewidth=0.8, zorder=3, **mark)
    if line["n"] > 1:
        axis.plot([place, place], [line["low"], line["high"]], color=look.color, linewidth=1.3, zorder=3)
    axis.plot(place, mean, zorder=4, **mark)
    axis.plot(own["whole"] + place - whole, own["test_top1"], "o", color=look.color, markersize=1.8, zorder=4)


def _legend(figure: Figure, rows: pd.DataFrame) -> None:
    """Name the objectives, and say what marks mean, at the right of the panels."""
    marks = [
        Line2D([], [], color=line["look"].color, marker=line["look"].marker, markersize=5, linestyle="none", label=name)
        for name, line in rows.drop_duplicates("objective_name").set_index("objective_name").iterrows()
    ]
    grey = {"color": style.GREY, "marker": "o"}
    marks += [
        Line2D([], [], **grey, markersize=5, linewidth=1.3, label="mean, 95 % interval"),
        Line2D([], [], **grey, markersize=5, linestyle=":", markerfacecolor="white", label="without teachers"),
        Line2D([], [], **grey, markersize=1.8, linestyle="none", label="seed"),
    ]
    figure.legend(handles=marks, loc="outside right upper", handletextpad=0.6, handlelength=1.6)


def _said(frame: pd.DataFrame) -> str:
    ok, parts = finished(frame), []
    unit = _unit(ok["lineage_seconds"])
    for name, line in summarise(frame, ["objective_name"]).set_index("objective_name").iterrows():
        counted = wording.count(line["n"], line["diverged"])
        if not line["n"]:
            parts.append(f"{name} diverged ({counted})")
            continue
        own = ok[ok["objective_name"] == name]
        whole, alone = (own[key].mean() / _UNITS[unit] for key in ("lineage_seconds", "seconds"))
        less = f", {alone:.1f} of them its own" if alone < whole else ""
        held = "".join(f", {mib:,.0f} MiB{where}" for where, mib in _memory(own).items())
        parts.append(f"{name} {wording.half_words(line)} % after {whole:.1f} {unit}{less}{held} ({counted})")
    return "; ".join(parts)


def _memory(rows: pd.DataFrame) -> dict[str, float]:
    """Return the mean of the most memory (MiB) that trainings held, by where they held it, as far as it is known."""
    peaks = {where: rows[name].mean() for name, where in _MEMORY.items() if name in rows}
    return {where: peak for where, peak in peaks.items() if peak > 0}


def _imported(rows: pd.DataFrame) -> str:
    imported = (rows["first_loss"] == "weights").any()
    return "Weights that were imported count as no time." if imported else ""


def _machines(rows: pd.DataFrame) -> str:
    """Warn where times are of several kinds of machine."""
    number = len(rows[_MACHINE].drop_duplicates())
    mixed = f"Times are of {number} kinds of machine (device, precision, threads) and should not be compared."
    return mixed if number > 1 else ""
