"""One difference over several pairs of networks: a mixed model in which the pair is a random effect.

The difference of seed s in pair p is y_ps = mu + b_p + e_ps. Where each pair has the same seeds all of it is in closed
form: mu is the mean, REML's variances are those of the analysis of variance, cut off at 0 (Searle, Casella and
McCulloch 1992, section 3.8), and mu's test is Student's t of the pairs' means, which is exact whatever the two
variances are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from kd.core.errors import DataError
from kd.report.statistics import Paired, Seeds, differences, side


class Mixed(NamedTuple):
    """The mean over pairs of networks, and how far pairs (`between`) and seeds (`within`) lie apart, in points.

    `mean.n` counts pairs of networks, `seeds` the seeds that all of them have.
    """

    mean: Paired
    between: float
    within: float
    seeds: int


def mixed(values: np.ndarray) -> Mixed:
    """Fit differences [pairs, seeds] by REML, two of each at least. Raises DataError unless all are finite."""
    values = np.asarray(values, dtype=float)
    pairs, seeds = values.shape
    if pairs < 2 or seeds < 2 or not np.isfinite(values).all():
        raise DataError(f"a mixed model of {pairs} pairs and {seeds} seeds: two of each are needed, all finite")
    means = values.mean(axis=1)
    of_pairs = seeds * means.var(ddof=1)
    of_seeds = ((values - means[:, None]) ** 2).sum() / (pairs * (seeds - 1))
    if of_pairs < of_seeds:  # REML lies at its border: pairs add nothing, and all differences are of one spread
        between, within = 0.0, values.var(ddof=1)
    else:
        between, within = (of_pairs - of_seeds) / seeds, of_seeds
    spread = float(means.std(ddof=1)) if np.ptp(means) >= 1e-9 else 0.0
    mean = Paired(float(means.mean()), spread / math.sqrt(pairs), pairs - 1, pairs, 0, spread)
    return Mixed(mean, math.sqrt(between), math.sqrt(within), seeds)


def over_pairs(frames: Sequence[pd.DataFrame], a: str, b: str) -> Mixed | None:
    """Compare objective `a` with `b` by their names over pairs of networks, each a frame of one setting.

    Only seeds that every pair has count; None where these are fewer than two, or the pairs are.
    """
    found: list[Mapping[Seeds, float]] = []
    for frame in frames:
        left, right = (frame[frame["objective_name"] == name] for name in (a, b))
        found.append(differences(side(left), side(right))[0] if len(left) and len(right) else {})
    # A seed stands for itself and its teacher: pairs of networks with other teacher seeds have the student's in common.
    shared = sorted(set.intersection(*(set(one) for one in found))) if found else []
    if len(found) < 2 or len(shared) < 2:
        return None
    return mixed(np.array([[one[seeds] for seeds in shared] for one in found]))


class Ranks(NamedTuple):
    """Mean ranks over blocks (1 is best), the critical difference at 0.05, and Friedman's p."""

    means: pd.Series
    critical: float
    p: float
    blocks: int


def ranks(accuracy: pd.DataFrame) -> Ranks:
    """Rank objectives (columns) within blocks (rows) by accuracy [blocks, objectives], without gaps.

    A block is a pair of networks, or a seed of one pair. Two objectives differ where their mean ranks are further apart
    than the critical difference (Nemenyi's test; Demsar 2006). Raises DataError unless there are two blocks and three
    objectives.
    """
    blocks, count = accuracy.shape
    if blocks < 2 or count < 3 or accuracy.isna().any(axis=None):
        raise DataError(f"ranks of {count} objectives over {blocks} blocks: three and two are needed, without gaps")
    places = accuracy.rank(axis=1, ascending=False)
    apart = float(stats.studentized_range.ppf(0.95, count, np.inf)) / math.sqrt(2)
    p = float(stats.friedmanchisquare(*(accuracy[name] for name in accuracy)).pvalue)
    critical = apart * math.sqrt(count * (count + 1) / (6 * blocks))
    return Ranks(places.mean().sort_values(kind="stable"), critical, p, blocks)
