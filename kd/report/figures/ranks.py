"""Objectives over several pairs of networks: mean ranks with the critical difference, and differences from one of them.

On the left bars are half a critical difference long to each side, so that two objectives differ where their bars do not
overlap: the critical-difference diagram (Demsar 2006), with a line for each name. On the right each objective is
compared with CE, or the first, by a mixed model in which the pair of networks is a random effect (kd.report.mixed).
Of one pair of networks the seeds of its students take the place of pairs, and differences are paired by seed.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd.report.figures import naming, style, wording
from kd.report.figures.dots import ROW, label_rows
from kd.report.mixed import Mixed, Ranks, over_pairs, ranks
from kd.report.statistics import Paired, against, finished, settings, side

_PAIRS, _SEEDS = "pairs of networks", "seeds"  # what objectives are ranked within
_OF = ["dataset", "noise", "noise_rate", "fraction", "protocol"]  # pairs of networks that share these are compared


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw two panels for each kind of data: ranks, and differences."""
    panels = _panels(rows)
    heights = [0.9 + ROW * len(_accuracy(frames).columns) for _, frames in panels]
    figure = style.canvas(style.DOUBLE, sum(heights))
    grid = figure.subplots(len(panels), 2, squeeze=False, height_ratios=heights)
    for (left, right), (title, frames) in zip(grid, panels, strict=True):
        accuracy, used = _accuracy(frames), wording.union(frames)
        found = ranks(accuracy)
        looks = used.drop_duplicates("objective_name").set_index("objective_name")["look"]
        _ranked(left, frames, found, looks)
        _compared(right, frames, accuracy, found, looks)
        style.head(left, title, 2, *wording.odd(used, style.usual_n(used, ["objective_name"])))
        for axis in (left, right):
            label_rows(axis, list(found.means.index))
        right.tick_params(axis="y", labelleft=right.get_subplotspec().is_first_col())  # below the left in a column
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say how objectives rank, which are not told apart, and how each stands against the one they are compared with."""
    panels = _panels(rows)
    used = wording.union(frame for _, frames in panels for frame in frames)
    over = dict.fromkeys(_blocks(frames) for _, frames in panels)
    right = {
        _PAIRS: "the interval of a mixed model in which the pair is a random effect",
        _SEEDS: "their 95 % interval, paired by seed",
    }
    shows = (
        f"Objectives over {' or '.join(over)} ({wording.where(used)}). Left: mean ranks by test top-1, 1 is best; two "
        "objectives differ at 0.05 (Nemenyi) where their bars, a critical difference long, do not overlap. Right: "
        f"differences in points; dots are {' or '.join(over)}, marks their means with "
        f"{' or '.join(right[one] for one in over)}."
    )
    return wording.compose(shows, [title for title, _ in panels], [_said(frames) for _, frames in panels], used)


def _panels(rows: pd.DataFrame) -> list[tuple[str, list[pd.DataFrame]]]:
    """Return (title, the frame of each pair of networks) for each kind of data with blocks and objectives enough."""
    groups: dict[tuple, list[tuple[dict, pd.DataFrame]]] = {}
    for key, frame in settings(rows):
        groups.setdefault(tuple(key[column] for column in _OF), []).append((key, frame))
    found = [group for group in groups.values() if _enough([frame for _, frame in group])]
    if not found:
        raise wording.nothing("ranks", "several pairs of networks or seeds, and three losses", rows)
    unnamed = {"networks": "", "networks_name": "", "student": ""}
    titles = naming.titles([group[0][0] | (unnamed if len(group) > 1 else {}) for group in found])
    return [(title, [frame for _, frame in group]) for title, group in zip(titles, found, strict=True)]


def _enough(frames: list[pd.DataFrame]) -> bool:
    blocks, objectives = _accuracy(frames).shape
    return blocks > 1 and objectives > 2


def _blocks(frames: list[pd.DataFrame]) -> str:
    """Return what objectives are ranked within."""
    return _PAIRS if len(frames) > 1 else _SEEDS


def _accuracy(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean test top-1 (percent) of each block and objective, of the objectives that every block has."""
    if len(frames) > 1:
        found = [finished(frame).groupby("objective_name", sort=False)["test_top1"].mean() for frame in frames]
    else:
        (frame,) = frames
        means = finished(frame).groupby(["seed", "objective_name"], sort=False)["test_top1"].mean().unstack(sort=False)
        found = [row for _, row in means.sort_index().iterrows()]
    return pd.DataFrame(found).dropna(axis=1).reset_index(drop=True)


def _other(frames: list[pd.DataFrame], accuracy: pd.DataFrame) -> str:
    """Return the objective that the others are compared with: CE, else the first."""
    known = wording.baselines(wording.union(frames))
    return next((name for name in known if name in accuracy), accuracy.columns[0])


def _ranked(axis: Axes, frames: list[pd.DataFrame], found: Ranks, looks: pd.Series) -> None:
    for place, (name, mean) in enumerate(found.means.items()):
        ends = [mean - found.critical / 2, mean + found.critical / 2]
        axis.plot(ends, [place, place], color=looks[name].color, linewidth=1.3)
        axis.plot(mean, place, marker=looks[name].marker, color=looks[name].color, markersize=5)
    axis.set_xlabel(f"mean rank by test top-1 (%), n = {found.blocks} {'pairs' if len(frames) > 1 else 'seeds'}")
    _bare(axis, len(found.means))


def _compared(axis: Axes, frames: list[pd.DataFrame], accuracy: pd.DataFrame, found: Ranks, looks: pd.Series) -> None:
    other = _other(frames, accuracy)
    axis.axvline(0, color=style.GREY, linestyle=":", linewidth=0.8)
    for place, name in enumerate(found.means.index):
        axis.axhline(place, color="#e4e4e4", linewidth=0.5, zorder=0)
        if name == other:
            continue
        look, gaps = looks[name], accuracy[name] - accuracy[other]
        axis.plot(gaps, [place + 0.26] * len(gaps), "o", color=look.color, markersize=2)
        mean, _ = _difference(frames, name, other)
        if mean is not None and mean.tested:
            axis.plot([mean.low, mean.high], [place, place], color=look.color, linewidth=1.3)
        effect = gaps.mean() if mean is None else mean.effect
        axis.plot(effect, place, marker=look.marker, color=look.color, markersize=5)
    axis.set_xlabel(f"points against {other}")
    _bare(axis, len(found.means))


def _difference(frames: list[pd.DataFrame], name: str, other: str) -> tuple[Paired | None, Mixed | None]:
    """Return the mean difference of two objectives, and over pairs of networks the mixed model that it is of.

    Both are None for pairs of networks that share fewer than two seeds.
    """
    if len(frames) > 1:
        model = over_pairs(frames, name, other)
        return model and model.mean, model
    (frame,) = frames
    return against(*(side(frame[frame["objective_name"] == which]) for which in (name, other))), None


def _bare(axis: Axes, count: int) -> None:
    axis.set(ylim=(count - 0.45, -0.6), yticks=range(count))
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)


def _said(frames: list[pd.DataFrame]) -> str:
    accuracy, every = _accuracy(frames), wording.objectives(wording.union(frames), frames)
    found, other, blocks = ranks(accuracy), _other(frames, accuracy), _blocks(frames)
    first = f"{found.means.index[0]} ranks first of {len(found.means)} (n = {found.blocks} {blocks})"
    best = f"mean rank {found.means.iloc[0]:.1f}"
    apart = f"{best}, critical difference {found.critical:.2f}, Friedman {wording.p_words(found.p)}"
    compared = [_words(frames, name, other) for name in found.means.index if name != other]
    left = [name for name in every if name not in accuracy]
    out = [f"not in every one of the {blocks}, and left out: {', '.join(left)}"] if left else []
    return "; ".join([f"{first}: {apart}", *compared, *out])


def _words(frames: list[pd.DataFrame], name: str, other: str) -> str:
    mean, model = _difference(frames, name, other)
    if mean is None:
        return f"{name}: fewer than two seeds that every pair has"
    gap = f"{name} {wording.interval_words(mean.effect, mean.low, mean.high)} against {other}"
    if model is None:
        return gap
    return f"{gap} (sd {model.between:.2f} between pairs, {model.within:.2f} between {model.seeds} seeds)"
