"""The words of captions: means with their intervals, what is decided, what is cut, lost or not in a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from kd.core.errors import ConfigError
from kd.data import NOISES
from kd.report.figures import naming
from kd.report.statistics import Paired, finished, paired, settings, summarise


def signed(value: float, digits: int = 2) -> str:
    """Spell a difference with its sign: +0.31, −1.20."""
    text = minus(f"{value:+.{digits}f}")
    return text if text.strip("+−0.") else text[1:]  # no sign on 0.00


def minus(text: str) -> str:
    """Return the spelling of a number with a minus sign in the place of a hyphen."""
    return text.replace("-", "−")


def count(n: int, diverged: int) -> str:
    """Say how many networks stand behind a mean: n = 3, or n = 2 of 3, 1 diverged."""
    return f"n = {n:.0f} of {n + diverged:.0f}, {diverged:.0f} diverged" if diverged else f"n = {n:.0f}"


def odd(frame: pd.DataFrame, usual: int) -> list[str]:
    """Name what diverged or has another n; it goes over the panel, where no interval can run through it."""
    named: dict[str, list[str]] = {}
    table = summarise(frame, ["objective_name"])
    for line in table[(table["diverged"] > 0) | (table["n"] != usual)].to_dict("records"):
        named.setdefault(count(line["n"], line["diverged"]), []).append(line["objective_name"])
    return [f"{', '.join(names)}: {counted}" for counted, names in named.items()]


def mean_words(line: pd.Series) -> str:
    """Spell one line of `summarise`: 74.24 % [73.93, 74.55] (n = 3)."""
    counted = count(line["n"], line["diverged"])
    if not line["n"]:
        return f"no mean ({counted})"
    if line["n"] == 1:
        return f"{line['mean']:.2f} % ({counted}, so no interval)"
    ends = f"[{line['low']:.2f}, {line['high']:.2f}]".replace("-", "−")
    return f"{line['mean']:.2f} % {ends} ({counted})"


def half_words(line: pd.Series, digits: int = 2) -> str:
    """Spell one line of `summarise` in short: 74.24 ± 0.31, without ± where n = 1."""
    if not line["n"]:
        return "diverged"
    half = "" if line["n"] == 1 else f" ± {line['high'] - line['mean']:.{digits}f}"
    return f"{line['mean']:.{digits}f}{half}"


def percent_words(found: Paired) -> str:
    """Spell a share: 87 % [80, 94] (3 pairs)."""
    ends = minus(f" [{found.low:.0f}, {found.high:.0f}]") if found.tested else ""
    return f"{minus(f'{found.effect:.0f}')} %{ends} ({found.n} {'pair' if found.n == 1 else 'pairs'})"


def paired_words(found: Paired, other: str) -> str:
    """Spell a paired difference: +1.87 points against CE [+1.20, +2.54] (3 pairs); what is decided says the verdict."""
    if not found.n:
        return f"no seed in common with {other}"
    equal = ", all equal" if found.n > 1 and not found.tested else ""
    missing = f", {found.left_out} left out" if found.left_out else ""
    ends = f" [{signed(found.low)}, {signed(found.high)}]" if found.tested else ""
    return f"{signed(found.effect)} points against {other}{ends} ({pairs_words(found)}{equal}{missing})"


def pairs_words(found: Paired) -> str:
    """Say how many pairs there are: 3 pairs; 9 pairs of 3 teachers and 3 students."""
    if found.teachers > 1:
        return f"{found.n} pairs of {found.teachers} teachers and {found.n // found.teachers} students"
    return f"{found.n} {'pair' if found.n == 1 else 'pairs'}"


def p_words(p: float) -> str:
    """Spell a p value: p = 0.010, p < 0.001; – where there was no test."""
    if math.isnan(p):
        return "–"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def interval_words(effect: float, low: float, high: float) -> str:
    """Spell a difference: +1.87 [+1.20, +2.54], without ends where there is no interval, – where there is none."""
    if math.isnan(effect):
        return "–"
    return signed(effect) + ("" if math.isnan(low) else f" [{signed(low)}, {signed(high)}]")


def paired_short(found: Paired) -> str:
    """Spell a paired difference for a table: +1.87 [+1.20, +2.54]."""
    if not found.n:
        return "no pair"
    return interval_words(found.effect, *((found.low, found.high) if found.tested else (math.nan, math.nan)))


def best_words(
    rows: pd.DataFrame, name: Callable[[str], str] = str, column: str = "objective_name", among=None, against=None
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
    others = dict.fromkeys([*baselines(rows, column), *rest[:1]] if against is None else against)
    pairs = [paired_words(paired(rows, best, o, column), name(o)) for o in others if o in known and o != best]
    return "; ".join([f"{name(best)} {first} {mean_words(table.loc[best])}", *pairs])


def baselines(rows: pd.DataFrame, column: str = "objective_name") -> list[str]:
    """Return what `column` has for CE, in a list that is empty where `rows` have no CE."""
    return rows.loc[rows["loss"] == "ce", column].unique().tolist()


def objectives(rows: pd.DataFrame, frames: Iterable[pd.DataFrame]) -> list[str]:
    """Return the objectives that stand in `frames`, parts of `rows`, in the order of `rows`."""
    return rows.loc[rows["cell"].isin(union(frames)["cell"]), "objective_name"].unique().tolist()


def compose(shows: str, names: Sequence[str], said: Sequence[str], rows: pd.DataFrame, *notes: str) -> str:
    """Return a caption in lines: what is seen, what is said of each setting, how to read it."""
    found = [f"{name}: {words}." if name else f"{words}." for name, words in zip(names, said, strict=True)]
    lines = [shows, *(line[0].upper() + line[1:] for line in found), fine_print(rows), " ".join(filter(None, notes))]
    return "\n".join(filter(None, lines))


def union(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all `frames`, each cell once: a baseline stands in several."""
    return pd.concat(frames).drop_duplicates("cell")


def where(rows: pd.DataFrame) -> str:
    """Say which data and paths `rows` are of, and which labels are wrong.

    Such as: cifar100, 40 % symmetric label noise; WRN-28-4 → WRN-16-2; symmetric noise: this share of all examples,
    to any other class.
    """
    noises = rows.loc[rows["noise"] != "none", "noise_name"].unique()
    data = [*dict.fromkeys(rows["dataset"]), *(noises if rows["noise_rate"].nunique() == 1 else [])]
    taught = rows[rows["stages"] > 1]
    paths = (taught if len(taught) else rows)["networks_name"].unique()
    kinds = [NOISES[kind] for kind in dict.fromkeys(rows["noise"]) if kind in NOISES]
    return "; ".join([", ".join(data), ", ".join(paths), *(f"{kind.name} noise: {kind.description}" for kind in kinds)])


# What holds for every figure. A figure's file of words ends with it; the page says it once.
METHOD = (
    "Every number is of the last epoch. Intervals are 95 % Student t intervals of the mean, differences are paired by "
    "seed. Intervals are not corrected for picking the highest mean, and decide nothing: the verdict does."
)


def fine_print(rows: pd.DataFrame) -> str:
    """Say what every caption owes of its networks: what n counts, teachers, divergence, and the best epoch's gap."""
    ok = finished(rows)
    seeds = rows["seed"].nunique()
    counted = f"n counts networks that differ in seed only ({seeds} {'seed' if seeds == 1 else 'seeds'})"
    gap = f" The best epoch on the test set would read {ok['best_gap'].mean():.2f} points higher on average."
    return f"{counted}{_teachers(rows)}. {_diverged(rows)}.{gap if len(ok) else ''}"


def _teachers(rows: pd.DataFrame) -> str:
    """Say what the intervals leave out: the spread of teachers; or how they hold it, and what n counts then."""
    taught = rows[rows["stages"] > 1].dropna(subset="teacher_seed")
    found = sorted(taught["teacher_seed"].unique())
    if not found:
        return ""
    if len(found) == 1:
        first = ", of an ensemble the first" if (rows["teacher_members"] > 1).any() else ""
        return f", every student of a setting from one teacher (seed {found[0]}{first}), whose spread is in no interval"
    if (taught["teacher_seed"] == taught["seed"]).all():
        return ", student s taught by teacher s, so that n counts teachers, too"
    listed = ", ".join(map(str, found))
    return f" and in that of their teachers ({listed}): the two are random effects in every interval"


def _diverged(rows: pd.DataFrame) -> str:
    lost = rows[rows["status"] == "diverged"]
    if lost.empty:
        return f"None of {len(rows)} networks diverged"
    named = ["networks_name", "objectives_name", "noise", "noise_name"]
    groups = lost.groupby(named, sort=False)["seed"].agg(list)
    names = [_lost_words(*key, seeds) for key, seeds in groups.items()]
    shown = "; ".join(names[:6]) + (f"; and {len(names) - 6} more" if len(names) > 6 else "")
    return f"{len(lost)} of {len(rows)} networks diverged, counted and not averaged: {shown}"


def _lost_words(networks: str, objectives: str, noise: str, noise_name: str, seeds: list[int]) -> str:
    labels = "" if noise == "none" else f", {noise_name}"
    seeds = sorted(set(seeds))  # at several fractions of the data each stands once more
    named = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
    return f"{networks} by {objectives}{labels} ({named})"


def cut(lows: Iterable[float]) -> str:
    """Say where accuracy axes begin (percent) when that is not 0."""
    lows = [low for low in lows if low > 0]
    if not lows:
        return ""
    least, most = min(lows), max(lows)
    at = f"{least:.1f}" if f"{least:.1f}" == f"{most:.1f}" else f"{least:.1f} to {most:.1f}"
    return f"The accuracy axis is cut: it begins at {at} %, not at 0."


def panels(figure: str, rows: pd.DataFrame, value: str = "test_top1") -> list[tuple[str, pd.DataFrame]]:
    """Return (title, rows) of each setting in which a network did not diverge; raise ConfigError where none is."""
    found = [(key, frame) for key, frame in settings(rows) if len(finished(frame, value))]
    if not found:
        raise nothing(figure, "networks that did not diverge", rows)
    return list(zip(naming.titles([key for key, _ in found]), [frame for _, frame in found], strict=True))


def nothing(figure: str, needs: str, rows: pd.DataFrame) -> ConfigError:
    """Return the error of a figure without anything to show: what it needs and what there is."""
    got = ", ".join(rows["objective"].unique()) if len(rows) else "no rows"
    return ConfigError(f"figure {figure}: needs {needs}; this experiment has {got}; choose another figure for it")
