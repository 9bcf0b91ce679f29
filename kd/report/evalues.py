"""E-values of paired differences: who looks and adds seeds, again and again, is still right in 95 of 100 studies.

The e-value of n pairs is a ratio of likelihoods of their t statistic: the true difference, in spreads, is drawn from a
normal distribution with variance `PRIOR`, against 0 (Lai 1976; Wang and Ramdas, Anytime-valid t-tests, 2310.03722). If
there is no difference it ever exceeds 20 with probability 1/20 at most, whatever ends the sampling, so that 1/e is a p
value at any time, and Holm's correction holds for several. It needs no plan of looks and no largest n, which alpha
spending does, and the order of the seeds does not matter.
"""

from __future__ import annotations

import math

from kd.report.statistics import Paired

_LARGEST = 700.0  # of a logarithm: exp(710) is no number any more
PRIOR = 4.0  # squared spreads: differences that a study can show are two or three spreads


def e_value(found: Paired, at: float = 0.0) -> float:
    """Return the e-value against a mean difference of `at`; NaN unless it has the spread of its independent pairs."""
    if not found.tested or found.df != found.n - 1:
        return math.nan
    squared, wide = ((found.effect - at) / found.se) ** 2 / found.df, 1 + found.n * PRIOR
    logarithm = found.n / 2 * (math.log1p(squared) - math.log1p(squared / wide)) - math.log(wide) / 2
    return math.exp(min(logarithm, _LARGEST))


def p_always(found: Paired) -> float:
    """Return a p value of no difference that is valid at any time."""
    return _p(e_value(found))


def p_within_always(found: Paired, smallest: float) -> float:
    """Return a p value that is valid at any time of a difference of `smallest` or more, in either direction."""
    if not abs(found.effect) < smallest:
        return math.nan if math.isnan(e_value(found)) else 1.0
    return _p(min(e_value(found, smallest), e_value(found, -smallest)))


def _p(e: float) -> float:
    return min(1 / e, 1.0)  # NaN stays NaN
