"""Comparisons: Holm's correction and the number of seeds against statsmodels and simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import table as made
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from kd.report.comparisons import ALPHA, comparisons, holm, power, seeds_needed, undecided_words, verdict
from kd.report.statistics import contrast, judge, rise_weights, trend


def test_holm_matches_hand_values() -> None:
    # sorted 0.01, 0.03, 0.04: 3 x 0.01, 2 x 0.03, then the greater of 0.06 and 0.04
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_holm_is_that_of_statsmodels() -> None:
    p = [0.2, 0.001, 0.04, 0.04, 0.012, 0.9]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_what_had_no_test_is_no_part_of_the_family() -> None:
    assert holm([0.02, math.nan, 0.02]) == pytest.approx([0.04, math.nan, 0.04], nan_ok=True)
    assert np.isnan(holm([math.nan])).all()


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=30))
def test_holm_never_decides_more_than_the_uncorrected(p: list[float]) -> None:
    for one, corrected in zip(p, holm(p), strict=True):
        assert math.isnan(one) == math.isnan(corrected)
        assert math.isnan(one) or corrected >= one


@pytest.mark.parametrize("size", [0.1, 0.5, 1.0])
def test_the_number_of_seeds_is_that_of_statsmodels(size: float) -> None:
    exact = TTestPower().solve_power(effect_size=size, alpha=ALPHA, power=0.8)
    assert seeds_needed(size * 0.3, 0.3) == math.ceil(exact)
    assert seeds_needed(-size * 0.3, 0.3) == math.ceil(exact)


@pytest.mark.parametrize(("size", "n", "alpha"), [(10, 3, 0.05), (4, 4, 0.001), (30, 2, 0.001), (1.5, 5, 0.05)])
def test_power_is_how_often_the_test_decides(size: float, n: int, alpha: float) -> None:
    samples = np.random.default_rng(0).normal(size, 1, (20_000, n))
    decided = stats.ttest_1samp(samples, 0, axis=1).pvalue < alpha
    assert power(size, n, alpha) == pytest.approx(decided.mean(), abs=0.012)


def test_a_tiny_difference_and_one_without_spread_have_no_number_of_seeds() -> None:
    assert seeds_needed(0.001, 0.3) is None
    assert seeds_needed(0.0, 0.3) is None
    assert seeds_needed(0.5, 0.0) is None
    assert seeds_needed(0.5, math.nan) is None


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8), st.integers(1, 100))
def test_what_is_undecided_needs_more_seeds_than_there_are(differences: list[float], family: int) -> None:
    found = judge(np.array(differences), 0)
    if math.isnan(found.p):
        return
    words = undecided_words(found, 1.0, family)
    level = ALPHA / family if found.p < ALPHA else ALPHA
    seeds = seeds_needed(found.effect, found.sd, level)
    if found.p >= level and seeds is not None:
        assert seeds > found.n
        assert f"{seeds} seeds would decide" in words


@pytest.mark.parametrize(
    ("differences", "family", "words"),
    [
        ([], 1, "undecided; no seed in common"),
        ([0.5], 1, "undecided; one pair has no spread to judge by"),
        ([0.5, 0.5], 1, "undecided; all 2 differences are equal, which leaves no spread to judge by"),
        ([0.0, 0.0], 1, "undecided; no difference in any of 2 pairs"),
        ([0.5, 0.1, -0.1], 1, "undecided; 29 seeds would decide a difference as large as this"),
        ([0.5, -0.5, 0.001], 1, "undecided; more than 1000 seeds would be needed for a difference as small as this"),
        (
            [0.5, 0.6, 0.5],
            60,
            "undecided after Holm's correction over 60; 4 seeds would decide a difference as large as this",
        ),
    ],
)
def test_what_is_undecided_says_why_and_what_would_decide(differences: list, family: int, words: str) -> None:
    found = judge(np.array(differences), 0)
    assert undecided_words(found, min(1.0, found.p * family), family).startswith(words)


def test_every_pair_of_a_setting_is_compared_once_and_corrected_within_it() -> None:
    found = comparisons(made.noise(rates=(0.2, 0.4), taus=(1, 3)))
    assert len(found) == 2 * 6  # CE, two KL and MSE, in pairs
    for _, group in found.groupby("noise_rate"):
        assert (group["family"] == 6).all()
        assert group["p_holm"].tolist() == pytest.approx(holm(group["p"]))
    assert set(found["verdict"]) <= {"higher", "lower", "undecided"}


def test_comparisons_hold_the_paired_test_of_scipy() -> None:
    rows = made.losses(("wrn-16-2",), ["ce", "mse"])
    line = comparisons(rows).iloc[0]
    ce, mse = (rows[rows["objective"] == name].set_index("seed")["test_top1"] for name in ("ce", "mse"))
    test = stats.ttest_rel(ce, mse)
    assert (line["a"], line["b"], line["family"]) == ("ce", "ce > mse", 1)
    assert line["p"] == line["p_holm"] == pytest.approx(test.pvalue)
    assert (line["low"], line["high"]) == pytest.approx(tuple(test.confidence_interval()))


def test_a_diverged_network_takes_its_partner_out() -> None:
    line = comparisons(made.lose(made.losses(("wrn-16-2",), ["ce", "mse"]), "mse", 1)).iloc[0]
    assert (line["pairs"], line["left_out"]) == (2, 1)


def test_mixes_along_a_chain_are_compared_and_early_teachers_kept_apart() -> None:
    rows = made.losses(("wrn-16-2",), ["ce", "mse"])
    found = comparisons(pd.concat([made.chains(("kl-tau3", "mse")), rows, made.early(rows)]))
    chain = found[found["networks"] == "wrn-28-4 > wrn-16-4 > wrn-16-2"]
    assert len(chain) == 10  # four mixes and CE
    assert found.loc[found["experiment"] == "losses", "stopped"].tolist() == ["", "10"]


def test_nothing_to_compare_is_a_table_without_lines() -> None:
    found = comparisons(made.frame([made.cell_row("e", (("wrn-16-2", "ce", 0),))]))
    assert len(found) == 0
    assert "seeds_needed" in found


def test_a_side_of_several_objectives_is_their_mean_over_seeds_that_have_all() -> None:
    rows = made.lose(made.losses(("wrn-16-2",)), "kl-tau3", 2)
    kl, mse = (rows[rows["loss"] == loss] for loss in ("kl", "mse"))
    found = contrast(mse, kl)
    means = kl[kl["seed"] < 2].groupby("seed")["test_top1"].mean()
    assert (found.n, found.left_out) == (2, 1)
    assert found.effect == pytest.approx((mse.set_index("seed")["test_top1"] - means).mean())


def test_the_rise_of_a_line_is_its_end_less_its_beginning() -> None:
    assert np.array([3.0, 5.0, 7.0]) @ rise_weights(3) == pytest.approx(4)
    assert np.array([3.0, 3.0, 3.0, 3.0]) @ rise_weights(4) == pytest.approx(0)
    assert np.array([1.0, 4.0]) @ rise_weights(2) == pytest.approx(3)


def test_a_trend_is_judged_seed_by_seed_and_leaves_out_a_seed_that_lacks_a_point() -> None:
    rows = made.losses(("wrn-16-2",), [made.spell(tau) for tau in made.TAUS])
    rows["test_top1"] = 70 + rows["tau"].map({tau: place for place, tau in enumerate(made.TAUS)}) * (1 + rows["seed"])
    found = trend(rows, "tau")
    assert (found.effect, found.n) == (pytest.approx(12), 3)
    assert trend(made.lose(rows, "kl-tau3", 0), "tau")[4:6] == (2, 1)


def test_verdict_follows_the_corrected_p() -> None:
    found = judge(np.array([0.5, 0.6, 0.5]), 0)
    assert [verdict(found, p) for p in (0.01, 0.06, math.nan)] == ["higher", "undecided", "undecided"]
