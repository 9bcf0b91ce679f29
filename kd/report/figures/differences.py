"""The paired difference to CE, which is what is tested: an axis of it stands beside each axis of accuracy.

Small dots are the differences of single pairs, a mark is their mean, a bar its 95 % interval. A mark is filled where
the rule of the verdict decides, and hollow where it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from kd.report.comparisons import LEAST, UNDECIDED, Compared
from kd.report.figures import style, wording

LABEL = "difference to CE (points)"
NARROW = "difference to CE\n(points)"
_CUT = 2.5  # an interval is cut at so many times the largest difference of a pair


def ends(found: Iterable[Compared]) -> tuple[float, float]:
    """Return the ends of an axis (points) that holds 0, all pairs and, unless they are far longer, the intervals."""
    found = list(found)
    reach = _CUT * max([abs(value) for one in found for value in one.values], default=0.5)
    known = [end for one in found if one.found.tested for end in (one.found.low, one.found.high)]
    held = [0.0, *(value for one in found for value in one.values), *(min(max(e, -reach), reach) for e in known)]
    room = 0.06 * max(max(held) - min(held), 0.5)
    return min(held) - room, max(held) + room


def draw(axis: Axes, compared: Compared, look: style.Look, place: float, upright: bool = False, aside=0.26) -> None:
    """Draw a comparison at `place` of the other axis, the pairs beside it; `upright` if differences rise upwards."""
    if not compared.found.n:
        return
    low, high = axis.get_ylim() if upright else axis.get_xlim()
    one = compared.found

    def plot(values: Sequence[float], at: Sequence[float], *form: str, **more: object) -> None:
        axis.plot(*((at, values) if upright else (values, at)), *form, color=look.color, **more)

    if one.tested:
        plot([max(one.low, low), min(one.high, high)], [place] * 2, linewidth=1.3, zorder=2, solid_capstyle="butt")
        arrows = ("v", "^") if upright else ("<", ">")
        for end, arrow, cut in ((low, arrows[0], one.low < low), (high, arrows[1], one.high > high)):
            if cut:  # the interval goes on
                plot([end], [place], arrow, markersize=4, clip_on=False, zorder=2)
    face = look.color if compared.verdict != UNDECIDED else "white"
    plot([one.effect], [place], marker=look.marker, markersize=5, zorder=3, markerfacecolor=face, markeredgewidth=0.9)
    plot(compared.values, [place + aside] * len(compared.values), "o", markersize=1.8, zorder=3)


def words(compared: Compared, digits: int = 2) -> str:
    """Spell a comparison in short: −1.06 ± 3.85."""
    one = compared.found
    half = f" ± {one.half:.{digits}f}" if one.tested else ""
    return wording.signed(one.effect, digits) + half if one.n else "no pair"


def marks(found: Iterable[Compared]) -> list[Line2D]:
    """Return what a legend says of the marks that were drawn."""
    decided = {one.verdict != UNDECIDED for one in found if one.found.n}
    shown = [(True, style.GREY, "decided"), (False, "white", "undecided")]
    return [
        Line2D([], [], color=style.GREY, marker="o", markersize=4.5, markerfacecolor=face, label=f"difference, {word}")
        for which, face, word in shown
        if which in decided
    ]


def explained(found: Iterable[Compared]) -> str:
    """Say how to read the differences, with the number of pairs; nothing where there are none."""
    pairs = sorted({one.found.n for one in found if one.found.n})
    if not pairs:
        return ""
    counted = f"n = {pairs[0]}" if len(pairs) == 1 else f"n = {pairs[0]} to {pairs[-1]}"
    return (
        f" Differences to CE are paired by seed ({counted} {'pair' if pairs == [1] else 'pairs'}): small dots are "
        "pairs, marks their means, bars 95 % intervals (arrows: they go on). A mark is filled where the verdict's rule "
        f"decides, and hollow where it does not; fewer than {LEAST} pairs decide nothing."
    )
