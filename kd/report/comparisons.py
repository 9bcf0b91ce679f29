"""All pairs of objectives compared, corrected for how many there are; and how many seeds would decide.

Apart from `kd.report.statistics`, which figures import: statsmodels takes a second to load.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.power import TTestPower

from kd.report.statistics import LEVEL, SETTING, UNDECIDED, Paired, against, side

ALPHA = 1 - LEVEL
POWER = 0.8
MOST = 1000  # seeds; a difference that takes more is as good as none

COMPARED = ["experiment", *SETTING, "noise_name", "networks", "networks_name", "stopped"]


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm for the number of tests; NaN, where there was no test, stays NaN."""
    corrected = np.asarray(p, dtype=float).copy()
    tested = np.flatnonzero(~np.isnan(corrected))
    rising = tested[np.argsort(corrected[tested], kind="stable")]
    # By hand: statsmodels' multipletests takes half a second each time.
    steps = corrected[rising] * np.arange(len(rising), 0, -1)
    corrected[rising] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()


def verdict(found: Paired, corrected: float) -> str:
    """Return "higher", "lower" or "undecided" by the corrected p."""
    if not corrected < ALPHA:  # NaN decides nothing
        return UNDECIDED
    return "higher" if found.effect > 0 else "lower"


@cache
def seeds_needed(effect: float, sd: float, alpha: float = ALPHA) -> int | None:
    """Return the least number of seeds with which a paired t test at `alpha`, two-sided, has 80 % power.

    `effect` and `sd` are the mean and the standard deviation of the differences. None: no number up to 1000 will do,
    or there is no spread to reckon with.
    """
    if not sd > 0:
        return None
    seeds = range(2, MOST + 1)
    place = bisect.bisect_left(seeds, POWER, key=lambda n: power(abs(effect) / sd, n, alpha))
    return seeds[place] if place < len(seeds) else None


def power(size: float, n: int, alpha: float) -> float:
    """Return how probable it is that `n` pairs show a difference of `size` standard deviations."""
    found = float(TTestPower().power(size, n, alpha))
    if not math.isnan(found):
        return found
    # scipy's noncentral t gives NaN in its tails: average the normal's over the quantiles of the sd that is seen.
    seen = np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, n - 1) / (n - 1))
    limit, centre = stats.t.isf(alpha / 2, n - 1) * seen, size * math.sqrt(n)
    return float(np.mean(stats.norm.sf(limit - centre) + stats.norm.cdf(-limit - centre)))


def needed(found: Paired, corrected: float, family: int) -> int | None:
    """Return the number of seeds that would decide what is undecided, None where it is decided or cannot be said.

    Where only the correction stands in the way, the test must reach the level of Holm's first step.
    """
    if verdict(found, corrected) != UNDECIDED:
        return None
    return seeds_needed(found.effect, found.sd, ALPHA / family if found.p < ALPHA else ALPHA)


def undecided_words(found: Paired, corrected: float, family: int) -> str:
    """Say why a difference is undecided, and how many seeds would decide one as large."""
    if not found.n:
        return f"{UNDECIDED}; no seed in common"
    if found.n == 1:
        return f"{UNDECIDED}; one pair has no spread to judge by"
    if math.isnan(found.p):
        if abs(found.effect) < 1e-9:
            return f"{UNDECIDED}; no difference in any of {found.n} pairs"
        return f"{UNDECIDED}; all {found.n} differences are equal, which leaves no spread to judge by"
    after = f" after Holm's correction over {family}" if found.p < ALPHA else ""
    seeds = needed(found, corrected, family)
    if seeds is None:
        return f"{UNDECIDED}{after}; more than {MOST} seeds would be needed for a difference as small as this"
    return f"{UNDECIDED}{after}; {seeds} seeds would decide a difference as large as this"


def comparisons(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare every two objectives of the same networks and data, experiment by experiment.

    Along a chain it is the mixes that are compared; the student alone is compared with each. Holm corrects within
    one experiment and setting: `family` says over how many tests.
    """
    lines = [line for key, frame in _groups(rows) for line in _compared(key, frame)]
    columns = [*COMPARED, "a", "b", "difference", "low", "high", "sd", "pairs", "left_out"]
    columns += ["p", "p_holm", "family", "verdict", "seeds_needed", "statement"]
    return pd.DataFrame(lines, columns=columns).astype({"seeds_needed": "Int64"})


def _groups(rows: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Yield each experiment's students of the same networks and data, with those networks trained alone."""
    alone = rows[rows["stages"] == 1]
    for values, group in rows[rows["stages"] > 1].groupby(COMPARED, sort=False):
        key = dict(zip(COMPARED, values, strict=True))
        same = ["experiment", *SETTING]
        yield key, pd.concat([alone[(alone[same] == pd.Series(key)[same]).all(axis=1)], group])


def _compared(key: dict, frame: pd.DataFrame) -> list[dict]:
    sides = {name: side(rows) for name, rows in frame.groupby("objectives", sort=False)}
    pairs = list(itertools.combinations(sides, 2))
    found = [against(sides[a], sides[b], f"{a} against {b}") for a, b in pairs]
    corrected = holm([one.p for one in found])
    family = sum(not math.isnan(p) for p in corrected)
    return [
        {**key, "a": a, "b": b, **numbers(one, p, family), "statement": statement(one, p, family)}
        for (a, b), one, p in zip(pairs, found, corrected, strict=True)
    ]


def numbers(found: Paired, corrected: float, family: int) -> dict:
    """Return the columns of one tested difference."""
    return {
        "difference": found.effect,
        "low": found.low,
        "high": found.high,
        "sd": found.sd,
        "pairs": found.n,
        "left_out": found.left_out,
        "p": found.p,
        "p_holm": corrected,
        "family": family,
        "verdict": verdict(found, corrected),
        "seeds_needed": needed(found, corrected, family),
    }


def statement(found: Paired, corrected: float, family: int) -> str:
    """Say in words what may be said of a against b."""
    decided = verdict(found, corrected)
    return undecided_words(found, corrected, family) if decided == UNDECIDED else f"a is {decided}"
