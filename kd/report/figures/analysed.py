"""What the figures of analyses share: which networks stand together, and a panel of objectives for each measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from kd.core.errors import DataError
from kd.report.figures import naming, style, wording
from kd.report.statistics import finished, settings, summarise

_ROW = 0.24  # inches


class Setting(NamedTuple):
    """The networks that may be compared, with what an analysis has of them and of those that taught them."""

    title: str
    rows: pd.DataFrame  # of the table
    frame: pd.DataFrame  # of the analysis, against their own teacher
    teachers: pd.DataFrame  # of the analysis


class Measure(NamedTuple):
    """A column of the measures, and what a figure calls it."""

    column: str
    label: str
    words: str  # in a sentence
    unit: str
    taught: bool  # whether a teacher has it, too


def analysed(figure: str, rows: pd.DataFrame, frame: pd.DataFrame) -> list[Setting]:
    """Return the settings of `rows`. Raises DataError that names a student that the analysis lacks."""
    if not (rows["stages"] > 1).any() or frame.empty:
        raise wording.nothing(figure, "students that did not diverge", rows)
    found = settings(rows)
    titles = naming.titles([key for key, _ in found])
    return [_setting(title, key, group, frame) for title, (key, group) in zip(titles, found, strict=True)]


def _setting(title: str, key: dict, group: pd.DataFrame, frame: pd.DataFrame) -> Setting:
    against = frame["reference_lineage"].isin([key["teacher_lineage"], ""])
    own = frame[frame["cell"].isin(group["cell"]) & against]
    students = group[group["stages"] > 1]
    absent = set(finished(students)["cell"]) - set(own["cell"])
    if absent:
        raise DataError(f"{min(absent)}: not in this analysis, which is older than the table; run snakemake")
    teachers = frame["cell"].isin(students["teacher_cell"]) & (frame["reference"] == "")
    return Setting(title, group, own, frame[teachers])


def heading(setting: Setting, *more: str) -> str:
    """Return what stands over the panels of a setting: its title, n, and how many networks diverged."""
    lost = (setting.rows["status"] == "diverged").sum()
    diverged = f"{lost} of {len(setting.rows)} diverged" if lost else ""
    return ", ".join(filter(None, [setting.title, *more, counted(setting), diverged]))


def counted(setting: Setting) -> str:
    """Say how many networks most objectives of a setting have."""
    return f"n = {style.usual_n(setting.rows, ['objective'])}"


def head(part: SubFigure, text: str) -> None:
    """Write a heading over the panels of a setting."""
    part.suptitle(text, x=0.01, ha="left", fontweight="bold")


def some(rows: pd.DataFrame, most: int) -> list[str]:
    """Return `most` objectives of `rows` at most: the first, the last and others evenly between them, in order."""
    every = rows["objective_name"].unique().tolist()
    if len(every) <= most:
        return every
    return [every[round(place * (len(every) - 1) / (most - 1))] for place in range(most)]


def telling(rows: pd.DataFrame) -> list[str]:
    """Return the objectives that tell most: CE, KL at the smallest and the largest tau, and MSE; else some of them."""
    whole = rows[~(rows["alpha"] < 1)]  # CE has no alpha
    kl = whole[whole["family"] == "kl"]
    ends = kl["tau"].isin([kl["tau"].min(), kl["tau"].max()])
    found = rows[rows["cell"].isin([*whole.loc[whole["family"].isin(["ce", "mse"]), "cell"], *kl.loc[ends, "cell"]])]
    return some(found if found["objective"].nunique() > 1 else rows, 4)


def left_out(shown: Sequence[str], rows: pd.DataFrame) -> str:
    """Say how many objectives a figure leaves out, where it does."""
    every = rows["objective"].nunique()
    return f" Shown are {len(shown)} of {every} objectives." if len(shown) < every else ""


def examples(frame: pd.DataFrame) -> str:
    """Say how many test images an analysis is of."""
    counts = (frame[frame["split"] == "test"] if "split" in frame else frame)["n"]
    return f"{' to '.join(f'{n:,}' for n in dict.fromkeys((counts.min(), counts.max())))} test images"


def measures_caption(
    figure: str, shows: str, measures: Sequence[Measure], rows: pd.DataFrame, frame: pd.DataFrame
) -> str:
    """Return what a figure `shows`, "{on}" in it for the images, and between which objectives each measure lies."""
    found = analysed(figure, rows, frame)
    used = wording.union(setting.rows for setting in found)
    said = ["; ".join([*(ends_words(setting, m) for m in measures), counted(setting)]) for setting in found]
    on = f"{examples(frame)} ({wording.where(used)})"
    return wording.compose(shows.format(on=on), [setting.title for setting in found], said, used)


# -- a panel for each measure -----------------------------------------------------------------------------------------


def panels(found: list[Setting], measures: Sequence[Measure]) -> Figure:
    """Draw a line of panels for each setting, one for each measure; in them a row for each objective."""
    heights = [0.75 + 0.2 * bool(s.title) + _ROW * s.rows["objective"].nunique() for s in found]
    figure = style.canvas(style.DOUBLE, sum(heights) + 0.25)
    parts = figure.subfigures(len(found), 1, squeeze=False, height_ratios=heights).flat
    for part, setting in zip(parts, found, strict=True):
        head(part, heading(setting, "test"))
        axes = part.subplots(1, len(measures), sharey=True)
        names = setting.rows["objective_name"].unique()
        for axis, measure in zip(axes, measures, strict=True):
            _panel(axis, setting, names, measure)
        _name_rows(axes[0], setting.rows, names)
    _legend(figure, any(len(s.teachers) for s in found))
    return figure


def _panel(axis: Axes, setting: Setting, names: Sequence[str], measure: Measure) -> None:
    rows = with_measure(setting, measure.column)
    lines = summarise(rows, ["objective_name"], measure.column).set_index("objective_name")
    for place, name in enumerate(names):
        axis.axhline(place, color="#e4e4e4", linewidth=0.5, zorder=0)
        if name in lines.index and lines.loc[name, "n"]:
            _row(axis, rows[rows["objective_name"] == name], lines.loc[name], measure.column, place)
    if measure.taught and len(setting.teachers):
        own = _test(setting.teachers)[measure.column].mean()
        axis.axvline(own, color=style.GREY, linestyle=":", linewidth=1, zorder=1)
    if not lines["n"].any():
        axis.set_xticks([])
        axis.text(0.5, 0.5, "has none", transform=axis.transAxes, ha="center", va="center", fontsize=7)
    axis.set(xlabel=measure.label, ylim=(len(names) - 0.45, -0.55))
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=4)


def with_measure(setting: Setting, column: str) -> pd.DataFrame:
    """Return the rows of a setting with a measure on the test set; NaN where a network diverged.

    A network that has no such measure is left out: an ensemble has no pre-logits, the teacher no teacher. One that is
    measured against several teachers has the mean.
    """
    values = _test(setting.frame).groupby("cell")[column].mean()
    rows = setting.rows.assign(**{column: setting.rows["cell"].map(values)})
    return rows[rows[column].notna() | (rows["status"] != "ok")]


def _test(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["split"] == "test"]


def _row(axis: Axes, group: pd.DataFrame, line: pd.Series, column: str, place: int) -> None:
    look = group["look"].iloc[0]
    seeds = finished(group, column)[column]
    if line["n"] > 1:
        axis.plot([line["low"], line["high"]], [place, place], color=look.color, linewidth=1.3, zorder=2)
    axis.plot(line["mean"], place, marker=look.marker, color=look.color, markersize=5, zorder=3)
    axis.plot(seeds, [place + 0.28] * len(seeds), "o", color=look.color, markersize=1.8, zorder=3)


def _name_rows(axis: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    """Write the objectives at the left, with n where it is not the usual one."""
    usual = style.usual_n(rows, ["objective"])
    lines = summarise(rows, ["objective_name"]).set_index("objective_name")
    labels = []
    for name in names:
        n, diverged = lines.loc[name, ["n", "diverged"]]
        odd = diverged or n != usual
        labels.append(name + (f"\n{wording.count(n, diverged)}" if odd else ""))
    axis.set_yticks(range(len(names)), labels)
    axis.tick_params(axis="y", labelleft=True)


def _legend(figure: Figure, taught: bool) -> None:
    marks = [
        Line2D([], [], color=style.GREY, marker="o", markersize=4.5, linewidth=1.3, label="mean, 95 % interval"),
        Line2D([], [], color=style.GREY, marker="o", markersize=2, linestyle="none", label="seed"),
    ]
    if taught:
        marks.append(Line2D([], [], color=style.GREY, linestyle=":", linewidth=1, label="the teacher's own"))
    figure.legend(handles=marks, loc="outside upper center", ncols=3, handletextpad=0.4, columnspacing=1.4)


def ends_words(setting: Setting, measure: Measure) -> str:
    """Say which objectives have the lowest and the highest mean of a measure, and what their teacher has."""
    lines = summarise(with_measure(setting, measure.column), ["objective_name"], measure.column)
    lines = lines[lines["n"] > 0].sort_values("mean", kind="stable")
    if lines.empty:
        return f"{measure.words}: none"
    ends = [lines.iloc[0], *([lines.iloc[-1]] if len(lines) > 1 else [])]
    said = " to ".join(
        f"{wording.minus(wording.half_words(end))}{measure.unit} ({end['objective_name']})" for end in ends
    )
    own = _test(setting.teachers)[measure.column].mean() if measure.taught else float("nan")
    teacher = f", the teacher {wording.minus(f'{own:.2f}')}{measure.unit}" if own == own else ""
    return f"{measure.words} {said}{teacher}"
