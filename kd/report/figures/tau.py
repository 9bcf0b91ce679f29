"""Accuracy against temperature under label noise, a column per noise rate: the seeds, and below the difference to CE.

Panels, not colours, tell the rates apart, because 40 points of accuracy between the rates would flatten the effect of
tau. CE, MSE and others without tau have places of their own at the right, and a line at their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd.report.comparisons import Compared, against_ce
from kd.report.figures import differences, naming, style, wording
from kd.report.figures.dots import draw_seeds, seed_marks
from kd.report.statistics import finished, settings, summarise

_LABEL = 0.13  # inches that the name of a line needs
_LINES = 3  # objectives without tau whose mean goes on as a line
_STEP = 0.3  # decades between places at the right


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw two panels per noise rate, student and weight alpha: accuracy, and if there is CE the difference to it."""
    panels, compared = _panels(rows), against_ce(rows)
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    lines = -(-len(panels) // columns)
    most = max(len(_references(frame, line)) for _, frame, line in panels)
    tall = max(1.5, _LABEL * most + 0.2)
    pair = 1 + any(cell in compared for _, frame, _ in panels for cell in frame["cell"])
    figure = style.canvas(style.SINGLE if columns == 1 else style.DOUBLE, (pair * (tall + 0.35) + 0.4) * lines + 0.3)
    grid = figure.subplots(pair * lines, columns, squeeze=False)
    for place in range(lines * columns):
        axes = grid[pair * (place // columns) : pair * (place // columns + 1), place % columns]
        if place < len(panels):
            _column(axes, *panels[place], columns, tall, compared)
        else:
            for axis in axes:
                axis.remove()
    shown = [compared[cell] for cell in rows["cell"] if cell in compared]
    marks = [*seed_marks(upright=True), *differences.marks(shown)]
    ncols = 2 if columns == 1 else 4
    figure.legend(handles=marks, loc="outside upper center", ncols=ncols, handletextpad=0.4, columnspacing=1.4)
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say for each noise rate which tau has the highest mean, and how it stands against the other objectives."""
    panels, compared = _panels(rows), against_ce(rows)
    used = wording.union(frame for _, frame, _ in panels)
    said = [
        wording.best_words(frame, among=set(line["objective_name"]), against=_references(frame, line))
        for _, frame, line in panels
    ]
    names = dict.fromkeys(name for _, _, line in panels for name in line["family_name"])
    found = [compared[cell] for cell in used["cell"] if cell in compared]
    shows = (
        f"Test top-1 against temperature τ of {' and '.join(names)} ({wording.where(used)}); τ = ∞ is the closed-form "
        "limit. Above, marks are seeds, short lines their means; the other objectives stand at the right."
        f"{differences.explained(found)}"
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
    return style.limits(finished(frame)["test_top1"])


def _column(
    axes: Sequence[Axes],
    title: str,
    frame: pd.DataFrame,
    line: pd.DataFrame,
    columns: int,
    tall: float,
    compared: Mapping[str, Compared],
) -> None:
    """Draw one setting; its axis of accuracies is `tall` inches or more."""
    usual = style.usual_n(frame, ["objective_name"])
    places = _places(frame, line, columns)
    for axis in axes:
        _frame(axis, places, line)
    style.head(axes[0], title, columns, *wording.odd(frame, usual))
    _accuracy(axes[0], frame, line, places, tall)
    axes[0].set_ylabel(f"{style.TEST}, n = {usual}")
    for axis in axes[1:]:
        _differences(axis, frame, line, places, compared)


def _places(frame: pd.DataFrame, line: pd.DataFrame, columns: int) -> dict[str, float]:
    """Return the place of each objective: those of `line` by their tau, then the others in order."""
    taus = style.tau_axis(line["tau"], least=0.16 * columns)
    places = {one["objective_name"]: taus[one["tau"]] for one in line.to_dict("records")}
    first = max(taus.values()) + 2 * _STEP
    return places | {name: first + _STEP * n for n, name in enumerate(_references(frame, line))}


def _frame(axis: Axes, places: Mapping[str, float], line: pd.DataFrame) -> None:
    known = line.drop_duplicates("tau").sort_values("tau")
    at = [places[name] for name in known["objective_name"]]
    axis.set_xticks(at, [naming.number(tau) for tau in known["tau"]])
    axis.set_xlim(at[0] - 0.2, max(places.values()) + 0.2)
    axis.set_xlabel("temperature τ")
    axis.grid(axis="y", color="#ececec")
    axis.set_axisbelow(True)
    if max(places.values()) > at[-1]:
        axis.axvline(at[-1] + _STEP, color="#c8c8c8", linewidth=0.6, zorder=0)


def _accuracy(axis: Axes, frame: pd.DataFrame, line: pd.DataFrame, places: Mapping[str, float], tall: float) -> None:
    """Draw seeds and means, and name what has no tau at the right."""
    low, high = _ends(frame)
    axis.set_ylim(low, high)
    _join(axis, summarise(line, ["objective_name", "tau"]).rename(columns={"mean": "value"}), places)
    for name, group in frame.groupby("objective_name", sort=False):
        draw_seeds(axis, group, places[name], upright=True)
    known = [
        (name, group["look"].iloc[0], finished(group)["test_top1"].mean())
        for name, group in frame[~frame["cell"].isin(line["cell"])].groupby("objective_name", sort=False)
        if len(finished(group))
    ]
    heights = style.spread([mean for *_, mean in known], _LABEL / tall * (high - low), (low, high)) if known else []
    for (name, look, mean), height in zip(known, heights, strict=True):
        stroke = {"color": look.color, "linestyle": look.linestyle, "linewidth": 0.8}
        if len(known) <= _LINES:
            axis.axhline(mean, zorder=1, **stroke)
        axis.plot([1, 1.05], [mean, height], transform=axis.get_yaxis_transform(), clip_on=False, **stroke)
        at = ("axes fraction", "data"), "offset points"
        axis.annotate(name, (1.05, height), (3, 0), *at, va="center", fontsize=7, color=look.color)


def _differences(
    axis: Axes, frame: pd.DataFrame, line: pd.DataFrame, places: Mapping[str, float], compared: Mapping[str, Compared]
) -> None:
    firsts = frame.drop_duplicates("objective_name").to_dict("records")
    found = {one["objective_name"]: (compared[one["cell"]], one["look"]) for one in firsts if one["cell"] in compared}
    axis.set_ylim(differences.ends(one for one, _ in found.values()))
    axis.axhline(0, color="#000000", linewidth=0.8, zorder=1)
    points = line.drop_duplicates("objective_name")[["objective_name", "tau"]]
    effects = points["objective_name"].map({name: one.found.effect for name, (one, _) in found.items()})
    _join(axis, points.assign(value=effects), places)
    for name, (one, look) in found.items():
        differences.draw(axis, one, look, places[name], upright=True, aside=0.09)
    axis.set_ylabel(differences.LABEL)


def _join(axis: Axes, points: pd.DataFrame, places: Mapping[str, float]) -> None:
    """Join the values over tau, up to ∞ by dots."""
    known = points[points["value"].notna()].sort_values("tau")
    known = known.assign(place=known["objective_name"].map(places))
    finite = known[known["tau"] < float("inf")]
    axis.plot(finite["place"], finite["value"], color=style.GREY, linewidth=0.8, zorder=2)
    if len(finite) < len(known):
        axis.plot(known["place"].tail(2), known["value"].tail(2), ":", color=style.GREY, linewidth=0.8, zorder=2)
