"""What a number of seeds can decide, and how many seeds a difference takes: one calculation for plan and verdict.

The spread of the differences enters at its upper 80 % limit, because few pairs measure it badly: what is stated holds
after four fifths of pilots. The difference that was seen plays no part. `alpha` is 0.05 divided by the family.
"""

from __future__ import annotations

import bisect
import math
from functools import cache

import numpy as np
from scipy import optimize, special

from kd.report.statistics import LEVEL, Paired

ALPHA = 1 - LEVEL
POWER = 0.8
LEAST = 5  # independent pairs; fewer decide nothing, because three or four that agree by chance look certain
PILOT = 6  # independent pairs; with fewer the spread is known so badly that the number of seeds is given as a range
MOST = 1000  # seeds; nobody will train more to show a difference


def spread_limit(sd: float, df: float, share: float = POWER) -> float:
    """Return the limit below which the true spread lies with probability `share`, if `sd` was seen with `df`."""
    return sd * math.sqrt(df / special.chdtri(df, share))


def seeds_to_show(found: Paired, smallest: float, alpha: float) -> tuple[int | None, int | None]:
    """Return the fewest and the most independent pairs that it may take to show a difference of `smallest`.

    They follow from the lower and upper 80 % limits of the spread, because few pairs measure it badly. From six pairs
    on both are the number for the upper limit. None means more than 1000, or that there is no spread.
    """
    if not found.tested:
        return None, None
    df = found.df if found.teachers == 1 else found.independent - 1
    needed = seeds_needed(smallest, spread_limit(found.sd, df), alpha)
    if found.independent >= PILOT:
        return needed, needed
    return seeds_needed(smallest, spread_limit(found.sd, df, 1 - POWER), alpha), needed


def difference_shown(found: Paired, alpha: float) -> float:
    """Return the smallest difference that these pairs show with 80 % power; NaN for fewer than five, or no spread."""
    if not found.tested or found.independent < LEAST:
        return math.nan
    return spread_limit(found.se, found.df) * _distance_shown(found.df, alpha)


def shown_by(seeds: int, spread: float, alpha: float) -> float:
    """Return the smallest difference that `seeds` independent pairs of this spread show; NaN for fewer than five."""
    return spread * _shown(seeds, alpha) if seeds >= LEAST else math.nan


def seeds_needed(effect: float, sd: float, alpha: float = ALPHA) -> int | None:
    """Return the number of seeds, five or more, with which a two-sided paired t test at `alpha` has 80 % power.

    `effect` and `sd` are the mean and standard deviation of the differences. None means more than 1000.
    """
    seeds = range(LEAST, MOST + 1)
    place = bisect.bisect_left(seeds, -abs(effect) / sd, key=lambda n: -_shown(n, alpha))
    return seeds[place] if place < len(seeds) else None


def _shown(n: int, alpha: float) -> float:
    """Return the difference that `n` pairs show with 80 % power, in standard deviations."""
    return _distance_shown(n - 1, alpha) / math.sqrt(n)


@cache  # a grid has a thousand comparisons, and most ask for the same few n
def _distance_shown(df: float, alpha: float) -> float:
    """Return the difference that a test with `df` shows with 80 % power, in standard errors."""
    return float(optimize.brentq(lambda distance: _power(distance, df, alpha) - POWER, 1e-6, 1e6, xtol=1e-9))


def power(size: float, n: int, alpha: float) -> float:
    """Return the probability that `n` pairs show a difference of `size` standard deviations."""
    return _power(size * math.sqrt(n), n - 1, alpha)


def _power(distance: float, df: float, alpha: float) -> float:
    """Return the power of a t test with `df` for a difference of `distance` standard errors.

    It averages the power of the normal test over the standard deviations that may be seen, because scipy's noncentral
    t takes milliseconds and gives NaN in its tails.
    """
    limit = float(special.stdtrit(df, 1 - alpha / 2)) * _seen(df)
    return float(np.mean(special.ndtr(distance - limit) + special.ndtr(-limit - distance)))


@cache
def _seen(df: float) -> np.ndarray:
    """Return 4000 quantiles of the standard deviation that is seen with `df`, if the true one is 1."""
    return np.sqrt(special.chdtri(df, 1 - (np.arange(4000) + 0.5) / 4000) / df)
