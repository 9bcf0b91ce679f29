"""Learning curves: top-1 per epoch by objective, the mean over seeds within their range; test, its end, and train.

The band is the range of the seeds: a 95 % interval of three values, epoch by epoch, would be wider than anything
that it could show. The end of training stands beside the whole, since the objectives part there by a point or two.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd.figures import naming, style, wording
from kd.statistics import finished, settings, summarise

_MOST = 8  # objectives that one panel keeps apart
_WARM = 0.05  # share of the epochs that the accuracy axis may cut off at the start
_END = 0.7  # share of the epochs that the enlarged end leaves out
_STEPS = 6  # a schedule with more learning rates than this has no steps to mark


class _Panel(NamedTuple):
    title: str
    epochs: pd.DataFrame
    table: pd.DataFrame  # one line per objective: n, diverged


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw test, its end and train side by side, for each setting and handful of objectives."""
    panels = _panels(rows, curves)
    figure = style.canvas(style.DOUBLE, sum(2.1 + 0.2 * bool(panel.title) for panel in panels))
    for part, panel in zip(figure.subfigures(len(panels), 1, squeeze=False).flat, panels, strict=True):
        if panel.title:
            part.suptitle(panel.title, x=0.01, ha="left", fontweight="bold")
        axes = part.subplots(1, 3)
        usual = (panel.table["n"] + panel.table["diverged"]).mode().iloc[0]
        for axis, (title, epochs, value) in zip(axes, _views(panel.epochs), strict=True):
            _draw_panel(axis, epochs, panel.table, value)
            axis.set_title(f"{title}, n = {usual}", loc="left")
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.6, borderaxespad=0.5)
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say what the curves are of, how they end, and how the bands are made."""
    panels = _panels(rows, curves)
    found = settings(rows)
    used = wording.union(frame for _, frame in found)
    said = [wording.best_words(frame, naming.objective_name) for _, frame in found]
    steps = sorted({step for panel in panels for step in _steps(panel.epochs)})
    marked = f" Vertical lines: the learning rate falls at the start of epoch {_listed(steps)}." if steps else ""
    shows = (
        f"Top-1 per epoch by objective ({wording.where(used)}): test, the end of test enlarged, and train. Lines are "
        f"means over the seeds of the networks that did not diverge, bands the range of those seeds.{marked}"
    )
    cut = wording.cut(_limits(epochs, value)[0] for panel in panels for _, epochs, value in _views(panel.epochs))
    return wording.compose(shows, naming.titles([key for key, _ in found]), said, used, cut)


def _listed(steps: list[int]) -> str:
    *before, last = map(str, steps)
    return f"{', '.join(before)} and {last}" if before else last


def _views(epochs: pd.DataFrame) -> list[tuple[str, pd.DataFrame, str]]:
    """Return (title, epochs, measure) of the three panels; the end begins with the last learning rate of a schedule."""
    last = epochs["epoch"].max()
    begin = max([_END * last, *(step for step in _steps(epochs) if step < 0.9 * last)])
    end = epochs[epochs["epoch"] >= begin]
    return [("test", epochs, "test_top1"), ("test, the end", end, "test_top1"), ("train", epochs, "train_top1")]


def _panels(rows: pd.DataFrame, curves: pd.DataFrame) -> list[_Panel]:
    """Return a panel for each setting; one with many objectives is dealt out, CE in every hand."""
    found = []
    keys = settings(rows)
    for title, (_, frame) in zip(naming.titles([key for key, _ in keys]), keys, strict=True):
        epochs = curves[curves["cell"].isin(finished(frame)["cell"])].drop_duplicates(["cell", "epoch"])
        table = summarise(frame, ["objective"])
        for part, objectives in _hands(frame):
            shown = epochs[epochs["objective"].isin(objectives)]
            name = ", ".join(filter(None, [title, part]))
            if len(shown):
                found.append(_Panel(name, shown, table[table["objective"].isin(objectives)]))
    if not found:
        raise wording.nothing("curves", "epochs of networks that did not diverge", rows)
    return found


def _hands(frame: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Deal the objectives of one setting into parts that a panel keeps apart: by alpha first, then by order."""
    alphas = dict(zip(frame["objective"], frame["alpha"], strict=True))
    every = sorted(alphas, key=naming.order)
    if len(every) <= _MOST:
        return [("", every)]
    hands = []
    for alpha in sorted({alpha for alpha in alphas.values() if alpha == alpha}):
        some = [objective for objective in every if alphas[objective] == alpha]
        size = -(-len(some) // -(-len(some) // (_MOST - 1)))  # as even as can be
        parts = [some[i : i + size] for i in range(0, len(some), size)]
        for place, part in enumerate(parts, 1):
            name = f"α = {naming.number(alpha)}" + (f", part {place}" if len(parts) > 1 else "")
            hands.append((name, [objective for objective in every if objective == "ce"] + part))
    return hands


def _draw_panel(axis: Axes, epochs: pd.DataFrame, table: pd.DataFrame, value: str) -> None:
    first, last = epochs["epoch"].min(), epochs["epoch"].max()
    for step in _steps(epochs):
        axis.axvline(step, color="#c8c8c8", linewidth=0.6, zorder=0)
    lines = sorted(table.to_dict("records"), key=lambda line: naming.order(line["objective"]))
    for place, line in enumerate(lines):
        _draw_line(axis, epochs[epochs["objective"] == line["objective"]], line, value, place / len(lines))
    room = 0.02 * (last - first) + 0.1
    axis.set(xlabel="epoch", ylabel=style.AXES[value], ylim=_limits(epochs, value), xlim=(first - room, last + room))
    axis.locator_params(axis="x", nbins=4, integer=True)


def _draw_line(axis: Axes, epochs: pd.DataFrame, line: dict, value: str, shift: float) -> None:
    seeds = epochs.astype({value: float}).groupby("epoch")[value].agg(["mean", "min", "max"])
    look = style.look(line["objective"])
    counted = wording.count(line["n"], line["diverged"]).replace(", ", "\n") if line["diverged"] else ""
    name = f"{naming.objective_name(line['objective'])}\n{counted}".strip()
    every = max(len(seeds) // 5, 1)
    marks = {"markersize": 3.5, "markevery": (int(shift * every), every)}  # neighbours' marks lie side by side
    axis.plot(seeds.index, seeds["mean"], label=name, linewidth=1, **look, **marks)
    axis.fill_between(seeds.index, seeds["min"], seeds["max"], color=look["color"], alpha=0.15, linewidth=0)


def _limits(epochs: pd.DataFrame, value: str) -> tuple[float, float]:
    """Return the ends of the accuracy axis (percent), leaving the very first epochs below it."""
    warm = epochs[epochs["epoch"] > _WARM * epochs["epoch"].max()]
    return style.limits(warm[value], margin=0.04)


def _steps(epochs: pd.DataFrame) -> list[int]:
    """Return the epochs at whose start the learning rate falls, for a schedule in steps."""
    rates = epochs.astype({"lr": float}).groupby("epoch")["lr"].max()
    if rates.nunique() > _STEPS:
        return []
    return [int(epoch) for epoch in rates.index[rates < 0.75 * rates.shift()]]
