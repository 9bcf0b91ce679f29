"""Means with their intervals, and differences between objectives that are paired over seeds.

Every number here is of networks that ended well. A diverged network is counted, never averaged (promise 5):
its place in a mean is the word "diverged", and in a pair it takes its partner out with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from kd.core.errors import DataError

LEVEL = 0.95
UNDECIDED = "undecided"

# What two networks must share before their accuracies may be compared.
SETTING = ["dataset", "noise", "noise_rate", "fraction", "protocol", "student", "epochs"]


class Interval(NamedTuple):
    """A mean with the ends of its 95 % Student t interval (NaN where n = 1 gives none)."""

    mean: float
    low: float
    high: float
    n: int


class Paired(NamedTuple):
    """The mean of a - b over pairs of equal seeds; `left_out` seeds lack a value on one side or both."""

    effect: float
    low: float
    high: float
    p: float
    n: int
    left_out: int
    verdict: str  # "higher", "lower" or "undecided": what may be said of a against b
    sd: float = math.nan  # of the differences


def mean_interval(values: Sequence[float]) -> Interval:
    """Return mean, low, high and n of `values`, which must be finite: a NaN is a fault of the caller's table."""
    x = np.asarray(values, dtype=float)
    if x.size == 0 or not np.isfinite(x).all():
        raise DataError(f"mean over {x.size} values of which {np.isfinite(x).sum()} are finite: every one must be")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf((1 + LEVEL) / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)


def finished(rows: pd.DataFrame, value: str = "test_top1", by: Sequence[str] = ()) -> pd.DataFrame:
    """Return the rows that did not diverge, each with a finite `value`; raise DataError that names what is wrong.

    A cell may stand once in each group of `by`.
    """
    ok = rows["status"] == "ok"
    silent = ok & ~np.isfinite(rows[value].astype(float))
    unknown = ~ok & (rows["status"] != "diverged")
    twice = rows.duplicated([*by, "cell"])
    for wrong, what in [(unknown, "unknown status"), (silent, f"no finite {value}"), (twice, "more than one row")]:
        if wrong.any():
            cells = rows.loc[wrong, "cell"].head(3)
            raise DataError(f"{what} for {', '.join(map(str, cells))}; collect the table again")
    return rows[ok]


def summarise(rows: pd.DataFrame, by: Sequence[str], value: str = "test_top1") -> pd.DataFrame:
    """Return one line per group of `by`: mean, sd, low, high, n, diverged and best_gap (mean of best - last).

    Groups keep the order of `rows`. A group whose networks all diverged has n = 0 and NaN for its mean.
    """
    finished(rows, value, by)
    groups = rows[[*by, *dict.fromkeys([value, "best_gap"]), "status"]].groupby(list(by), dropna=False, sort=False)
    lines = [dict(zip(by, key, strict=True)) | _summary(group, value) for key, group in groups]
    return pd.DataFrame(lines, columns=[*by, "mean", "sd", "low", "high", "n", "diverged", "best_gap"])


def _summary(group: pd.DataFrame, value: str) -> dict:
    ok = group[group["status"] == "ok"]
    mean, low, high, n = mean_interval(ok[value]) if len(ok) else Interval(math.nan, math.nan, math.nan, 0)
    gap = float(ok["best_gap"].mean()) if n else math.nan
    sd = float(ok[value].std(ddof=1)) if n > 1 else math.nan
    return {"mean": mean, "sd": sd, "low": low, "high": high, "n": n, "diverged": len(group) - n, "best_gap": gap}


def paired(rows: pd.DataFrame, a: str, b: str, column: str = "objective", value: str = "test_top1") -> Paired:
    """Compare `a` with `b`, two values of `column`, over the seeds that both have; `rows` are of one setting."""
    return contrast(*(rows[rows[column] == which] for which in (a, b)), value, f"{a} against {b}")


def contrast(left: pd.DataFrame, right: pd.DataFrame, value: str = "test_top1", name: str = "a contrast") -> Paired:
    """Compare the rows `left` with the rows `right`, paired by seed; a side of several objectives is their mean."""
    return against(side(left, value), side(right, value), name)


class Side(NamedTuple):
    """One side of a comparison: its settings and teachers, and its value for each seed, with its teacher's or without.

    A seed with a network that diverged is `wanted` and has no value.
    """

    settings: dict[str, set]
    teachers: set[str]  # lineages
    wanted: list[set]
    values: list[dict]


def side(rows: pd.DataFrame, value: str = "test_top1") -> Side:
    """Return `rows` as one side of a comparison."""
    wanted = [set(rows[keys].itertuples(index=False, name=None)) for keys in _KEYS]
    values = [_by_seed(rows, keys, value) for keys in _KEYS]
    return Side({column: set(rows[column]) for column in SETTING}, set(rows["teacher_lineage"]), wanted, values)


def against(left: Side, right: Side, name: str = "a contrast") -> Paired:
    """Compare two sides over the seeds that both have.

    A pair shares the seed, and the teacher's seed too where both have the same teacher. The test is Student's t on
    the differences, in points. With fewer than two pairs, or no spread to judge by, the verdict is "undecided".
    """
    for column in SETTING:
        _comparable(name, column, left.settings[column] | right.settings[column])
    keys = _pairing(left.teachers | right.teachers)
    a, b = left.values[keys], right.values[keys]
    differences = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    return judge(np.array(differences, dtype=float), len(left.wanted[keys] | right.wanted[keys]) - len(differences))


def trend(rows: pd.DataFrame, over: str, value: str = "test_top1") -> Paired:
    """Judge how far `value` rises from the least to the greatest `over` (tau, alpha), seed by seed.

    The rise of a seed is that of the straight line fitted to its values against the ranks of `over`: it has a place
    for tau = inf, and no single step decides. A seed that lacks a value at any point is left out.
    """
    for column in SETTING:
        _comparable(f"a trend over {over}", column, set(rows[column]))
    keys = _KEYS[_pairing(set(rows["teacher_lineage"]))]
    values = finished(rows, value).groupby([*keys, over])[value].mean().unstack()
    values = values.reindex(columns=sorted(rows[over].unique())).dropna()
    rises = values.to_numpy(dtype=float) @ rise_weights(values.shape[1])
    return judge(rises, len(rows[keys].drop_duplicates()) - len(rises))


def rise_weights(points: int) -> np.ndarray:
    """Return what turns `points` values into the rise of their fitted line from the first to the last."""
    ranks = np.arange(points) - (points - 1) / 2
    return (points - 1) * ranks / (ranks**2).sum()


_KEYS = [["seed"], ["seed", "teacher_seed"]]  # what pairs share


def _pairing(teachers: set[str]) -> int:
    return int(len(teachers) == 1 and "" not in teachers)


def _by_seed(rows: pd.DataFrame, keys: list[str], value: str) -> dict:
    """Return the value of `rows` for each seed; a seed that lacks one of their objectives has none."""
    # Where they have several teachers' students of a seed, their mean is that seed's value.
    values = finished(rows, value).groupby([*keys, "objectives"])[value].mean().unstack()
    whole = values.reindex(columns=rows["objectives"].unique()).dropna().mean(axis=1)
    return {seed if isinstance(seed, tuple) else (seed,): found for seed, found in whole.items()}


def _comparable(name: str, column: str, found: set) -> None:
    if len(found) > 1:
        raise DataError(f"{name}: {column} differs ({', '.join(sorted(map(str, found)))}); compare within one")


def judge(differences: np.ndarray, left_out: int) -> Paired:
    """Test whether the mean of paired `differences` (points) is other than 0, by Student's t, at 0.05."""
    n = len(differences)
    if n == 0:
        return Paired(math.nan, math.nan, math.nan, math.nan, 0, left_out, UNDECIDED)
    effect, low, high, _ = mean_interval(differences)
    # Equal differences are a coarse measure (few test images), not certainty: t would be infinite.
    if n == 1 or np.ptp(differences) < 1e-9:
        return Paired(effect, low, high, math.nan, n, left_out, UNDECIDED, math.nan if n == 1 else 0.0)
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    verdict = "higher" if low > 0 else "lower" if high < 0 else UNDECIDED
    return Paired(effect, low, high, p, n, left_out, verdict, float(np.std(differences, ddof=1)))


def settings(rows: pd.DataFrame) -> list[tuple[dict, pd.DataFrame]]:
    """Split `rows` into what may be compared: the students of one network, data and teacher, as (setting, rows).

    Networks of the same kind trained without a teacher join each setting of theirs as its baseline. A network that
    only teaches is no part of any setting. The order is that of `rows`, noise rates rising.
    """
    rows = rows.sort_values("noise_rate", kind="stable")
    alone = rows[rows["stages"] == 1]
    students = rows[rows["stages"] > 1]
    keys = [*SETTING, "noise_name", "networks", "networks_name", "teacher_lineage"]
    found = []
    for key, group in (students if len(students) else alone).groupby(keys, dropna=False, sort=False):
        setting = dict(zip(keys, key, strict=True))
        baseline = alone[(alone[SETTING] == pd.Series(setting)[SETTING]).all(axis=1)]
        found.append((setting, pd.concat([baseline, group] if len(students) else [group], ignore_index=True)))
    return found
