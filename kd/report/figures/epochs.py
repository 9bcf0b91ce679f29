"""Epochs side by side: a line for each objective, its mean over seeds, and the seeds of the last epoch beside it.

Bands of several objectives would lie over each other in colours that mean nothing, so that only the last epoch, whose
numbers the table has, shows its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kd.report.figures import naming, style, wording
from kd.report.statistics import finished, settings, summarise

_MOST = 8  # objectives that one panel keeps apart
SEEDS = "Lines are means over the seeds that did not diverge; beyond the last epoch stand its seeds, as marks."
_STEPS = 6  # a schedule with more learning rates than this has no steps to mark


class Panel(NamedTuple):
    """The epochs of some objectives of one setting."""

    title: str
    epochs: pd.DataFrame
    table: pd.DataFrame  # one line per objective: n, diverged


class View(NamedTuple):
    """What one axis of a panel shows: the column `value` (percent) of `epochs`, within `limits`."""

    title: str
    epochs: pd.DataFrame
    value: str
    label: str
    limits: tuple[float, float]


def draw(panels: Sequence[Panel], views: Callable[[pd.DataFrame], list[View]]) -> Figure:
    """Draw the views of each panel side by side, panels below each other."""
    figure = style.canvas(style.DOUBLE, sum(2.1 + 0.2 * bool(panel.title) for panel in panels))
    for part, panel in zip(figure.subfigures(len(panels), 1, squeeze=False).flat, panels, strict=True):
        if panel.title:
            part.suptitle(panel.title, x=0.01, ha="left", fontweight="bold")
        shown = views(panel.epochs)
        axes = part.subplots(1, len(shown))
        usual = (panel.table["n"] + panel.table["diverged"]).mode().iloc[0]
        for axis, view in zip(axes, shown, strict=True):
            _draw_panel(axis, panel.table, view)
            axis.set_title(f"{view.title}, n = {usual}", loc="left")
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.6, borderaxespad=0.5)
    return figure


def panels(
    figure: str, rows: pd.DataFrame, curves: pd.DataFrame, value: str = "test_top1", having: str = ""
) -> list[Panel]:
    """Return a panel for each setting whose epochs have a `value`; many objectives are dealt out, CE in every hand.

    Raises ConfigError that names `figure` where there is nothing to show; `having` says which networks have a `value`.
    """
    found = []
    keys = settings(rows) if len(rows) else []
    for title, (_, frame) in zip(naming.titles([key for key, _ in keys]), keys, strict=True):
        epochs = curves[curves["cell"].isin(finished(frame)["cell"])].drop_duplicates(["cell", "epoch"])
        epochs = epochs[epochs[value].notna()] if value in epochs else epochs.head(0)
        epochs = epochs.assign(objective_name=epochs["cell"].map(frame.set_index("cell")["objective_name"]))
        table = summarise(frame, ["objective_name", "look"])
        for part, names in hands(frame):
            shown = epochs[epochs["objective_name"].isin(names)]
            name = ", ".join(filter(None, [title, part]))
            if len(shown):
                found.append(Panel(name, shown, table[table["objective_name"].isin(names)]))
    if not found:
        raise wording.nothing(figure, f"epochs of networks that did not diverge {having}".strip(), rows)
    return found


def falls(panels: Sequence[Panel]) -> str:
    """Explain the vertical lines, where there are some."""
    found = sorted({step for panel in panels for step in steps(panel.epochs)})
    return f" Vertical lines: the learning rate falls at the start of epoch {_listed(found)}." if found else ""


def steps(epochs: pd.DataFrame) -> list[int]:
    """Return the epochs at whose start the learning rate falls, for a schedule in steps."""
    rates = epochs.astype({"lr": float}).groupby("epoch")["lr"].max()
    if rates.nunique() > _STEPS:
        return []
    return [int(epoch) for epoch in rates.index[rates < 0.75 * rates.shift()]]


def _listed(steps: list[int]) -> str:
    *before, last = map(str, steps)
    return f"{', '.join(before)} and {last}" if before else last


def hands(frame: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Deal the objectives of one setting into parts that a panel keeps apart: by alpha first, then by order."""
    every = frame.drop_duplicates("objective_name")
    if len(every) <= _MOST:
        return [("", every["objective_name"].tolist())]
    found, baseline = [], every["family"] == "ce"
    for alpha, group in every[~baseline].groupby("alpha", dropna=False):
        some = group["objective_name"].tolist()
        size = -(-len(some) // -(-len(some) // (_MOST - 1)))  # as even as can be
        parts = [some[i : i + size] for i in range(0, len(some), size)]
        for place, part in enumerate(parts, 1):
            name = "without α" if math.isnan(alpha) else f"α = {naming.number(alpha)}"
            name += f", part {place}" if len(parts) > 1 else ""
            found.append((name, every.loc[baseline, "objective_name"].tolist() + part))
    return found


def _draw_panel(axis: Axes, table: pd.DataFrame, view: View) -> None:
    epochs = view.epochs
    first, last = epochs["epoch"].min(), epochs["epoch"].max()
    for step in steps(epochs):
        axis.axvline(step, color="#c8c8c8", linewidth=0.6, zorder=0)
    room = 0.02 * (last - first) + 0.1
    for place, line in enumerate(table.to_dict("records")):
        own = epochs[epochs["objective_name"] == line["objective_name"]]
        _draw_line(axis, own, line, view.value, place / len(table))
        seeds = own.loc[own["epoch"] == last, view.value].dropna()
        at = [last + (2 + 1.5 * place) * room] * len(seeds)
        axis.plot(at, seeds, line["look"].marker, color=line["look"].color, markersize=2.5, markeredgewidth=0)
    axis.set(xlabel="epoch", ylabel=view.label, ylim=view.limits)
    axis.set_xlim(first - room, last + (2 + 1.5 * len(table)) * room)
    ticks = MaxNLocator(nbins=4, integer=True).tick_values(first, last)
    axis.set_xticks([tick for tick in ticks if first <= tick <= last])


def _draw_line(axis: Axes, epochs: pd.DataFrame, line: dict, value: str, shift: float) -> None:
    means = epochs.astype({value: float}).groupby("epoch")[value].mean().dropna()
    counted = wording.count(line["n"], line["diverged"]).replace(", ", "\n") if line["diverged"] else ""
    name = f"{line['objective_name']}\n{counted}".strip()
    every = max(len(means) // 5, 1)
    marks = {"markersize": 3.5, "markevery": (int(shift * every), every)}  # neighbours' marks lie side by side
    axis.plot(means.index, means, label=name, linewidth=1, **vars(line["look"]), **marks)
