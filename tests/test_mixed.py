"""A difference over several pairs of networks: REML in closed form, and ranks with their critical difference."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made import table as made
from scipy import optimize

from kd.core.errors import DataError
from kd.report import figures
from kd.report.mixed import mixed, over_pairs, ranks
from kd.report.statistics import against, side


def drawn(rng: np.random.Generator, between: float, within: float, pairs: int = 6, seeds: int = 5) -> np.ndarray:
    return rng.normal(0, between, (pairs, 1)) + rng.normal(0, within, (pairs, seeds))


def restricted(values: np.ndarray, between: float, within: float) -> float:
    """Return -2 log of the restricted likelihood of variances, from its definition (Patterson and Thompson 1971)."""
    pairs, seeds = values.shape
    covariance = np.kron(np.eye(pairs), between * np.ones((seeds, seeds)) + within * np.eye(seeds))
    y, ones, inverse = values.ravel(), np.ones(values.size), np.linalg.inv(covariance)
    information = ones @ inverse @ ones
    rest = y - (ones @ inverse @ y) / information
    return np.linalg.slogdet(covariance)[1] + math.log(information) + rest @ inverse @ rest


@pytest.mark.parametrize(("between", "within"), [(1.0, 0.5), (0.5, 1.0), (0.0, 1.0)])
def test_variances_maximise_the_restricted_likelihood(between: float, within: float) -> None:
    values = drawn(np.random.default_rng(1), between, within)
    found = mixed(values)
    least = optimize.minimize(
        lambda logs: restricted(values, *np.exp(logs)),
        np.log([0.3, 0.3]),
        method="Nelder-Mead",
        options={"xatol": 1e-8},
    )
    at = restricted(values, max(found.between**2, 1e-12), found.within**2)
    assert at <= least.fun + 1e-6
    assert found.mean.effect == pytest.approx(values.mean())


def test_they_are_those_of_statsmodels() -> None:
    models = pytest.importorskip("statsmodels.formula.api")
    values = drawn(np.random.default_rng(2), 1.0, 0.7)
    rows = pd.DataFrame([(p, y) for p, row in enumerate(values) for y in row], columns=["pair", "y"])
    theirs, ours = models.mixedlm("y ~ 1", rows, groups=rows["pair"]).fit(reml=True), mixed(values)
    assert ours.between**2 == pytest.approx(theirs.cov_re.iloc[0, 0], rel=1e-3)
    assert ours.within**2 == pytest.approx(theirs.scale, rel=1e-3)
    assert ours.mean.effect == pytest.approx(theirs.fe_params["Intercept"], abs=1e-6)
    assert ours.mean.se == pytest.approx(theirs.bse_fe["Intercept"], rel=1e-3)


@pytest.mark.parametrize(("between", "within"), [(1.0, 0.3), (0.3, 1.0), (0.0, 1.0)])
def test_the_interval_holds_the_mean_in_95_of_100_whatever_the_variances(between: float, within: float) -> None:
    rng, studies = np.random.default_rng(0), 1000
    held = [one.low <= 0 <= one.high for one in (mixed(drawn(rng, between, within)).mean for _ in range(studies))]
    assert abs(np.mean(held) - 0.95) < 3 * math.sqrt(0.95 * 0.05 / studies)


def test_variances_are_right_on_average() -> None:
    rng = np.random.default_rng(3)
    found = [mixed(drawn(rng, 1.0, 0.5)) for _ in range(1500)]
    assert np.mean([one.between**2 for one in found]) == pytest.approx(1.0, abs=0.06)
    assert np.mean([one.within**2 for one in found]) == pytest.approx(0.25, abs=0.01)


def test_pooling_pairs_as_if_they_were_seeds_would_say_too_much() -> None:
    values = drawn(np.random.default_rng(4), 1.0, 0.2)
    assert mixed(values).mean.se > 1.5 * values.std(ddof=1) / math.sqrt(values.size)


@pytest.mark.parametrize("values", [np.ones((1, 5)), np.ones((5, 1)), np.full((2, 2), np.nan)])
def test_too_little_or_a_gap_is_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match="two of each are needed, all finite"):
        mixed(values)


def test_of_a_table_the_seeds_that_every_pair_has_count() -> None:
    rows = made.losses(("wrn-16-2", "wrn-16-4"), ("ce", "mse"), range(5))
    frames = [frame for _, frame in rows.groupby("student", sort=False)]
    found = over_pairs(frames, "MSE", "CE")
    apart = [against(side(f[f["objective"] == "mse"]), side(f[f["objective"] == "ce"])).effect for f in frames]
    assert (found.mean.n, found.seeds, found.mean.effect) == (2, 5, pytest.approx(np.mean(apart)))
    lost = [frames[0], frames[1][frames[1]["seed"] != 3]]
    assert over_pairs(lost, "MSE", "CE").seeds == 4
    assert over_pairs(frames[:1], "MSE", "CE") is None
    assert over_pairs(frames, "KL τ=3", "CE") is None


def test_ranks_are_demsars_and_equal_objectives_differ_in_five_of_100() -> None:
    rng = np.random.default_rng(5)
    found = ranks(pd.DataFrame(rng.normal(size=(14, 4))))
    assert found.critical == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), rel=1e-3)  # Demsar's table 5
    table = pd.DataFrame({"a": [3.0, 3, 2], "b": [2.0, 2, 2], "c": [1.0, 1, 1]})
    assert ranks(table).means.to_dict() == pytest.approx({"a": 3.5 / 3, "b": 5.5 / 3, "c": 3.0})
    equal = [ranks(pd.DataFrame(rng.normal(size=(10, 5)))) for _ in range(300)]
    apart = np.mean([one.means.iloc[-1] - one.means.iloc[0] > one.critical for one in equal])
    assert 0 < apart < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    with pytest.raises(DataError, match="ranks of 2 objectives over 3 blocks"):
        ranks(table[["a", "b"]])


def test_the_figure_of_one_pair_ranks_within_its_seeds() -> None:
    rows = made.losses(("wrn-16-2",))
    figure, caption = figures.draw("ranks", rows, pd.DataFrame())
    assert "Objectives over seeds" in caption
    left = figure.axes[0]
    assert left.get_xlabel() == "mean rank by test top-1 (%), n = 3 seeds"
    names = [text.get_text() for text in left.get_yticklabels()]
    means = [line.get_xdata()[0] for line in left.lines if len(line.get_xdata()) == 1]
    accuracy = rows.pivot_table(index="seed", columns="objective_name", values="test_top1")
    wanted = accuracy.rank(axis=1, ascending=False).mean()
    assert dict(zip(names, means, strict=True)) == pytest.approx(wanted.to_dict())
    gap = against(*(side(rows[rows["objective_name"] == name]) for name in (names[0], "CE")))
    assert f"{gap.effect:+.2f}" in caption
