"""Accuracy against what using a network costs: its parameters, its multiply-accumulates, and the time of one image."""

from __future__ import annotations

import math
import string
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd.report.figures import naming, style, wording
from kd.report.statistics import finished, settings, summarise

_KIND = ["student_name", "objective_name"]
_NAME = 0.16  # inches of a line of the legend
_ROOM, _LETTER = 1.6, 0.06  # room beside the marks, as a factor; share of the axis between two letters
_APART = ("student", "networks", "networks_name", "teacher_lineage", "epochs")  # networks of all kinds stand together


class Cost(NamedTuple):
    """A column of the table, and what the figure calls it."""

    column: str
    label: str
    unit: float


_COSTS = [
    Cost("parameters", "parameters (million)", 1e6),
    Cost("macs", "multiply-accumulates (million)", 1e6),
    Cost("milliseconds", "time of one image (ms)", 1.0),
]


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw a line of three panels for each setting: test top-1 against each cost."""
    panels = _panels(rows)
    used = wording.union(used for _, used in panels)
    letters = _letters(used)
    named = used["objective_name"].nunique() + len(letters)
    figure = style.canvas(style.DOUBLE, max(2.5 * len(panels), _NAME * named) + 0.35)
    grid = style.panel_grid(figure, len(panels), len(_COSTS), len(panels) * len(_COSTS))
    for line, (title, own) in zip(grid, panels, strict=True):
        usual = style.usual_n(own, _KIND)
        for axis, cost in zip(line, _COSTS, strict=True):
            _panel(axis, own, cost, letters)
        named = own.assign(objective_name=own["student_name"] + " by " + own["objective_name"])
        style.head(line[0], title, 1, *wording.odd(named, usual))
        line[0].set_ylabel(f"{style.TEST}, n = {usual}")
    _legend(figure, used, letters)
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say for each setting what each network costs, and which objective took it furthest."""
    panels = _panels(rows)
    used = wording.union(used for _, used in panels)
    shows = (
        f"Test top-1 against what using a network costs ({wording.where(used)}), on logarithmic axes: its parameters; "
        "the multiply-accumulates of its convolutions and linear layers for one image; the time of one image, the "
        "fastest of several passes in float32, on the machine that trained it. Letters name the networks. Marks "
        "are means over seeds, bars their intervals."
    )
    said = [_said(used) for _, used in panels]
    cut = wording.cut(_ends(used)[0] for _, used in panels)
    return wording.compose(shows, [title for title, _ in panels], said, used, cut, _machines(used))


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return (title, rows) of each setting: data, noise and protocol; networks that nobody measured are left out."""
    costs = [cost.column for cost in _COSTS]
    rows = rows[rows.reindex(columns=costs).notna().all(axis=1) | (rows["status"] != "ok")]
    if not len(finished(rows)):
        raise wording.nothing("inference", "networks whose costs were measured", rows)
    found = [(key, used) for key, used in settings(rows, _APART) if len(finished(used))]
    titles = naming.titles([key for key, _ in found])
    return list(zip(titles, [used for _, used in found], strict=True))


def _ends(used: pd.DataFrame) -> tuple[float, float]:
    """Return the ends (percent) of a setting's accuracy axis."""
    table = summarise(used, _KIND)
    return style.limits(table["mean"], table["low"], table["high"])


def _panel(axis: Axes, used: pd.DataFrame, cost: Cost, letters: dict[str, str]) -> None:
    ok = finished(used)
    places = (ok.groupby("student_name", sort=False)[cost.column].mean() / cost.unit).sort_values()
    for line in summarise(ok, [*_KIND, "look"]).to_dict("records"):
        look, place = line["look"], places[line["student_name"]]
        if line["n"] > 1:
            axis.plot([place, place], [line["low"], line["high"]], color=look.color, linewidth=1.0, zorder=3)
        axis.plot(place, line["mean"], marker=look.marker, color=look.color, markersize=4.5, zorder=4)
    low, high = _ends(used)
    left, right = places.min() / _ROOM, places.max() * _ROOM
    axis.set(xscale="log", xlabel=cost.label, ylim=(low, high + 0.12 * (high - low)), xlim=(left, right))
    axis.set_xticks(ticks := _ticks(left, right), [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(axis="y", color="#ececec")
    axis.set_axisbelow(True)
    width = math.log(right / left)
    apart = style.spread([math.log(place / left) / width for place in places], _LETTER, (_LETTER / 2, 1 - _LETTER / 2))
    for name, place in zip(places.index, apart, strict=True):
        axis.text(place, 0.97, letters[name], transform=axis.transAxes, ha="center", va="top", color=style.GREY)


def _ticks(left: float, right: float) -> list[float]:
    """Return at most four round numbers between the ends of a logarithmic axis, evenly apart."""
    decades = range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
    every = [tick for n in decades for digit in (1, 2, 5) if left <= (tick := digit * 10.0**n) <= right]
    return every[:: -(-len(every) // 4)]


def _letters(used: pd.DataFrame) -> dict[str, str]:
    """Return a letter for each network, from the cheapest on; a number where there are more than 26."""
    names = finished(used).groupby("student_name", sort=False)["macs"].mean().sort_values().index
    known = string.ascii_lowercase if len(names) <= 26 else map(str, range(1, len(names) + 1))
    return dict(zip(names, known, strict=False))


def _legend(figure: Figure, used: pd.DataFrame, letters: dict[str, str]) -> None:
    """Name the objectives and the networks at the right of the panels."""
    known = used.drop_duplicates("objective_name").set_index("objective_name")["look"]
    marks = [
        Line2D([], [], color=look.color, marker=look.marker, markersize=4.5, linestyle="none", label=name)
        for name, look in known.items()
    ]
    marks += [Line2D([], [], linestyle="none", label=f"{letter}  {name}") for name, letter in letters.items()]
    figure.legend(handles=marks, loc="outside right upper", handletextpad=0.6)


def _said(used: pd.DataFrame) -> str:
    ok, parts = finished(used), []
    costs = ok.groupby("student_name", sort=False)[[cost.column for cost in _COSTS]].mean()
    table = summarise(used, _KIND)
    for name, line in costs.sort_values("macs").iterrows():
        own = table[(table["student_name"] == name) & (table["n"] > 0)]
        best = own.loc[own["mean"].idxmax()]
        parts.append(
            f"{name} has {line['parameters'] / 1e6:.3g} million parameters, makes {line['macs'] / 1e6:.3g} million "
            f"multiply-accumulates and took {line['milliseconds']:.3g} ms: {wording.half_words(best)} % by "
            f"{best['objective_name']} ({wording.count(best['n'], best['diverged'])})"
        )
    return "; ".join(parts)


def _machines(used: pd.DataFrame) -> str:
    """Warn where times are of several kinds of machine."""
    number = len(finished(used).groupby(["device", "threads"]))
    return f"Times are of {number} kinds of machine and should not be compared." if number > 1 else ""
