"""How well selections tell right labels from wrong ones: precision, recall and F1 against the known label noise.

Over the rate of wrong labels, or, where teachers were stopped after several numbers of epochs, over these.
"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd.report.figures import naming, style, wording
from kd.report.statistics import summarise

_MEASURES = {"kept_precision": "precision", "kept_recall": "recall", "kept_f1": "F1"}
_LABELS = {"noise_rate": "wrong labels (%)", "selected_after": "epochs of the teacher"}


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw precision, recall and F1 side by side, a line for each selection, for each data and teacher."""
    over, panels = _panels(rows)
    figure = style.canvas(style.DOUBLE, (2.0 + 0.3 * bool(panels[0][0])) * len(panels))
    for part, (title, frame) in zip(figure.subfigures(len(panels), 1, squeeze=False).flat, panels, strict=True):
        if title:
            part.suptitle(title, x=0.01, ha="left", fontweight="bold")
        axes = part.subplots(1, len(_MEASURES))
        for axis, (column, name) in zip(axes, _MEASURES.items(), strict=True):
            _panel(axis, frame, over, column)
            axis.set_title(f"{name}, n = {style.usual_n(frame, [over, 'selection'])}", loc="left")
            axis.set(xlabel=_LABELS[over], ylabel=f"{name} (%)")
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.6, borderaxespad=0.5)
    return figure


def caption(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Say which selection has the highest F1, and which the lowest, at each end of the axis."""
    over, panels = _panels(rows)
    shows = (
        f"How well what is kept to learn from is told from wrong labels ({wording.where(rows)}): the share of right "
        "labels among what is kept (precision), the share that is kept of right labels (recall), and their harmonic "
        "mean, F1. "
        "Marks are means over teachers, each of which selects once, bars their intervals."
    )
    return wording.compose(shows, [title for title, _ in panels], [_said(frame, over) for _, frame in panels], rows)


def _panels(rows: pd.DataFrame) -> tuple[str, list[tuple[str, pd.DataFrame]]]:
    """Return what the axis is, and for each data and teacher (title, a row for each selection that was made)."""
    known = [column for column in _MEASURES if column in rows]
    made = rows[rows[known].notna().all(axis=1)] if known else rows.head(0)
    made = made[made["noise"] != "none"].drop_duplicates(["teacher_cell", "selection"])
    if made.empty:
        raise wording.nothing("detector", "students with student_selection, under label noise", rows)
    over = "selected_after" if made["selected_after"].nunique() > 1 else "noise_rate"
    look = style.looks(made.assign(objective=made["selection"], family="", tau=math.nan, alpha=math.nan))
    # A teacher selects once, whoever learns from it, and however that ends.
    made = made.assign(look=look, seed=made["teacher_seed"], status="ok", **{c: 100 * made[c] for c in _MEASURES})
    apart = ["dataset", "noise", "teacher", *(["noise_name"] if over == "selected_after" else [])]
    groups = list(made.groupby(apart, sort=False))
    varied = [n for n in range(len(apart)) if len({key[n] for key, _ in groups}) > 1]
    return over, [(", ".join(key[n] for n in varied), frame) for key, frame in groups]


def _panel(axis: Axes, frame: pd.DataFrame, over: str, column: str) -> None:
    scale = 100 if over == "noise_rate" else 1
    for _, line in frame.groupby("selection", sort=False):
        look, name = line["look"].iloc[0], line["selection_name"].iloc[0]
        table = summarise(line, [over], column).sort_values(over)
        places = scale * table[over].astype(float)
        axis.plot(places, table["mean"], label=name, linewidth=1, markersize=4, **vars(look))
        axis.vlines(places, table["low"], table["high"], color=look.color, linewidth=1)
    ends = scale * frame[over].astype(float)
    room = 0.06 * (ends.max() - ends.min()) + 0.5
    axis.set(xlim=(ends.min() - room, ends.max() + room), ylim=(0, 103))
    axis.locator_params(axis="x", nbins=5, integer=True)
    axis.grid(axis="y", color="#ececec")
    axis.set_axisbelow(True)


def _said(frame: pd.DataFrame, over: str) -> str:
    parts = []
    for place in dict.fromkeys([frame[over].min(), frame[over].max()]):
        table = summarise(frame[frame[over] == place], ["selection_name"], "kept_f1").set_index("selection_name")
        first, last = table["mean"].idxmax(), table["mean"].idxmin()
        at = f"{100 * place:g} % wrong labels" if over == "noise_rate" else f"{naming.number(place)} epochs"
        ends = [f"{name} has {wording.mean_words(table.loc[name])}" for name in dict.fromkeys([first, last])]
        parts.append(f"of F1, at {at}, {' and '.join(ends)}")
    return "; ".join(parts)
