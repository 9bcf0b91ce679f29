"""How near the gradient of KL is to its two limits over tau: label matching (tau -> 0) and logit matching (tau -> inf).

Measured on the logits of trained networks: what a step from there would be, whatever they were trained with.
"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from kd.report.figures import naming, style, wording
from kd.report.figures.analysed import Setting, analysed, counted, examples, head, heading, left_out, telling

_NAMED = (0.1, 1, 3, 5, 20, 100)  # temperatures that papers use
_ENDS = (0.01, 1000)
_LIMITS = {"label": ("label matching (τ → 0)", "--"), "logit": ("logit matching (τ → ∞)", "-")}
_VIEWS = {"cosine": "cosine similarity to the limit", "error": "relative distance to the limit"}


def draw(rows: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Draw direction and distance side by side, for each student and data."""
    found = analysed("limits", rows, frame)
    figure = style.canvas(style.DOUBLE, sum(2.2 + 0.2 * bool(setting.title) for setting in found) + 0.25)
    for part, setting in zip(figure.subfigures(len(found), 1, squeeze=False).flat, found, strict=True):
        head(part, heading(setting))
        axes = part.subplots(1, 2)
        for axis, (view, label) in zip(axes, _VIEWS.items(), strict=True):
            _panel(axis, setting, view)
            axis.set(ylabel=label)
        axes[-1].set_ylim(0)
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), borderaxespad=0.5, title="logits of")
    marks = [Line2D([], [], color=style.GREY, linestyle=dash, label=label) for label, dash in _LIMITS.values()]
    figure.legend(handles=marks, loc="outside upper center", ncols=2)
    return figure


def caption(rows: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Say how near each of the usual temperatures is to either limit."""
    found = analysed("limits", rows, frame)
    used = wording.union(setting.rows for setting in found)
    shown = telling(used)
    shows = (
        "The gradient of τ² KL by the student's logits s, τ (softmax(s/τ) − softmax(t/τ)), beside its limits, on the "
        f"logits of trained networks and {examples(frame)} ({wording.where(used)}): for τ → ∞ logit matching, "
        "(D − mean D) / K with D = s − t; for τ → 0, divided by τ, label matching, 1[argmax s] − 1[argmax t]. Cosine "
        "and relative distance ||g − limit|| / ||limit|| are over all images at once. Lines are means over seeds, "
        "bands their range."
        f"{left_out(shown, used)}"
    )
    said = [_near(setting) for setting in found]
    return wording.compose(shows, [setting.title for setting in found], said, used)


def _panel(axis: Axes, setting: Setting, view: str) -> None:
    rows = setting.rows[setting.rows["objective_name"].isin(telling(setting.rows))]
    for name, group in rows.assign(look=style.looks(rows)).groupby("objective_name", sort=False):
        frame, colour = setting.frame[setting.frame["cell"].isin(group["cell"])], group["look"].iloc[0].color
        for limit, (_, dash) in _LIMITS.items():
            _line(axis, frame, f"{limit}_{view}", color=colour, linestyle=dash, label=name if dash == "-" else None)
    for tau in _NAMED:
        axis.axvline(tau, color="#e0e0e0", linewidth=0.6, zorder=0)
    axis.set(xscale="log", xlabel="temperature τ", xlim=_ENDS)
    axis.set_xticks([*_NAMED, *_ENDS], map(naming.number, [*_NAMED, *_ENDS]))
    axis.xaxis.set_minor_locator(NullLocator())


def _line(axis: Axes, frame: pd.DataFrame, value: str, **look: str | None) -> None:
    """Draw the mean over seeds within their range."""
    seeds = frame.groupby("tau")[value].agg(["mean", "min", "max"]).dropna()
    axis.plot(seeds.index, seeds["mean"], **look)
    axis.fill_between(seeds.index, seeds["min"], seeds["max"], color=look["color"], alpha=0.15, linewidth=0)


def _near(setting: Setting) -> str:
    """Say cosine and distance to both limits at the temperatures that papers use, over all students."""
    means = setting.frame.groupby("tau")[[f"{limit}_{view}" for limit in _LIMITS for view in _VIEWS]].mean()
    said = []
    for limit, (name, _) in _LIMITS.items():
        numbers = [
            f"{means.loc[tau, f'{limit}_cosine']:.3f} and {means.loc[tau, f'{limit}_error']:.2f} at τ = {tau:g}"
            for tau in _NAMED
            if not math.isnan(means.loc[tau, f"{limit}_cosine"])
        ]
        known = ", ".join(numbers) or "students and teacher agree on every image: the limit is 0"
        said.append(f"{name}, cosine and distance: {known}")
    disagreement = setting.frame.drop_duplicates("cell")["disagreement"].mean()
    disagree = f"on {disagreement:.1f} % of the images students and teacher disagree"
    return "; ".join([*said, disagree, counted(setting)])
