"""The verdict at a glance: a row per claim and setting, its measured difference against the published one.

Each quantity has an axis of its own: a point of test accuracy is not a point of train accuracy, nor a share.

Not one of FIGURES: it is of a whole study, and `kd.report.verdict` draws it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd.report.figures import style

LINE = 0.135  # inches per line of text
_LETTERS = 62  # of a sentence, that the left half holds
_LINEAR = 1.0  # points either side of 0 that are drawn in proportion; beyond, the scale is logarithmic
# Told apart by shape and fill, in grey print too.
_NAMES = {"test_top1": "test top-1", "train_top1": "train top-1", "train_test_gap": "train less test top-1"}
_MARKS = {
    "holds": {"marker": "o", "color": "#0072B2", "markerfacecolor": "#0072B2"},
    "does not hold": {"marker": "X", "color": "#D55E00", "markerfacecolor": "#D55E00"},
    "small": {"marker": "s", "color": "#009E73", "markerfacecolor": "#009E73"},
    "undecided": {"marker": "o", "color": style.GREY, "markerfacecolor": "white"},
    "measured": {"marker": "^", "color": style.GREY, "markerfacecolor": style.GREY},
}
_PUBLISHED = {"marker": "D", "color": "#202020", "markerfacecolor": "none", "linestyle": "none", "markersize": 4.2}


def draw(lines: pd.DataFrame) -> Figure:
    """Draw the lines of `kd.report.verdict.judged`, which `setting` (words) was added to."""
    parts = [(name, part, _rows(part)) for name, part in _parts(lines)]
    heights = [sum(row["height"] for row in rows) for *_, rows in parts]
    figure = style.canvas(style.DOUBLE, LINE * sum(heights) + 0.55 * len(parts) + 0.2)
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, part, rows) in zip(axes, parts, strict=True):
        place, ticks = 0.0, []
        for row in rows:
            middle = place + row["height"] / 2
            ticks.append((middle, row))
            if row["sentence"]:
                axis.axhline(place, color="#e4e4e4", linewidth=0.5, zorder=0)
            if row["line"] is not None:
                _mark(axis, row["line"], middle)
            place += row["height"]
        _frame(axis, part, name, ticks, place)
    _legend(figure, lines)
    return figure


def _parts(lines: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (name of a quantity with its unit, lines); what was not measured stands with the first."""
    known = lines["difference"].notna() | lines["published_difference"].notna()
    kinds = pd.Series(list(zip(lines["value"], lines["unit"], strict=True)), lines.index)
    measured = list(dict.fromkeys(kinds[known])) or [kinds.iloc[0]]
    of = kinds.map(lambda kind: kind if kind in measured else measured[0])
    for value, unit in measured:
        name = "share of a way" if unit == "%" and value in _NAMES else _NAMES.get(value, value)
        yield f"{name} ({unit})" if unit else name, lines[[kind == (value, unit) for kind in of]]


def of_top1(lines: pd.DataFrame) -> bool:
    """Say whether all that was measured is of accuracies of the table."""
    known = lines[lines["difference"].notna()]
    return (known["value"].isin(["test_top1", "train_top1"]) & (known["unit"] == "points")).all()


def _rows(lines: pd.DataFrame) -> list[dict]:
    """Return what stands in each row: a sentence with its one line, or a sentence and then its settings."""
    rows = []
    for _, group in lines.groupby("claim", sort=False):
        sentence = textwrap.fill(group["sentence"].iloc[0], _LETTERS)
        records = group.to_dict("records")
        alone = len(records) == 1
        if alone and records[0]["dataset"] and records[0]["setting"]:
            sentence += f"\n{textwrap.fill(records[0]['setting'], _LETTERS)}"
        rows.append(_row(sentence, records[0] if alone else None, True))
        rows += [] if alone else [_row(record["setting"], record, False) for record in records]
    return rows


def _row(label: str, line: dict | None, sentence: bool) -> dict:
    return {"label": label, "line": line, "sentence": sentence, "height": label.count("\n") + 1.45}


def _mark(axis: Axes, line: dict, place: float) -> None:
    look = _MARKS.get(line["verdict"])
    if look and not math.isnan(line["difference"]):
        if not math.isnan(line["low"]):
            axis.plot([line["low"], line["high"]], [place, place], color=look["color"], linewidth=1.3, zorder=2)
        axis.plot(line["difference"], place, markersize=5, linestyle="none", zorder=3, **look)
    if not math.isnan(line["published_difference"]):
        axis.plot(line["published_difference"], place, zorder=4, **_PUBLISHED)
    at = ("axes fraction", "data"), "offset points"
    axis.annotate(_words(line), (1, place), (4, 0), *at, va="center", fontsize=7)


def _words(line: dict) -> str:
    """Say the verdict at the right of a row; if undecided, how many seeds would show a difference of interest."""
    pairs = f", {line['pairs']} {'pair' if line['pairs'] == 1 else 'pairs'}" if line["pairs"] else ""
    few, seeds = line["seeds_from"], line["seeds_needed"]
    if line["verdict"] == "undecided" and not pd.isna(seeds) and seeds > line["pairs"]:
        return f"undecided{pairs}; {seeds if few == seeds else f'{few}–{seeds}'} would do"
    return f"{line['verdict']}{pairs.replace('pair', 'seed') if line['verdict'] == 'measured' else pairs}"


def _frame(axis: Axes, lines: pd.DataFrame, name: str, ticks: list[tuple[float, dict]], bottom: float) -> None:
    values = lines[["difference", "low", "high", "published_difference"]].to_numpy(dtype=float)
    far = max([abs(value) for value in values.ravel() if math.isfinite(value)], default=1.0)
    ends = [tick for tick in ((0.5, 1, 3, 10) if far <= 10 else (1, 10, 100)) if tick <= max(far * 1.2, 1)]
    axis.axvline(0, color=style.GREY, linestyle=":", linewidth=0.8, zorder=1)
    axis.set_xscale("symlog", linthresh=_LINEAR, linscale=1.4)
    axis.set_xlim(-max(far * 1.25, 1.2), max(far * 1.25, 1.2))
    places = [*(-end for end in reversed(ends)), 0, *ends]
    axis.set_xticks(places, [f"{value:+g}".replace("-", "−") if value else "0" for value in places])
    axis.set_xticks([], minor=True)
    axis.set_xlabel(f"{name}: difference in the direction\nof the claim, logarithmic beyond ±1")
    axis.set_ylim(bottom, 0)
    axis.set_yticks([place for place, _ in ticks], [row["label"] for _, row in ticks])
    for label, (_, row) in zip(axis.get_yticklabels(), ticks, strict=True):
        label.set_color("#202020" if row["sentence"] else style.GREY)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _legend(figure: Figure, lines: pd.DataFrame) -> None:
    marks = [
        Line2D([], [], markersize=5, linewidth=1.3, label=word, **look)
        for word, look in _MARKS.items()
        if (lines["verdict"] == word).any()
    ]
    if lines["published_difference"].notna().any():
        marks.append(Line2D([], [], label="published", **_PUBLISHED))
    figure.legend(handles=marks, loc="outside upper center", ncols=6, handletextpad=0.4, columnspacing=1.4)
