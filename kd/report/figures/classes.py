"""Accuracy class by class, and churn: a row for each objective, in which a dot is a class or a seed.

Two students of one accuracy may fail at different classes; and an accuracy that stays may hide that every tenth answer
became another one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd.report.figures import style, wording
from kd.report.figures.analysed import Setting, analysed, counted, head, heading
from kd.report.figures.dots import ROW, beside, label_rows
from kd.report.statistics import finished, summarise


def draw(rows: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Draw the accuracy of each class beside the churn, for each student and data."""
    found = analysed("classes", rows, frame)
    heights = [0.95 + ROW * (_names(setting).size + bool(len(setting.teachers))) for setting in found]
    figure = style.canvas(style.DOUBLE, sum(heights) + 0.3)
    parts = figure.subfigures(len(found), 1, squeeze=False, height_ratios=heights).flat
    for part, setting in zip(parts, found, strict=True):
        head(part, heading(setting, "test"))
        left, right = part.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _classes(left, setting)
        _churn(right, setting)
    grey = {"color": style.GREY, "linestyle": "none"}
    marks = [
        Line2D([], [], marker="o", markersize=2.5, label="class (left), seed (right)", **grey),
        Line2D([], [], marker="v", markersize=5, label="worst class", **grey),
        Line2D([], [], marker="|", markersize=7, markeredgewidth=1.6, label="mean", **grey),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=3, handletextpad=0.4, columnspacing=1.4)
    return figure


def caption(rows: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Say which class is the worst for each objective, and between which objectives churn lies."""
    found = analysed("classes", rows, frame)
    used = wording.union(setting.rows for setting in found)
    images = frame.groupby("cell")["n"].sum().max()
    classes = frame["class"].nunique()
    shows = (
        f"Top-1 of each of {classes} classes on {images:,} test images ({wording.where(used)}), a mean over seeds for "
        "each class, with the worst class by name; and churn: the share of test images that student and teacher answer "
        "with different classes, right or wrong, with half its 95 % interval. CE learnt without the teacher."
    )
    said = [f"{_said(setting)}; {counted(setting)}" for setting in found]
    return wording.compose(shows, [setting.title for setting in found], said, used)


def _names(setting: Setting) -> np.ndarray:
    return setting.rows["objective_name"].unique()


def _by_class(setting: Setting) -> pd.DataFrame:
    """Return top-1 for each objective and class: a mean over seeds."""
    named = setting.frame["cell"].map(setting.rows.set_index("cell")["objective_name"])
    frame = setting.frame.drop_duplicates(["cell", "class"]).assign(objective_name=named)
    return frame.groupby(["objective_name", "class", "class_name"], sort=False)["top1"].mean().reset_index()


def _with_churn(setting: Setting) -> pd.DataFrame:
    """Return the rows of a setting with the churn of each network, a mean over the teachers that it stands against."""
    frame = setting.frame[setting.frame["churn"].notna()]
    every = (frame["churn"] * frame["n"]).groupby([frame["cell"], frame["reference"]]).sum()
    churn = (every / frame.groupby(["cell", "reference"])["n"].sum()).groupby("cell").mean()
    rows = setting.rows.assign(churn=setting.rows["cell"].map(churn))
    return rows[rows["churn"].notna() | (rows["status"] != "ok")]


def _classes(axis: Axes, setting: Setting) -> None:
    names, each = _names(setting), _by_class(setting)
    looks = setting.rows.drop_duplicates("objective_name").set_index("objective_name")["look"]
    for place, name in enumerate(names):
        own = each[each["objective_name"] == name]
        if len(own):
            worst = own.loc[own["top1"].idxmin()]
            _row(axis, own["top1"], place, looks[name].color)
            axis.plot(worst["top1"], place, "v", color=looks[name].color, markersize=5, zorder=3)
            beside(axis, f"{worst['class_name']}: {worst['top1']:.1f} %", place)
        else:
            beside(axis, "diverged", place)
    labels = [*names]
    if len(setting.teachers):
        own = setting.teachers.groupby(["class", "class_name"], sort=False)["top1"].mean().reset_index()
        worst = own.loc[own["top1"].idxmin()]
        _row(axis, own["top1"], len(names), style.GREY)
        axis.plot(worst["top1"], len(names), "v", color=style.GREY, markersize=5, zorder=3)
        beside(axis, f"{worst['class_name']}: {worst['top1']:.1f} %", len(names))
        labels.append("the teacher")
    axis.set(xlabel=f"{style.TEST} of each class", ylim=(len(labels) - 0.45, -0.6))
    _frame(axis, len(labels))
    label_rows(axis, labels)


def _churn(axis: Axes, setting: Setting) -> None:
    rows = _with_churn(setting)
    lines = summarise(rows, ["objective_name"], "churn").set_index("objective_name")
    for place, name in enumerate(_names(setting)):
        if name in lines.index and lines.loc[name, "n"]:
            own, line = rows[rows["objective_name"] == name], lines.loc[name]
            _row(axis, finished(own, "churn")["churn"], place, own["look"].iloc[0].color)
            beside(axis, wording.half_words(line, 1), place)
    axis.set_xlabel("churn: answers that differ\nfrom the teacher's (%)")
    _frame(axis, _names(setting).size)


def _row(axis: Axes, values: pd.Series, place: int, colour: str) -> None:
    axis.plot(values, [place] * len(values), "o", color=colour, markersize=2.5, alpha=0.7, markeredgewidth=0, zorder=2)
    axis.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=1.6, zorder=3)


def _frame(axis: Axes, rows: int) -> None:
    for place in range(rows):
        axis.axhline(place, color="#e4e4e4", linewidth=0.5, zorder=0)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=4)


def _said(setting: Setting) -> str:
    each = _by_class(setting)
    worst = each.loc[each.groupby("objective_name", sort=False)["top1"].idxmin()]
    classes = [f"{one['objective_name']} {one['class_name']}: {one['top1']:.1f} %" for one in worst.to_dict("records")]
    lines = summarise(_with_churn(setting), ["objective_name"], "churn")
    lines = lines[lines["n"] > 0].sort_values("mean", kind="stable")
    ends = [lines.iloc[0], *([lines.iloc[-1]] if len(lines) > 1 else [])] if len(lines) else []
    churn = " to ".join(f"{wording.half_words(end)} % ({end['objective_name']})" for end in ends)
    return f"worst class by {', by '.join(classes)}; churn {churn or 'none'}"
