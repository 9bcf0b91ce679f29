"""Soft targets as a regulariser: students of a part of the data, whose teacher saw all of it, beside CE on that part.

Test top-1, train less test accuracy, and the share that is recovered of the way from CE on the part to CE on all
(Hinton, Vinyals and Dean 2015, arXiv 1503.02531, who recover 87 % of it on speech with 3 % of the data).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd.report.figures import epochs, naming, style, wording
from kd.report.statistics import Interval, Paired, finished, settings, share, side, summarise

_DODGE = 1.04  # by this factor the marks of neighbouring objectives stand apart
_WIDE = 100  # letters of a title


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw test top-1, train less test, and the recovered share over the fraction, for each setting."""
    panels = _panels(rows)
    heads = [_head(title, frame) for title, frame in panels]
    figure = style.canvas(style.DOUBLE, sum(2.0 + 0.16 * head.count("\n") + 0.3 * bool(head) for head in heads))
    parts = figure.subfigures(len(panels), 1, squeeze=False).flat
    for part, head, (_, frame) in zip(parts, heads, panels, strict=True):
        if head:
            part.suptitle(head, x=0.01, ha="left", fontweight="bold")
        test, gap, regained = part.subplots(1, 3)
        _lines(test, frame, partial(_means, "test_top1"))
        _lines(gap, frame, partial(_means, "train_test_gap"))
        _lines(regained, frame, partial(_shares, frame))
        for place in (0, 100):
            regained.axhline(place, color=style.GREY, linestyle=":", linewidth=0.8, zorder=1)
        n = style.usual_n(frame, ["objective_name", "fraction"])
        names = (test, "test", style.TEST), (gap, "overfitting", "train − test top-1 (%)")
        for axis, name, label in (*names, (regained, "recovered", "of what the part loses (%)")):
            axis.set_title(f"{name}, n = {n}", loc="left")
            axis.set_ylabel(label)
        where = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "borderaxespad": 0.5}
        regained.legend(*test.get_legend_handles_labels(), handlelength=2.6, **where)
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say for the smallest part how CE and the taught stand, and how much they recover."""
    panels = _panels(rows)
    used = wording.union(frame for _, frame in panels)
    shows = (
        f"Students of a class-balanced part of the training set, whose teacher saw all of it ({wording.where(used)}): "
        "test top-1, train less test top-1, and the share that is recovered of the way from CE on the part to CE on "
        "all of the data. Marks are means, bars their intervals; no share stands where the interval of that way "
        "reaches 0."
    )
    return wording.compose(shows, [title for title, _ in panels], [_said(frame) for _, frame in panels], used)


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return (title, rows) of each setting in which teachers saw more than some of their students, others saw all.

    Many objectives are dealt out, CE in every hand.
    """
    found = [
        (key, frame.assign(train_test_gap=frame["train_top1"] - frame["test_top1"]))
        for key, frame in settings(rows, {"fraction"})
        if (frame["teacher_fraction"] > frame["fraction"]).any() and (frame["fraction"] == 1).any()
    ]
    if not found:
        raise wording.nothing(
            "fractions", "students of all the data and of a part whose teachers saw more (student_fraction)", rows
        )
    titles = naming.titles([key for key, _ in found])
    return [
        (", ".join(filter(None, [title, part])), frame[frame["objective_name"].isin(names)])
        for title, (_, frame) in zip(titles, found, strict=True)
        for part, names in epochs.hands(frame)
    ]


def _head(title: str, frame: pd.DataFrame) -> str:
    """Return the title, with what diverged or has another n."""
    at = frame["objective_name"] + " at " + (100 * frame["fraction"]).map(naming.number) + " %"
    odd = wording.odd(frame.assign(objective_name=at), style.usual_n(frame, ["objective_name", "fraction"]))
    return "\n".join(part for line in filter(None, [title, *odd]) for part in textwrap.wrap(line, _WIDE))


def _lines(axis: Axes, frame: pd.DataFrame, found: Callable[[pd.DataFrame], Iterator[tuple[float, Interval]]]) -> None:
    """Draw a line over the fraction for each objective."""
    names = frame["objective_name"].unique()
    for number, (name, chosen) in enumerate(frame.groupby("objective_name", sort=False)):
        look, apart = chosen["look"].iloc[0], _DODGE ** (number - (len(names) - 1) / 2)
        points = [(100 * fraction * apart, mean) for fraction, mean in found(chosen)]
        places = [place for place, _ in points]
        axis.plot(places, [mean.mean for _, mean in points], label=name, linewidth=1, markersize=4, **vars(look))
        axis.vlines(places, *([getattr(mean, end) for _, mean in points] for end in ("low", "high")), look.color, lw=1)
    fractions = sorted(100 * frame["fraction"].unique())
    axis.set_xscale("log")
    axis.set_xticks(fractions, map(naming.number, fractions))
    axis.set_xticks([], minor=True)
    axis.set(xlim=(fractions[0] / 1.3, fractions[-1] * 1.3), xlabel="of the training data (%)")
    axis.grid(axis="y", color="#ececec")
    axis.set_axisbelow(True)


def _means(value: str, chosen: pd.DataFrame) -> Iterator[tuple[float, Interval]]:
    """Yield the mean of an objective at each fraction, where a network did not diverge."""
    for line in summarise(chosen, ["fraction"], value).sort_values("fraction").to_dict("records"):
        if line["n"]:
            yield line["fraction"], Interval(line["mean"], line["low"], line["high"], line["n"])


def _shares(frame: pd.DataFrame, chosen: pd.DataFrame) -> Iterator[tuple[float, Interval]]:
    """Yield the share that an objective recovers at each fraction below 1."""
    for fraction in sorted(chosen.loc[chosen["teacher_fraction"] > chosen["fraction"], "fraction"].unique()):
        found = recovered(frame, chosen, fraction)
        if found.n:
            yield fraction, Interval(found.effect, found.low, found.high, found.n)


def recovered(frame: pd.DataFrame, chosen: pd.DataFrame, fraction: float) -> Paired:
    """Return the share (percent) of the way from CE at a fraction to CE on all that `chosen` reach at that fraction."""
    hard = frame[frame["loss"] == "ce"]
    part, whole = hard[hard["fraction"] == fraction], hard[hard["fraction"] == 1]
    parts = chosen[chosen["fraction"] == fraction], part, whole
    return Paired() if any(one.empty for one in parts) else share(*map(side, parts))


def _said(frame: pd.DataFrame) -> str:
    least = frame["fraction"].min()
    part = frame[frame["fraction"] == least]
    by, values = ["objective_name"], ("test_top1", "train_test_gap")
    table, gaps = (summarise(part, by, value).set_index(by[0]) for value in values)
    said = []
    for name, chosen in part.groupby("objective_name", sort=False):
        gap = wording.minus(f"{gaps.loc[name, 'mean']:.2f}")
        over = f", train less test {gap}" if len(finished(chosen)) else ""
        found = recovered(frame, chosen, least) if chosen["stages"].max() > 1 else Paired()
        share_words = f", recovers {wording.percent_words(found)}" if found.n else ""
        said.append(f"{name} {wording.mean_words(table.loc[name])}{over}{share_words}")
    return f"at {naming.number(100 * least)} % of the data {'; '.join(said)}"
