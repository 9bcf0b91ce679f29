"""One look for every figure: colours, marks, sizes, axes, and files that are the same bytes each time.

An objective has one colour, marker and line style throughout a figure (`looks`); CE, KL and MSE have theirs in every
figure. Colour follows Okabe and Ito; the KL family takes viridis by tau (light: small, dark: infinite), which stays
ordered in grey print.
"""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from kd.core.files import write_atomic
from kd.report.figures.column import Column, lines_and_columns
from kd.report.figures.hover import with_numbers

SINGLE, DOUBLE = 3.4, 7.0  # inches: one column of a paper, and two
TEST, TRAIN = "test top-1 (%)", "train top-1 (%)"
AXES = {"test_top1": TEST, "train_top1": TRAIN, "train_top1_running": TRAIN}
GREY = "#6b6b6b"

_RC = {
    "font.family": "DejaVu Sans",  # bundled with matplotlib: same everywhere
    "text.parse_math": False,  # names are a user's: US$ is no formula
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "figure.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#404040",
    "text.color": "#202020",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "kd",
}

# For what DejaVu lacks, where they are installed.
_FALLBACKS = ("Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Zen Hei", "Unifont")


_width: ContextVar[str] = ContextVar("width", default="page")


@contextlib.contextmanager
def paper(width: str = "page") -> Iterator[None]:
    """Draw and save in the one style while the block runs, whatever the user's own matplotlib settings are.

    `width` is that of figures: "page", which two columns of a paper fill, or "column".
    """
    before = _width.set(width)
    with contextlib.ExitStack() as held:
        held.callback(_width.reset, before)
        held.enter_context(matplotlib.rc_context())
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(seaborn.axes_style("ticks") | _RC)
        installed = set(font_manager.get_font_names())
        matplotlib.rcParams["font.family"] = [_RC["font.family"], *(one for one in _FALLBACKS if one in installed)]
        yield


def boxes(figure: Figure) -> str:
    """Say which characters of `figure` no font here has, where there are such: boxes stand for them."""
    names = matplotlib.rcParams["font.family"]
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in names]
    used = {character for text in figure.findobj(Text) for character in text.get_text() if not character.isspace()}
    unknown = sorted(one for one in used if not any(font.get_char_index(ord(one)) for font in fonts))
    return f" No font here has {', '.join(unknown)}: boxes stand for them (Noto Sans CJK has most)." if unknown else ""


def canvas(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` inches that keeps its labels apart; in a column, of its width."""
    kind, width = (Column, SINGLE) if _width.get() == "column" else (Figure, width)
    figure = kind(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def pictures(figure: Figure, name: str) -> dict[str, Callable[[Path], None]]:
    """Return what writes `figure` as name.png (200 dpi), name.pdf and name.svg; the same figure is the same bytes."""
    nameless = {
        "png": {"Software": None},
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        "svg": {"Creator": None, "Date": None},
    }

    def written(path: Path, kind: str) -> None:
        drawn = io.BytesIO()  # a disk that refuses is no matter for matplotlib, whose own errors would hide it
        with paper():
            if figure.get_layout_engine():  # one layout for all pictures, whichever of them is written first
                figure.draw_without_rendering()
                figure.set_layout_engine("none")
            figure.savefig(drawn, format=kind, metadata=nameless[kind])
            content = drawn.getvalue()
            path.write_bytes(with_numbers(content, figure) if kind == "svg" else content)

    return {f"{name}.{kind}": partial(written, kind=kind) for kind in nameless}


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the pictures of `figure` beside each other, atomically; return their paths."""
    folder, name = Path(path).parent, Path(path).name  # a name may hold dots: tau0.5
    for file, content in pictures(figure, name).items():
        write_atomic(folder / file, content)
    return [folder / file for file in pictures(figure, name)]


# ---- colours and marks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """How a figure draws an objective; its fields are arguments of `Axes.plot`."""

    color: str
    marker: str
    linestyle: str | tuple


_DASHES = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (2.5, 2.5))]
_MARKERS = ["X", "P", "d", "v", "^", "<", ">", "D", "p", "h", "*", (4, 1, 0)]
# Neighbours differ in lightness, for grey print, and for readers who see no red or no green.
_COLOURS = ["#0068A3", "#E69F00", "#761A4A", "#56B4E9", "#009E73", "#CC79A7", "#44361A"]
_FIXED = {"ce": Look("#000000", "o", "-"), "mse": Look("#D55E00", "s", _DASHES[1])}  # by family
_TAU_MARKERS = {0.5: "v", 1.0: "^", 2.0: "<", 3.0: "D", 4.0: ">", 5.0: "p", 10.0: "8", 20.0: "h", math.inf: "*"}


def looks(rows: pd.DataFrame) -> pd.Series:
    """Return the `Look` of the objective of each of a figure's `rows`: no two objectives have one colour and mark.

    CE, MSE and KL by its tau and alpha look alike in every figure. The others take, in the order of the rows, what is
    used least so far.
    """
    every = rows.drop_duplicates("objective").to_dict("records")
    wishes = {line["objective"]: _wish(line) for line in every}
    found: dict[str, Look] = {}
    used: Counter = Counter()
    for name, (colour, marker, dashes) in sorted(wishes.items(), key=lambda wish: wish[1].count(None)):
        colour = colour or min(_COLOURS, key=lambda one: used[one])
        marker = marker or min(_MARKERS, key=lambda one: (used[colour, one], used[one]))
        dashes = dashes or min(_DASHES, key=lambda one: (used[colour, one], used[one]))
        used.update([colour, marker, dashes, (colour, marker), (colour, dashes)])
        found[name] = Look(colour, marker, dashes)
    return rows["objective"].map(found)


def _wish(line: dict) -> tuple:
    """Return the colour, marker and line style that an objective has in every figure, None for what it has not."""
    family, tau, alpha = line["family"], line["tau"], line["alpha"]
    if family in _FIXED and not alpha < 1:  # CE has no alpha
        return tuple(vars(_FIXED[family]).values())
    if family == "kl":
        known = list(_TAU_MARKERS)
        return _kl_colour(tau, alpha), _TAU_MARKERS.get(tau), _DASHES[known.index(tau) % 6] if tau in known else None
    return None, None, None


def _kl_colour(tau: float, alpha: float) -> str:
    """Colour KL by log tau from 0.3 to 30, ∞ darkest; a smaller alpha is paler."""
    place = float(np.clip((math.log10(min(tau, 1e6)) + 0.5) / 2, 0, 1))
    rgb = np.array(matplotlib.colormaps["viridis"](0.08 if tau == math.inf else 0.8 - 0.55 * place)[:3])
    return matplotlib.colors.to_hex(1 - (1 - rgb) * (0.5 + 0.5 * alpha))


# ---- axes ----------------------------------------------------------------------------------------------------------


def panel_grid(figure: Figure, lines: int, columns: int, count: int, **options: object) -> np.ndarray:
    """Return a grid of axes [lines, columns] of which the first `count` are drawn in; the others are not there."""
    grid = figure.subplots(*lines_and_columns(figure, lines, columns, count), squeeze=False, **options)
    for axis in grid.flat[count:]:
        axis.remove()
    return grid


def limits(*values: Iterable[float], margin: float = 0.06) -> tuple[float, float]:
    """Return the ends of a top-1 axis (percent) that holds all finite `values`, within 0 to 100."""
    x = np.concatenate([np.asarray(list(part), dtype=float) for part in values])
    x = x[np.isfinite(x)]
    if not x.size:
        return 0.0, 100.0
    room = margin * max(float(np.ptp(x)), 0.5)
    return max(float(x.min()) - room, 0.0), min(float(x.max()) + room, 100.5)  # a mark at 100 % stays whole


def head(axis: Axes, name: str, columns: int, *lines: str) -> None:
    """Write a title over one of `columns` panels, with more `lines` below, wrapped to its width."""
    letters = 46 if _width.get() == "column" else {1: 46, 2: 44, 3: 29}[columns]
    wrapped = [part for line in (name, *lines) for part in textwrap.wrap(line, letters)]
    axis.set_title("\n".join(wrapped), loc="left")


def usual_n(rows: pd.DataFrame, by: Sequence[str]) -> int:
    """Return how many networks most groups of `rows` have, diverged ones counted."""
    return int(rows.groupby(list(by), dropna=False).size().mode().iloc[0])


def spread(places: Sequence[float], gap: float, ends: tuple[float, float] = (-math.inf, math.inf)) -> list[float]:
    """Move labels so that neighbours are at least `gap` apart and all lie within `ends`, each as near its own place
    as can be; `ends` must hold them."""
    where = np.argsort(places, kind="stable")
    moved = np.asarray(places, dtype=float)[where]
    for _ in range(100):
        short = gap - np.diff(moved)
        if (short <= 1e-9).all():
            break
        push = np.clip(short, 0, None) / 2
        moved[:-1] -= push
        moved[1:] += push
    room = gap * np.arange(len(moved))
    moved = np.minimum(np.maximum(moved, ends[0] + room), ends[1] - room[::-1])
    return moved[np.argsort(where, kind="stable")].tolist()


def tau_axis(taus: Sequence[float], least: float = 0.22) -> dict[float, float]:
    """Return the place of each tau: logarithmic, `least` decades apart so that labels fit, ∞ one step past the end."""
    places: dict[float, float] = {}
    for tau in sorted(set(taus)):
        before = max(places, default=None)
        if before is None:
            places[tau] = 0.0
        else:
            step = 2 * least if tau == math.inf else max(math.log10(tau / before), least)
            places[tau] = places[before] + step
    return places
