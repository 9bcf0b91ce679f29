"""KL over its temperature and weight: an alpha x tau grid of paired differences to CE, test on the left, train right.

Colour is the difference, and a cell whose difference is undecided is hatched, because accuracies that chance could
turn round would look like an order. Without CE colour is accuracy. A loss that has only one of the two hyperparameters
has a grid of one row or column, marked –. A combination that was not run stays empty; one whose networks all diverged
says so; a grey corner marks one of which some diverged.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from kd.report.comparisons import LEAST, UNDECIDED, Compared, against_ce
from kd.report.figures import naming, style, wording
from kd.report.statistics import settings, summarise

_SHOWN = {"test_top1": "test", "train_top1": "train"}
_WIDE = 7  # more temperatures than this need both columns of the paper for one panel


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw one pair of grids per student, data and noise."""
    grids = _grids(rows)
    across = max(grid["tau"].nunique(dropna=False) for _, grid, _ in grids) <= _WIDE
    shape = (len(grids), 2) if across else (2 * len(grids), 1)
    heights = [max(0.95 + 0.55 * grid["alpha"].nunique(dropna=False), 1.8) for _, grid, _ in grids]
    figure = style.canvas(style.DOUBLE, sum(heights) * (1 if across else 2))
    axes = figure.subplots(*shape, squeeze=False).reshape(len(grids), 2)
    # Imported networks and ensembles have no train accuracy.
    known = {value: rows[rows[value].notna() | (rows["status"] == "diverged")] for value in _SHOWN}
    compared = {value: against_ce(known[value], value) for value in _SHOWN}
    for pair, (title, grid, _) in zip(axes, grids, strict=True):
        usual = style.usual_n(grid, ["alpha", "tau"])
        for axis, value in zip(pair, _SHOWN, strict=True):
            _grid(axis, _cells(grid, value, compared[value]), value, usual)
            style.head(axis, f"{_SHOWN[value]}, n = {usual}", 2)
        style.head(pair[0], title, 2, f"{_SHOWN['test_top1']}, n = {usual}")
        if across:
            pair[1].set_ylabel("")
    return figure


def _cells(grid: pd.DataFrame, value: str, compared: Mapping[str, Compared]) -> pd.DataFrame:
    """Return a line for each cell of a grid: its mean, its difference to CE (NaN if there is none), what is decided."""
    table = summarise(grid, ["alpha", "tau"], value)
    firsts = grid.groupby(["alpha", "tau"], dropna=False, sort=False)["cell"].first()
    found = [compared.get(cell) for cell in firsts]
    effects = [one.found.effect if one else np.nan for one in found]
    halves = [one.found.half if one and one.found.tested else np.nan for one in found]
    undecided = [bool(one) and one.verdict == UNDECIDED for one in found]
    return table.assign(difference=effects, half=halves, undecided=undecided)


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
        f"Distillation over temperature τ and weight α ({wording.where(used)}), on the test set (left) and the "
        f"training set (right).{_legend(grids, against_ce(used))}"
    )
    titles = [title for title, _, _ in grids]
    return wording.compose(shows, titles, said, used, "Colour scales differ between panels.")


def _legend(grids: list, compared: Mapping[str, Compared]) -> str:
    """Explain numbers and colours, and the empty, hatched and lost cells, where there are any."""
    grid = pd.concat([grid for _, grid, _ in grids])
    sizes = [grid[["alpha", "tau"]].nunique(dropna=False).prod() for _, grid, _ in grids]
    empty = sum(sizes) - sum(len(grid[["alpha", "tau"]].drop_duplicates()) for _, grid, _ in grids)
    words = " Numbers and colours are mean top-1, ± half the interval."
    found = [compared[cell] for cell in grid["cell"] if cell in compared]
    if found:
        words = " Numbers are mean top-1 and, below it and as colour, the paired difference to CE ± half its interval."
    if any(one.verdict == UNDECIDED for one in found):
        words += f" Hatched: undecided by the verdict's rule; fewer than {LEAST} pairs decide nothing."
    words += f" Empty: not run ({empty})." if empty else ""
    return words + (" Grey corner: some diverged." if (grid["status"] == "diverged").any() else "")


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


def _grid(axis: Axes, table: pd.DataFrame, value: str, usual: int) -> None:
    """Draw one grid: tau rising to the right with ∞ last, alpha rising upwards."""
    against = table["difference"].notna().any()
    shown = table.pivot(index="alpha", columns="tau", values="difference" if against else "mean")
    shown = shown.sort_index(ascending=False).sort_index(axis=1)
    words = table.assign(words=_words(table, usual)).pivot(index="alpha", columns="tau", values="words")
    words = words.reindex(index=shown.index, columns=shown.columns)
    label = f"{_SHOWN[value]} top-1 less CE (points)" if against else style.AXES[value]
    far = 1.2 * max(float(table["difference"].abs().max()), 0.1) if against else 100.0
    ends = {"vmin": -far, "vmax": far} if against else {} if shown.notna().any(axis=None) else {"vmin": 0, "vmax": far}
    seaborn.heatmap(
        shown,
        ax=axis,
        annot=words.where(shown.notna(), ""),
        fmt="",
        cmap="PuOr_r" if against else "viridis",
        annot_kws={"size": 7, "linespacing": 1.2},
        linewidths=1,
        cbar_kws={"label": label, "pad": 0.02, "aspect": 14},
        **ends,
    )
    axis.collections[0].colorbar.outline.set_visible(False)
    axis.set_xticklabels([naming.number(tau) for tau in shown.columns])
    axis.set_yticklabels([naming.number(alpha) for alpha in shown.index], rotation=0)
    axis.set(xlabel="temperature τ", ylabel="weight α")
    axis.tick_params(length=0)
    _contrast(axis)
    _mark(axis, table, shown)


def _words(table: pd.DataFrame, usual: int) -> list[str]:
    """Spell each cell: mean, difference to CE with half its interval, and n where it is not the usual one."""
    lines = []
    for line in table.to_dict("records"):
        words = wording.half_words(line).replace(" ± ", "\n±")
        if not np.isnan(line["difference"]):
            half = "" if np.isnan(line["half"]) else f"\n±{line['half']:.2f}"
            words = f"{line['mean']:.2f}\n{wording.signed(line['difference'])}{half}"
        if line["diverged"]:
            words += f"\n{line['n']} of {line['n'] + line['diverged']}"
        elif line["n"] != usual:
            words += f"\nn = {line['n']}"
        lines.append(words)
    return lines


def _contrast(axis: Axes) -> None:
    """Write black or white, whichever stands out more, on the cell's own colour, so that no hatch goes through."""
    mesh = axis.collections[0]
    empty = np.ma.getmaskarray(mesh.get_array()).ravel()
    for text, rgb in zip(axis.texts, mesh.get_facecolors()[~empty], strict=True):
        linear = np.where(rgb[:3] <= 0.04045, rgb[:3] / 12.92, ((rgb[:3] + 0.055) / 1.055) ** 2.4)
        text.set_color("black" if linear @ (0.2126, 0.7152, 0.0722) > 0.18 else "white")
        text.set_bbox({"facecolor": rgb, "edgecolor": "none", "pad": 0.8})


def _mark(axis: Axes, table: pd.DataFrame, shown: pd.DataFrame) -> None:
    """Frame what was not run, hatch what is undecided, and mark what diverged, all of a cell or some of it."""
    lines = {(naming.number(line["tau"]), naming.number(line["alpha"])): line for line in table.to_dict("records")}
    for (x, tau), (y, alpha) in itertools.product(enumerate(shown.columns), enumerate(shown.index)):
        line = lines.get((naming.number(tau), naming.number(alpha)))
        inside = (x + 0.03, y + 0.03), 0.94, 0.94
        if line is None or not line["n"]:
            axis.add_patch(Rectangle(*inside, fill=False, edgecolor="#d0d0d0", linewidth=0.5))
        elif line["undecided"]:
            axis.add_patch(Rectangle(*inside, fill=False, edgecolor="#8a8a8a", hatch="////", linewidth=0))
        if line is not None and not line["n"]:
            axis.text(x + 0.5, y + 0.5, f"diverged\n0 of {line['diverged']}", ha="center", va="center", fontsize=7)
        elif line is not None and line["diverged"]:
            corner = [(x + 0.7, y + 0.01), (x + 0.99, y + 0.01), (x + 0.99, y + 0.28)]
            axis.add_patch(Polygon(corner, facecolor=style.GREY, edgecolor="white", linewidth=0.5))
