"""KL over its temperature and weight: an alpha x tau grid, test top-1 on the left and train top-1 on the right.

A loss that has only one of the two has a grid of one row or column, marked –. A combination that was not run stays
empty; one whose networks all diverged is hatched; a hatched corner marks one of which some diverged.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from kd.report.figures import naming, style, wording
from kd.report.statistics import settings, summarise

_WIDE = 7  # more temperatures than this need both columns of the paper for one panel


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw one pair of grids per student, data and noise."""
    grids = _grids(rows)
    across = max(grid["tau"].nunique(dropna=False) for _, grid, _ in grids) <= _WIDE
    shape = (len(grids), 2) if across else (2 * len(grids), 1)
    heights = [max(0.75 + 0.5 * grid["alpha"].nunique(dropna=False), 1.6) for _, grid, _ in grids]
    figure = style.canvas(style.DOUBLE, sum(heights) * (1 if across else 2))
    axes = figure.subplots(*shape, squeeze=False).reshape(len(grids), 2)
    for pair, (title, grid, _) in zip(axes, grids, strict=True):
        for axis, value in zip(pair, ("test_top1", "train_top1"), strict=True):
            usual = style.usual_n(grid, ["alpha", "tau"])
            label = f"{style.AXES[value]}, n = {usual}"
            _grid(axis, summarise(grid, ["alpha", "tau"], value), label, usual)
        style.head(pair[0], title, 2)
        if across:
            pair[1].set_ylabel("")
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say what the grid shows: the highest mean, its difference to CE, what else was run, n and what diverged."""
    grids = _grids(rows)
    used = wording.union(frame for _, _, frame in grids)
    said = [
        wording.best_words(frame, among=set(grid["objective_name"]), against=wording.baselines(frame))
        + _beside(grid, frame)
        for _, grid, frame in grids
    ]
    shows = (
        f"Distillation over temperature τ and weight α ({wording.where(used)}): mean top-1 on the test set (left) and "
        f"the training set (right), ± half the interval.{_legend(grids)}"
    )
    titles = [title for title, _, _ in grids]
    return wording.compose(shows, titles, said, used, "Colour scales differ between panels and do not begin at 0.")


def _legend(grids: list) -> str:
    """Explain the empty and hatched cells, where there are any."""
    grid = pd.concat([grid for _, grid, _ in grids])
    sizes = [grid[["alpha", "tau"]].nunique(dropna=False).prod() for _, grid, _ in grids]
    empty = sum(sizes) - sum(len(grid[["alpha", "tau"]].drop_duplicates()) for _, grid, _ in grids)
    words = f" Empty: not run ({empty})." if empty else ""
    return words + (" Hatched: diverged, all of a cell or some of it." if (grid["status"] == "diverged").any() else "")


def _beside(grid: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Name the objectives off the grid, such as the CE baseline, with their means."""
    others = frame[~frame["cell"].isin(grid["cell"])]
    lines = summarise(others, ["objective_name"]).to_dict("records")
    said = [f"{line['objective_name']} {wording.mean_words(line)}" for line in lines]
    return f"; off the grid: {', '.join(said)}" if said else ""


def _grids(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Return (title, rows on the grid, those and the rows off every grid) for each setting and family."""
    found = []
    for key, frame in settings(rows):
        groups = frame.groupby(["family", "family_name"], sort=False)
        grids = [(family, grid) for family, grid in groups if grid["objective"].nunique() > 1]
        others = frame[~frame["cell"].isin([cell for _, grid in grids for cell in grid["cell"]])]
        for (family, name), grid in grids:
            found.append(({**key, "family": family, "family_name": name}, grid, pd.concat([others, grid])))
    if not found:
        raise wording.nothing("heatmap", "an objective with several tau or alpha, such as kl", rows)
    return [(title, *frames) for title, (_, *frames) in zip(naming.titles([f[0] for f in found]), found, strict=True)]


def _grid(axis: Axes, table: pd.DataFrame, label: str, usual: int) -> None:
    """Draw one grid: tau rising to the right with ∞ last, alpha rising upwards."""
    means = table.pivot(index="alpha", columns="tau", values="mean").sort_index(ascending=False).sort_index(axis=1)
    words = table.assign(words=_words(table, usual)).pivot(index="alpha", columns="tau", values="words")
    words = words.reindex(index=means.index, columns=means.columns)
    seaborn.heatmap(
        means,
        ax=axis,
        annot=words.where(means.notna(), ""),
        fmt="",
        cmap="viridis",
        vmin=None if means.notna().any(axis=None) else 0,
        vmax=None if means.notna().any(axis=None) else 100,
        annot_kws={"size": 7, "linespacing": 1.2},
        linewidths=1,
        cbar_kws={"label": label, "pad": 0.02, "aspect": 14},
    )
    axis.collections[0].colorbar.outline.set_visible(False)
    axis.set_xticklabels([naming.number(tau) for tau in means.columns])
    axis.set_yticklabels([naming.number(alpha) for alpha in means.index], rotation=0)
    axis.set(xlabel="temperature τ", ylabel="weight α")
    axis.tick_params(length=0)
    _contrast(axis)
    _mark(axis, table, means)


def _words(table: pd.DataFrame, usual: int) -> list[str]:
    """Spell each cell: mean, half-width of its interval, and n where it is not the usual one."""
    lines = []
    for line in table.to_dict("records"):
        words = wording.half_words(line).replace(" ± ", "\n±")
        if line["diverged"]:
            words += f"\n{line['n']} of {line['n'] + line['diverged']}"
        elif line["n"] != usual:
            words += f"\nn = {line['n']}"
        lines.append(words)
    return lines


def _contrast(axis: Axes) -> None:
    """Write black or white, whichever stands out more: seaborn's own choice is white on mid green."""
    mesh = axis.collections[0]
    empty = np.ma.getmaskarray(mesh.get_array()).ravel()
    for text, rgb in zip(axis.texts, mesh.get_facecolors()[~empty], strict=True):
        linear = np.where(rgb[:3] <= 0.04045, rgb[:3] / 12.92, ((rgb[:3] + 0.055) / 1.055) ** 2.4)
        text.set_color("black" if linear @ (0.2126, 0.7152, 0.0722) > 0.18 else "white")


def _mark(axis: Axes, table: pd.DataFrame, means: pd.DataFrame) -> None:
    """Frame what was not run, hatch what diverged: the whole cell, or a corner where only some networks did."""
    hatch = {"facecolor": "white", "edgecolor": style.GREY, "hatch": "////////", "linewidth": 0.5}
    lines = {(naming.number(line["tau"]), naming.number(line["alpha"])): line for line in table.to_dict("records")}
    for (x, tau), (y, alpha) in itertools.product(enumerate(means.columns), enumerate(means.index)):
        line = lines.get((naming.number(tau), naming.number(alpha)))
        if line is None:
            axis.add_patch(Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, fill=False, edgecolor="#d0d0d0", linewidth=0.5))
        elif not line["n"]:
            axis.add_patch(Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, **hatch))
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            words = f"diverged\n0 of {line['diverged']}"
            axis.text(x + 0.5, y + 0.5, words, ha="center", va="center", fontsize=7, bbox=box)
        elif line["diverged"]:
            axis.add_patch(Polygon([(x + 0.7, y + 0.01), (x + 0.99, y + 0.01), (x + 0.99, y + 0.28)], **hatch))
