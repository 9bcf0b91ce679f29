"""One look for every figure: names, colours, sizes, the words of captions, and files that are the same bytes each time.

An objective has one colour, marker and line style wherever it appears, a pure function of its name. Colour follows
Okabe and Ito; the KL family takes viridis by tau (light: small, dark: infinite), which stays ordered in grey print.
"""

from __future__ import annotations

import contextlib
import math
import re
import textwrap
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kd.errors import ConfigError
from kd.files import write_atomic
from kd.statistics import Paired, finished, paired, summarise

SINGLE, DOUBLE = 3.4, 7.0  # inches: one column of a paper, and two
TEST, TRAIN = "test top-1 (%)", "train top-1 (%)"
AXES = {"test_top1": TEST, "train_top1": TRAIN}
GREY = "#6b6b6b"

_RC = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",  # bundled with matplotlib: same everywhere
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


@contextlib.contextmanager
def paper() -> Iterator[None]:
    """Draw and save in the one style while the block runs, whatever the user's own matplotlib settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(seaborn.axes_style("ticks") | _RC)
        yield


def canvas(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` inches that keeps its labels apart."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `figure` as path.png (200 dpi), path.pdf and path.svg, atomically; the same figure is the same bytes."""
    nameless = {
        "png": {"Software": None},
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        "svg": {"Creator": None, "Date": None},
    }
    written = []
    with paper():
        for kind, metadata in nameless.items():
            target = Path(path).with_name(f"{Path(path).name}.{kind}")  # a name may hold dots: tau0.5
            write_atomic(target, partial(figure.savefig, format=kind, metadata=metadata))
            written.append(target)
    return written


# ---- names ---------------------------------------------------------------------------------------------------------

_FAMILIES = {"wrn": "WRN", "resnet": "ResNet", "vgg": "VGG", "mlp": "MLP", "cnn": "CNN"}
_LOSSES = {"ce": "CE", "kl": "KL", "mse": "MSE", "smoothl1": "smooth L1"}
_SYMBOLS = {"tau": "τ", "alpha": "α", "beta": "β", "gamma": "γ"}
_NOISES = {"sym": "symmetric", "asym": "asymmetric"}
_OPTIONS = ("scale", "reduction", "ensemble")  # hyperparameters that are words
_DEFAULTS = {"smoothl1": {"beta": 1.0}}  # paths leave these out, readers should not have to


def number(value: float) -> str:
    """Spell a hyperparameter: 3, 0.5, ∞."""
    return "∞" if value == math.inf else f"{value:g}"


def parse(objective: str) -> tuple[str, dict[str, float], list[str]]:
    """Split "kl-tau3-scaleone" into its loss, its numbers and its words: kl, {tau: 3}, [scale one]."""
    loss, *tokens = objective.split("-")
    numbers, words = dict(_DEFAULTS.get(loss, {})), []
    for token in tokens:
        option = next((option for option in _OPTIONS if token.startswith(option)), "")
        found = re.fullmatch(r"([a-z]+?)(inf|[0-9][0-9.]*)", token)
        if option or not found:
            words.append(f"{option} {token.removeprefix(option)}".strip())
        else:
            numbers[found[1]] = float(found[2])
    return loss, numbers, words


def family(objective: str) -> str:
    """Return an objective without its tau and alpha: what a grid over those two holds fixed."""
    return "-".join(token for token in objective.split("-") if not re.match(r"(tau|alpha)(inf|\d)", token))


def objective_name(objective: str) -> str:
    """Spell an objective for readers: KL τ=3, α=0.5; MSE/2; 2·KL τ=∞."""
    loss, numbers, words = parse(objective)
    weight = numbers.pop("weight", 1.0)
    name = _LOSSES.get(loss, loss.upper())
    if weight < 1 and math.isclose(1 / weight, round(1 / weight)):
        name = f"{name}/{round(1 / weight)}"
    elif weight != 1:
        name = f"{number(weight)}·{name}"
    details = [f"{_SYMBOLS.get(key, key)}={number(value)}" for key, value in numbers.items()]
    return f"{name} {', '.join(details + words)}".strip()


def mix_name(objectives: str) -> str:
    """Spell a lineage's objectives, "ce > kl-tau3 > mse", leaving out a first teacher's CE: KL τ=3 → MSE."""
    stages = objectives.split(" > ")
    shown = stages[1:] if len(stages) > 1 and stages[0] == "ce" else stages
    return " → ".join(map(objective_name, shown))


def network_name(network: str) -> str:
    """Spell a network for readers: WRN-16-2."""
    prefix = re.match(r"[a-z]*", network)[0]
    return _FAMILIES.get(prefix, prefix) + network.removeprefix(prefix)


def path_name(networks: str) -> str:
    """Spell a lineage's networks: WRN-28-4 → WRN-16-2."""
    return " → ".join(map(network_name, networks.split(" > ")))


def noise_name(noise: str, rate: float) -> str:
    """Spell a kind and rate of label noise: 40 % symmetric label noise."""
    if noise == "none":
        return "clean labels"
    if noise.startswith("labels-"):
        return f"labels '{noise.removeprefix('labels-')}'"
    return f"{100 * rate:g} % {_NOISES.get(noise, noise)} label noise"


def order(objective: str) -> tuple:
    """Return the sort key of an objective: CE, KL by tau with ∞ last, weighted KL, MSE, smooth L1, the others."""
    loss, numbers, words = parse(objective)
    rank = list(_LOSSES).index(loss) if loss in _LOSSES else len(_LOSSES)
    weight = numbers.get("weight", 1.0)
    return rank, loss, words, weight != 1, weight, numbers.get("tau", 0.0), numbers.get("alpha", 1.0), objective


def titles(keys: Sequence[dict]) -> list[str]:
    """Name each setting by what it does not share with the others; one setting alone needs no title."""
    if not keys:
        return []
    varied = {name for name in keys[0] if len({str(key[name]) for key in keys}) > 1}
    named = [title(key, varied) for key in keys]
    if len(set(named)) < len(named):  # only the recipes of their teachers tell them apart
        taught = [f"taught by {key['taught_by'].rpartition('/')[2]}" for key in keys]
        named = [", ".join(filter(None, pair)) for pair in zip(named, taught, strict=True)]
    return named


def title(key: dict, varied: set[str]) -> str:
    """Name a setting by those of its columns that are `varied`."""
    return ", ".join(_words(key, varied))


def _words(key: dict, varied: set[str]) -> Iterator[str]:
    if varied & {"networks", "student"}:
        yield path_name(key["networks"])
    if "dataset" in varied:
        yield key["dataset"]
    if varied & {"noise", "noise_rate"}:
        yield noise_name(key["noise"], key["noise_rate"])
    if "fraction" in varied:
        yield f"{100 * key['fraction']:g} % of the data"
    if "protocol" in varied:
        yield f"protocol {key['protocol']}"
    if "epochs" in varied:
        yield f"{key['epochs']} epochs"
    if "family" in varied:
        yield objective_name(key["family"])
    if "alpha" in varied:
        yield f"α\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{number(key['alpha'])}"


# ---- colours and marks ---------------------------------------------------------------------------------------------

_DASHES = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2))]
_LOOKS = {
    "ce": ("#000000", "o", "-"),
    "mse": ("#D55E00", "s", (0, (5, 1.5))),
    "mse-weight0.5": ("#E69F00", "P", (0, (1, 1))),
    "kl-tauinf-weight2": ("#CC79A7", "X", (0, (5, 1.5, 1, 1.5))),
    "smoothl1": ("#0072B2", "d", (0, (3, 1, 1, 1, 1, 1))),
}
_TAU_MARKERS = {0.5: "v", 1.0: "^", 2.0: "<", 3.0: "D", 4.0: ">", 5.0: "p", 10.0: "8", 20.0: "h", math.inf: "*"}
_SPARE_COLOURS = ["#56B4E9", "#E69F00", "#CC79A7", "#0072B2", "#009E73"]
_SPARE_MARKERS = ["v", "^", "<", ">", "D", "p", "h", "8", "P", "X", "d"]


def look(objective: str) -> dict:
    """Return the colour, marker and line style of an objective, the same in every figure."""
    loss, numbers, words = parse(objective)
    if objective in _LOOKS:
        chosen = _LOOKS[objective]
    elif loss == "kl" and "tau" in numbers and set(numbers) <= {"tau", "alpha"} and not words:
        chosen = _kl_look(numbers["tau"], numbers.get("alpha", 1.0))
    else:
        spare = zlib.crc32(objective.encode())  # hash() changes from process to process
        kinds = (_SPARE_COLOURS, _SPARE_MARKERS, _DASHES)
        chosen = tuple(kind[(spare >> 8 * i) % len(kind)] for i, kind in enumerate(kinds))
    return dict(zip(("color", "marker", "linestyle"), chosen, strict=True))


def _kl_look(tau: float, alpha: float) -> tuple:
    """Colour KL by log tau from 0.3 to 30, ∞ darkest; a smaller alpha is paler."""
    place = float(np.clip((math.log10(min(tau, 1e6)) + 0.5) / 2, 0, 1))
    rgb = np.array(matplotlib.colormaps["viridis"](0.08 if tau == math.inf else 0.8 - 0.55 * place)[:3])
    rgb = 1 - (1 - rgb) * (0.5 + 0.5 * alpha)
    spare = zlib.crc32(f"{tau:g}".encode())
    marker = _TAU_MARKERS.get(tau, _SPARE_MARKERS[spare % len(_SPARE_MARKERS)])
    dashes = sorted(_TAU_MARKERS).index(tau) if tau in _TAU_MARKERS else spare
    return matplotlib.colors.to_hex(rgb), marker, _DASHES[dashes % len(_DASHES)]


# ---- axes ----------------------------------------------------------------------------------------------------------


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
    wrapped = [part for line in (name, *lines) for part in textwrap.wrap(line, {1: 46, 2: 44, 3: 29}[columns])]
    axis.set_title("\n".join(wrapped), loc="left")


def usual_n(rows: pd.DataFrame, by: Sequence[str]) -> int:
    """Return how many networks most groups of `rows` have, diverged ones counted."""
    return int(rows.groupby(list(by), dropna=False).size().mode().iloc[0])


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move labels apart so that neighbours are at least `gap` apart, each as near its own place as can be."""
    where = np.argsort(places, kind="stable")
    moved = np.asarray(places, dtype=float)[where]
    for _ in range(100):
        short = gap - np.diff(moved)
        if (short <= 1e-9).all():
            break
        push = np.clip(short, 0, None) / 2
        moved[:-1] -= push
        moved[1:] += push
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


# ---- words ---------------------------------------------------------------------------------------------------------


def signed(value: float, digits: int = 2) -> str:
    """Spell a difference with its sign: +0.31, −1.20."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]  # no sign on 0.00


def count(n: int, diverged: int) -> str:
    """Say how many networks stand behind a mean: n = 3, or n = 2 of 3, 1 diverged."""
    return f"n = {n:.0f} of {n + diverged:.0f}, {diverged:.0f} diverged" if diverged else f"n = {n:.0f}"


def mean_words(line: pd.Series) -> str:
    """Spell one line of `summarise`: 74.24 % [73.93, 74.55] (n = 3)."""
    counted = count(line["n"], line["diverged"])
    if not line["n"]:
        return f"no mean ({counted})"
    if line["n"] == 1:
        return f"{line['mean']:.2f} % ({counted}, so no interval)"
    return f"{line['mean']:.2f} % [{line['low']:.2f}, {line['high']:.2f}] ({counted})"


def half_words(line: pd.Series, digits: int = 2) -> str:
    """Spell one line of `summarise` in short: 74.24 ± 0.31, without ± where n = 1."""
    if not line["n"]:
        return "diverged"
    half = "" if line["n"] == 1 else f" ± {line['high'] - line['mean']:.{digits}f}"
    return f"{line['mean']:.{digits}f}{half}"


def paired_words(found: Paired, other: str) -> str:
    """Spell a paired difference: +1.87 points over CE [1.20, 2.54] (3 pairs, p = 0.010)."""
    if not found.n:
        return f"no seed in common with {other}: undecided"
    verdict = ": undecided" if found.verdict == "undecided" else ""
    missing = f", {found.left_out} left out" if found.left_out else ""
    if math.isnan(found.p):
        pairs = "1 pair" if found.n == 1 else f"{found.n} pairs, all equal"
        return f"{signed(found.effect)} points against {other} ({pairs}{missing}){verdict}"
    ends = f"[{signed(found.low)}, {signed(found.high)}]"
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}" if found.p < 0.1 else f"p = {found.p:.2f}"
    return f"{signed(found.effect)} points against {other} {ends} ({found.n} pairs{missing}, {p}){verdict}"


def paired_short(found: Paired) -> str:
    """Spell a paired difference for a table: +1.87 [+1.20, +2.54], with "undecided" where it is."""
    if not found.n:
        return "undecided (no pair)"
    ends = "" if math.isnan(found.p) else f" [{signed(found.low)}, {signed(found.high)}]"
    return f"{signed(found.effect)}{ends}{' undecided' if found.verdict == 'undecided' else ''}"


def best_words(
    rows: pd.DataFrame, name: Callable[[str], str], column: str = "objective", among=None, against=None
) -> str:
    """Say which value of `column` has the highest mean test top-1, and how it stands against others, paired over seeds.

    `rows` are of one setting; `name` spells a value of `column` for readers; the highest is sought `among` some values
    (all) and compared with those of `against` (CE and the second).
    """
    table = summarise(rows, [column]).sort_values("mean", ascending=False, kind="stable").set_index(column, drop=False)
    known = table.index[table["n"] > 0]
    sought = [value for value in known if among is None or value in among]
    if not sought:
        return f"all {len(rows)} networks diverged (n = 0)"
    best, *rest = sought
    first = f"has the highest of {len(sought)} means," if rest else "has"
    others = dict.fromkeys([*(against if against is not None else ["ce"]), *rest[: against is None]])
    pairs = [paired_words(paired(rows, best, o, column), name(o)) for o in others if o in known and o != best]
    return "; ".join([f"{name(best)} {first} {mean_words(table.loc[best])}", *pairs])


def compose(shows: str, names: Sequence[str], said: Sequence[str], rows: pd.DataFrame, *notes: str) -> str:
    """Return a caption in lines: what is seen, what is said of each setting, how to read it."""
    found = [f"{name}: {words}." if name else f"{words}." for name, words in zip(names, said, strict=True)]
    notes = " ".join(filter(None, [fine_print(rows), *notes]))
    return "\n".join([shows, *(line[0].upper() + line[1:] for line in found), notes])


def union(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all `frames`, each cell once: a baseline stands in several."""
    return pd.concat(frames).drop_duplicates("cell")


def where(rows: pd.DataFrame) -> str:
    """Say which data and paths `rows` are of: cifar100, 40 % symmetric label noise; WRN-28-4 → WRN-16-2."""
    noises = {noise_name(*noise) for noise in zip(rows["noise"], rows["noise_rate"], strict=True)} - {"clean labels"}
    data = [*dict.fromkeys(rows["dataset"]), *(noises if rows["noise_rate"].nunique() == 1 else [])]
    taught = rows[rows["stages"] > 1]
    paths = dict.fromkeys(map(path_name, (taught if len(taught) else rows)["networks"]))
    return f"{', '.join(data)}; {', '.join(paths)}"


def fine_print(rows: pd.DataFrame) -> str:
    """Say what every caption owes: interval, n, teachers, divergence, the last epoch and its gap to the best."""
    ok = finished(rows)
    seeds = rows["seed"].nunique()
    counted = f"n counts networks that differ in seed only ({seeds} {'seed' if seeds == 1 else 'seeds'})"
    gap = f"; the best epoch on the test set would read {ok['best_gap'].mean():.2f} points higher on average"
    return (
        "Intervals are 95 % Student t intervals of the mean, differences are paired by seed; "
        f"{counted}{_teachers(rows)}. "
        f"Neither intervals nor p are corrected for picking the highest mean. {_diverged(rows)}. "
        f"Every number is of the last epoch{gap if len(ok) else ''}."
    )


def _teachers(rows: pd.DataFrame) -> str:
    """Say what the intervals leave out: the spread of teachers, or that students of one teacher are alike."""
    found = sorted(rows.loc[rows["stages"] > 1, "teacher_seed"].dropna().unique())
    if not found:
        return ""
    if len(found) == 1:
        return f", every student of a setting from one teacher (seed {found[0]}), whose own spread is not in it"
    return f", taught by teachers of seeds {', '.join(map(str, found))}, students of one counting as independent"


def _diverged(rows: pd.DataFrame) -> str:
    lost = rows[rows["status"] == "diverged"]
    if lost.empty:
        return f"None of {len(rows)} networks diverged"
    groups = lost.groupby(["networks", "objectives", "noise", "noise_rate"], sort=False)["seed"].agg(list)
    names = [_lost_words(*key, seeds) for key, seeds in groups.items()]
    shown = "; ".join(names[:6]) + (f"; and {len(names) - 6} more" if len(names) > 6 else "")
    return f"{len(lost)} of {len(rows)} networks diverged, counted and not averaged: {shown}"


def _lost_words(networks: str, objectives: str, noise: str, rate: float, seeds: list[int]) -> str:
    labels = "" if noise == "none" else f", {noise_name(noise, rate)}"
    named = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, sorted(seeds)))}"
    return f"{path_name(networks)} by {mix_name(objectives)}{labels} ({named})"


def cut(lows: Iterable[float]) -> str:
    """Say where accuracy axes begin (percent) when that is not 0."""
    lows = [low for low in lows if low > 0]
    if not lows:
        return ""
    least, most = min(lows), max(lows)
    at = f"{least:.1f}" if f"{least:.1f}" == f"{most:.1f}" else f"{least:.1f} to {most:.1f}"
    return f"The accuracy axis is cut: it begins at {at} %, not at 0."


def nothing(figure: str, needs: str, rows: pd.DataFrame) -> ConfigError:
    """Return the error of a figure without anything to show: what it needs and what there is."""
    got = ", ".join(sorted(set(rows["objective"].astype(str)), key=order)) if len(rows) else "no rows"
    return ConfigError(f"figure {figure}: needs {needs}; this experiment has {got}; choose another figure for it")
