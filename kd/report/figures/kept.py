"""What a student keeps of an ensemble's gain: one network by CE, the student, and the ensemble that taught it.

All are of the same network. The share is that of the way from one network to the ensemble (Hinton, Vinyals and Dean
2015, arXiv 1503.02531, keep 86 % of the gain of ten networks on speech).
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd.report.figures import naming, style, wording
from kd.report.figures.dots import ROW, draw_seeds, label_rows, seed_marks
from kd.report.statistics import Paired, finished, settings, share, side, summarise


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw a row of panels for each setting: accuracies, and the share that is kept."""
    panels = _panels(rows)
    names = wording.objectives(rows, [frame[frame["stages"] > 1] for _, frame in panels])
    figure = style.canvas(style.DOUBLE, len(panels) * (0.8 + ROW * len(names)) + 0.4)
    grid = figure.subplots(len(panels), 2, squeeze=False, sharey=True, width_ratios=[3, 2])
    for (left, right), (title, frame) in zip(grid, panels, strict=True):
        _accuracies(left, frame, names)
        _shares(right, frame, names)
        usual = style.usual_n(frame, ["objective_name"])
        style.head(left, title, 2, *wording.odd(frame, usual))
        left.set_xlabel(f"{style.TEST}, n = {usual}")
        label_rows(left, names)
    _legend(figure)
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say what the ensemble adds to one network, and what each objective keeps of it."""
    panels = _panels(rows)
    used = wording.union(frame for _, frame in panels)
    shows = (
        f"One network by CE, students of an ensemble of such networks, and the ensemble ({wording.where(used)}); on "
        "the right the share of the way from the one to the other that students keep. Marks on the left are seeds, "
        "short lines their means, bars on the right intervals; no share stands where the interval of that way reaches "
        "0."
    )
    return wording.compose(shows, [title for title, _ in panels], [_said(frame) for _, frame in panels], used)


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return (title, CE and the students) of each setting whose teacher is an ensemble of the student's network."""
    own = (rows["teacher_members"] > 1) & (rows["teacher_networks"] == rows["student"])
    found = settings(rows[own | ((rows["stages"] == 1) & (rows["loss"] == "ce"))]) if own.any() else []
    if not found:
        raise wording.nothing("kept", "students of an ensemble of their own network", rows)
    return list(zip(naming.titles([key for key, _ in found]), [frame for _, frame in found], strict=True))


def kept(frame: pd.DataFrame, name: str) -> Paired:
    """Return the share (percent) of the way from CE to the ensemble that students by an objective reach."""
    taught, alone = frame[frame["objective_name"] == name], frame[frame["stages"] == 1]
    if alone.empty:
        return Paired()
    return share(*map(side, (taught, alone, taught.assign(test_top1=taught["teacher_top1"]))))


def _accuracies(axis: Axes, frame: pd.DataFrame, names: list[str]) -> None:
    alone, above = finished(frame[frame["stages"] == 1])["test_top1"], frame["teacher_top1"].dropna()
    for place, name in enumerate(names):
        axis.axhline(place, color="#e4e4e4", linewidth=0.5, zorder=0)
        if (frame["objective_name"] == name).any():
            draw_seeds(axis, frame[frame["objective_name"] == name], place)
    for mean, dashes in ((alone.mean(), ":"), (above.mean(), "--")):
        axis.axvline(mean, color=style.GREY, linestyle=dashes, linewidth=1, zorder=1)
    axis.set(xlim=style.limits(finished(frame)["test_top1"], above))
    _bare(axis, names)


def _shares(axis: Axes, frame: pd.DataFrame, names: list[str]) -> None:
    for place in (0, 100):
        axis.axvline(place, color=style.GREY, linestyle="--" if place else ":", linewidth=1, zorder=1)
    for place, name in enumerate(names):
        axis.axhline(place, color="#e4e4e4", linewidth=0.5, zorder=0)
        found = kept(frame, name) if (frame["objective_name"] == name).any() else Paired()
        if not found.n:
            continue
        look = frame.loc[frame["objective_name"] == name, "look"].iloc[0]
        if found.tested:
            axis.plot([found.low, found.high], [place, place], color=look.color, linewidth=1.3, zorder=2)
        axis.plot(found.effect, place, marker=look.marker, color=look.color, markersize=5, zorder=3)
    axis.set_xlabel("of the ensemble's gain, kept (%)")
    _bare(axis, names)


def _bare(axis: Axes, names: list[str]) -> None:
    axis.set_ylim(len(names) - 0.45, -0.6)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)


def _legend(figure: Figure) -> None:
    marks = [
        *seed_marks(),
        Line2D([], [], color=style.GREY, linestyle=":", linewidth=1, label="one network by CE, mean"),
        Line2D([], [], color=style.GREY, linestyle="--", linewidth=1, label="the ensemble, mean"),
        Line2D([], [], color=style.GREY, marker="o", linewidth=1.3, markersize=5, label="share, 95 % interval"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=5, handletextpad=0.4, columnspacing=1.4)


def _said(frame: pd.DataFrame) -> str:
    table = summarise(frame, ["objective_name"]).set_index("objective_name")
    above = frame["teacher_top1"].dropna().mean()
    said = []
    for name in dict.fromkeys(frame["objective_name"]):
        found = kept(frame, name) if (frame.loc[frame["objective_name"] == name, "stages"] > 1).all() else Paired()
        words = f", keeps {wording.percent_words(found)}" if found.n else ""
        said.append(f"{name} {wording.mean_words(table.loc[name])}{words}")
    return f"{'; '.join(said)}; the ensemble {above:.2f} %"
