"""Pre-logits of three classes on the plane of their templates: the teacher beside students of a few objectives.

A template is a class's row of the classifier's weight. Which of three classes is the likeliest depends on nothing but
the place on the plane of their templates, so its borders are lines there (after Mueller et al., arXiv 1906.02629).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd.report.figures import style, wording
from kd.report.figures.analysed import Setting, analysed, counted, head, heading, left_out, telling
from kd.report.statistics import finished

_LOOKS = [("#0072B2", "o"), ("#E69F00", "^"), ("#CC79A7", "s")]  # told apart by shape in grey print
_PANELS = 5  # of a line: the teacher and four students; panels of other shapes would be of other sizes
_SPLITS = {"train": "training images", "test": "test images"}


def draw(rows: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Draw two lines of panels for each setting, training above test images: the teacher, then students."""
    found = analysed("planes", rows, frame)
    lines = [(setting, split) for setting in found for split in _SPLITS]
    names = _classes(frame)
    figure = style.canvas(style.DOUBLE, 2.3 * len(lines) + 0.25)
    parts = figure.subfigures(len(lines), 1, squeeze=False).flat
    for part, (setting, split) in zip(parts, lines, strict=True):
        head(part, heading(setting, _SPLITS[split]))
        axes, networks = part.subplots(1, _PANELS), _networks(setting)
        for axis in axes:
            axis.set_xlabel(f"{names[0]} →\n{names[1]}")  # in two lines: panels are narrow
        axes[0].set_ylabel(f"→ {names[2]}")
        for axis in axes[len(networks) :]:
            axis.axis("off")  # not removed: the others would grow
        for axis, (name, cell) in zip(axes, networks.items(), strict=False):
            _panel(axis, _points(setting, cell), split, name)
    _legend(figure, frame)
    return figure


def caption(rows: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Say which classes are shown, and how loose they are in each network, over all seeds."""
    found = analysed("planes", rows, frame)
    used = wording.union(setting.rows for setting in found)
    shows = (
        f"Pre-logits of the classes {', '.join(_classes(frame))} on the plane through their templates "
        f"({wording.where(used)}), each network on a scale of its own; lines are the borders between the classes. One "
        "network each, of the lowest seed. Scatter is that within the classes over that between the three, in all "
        "dimensions: the lower, the more cohesive; below, its means over seeds."
        f"{left_out(telling(used), used)}"
    )
    said = ["; ".join([*_ratios(setting), counted(setting)]) for setting in found]
    return wording.compose(shows, [setting.title for setting in found], said, used)


def _networks(setting: Setting) -> dict[str, str]:
    """Return the cells to show, by name: the first teacher, and of each chosen objective the first seed there is."""
    shown = {"teacher": setting.teachers["cell"].iloc[0]} if len(setting.teachers) else {}
    rows = finished(setting.rows).sort_values("seed", kind="stable")
    rows = rows[rows["cell"].isin(setting.frame["cell"])]
    for name in telling(rows):
        shown[name] = rows.loc[rows["objective_name"] == name, "cell"].iloc[0]
    return shown


def _classes(frame: pd.DataFrame) -> list[str]:
    return frame.drop_duplicates("class").sort_values("class")["class_name"].tolist()


def _points(setting: Setting, cell: str) -> pd.DataFrame:
    every = pd.concat([setting.teachers, setting.frame])
    return every[every["cell"] == cell].drop_duplicates()  # a network that teaches may be one that is compared


def _panel(axis: Axes, points: pd.DataFrame, split: str, name: str) -> None:
    shown = points[points["split"] == split]
    for (_, group), (colour, marker) in zip(shown.groupby("class"), _LOOKS, strict=False):
        axis.scatter(
            group["x"], group["y"], 5, colour, marker=marker, alpha=0.6, linewidth=0, rasterized=True, zorder=2
        )
    templates = points[points["split"] == "template"].sort_values("class")
    _square(axis, shown[["x", "y"]].to_numpy())
    _borders(axis, templates[["x", "y"]].to_numpy(), templates["bias"].to_numpy())
    axis.set_title(f"{name}\nscatter {shown['scatter_ratio'].iloc[0]:.2f}", loc="left")


def _square(axis: Axes, points: np.ndarray) -> None:
    """Let a square of equal units hold every point."""
    middle, half = (points.max(0) + points.min(0)) / 2, 0.55 * np.ptp(points, axis=0).max()
    (left, right), (bottom, top) = zip(middle - half, middle + half, strict=True)
    axis.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axis.locator_params(nbins=3)


def _borders(axis: Axes, at: np.ndarray, bias: np.ndarray) -> None:
    """Draw where two of the classes are equally likely and the third is less so: three rays from one point."""
    meet = np.linalg.solve(at[0] - at[1:], bias[1:] - bias[0])
    far = 100 * np.abs([*axis.get_xlim(), *axis.get_ylim(), *meet]).max()
    for one, other, third in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        along = (at[one] - at[other])[::-1] * (1, -1)
        along *= -1 if (at[third] - at[one]) @ along > 0 else 1
        ends = np.stack([meet, meet + far * along / np.linalg.norm(along)])
        axis.plot(*ends.T, color=style.GREY, linewidth=0.7, zorder=1, scalex=False, scaley=False)


def _legend(figure: Figure, frame: pd.DataFrame) -> None:
    marks = [
        Line2D([], [], color=colour, marker=marker, markersize=4, linestyle="none", label=name)
        for name, (colour, marker) in zip(_classes(frame), _LOOKS, strict=False)
    ]
    marks.append(Line2D([], [], color=style.GREY, linewidth=0.7, label="border between two"))
    figure.legend(handles=marks, loc="outside upper center", ncols=4, handletextpad=0.4, columnspacing=1.4)


def _ratios(setting: Setting) -> list[str]:
    """Say the mean scatter ratio of each network shown, over the seeds that there are, on training and test images."""
    one = pd.concat([setting.teachers, setting.frame]).drop_duplicates(["cell", "split"])
    ratios = one.pivot(index="cell", columns="split", values="scatter_ratio")
    said = []
    for name, cell in _networks(setting).items():
        same = [cell] if name == "teacher" else setting.rows.loc[setting.rows["objective_name"] == name, "cell"]
        mean = ratios[ratios.index.isin(same)].mean()
        said.append(f"{name} {mean['train']:.2f} in training, {mean['test']:.2f} in test")
    return said
