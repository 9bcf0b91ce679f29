"""Means with their intervals, and differences between objectives that are paired over seeds.

All numbers are of networks that did not diverge. A diverged network is counted, never averaged (promise 5): if all of a
group diverged, the report says "diverged" instead of a mean, and a pair with a diverged network is left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from kd.core.errors import DataError

LEVEL = 0.95

# What two networks must share before their accuracies may be compared.
SETTING = ["dataset", "noise", "noise_rate", "fraction", "protocol", "student", "epochs"]
_PATH = ["noise_name", "networks", "networks_name", "teacher_lineage"]


class Interval(NamedTuple):
    """A mean with the ends of its 95 % Student t interval (NaN if n = 1)."""

    mean: float
    low: float
    high: float
    n: int


class Paired(NamedTuple):
    """A mean of differences a - b (points), its standard error and degrees of freedom; NaN if they are not known.

    `n` counts pairs. If pairs are independent, all from one teacher or each from its own, `teachers` is 1. Otherwise
    they are crossed: each of `teachers` teachers taught every student seed. `left_out` pairs lack a value on a side, or
    lack some of the teachers. `sd` is the spread of one difference of a new student, and if crossed of a new teacher.
    """

    effect: float = math.nan
    se: float = math.nan
    df: float = math.nan
    n: int = 0
    left_out: int = 0
    sd: float = math.nan
    teachers: int = 1

    @property
    def independent(self) -> int:
        """The number of independent pairs; if they are crossed, the smaller number of teachers and students."""
        return self.n if self.teachers == 1 else min(self.teachers, self.n // self.teachers)

    @property
    def tested(self) -> bool:
        """Whether the differences have a spread to judge by. Equal ones only mean a coarse measure: few test images."""
        return self.se > 1e-10

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.df)) * self.se

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.effect - self.half

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.effect + self.half

    @property
    def p(self) -> float:
        """Two-sided p of the t test that the mean is 0."""
        return 2 * float(stats.t.sf(abs(self.effect) / self.se, self.df)) if self.tested else math.nan

    def p_within(self, smallest: float) -> float:
        """Return p of the two one-sided t tests for a mean between -smallest and smallest."""
        return float(stats.t.sf((smallest - abs(self.effect)) / self.se, self.df)) if self.tested else math.nan


def mean_interval(values: Sequence[float]) -> Interval:
    """Return mean, low, high and n of `values`. They must be finite: a NaN means that the table is wrong."""
    x = np.asarray(values, dtype=float)
    if x.size == 0 or not np.isfinite(x).all():
        raise DataError(f"mean over {x.size} values of which {np.isfinite(x).sum()} are finite: every one must be")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf((1 + LEVEL) / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)


def finished(rows: pd.DataFrame, value: str = "test_top1", by: Sequence[str] = ()) -> pd.DataFrame:
    """Return the rows that did not diverge. Raises DataError that names cells without a finite `value` or status.

    A cell may stand once in each group of `by`; more than once is an error.
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
    """Return one line per group of `by`: mean, sd, low, high, n, teachers, diverged and best_gap (mean of best - last).

    `n` counts networks, `teachers` the seeds of their teachers. If several teachers taught every student seed, the
    interval comes from `judge_crossed`. Groups keep the order of `rows`. A group whose networks all diverged has n = 0
    and a mean of NaN.
    """
    finished(rows, value, by)
    columns = dict.fromkeys([*by, value, "best_gap", "status", "seed", "teacher_seed"])
    groups = rows[[*columns]].groupby(list(by), dropna=False, sort=False)
    lines = [dict(zip(by, key, strict=True)) | _summary(group, value) for key, group in groups]
    return pd.DataFrame(lines, columns=[*by, "mean", "sd", "low", "high", "n", "teachers", "diverged", "best_gap"])


def _summary(group: pd.DataFrame, value: str) -> dict:
    ok = group[group["status"] == "ok"]
    mean, low, high, n = mean_interval(ok[value]) if len(ok) else Interval(math.nan, math.nan, math.nan, 0)
    teachers = int(ok["teacher_seed"].nunique())
    if teachers > 1 and not ok.duplicated(["teacher_seed", "seed"]).any():
        half = judge_seeds(dict(zip(_seeds(ok), ok[value], strict=True)), n).half
        low, high = mean - half, mean + half
    gap = float(ok["best_gap"].mean()) if n else math.nan
    sd = float(ok[value].std(ddof=1)) if n > 1 else math.nan
    diverged = len(group) - n
    about = {"n": n, "teachers": teachers, "diverged": diverged, "best_gap": gap}
    return {"mean": mean, "sd": sd, "low": low, "high": high, **about}


def paired(rows: pd.DataFrame, a: str, b: str, column: str = "objective", value: str = "test_top1") -> Paired:
    """Compare `a` with `b`, two values of `column`, over the seeds that both have. `rows` must be of one setting."""
    return contrast(*(rows[rows[column] == which] for which in (a, b)), value, f"{a} against {b}")


def contrast(left: pd.DataFrame, right: pd.DataFrame, value: str = "test_top1", name: str = "a contrast") -> Paired:
    """Compare the rows `left` with the rows `right`, paired by seeds. A side with several objectives is their mean."""
    return against(side(left, value), side(right, value), name)


Seeds = tuple[int, int]  # (seed of the teacher or -1 for none, seed of the student)


class Side(NamedTuple):
    """One side of a comparison: its settings, its teachers' lineages, and its value for each seed.

    A seed of which a network diverged is in `wanted`, but not in `values`.
    """

    settings: dict[str, set]
    lineages: set[str]
    wanted: set[Seeds]
    values: dict[Seeds, float]

    def beside(self, other: Side) -> Side:
        """Repeat each student of this side, which has one teacher or none, for each teacher in `other`."""
        own = {seed: value for (_, seed), value in self.values.items()}
        seeds = {seed for _, seed in self.wanted}
        partners = {pair for pair in other.wanted if pair[1] in seeds}
        alone = {(-1, seed) for seed in seeds - {seed for _, seed in partners}}
        values = {pair: own[pair[1]] for pair in partners if pair[1] in own}
        return self._replace(wanted=partners | alone, values=values)

    @property
    def teachers(self) -> set[int]:
        """Seeds of its teachers."""
        return {teacher for teacher, _ in self.wanted}


def side(rows: pd.DataFrame, value: str = "test_top1") -> Side:
    """Return `rows` as one side of a comparison."""
    taught = set(rows["teacher_seed"].dropna())
    if len(taught) and rows["teacher_seed"].isna().any():  # repeat networks without a teacher for each teacher
        parts = [rows[rows["teacher_seed"].isna() | (rows["teacher_seed"] == seed)] for seed in sorted(taught)]
        rows = pd.concat([part.assign(teacher_seed=seed) for part, seed in zip(parts, sorted(taught), strict=True)])
    settings = {column: set(rows[column]) for column in SETTING}
    return Side(settings, set(rows["teacher_lineage"]), set(_seeds(rows)), _by_seed(rows, value))


def _seeds(rows: pd.DataFrame) -> list[Seeds]:
    return list(zip(rows["teacher_seed"].fillna(-1).astype(int), rows["seed"].astype(int), strict=True))


def against(left: Side, right: Side, name: str = "a contrast", apart: Collection[str] = ()) -> Paired:
    """Compare two sides over the seeds that both have. Of the settings only the columns in `apart` may differ.

    A pair shares the student's seed and the teacher's seed. The student's seed is enough if only one side has several
    teachers, or if the sides have different teachers of one seed each.
    """
    for column in SETTING:
        if column not in apart:
            _comparable(name, column, left.settings[column] | right.settings[column])
    left, right = _aligned(left, right)
    return judge_seeds(differences(left, right), len(left.wanted | right.wanted))


def _aligned(left: Side, right: Side) -> tuple[Side, Side]:
    """Return both sides with the students of one repeated for the teachers of the other, where they have others."""
    if left.lineages != right.lineages or "" in left.lineages:
        if len(right.teachers) == 1:
            right = right.beside(left)
        elif len(left.teachers) == 1:
            left = left.beside(right)
    return left, right


def differences(left: Side, right: Side) -> dict[Seeds, float]:
    """Return the difference of two sides of one setting for each seed that both have."""
    left, right = _aligned(left, right)
    return {seeds: left.values[seeds] - right.values[seeds] for seeds in left.values.keys() & right.values.keys()}


def share(reached: Side, floor: Side, ceiling: Side) -> Paired:
    """Judge which share (percent) of the way from `floor` to `ceiling` is reached, over the seeds that all three have.

    It is a ratio of two mean differences; a seed's value is that ratio and what the seed adds to it, to first order, so
    that one seed with hardly any way weighs no more than others. There is none where the way may be nothing: where its
    95 % interval reaches 0.
    """
    floor, ceiling = (one if len(one.teachers) > 1 else one.beside(reached) for one in (floor, ceiling))
    pairs = sorted(reached.values.keys() & floor.values.keys() & ceiling.values.keys())
    gained = {pair: reached.values[pair] - floor.values[pair] for pair in pairs}
    way = {pair: ceiling.values[pair] - floor.values[pair] for pair in pairs}
    wanted = len(reached.wanted | floor.wanted | ceiling.wanted)
    whole = judge_seeds(way, wanted)
    if not (whole.low if whole.tested else whole.effect) > 0:
        return Paired(left_out=wanted)
    mean = float(np.mean([*way.values()]))
    ratio = float(np.mean([*gained.values()])) / mean
    found = {pair: 100 * (ratio + (gained[pair] - ratio * way[pair]) / mean) for pair in pairs}
    return judge_seeds(found, wanted)


def least_sure(found: Sequence[Paired]) -> Paired:
    """Return the difference that speaks least for all of them being above 0; one without a test speaks least.

    To judge it alone is the test that all are: one holds back the rest, so that more of them need no correction
    (Berger 1982, the intersection-union test).
    """
    return min(found, key=lambda one: one.effect / one.se if one.tested else -math.inf)


def trend(rows: pd.DataFrame, over: str, value: str = "test_top1", apart: Collection[str] = ()) -> Paired:
    """Judge how far `value` rises from the least to the greatest `over` (tau, alpha), seed by seed.

    For each seed a straight line is fitted to its values against the ranks of `over`; the rise is the line's. Ranks
    have a place for tau = inf, and no single step decides. A seed that lacks a value at any point is left out.
    """
    for column in SETTING:
        if column not in apart:
            _comparable(f"a trend over {over}", column, set(rows[column]))
    ok = finished(rows, value)
    values = ok.groupby([ok["teacher_seed"].fillna(-1).astype(int), "seed", over])[value].mean().unstack()
    values = values.reindex(columns=sorted(rows[over].unique())).dropna()
    rises = values.to_numpy(dtype=float) @ rise_weights(values.shape[1])
    return judge_seeds(dict(zip(values.index, rises, strict=True)), len(set(_seeds(rows))))


def rise_weights(points: int) -> np.ndarray:
    """Return the weights whose product with `points` values is the rise of their fitted line, first to last."""
    ranks = np.arange(points) - (points - 1) / 2
    return (points - 1) * ranks / (ranks**2).sum()


def _by_seed(rows: pd.DataFrame, value: str) -> dict[Seeds, float]:
    """Return the value of `rows` for each seed; a seed that lacks one of the objectives has none."""
    ok = finished(rows, value)
    # With several kinds of teachers, a seed's value is the mean over its students.
    values = ok.groupby([ok["teacher_seed"].fillna(-1).astype(int), "seed", "objectives"])[value].mean().unstack()
    whole = values.reindex(columns=rows["objectives"].unique()).dropna().mean(axis=1)
    return {(int(teacher), int(seed)): found for (teacher, seed), found in whole.items()}


def _comparable(name: str, column: str, found: set) -> None:
    if len(found) > 1:
        raise DataError(f"{name}: {column} differs ({', '.join(sorted(map(str, found)))}); compare within one")


def judge(differences: Sequence[float], left_out: int = 0) -> Paired:
    """Return the mean of independent paired `differences` (points), judged by Student's t."""
    n = len(differences)
    if n < 2:
        return Paired(effect=float(differences[0]) if n else math.nan, n=n, left_out=left_out)
    sd = float(np.std(differences, ddof=1))
    sd = sd if np.ptp(differences) >= 1e-9 else 0.0
    return Paired(float(np.mean(differences)), sd / math.sqrt(n), n - 1, n, left_out, sd)


def judge_seeds(found: dict[Seeds, float], wanted: int) -> Paired:
    """Judge the differences `found` for the seeds of teacher and student; `wanted` is how many there should be.

    With one teacher, or if student s has teacher s, the pairs are independent. If each student has one of several
    teachers, each teacher's mean is one value. If each teacher taught every student, `judge_crossed` judges them.
    """
    teachers, students = (sorted({seeds[which] for seeds in found}) for which in (0, 1))
    if min(len(teachers), len(students)) <= 1:
        return judge([found[seeds] for seeds in sorted(found)], wanted - len(found))
    if len(found) == len(students):
        own = [[value for (t, _), value in found.items() if t == teacher] for teacher in teachers]
        return judge([float(np.mean(values)) for values in own], wanted - len(found))
    whole = [student for student in students if all((teacher, student) in found for teacher in teachers)]
    values = np.array([[found[teacher, student] for student in whole] for teacher in teachers])
    if len(whole) < 2:
        return judge(values.mean(axis=1) if whole else (), wanted - values.size)
    return judge_crossed(values, wanted - values.size)


def judge_crossed(differences: np.ndarray, left_out: int = 0) -> Paired:
    """Return the mean of paired `differences` [teachers, students]: each teacher taught each student.

    Teachers and students are random effects: the variance of the mean is (MS_T + MS_S - MS_E) / (T S), but at least the
    larger of MS_T / (T S) and MS_S / (T S), with Satterthwaite's degrees of freedom.
    """
    t, s = differences.shape
    by_teacher, by_student = differences.mean(axis=1, keepdims=True), differences.mean(axis=0, keepdims=True)
    rest = differences - by_teacher - by_student + differences.mean()
    free = np.array([t - 1, s - 1, (t - 1) * (s - 1)])
    squares = np.array([s * by_teacher.var(ddof=1), t * by_student.var(ddof=1), (rest**2).sum() / free[2]])
    larger = int(squares[1] > squares[0])
    total, df = squares[larger], free[larger]
    if (summed := squares[0] + squares[1] - squares[2]) > total:
        total, df = summed, summed**2 / (squares**2 / free).sum()
    parts = max(squares[0] - squares[2], 0) / s + max(squares[1] - squares[2], 0) / t + squares[2]
    se, sd = math.sqrt(total / (t * s)), math.sqrt(parts)
    return Paired(float(differences.mean()), se, float(df), t * s, left_out, sd, t)


def settings(rows: pd.DataFrame, apart: Collection[str] = ()) -> list[tuple[dict, pd.DataFrame]]:
    """Split `rows` into comparable groups (setting, rows): students of one network, data and teacher.

    The same network trained without a teacher joins each group as its baseline. A network that only teaches belongs to
    no group. The columns in `apart` do not split groups. Groups keep the order of `rows`, sorted by noise rate.
    """
    rows = rows.sort_values("noise_rate", kind="stable")
    alone = rows[rows["stages"] == 1]
    students = rows[rows["stages"] > 1]
    shared = [column for column in SETTING if column not in apart]
    keys = [column for column in [*shared, *_PATH] if column not in apart]
    found = []
    for key, group in (students if len(students) else alone).groupby(keys, dropna=False, sort=False):
        setting = dict(zip(keys, key, strict=True))
        baseline = alone[(alone[shared] == pd.Series(setting)[shared]).all(axis=1)]
        found.append((setting, pd.concat([baseline, group] if len(students) else [group], ignore_index=True)))
    return found
