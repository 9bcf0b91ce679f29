"""The numbers behind a figure's marks, for readers of its SVG: a place, and what is drawn there, in words."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from kd.report.figures import naming

_POINT = 72  # an inch has so many of an SVG's units
_RADIUS = 5  # points: a finger or pointer need not be exact
_MOST = 12  # points of a line without marks that have words


def with_numbers(svg: bytes, figure: Figure) -> bytes:
    """Return the SVG that was just made of `figure`, with an invisible circle and a title over each mark."""
    height = figure.get_figheight() * _POINT
    circles = [
        f'<circle cx="{x:.1f}" cy="{height - y:.1f}" r="{_RADIUS}"><title>{html.escape(words)}</title></circle>'
        for x, y, words in _marks(figure)
    ]
    group = f'<g id="numbers" style="fill: none; pointer-events: all">{"".join(circles)}</g>\n</svg>'
    return group.join(svg.decode().rsplit("</svg>", 1)).encode()


def _marks(figure: Figure) -> Iterator[tuple[float, float, str]]:
    """Yield (x, y, words) of what lines show, x and y in points from the lower left corner."""
    named = {_look(line): line.get_label() for line in _legend(figure)}
    for axis in figure.axes:
        for line in axis.lines:
            points = np.asarray(line.get_xydata(), dtype=float)
            if line.get_transform().contains_branch(axis.transData) and len(points) and np.isfinite(points).any():
                yield from _of_line(axis, line, points[np.isfinite(points).all(axis=1)], named.get(_look(line), ""))


def _legend(figure: Figure) -> Iterator[Line2D]:
    for part in (figure, *figure.subfigs, *figure.axes):
        for legend in [*part.legends] if hasattr(part, "legends") else [part.get_legend()]:
            if legend:
                for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=False):
                    if isinstance(handle, Line2D):
                        handle.set_label(text.get_text())
                        yield handle


def _look(line: Line2D) -> tuple:
    return str(line.get_color()), str(line.get_marker()), str(line.get_linestyle())


def _of_line(axis: Axes, line: Line2D, points: np.ndarray, name: str) -> Iterator[tuple[float, float, str]]:
    own = line.get_label()
    name = name if own.startswith("_") else own
    sides = (axis.get_ylabel(), axis.yaxis, points[:, 1]), (axis.get_xlabel(), axis.xaxis, points[:, 0])
    if line.get_marker() not in ("", " ", "None", None):
        said = [[_words(label, side, value) for value in values] for label, side, values in sides]
    elif len(points) == 2 and (points[0] == points[1]).any():  # an interval: both ends say both
        said = [[_range(label, side, values)] * 2 for label, side, values in sides]
    else:
        points = points[np.unique(np.linspace(0, len(points) - 1, _MOST).round().astype(int))]
        said = [[_words(*of, value) for value in points[:, n]] for *of, n in ((*sides[0][:2], 1), (*sides[1][:2], 0))]
    inside = axis.get_window_extent().padded(2)
    for (x, y), *words in zip(line.get_transform().transform(points), *said, strict=True):
        if inside.contains(x, y):
            scale = _POINT / axis.figure.dpi
            yield x * scale, y * scale, "\n".join(dict.fromkeys(filter(None, [name, *words])))


def _range(label: str, side: Axis, values: np.ndarray) -> str:
    low, high = sorted(values)
    if low == high or not label:
        return _words(label, side, (low + high) / 2)
    ends = " to ".join(map(_number, (low, high)))
    return f"{' '.join(label.split())}: {ends}"


def _words(label: str, side: Axis, value: float) -> str:
    """Say a value by the axis' label and its number; by the tick at its place if the ticks have words of their own."""
    label, number = " ".join(label.split()), _number(value)
    places = side.get_ticklocs()
    texts = side.get_major_formatter().format_ticks(places)  # a shared axis has no labels of its own
    if isinstance(side.get_major_locator(), FixedLocator) and not all(map(_says, texts, places)):
        distance = np.abs(places - value)
        if not len(places) or distance.min() >= 0.5 * np.diff(np.sort(places), append=math.inf).min():
            return ""
        text = ", ".join(texts[int(distance.argmin())].splitlines())
        return f"{label}: {text}" if label and re.fullmatch(r"[\d.−+∞]+", text) else text
    return f"{label}: {number}" if label else ""


def _says(text: str, place: float) -> bool:
    """Say whether the words of a tick are the number at its place."""
    return not text or text.replace("−", "-").rstrip(" %") in {f"{place:g}", f"{place:+g}"}


def _number(value: float) -> str:
    """Spell a number with two decimals, or three digits where that is more."""
    return naming.number(round(float(value), 2) if abs(value) >= 1 else float(f"{value:.3g}")).replace("-", "−")
