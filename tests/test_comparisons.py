"""Comparisons: Holm's correction and the number of seeds against statsmodels and simulation; what decides."""

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

from bench import simulation
from kd.report.comparisons import COMPARED, against_ce, comparisons, holm, judge_family, verdict
from kd.report.power import ALPHA, LEAST, difference_shown, power, seeds_needed, seeds_to_show, shown_by
from kd.report.statistics import contrast, judge, judge_crossed, paired, rise_weights, trend


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


def test_a_tiny_difference_has_no_number_of_seeds_and_five_are_the_least() -> None:
    assert seeds_needed(0.001, 0.3) is None
    assert seeds_needed(0.0, 0.3) is None
    assert seeds_needed(100, 0.3) == LEAST


@pytest.mark.parametrize("n", [5, 8, 20])
def test_the_difference_that_pairs_show_is_the_one_for_which_they_suffice(n: int) -> None:
    found = judge(np.random.default_rng(n).normal(0, 1, n))
    shows = difference_shown(found, 0.01)
    assert seeds_to_show(found, shows * 1.001, 0.01)[1] == n
    assert seeds_to_show(found, shows * 0.999, 0.01)[1] > n
    assert shown_by(n, 1.0, 0.01) == pytest.approx(shows / found.sd * math.sqrt(stats.chi2.ppf(0.2, n - 1) / (n - 1)))


def test_fewer_than_five_pairs_show_nothing_and_crossed_ones_as_much_as_their_error_allows() -> None:
    assert math.isnan(difference_shown(judge([1, 2, 4, 3]), ALPHA))
    assert math.isnan(shown_by(4, 1.0, ALPHA))
    assert math.isnan(difference_shown(judge([1.0] * 6), ALPHA))
    crossed = judge_crossed(np.random.default_rng(0).normal(0, 1, (5, 6)))
    assert difference_shown(crossed, ALPHA) > 2.8 * crossed.se


@pytest.mark.parametrize("family", [1, 20])
@pytest.mark.parametrize("pilot", [3, 6, 10])
@pytest.mark.parametrize("spread", [0.2, 0.5, 1.5])  # points
def test_the_stated_number_of_seeds_has_its_power_after_three_quarters_of_pilots(
    pilot: int, family: int, spread: float
) -> None:
    """Whatever difference the pilots saw: what is stated is for the smallest difference of interest, 1 point."""
    rng = np.random.default_rng(0)
    found = [simulation.pilot(rng, pilot, spread) for _ in range(400)]
    assert np.mean([simulation.suffices(one, spread, family) for one in found]) >= 0.75
    stated = [seeds_to_show(one, simulation.SMALLEST, ALPHA / family) for one in found]
    assert any(few != seeds for few, seeds in stated) == (pilot < 6)


@pytest.mark.slow
def test_a_family_of_lines_without_difference_claims_one_in_at_most_6_of_100_and_none_from_three_pairs() -> None:
    """Eight lines of unlike spread, as often decided the one way as the other, and small ones too."""
    rng = np.random.default_rng(0)
    for pairs, most, runs in ((3, 0.0, 50), (6, 0.06, 600)):
        families = [simulation.family(rng, pairs) for _ in range(runs)]
        assert np.mean(list(map(simulation.claims_a_difference, families))) <= most


@pytest.mark.slow
def test_a_difference_of_interest_is_called_small_in_at_most_6_of_100_families() -> None:
    rng = np.random.default_rng(1)
    families = [simulation.family(rng, 6, simulation.SMALLEST) for _ in range(500)]
    assert np.mean(list(map(simulation.calls_small, families))) <= 0.06


def test_five_pairs_without_difference_and_little_spread_are_a_result() -> None:
    line = one_line([0.1, -0.1, 0.05, 0.0, -0.08])
    assert (line["verdict"], line["statement"]) == ("small", "no difference larger than 1 point")
    line = one_line([0.5, 0.6, 0.55, 0.5, 0.52])
    assert (line["verdict"], line["statement"]) == ("higher", "higher, by less than 1 point")
    assert line["half_width"] == pytest.approx((line["high"] - line["low"]) / 2)


def test_three_pairs_that_happen_to_agree_decide_nothing_and_a_narrow_line_says_so() -> None:
    wide = [[0.5, -0.5, 0.2, 0.1, -0.3], [0.9, -0.7, 0.4, 0.1, -0.3], [0.6, 0.1, -0.5, 0.2, 0.9]]
    agreeing = [2.0, 2.001, 2.002]
    lines = judge_family([judge(values) for values in [*wide, agreeing, [*agreeing, 2.0, 2.001]]], [1.0] * 5)
    assert [line["narrow"] for line in lines] == [False, False, False, True, True]
    assert lines[3]["p_holm"] < 0.001
    assert lines[3]["verdict"] == "undecided"
    assert (
        lines[4]["statement"] == "higher; its spread is less than a tenth of its family's median, as chance can have it"
    )


def one_line(differences: list[float], family: int = 1) -> dict:
    """Judge differences as the first of a family, whose other lines are far from any decision."""
    spread = [-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]
    return judge_family([judge(differences), *[judge(spread)] * (family - 1)], [1.0] * family)[0]


@pytest.mark.parametrize(
    ("differences", "family", "words"),
    [
        ([], 1, "undecided; no seed in common"),
        ([0.5], 1, "undecided; one pair has no spread to judge by"),
        ([0.5, 0.5], 1, "undecided; all 2 differences are equal, which leaves no spread to judge by"),
        ([0.0, 0.0], 1, "undecided; no difference in any of 2 pairs"),
        (
            [0.5, 0.1, -0.1],
            1,
            "undecided; 3 pairs are fewer than the 5 that decide; 5 to 6 seeds would show a difference of 1 point",
        ),
        ([0.5, -1.5, 2, 0.1, 3, 2], 1, "undecided; 47 seeds would show a difference of 1 point"),
        (
            [2, 3.5, 2, 1.1, 0.5, 3],
            20,
            "undecided after Holm's correction over 20; 45 seeds would show a difference of 1 point",
        ),
        ([40, -40, 1, 7, 9], 20, "undecided; more than 1000 seeds would show a difference of 1 point"),
    ],
)
def test_what_is_undecided_says_why_and_what_it_would_take(differences: list, family: int, words: str) -> None:
    assert one_line(differences, family)["statement"] == words


def test_crossed_pairs_count_as_the_fewer_of_teachers_and_students() -> None:
    found = judge_crossed(np.random.default_rng(0).normal(3, 0.1, (3, 6)))
    line = judge_family([found], [1.0])[0]
    assert (line["pairs"], line["teachers"], line["verdict"]) == (18, 3, "undecided")
    assert line["statement"].startswith("undecided; 18 pairs of 3 teachers count as 3, which are fewer than the 5")
    assert "seeds, each with its own teacher, would show" in line["statement"]


def test_every_pair_of_a_setting_is_compared_once_and_corrected_within_it() -> None:
    found = comparisons(made.noise(rates=(0.2, 0.4), taus=(1, 3)))
    assert len(found) == 2 * 6  # CE, two KL and MSE, in pairs
    for _, group in found.groupby("noise_rate"):
        assert (group["family"] == 6).all()
        assert group["p_holm"].tolist() == pytest.approx(holm(group["p"]))
    assert set(found["verdict"]) == {"undecided"}  # three seeds decide nothing
    more = comparisons(made.noise(rates=(0.2, 0.4), taus=(1, 3), seeds=range(6)))
    assert set(more["verdict"]) <= {"higher", "lower", "small", "undecided"}
    assert not (more["verdict"] == "undecided").all()


@pytest.mark.parametrize("rows", [made.losses(seeds=range(6)), made.chains(seeds=range(6)), made.on_selections()])
def test_what_figures_say_of_ce_is_what_the_comparisons_say(rows: pd.DataFrame) -> None:
    found, every = against_ce(rows), comparisons(rows)
    students = rows[rows["stages"] > 1].set_index("cell")
    for cell, row in students.iterrows():
        of = every[(every[COMPARED] == row[COMPARED]).all(axis=1)]
        own = {"ce", "ce > ce"} & {*of["a"], *of["b"]}
        line = of[(of["a"].isin(own)) & (of["b"] == row["objectives"])]
        if row["objectives"] in own:
            assert cell not in found
        else:
            turned = {"higher": "lower", "lower": "higher"}
            assert found[cell].found.effect == pytest.approx(-line["difference"].item())
            assert found[cell].verdict == turned.get(line["verdict"].item(), line["verdict"].item())
            assert np.mean(found[cell].values) == pytest.approx(found[cell].found.effect)


def test_losses_that_all_learn_alone_are_compared_with_ce_and_without_ce_nothing_is() -> None:
    rows = made.frame(made.students("e", "wrn-16-2", ["ce", "one-tau3-branches3"]))
    found = against_ce(rows)
    assert set(found) == set(rows.loc[rows["loss"] == "one", "cell"])
    assert next(iter(found.values())).found == paired(rows, "one-tau3-branches3", "ce")
    assert against_ce(made.losses(objectives=["kl-tau3", "mse"])) == {}


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
    found = trend(made.lose(rows, "kl-tau3", 0), "tau")
    assert (found.n, found.left_out) == (2, 1)


def test_verdict_follows_the_corrected_p_from_five_pairs_on() -> None:
    found = judge([0.5, 0.6, 0.5, 0.55, 0.52])
    assert [verdict(found, p) for p in (0.01, 0.06, math.nan)] == ["higher", "undecided", "undecided"]
    assert [verdict(found, p, 0.01) for p in (0.01, 0.06, math.nan)] == ["higher", "small", "small"]
    assert verdict(judge([0.5, 0.6, 0.5, 0.55]), 0.01, 0.01) == "undecided"


def test_a_spread_in_another_unit_is_not_called_narrow() -> None:
    wide, small = judge([1.0, 3.0, 2.0, 5.0, 4.0]), judge([0.01, 0.03, 0.02, 0.05, 0.04])
    alike = [line["narrow"] for line in judge_family([wide, wide, small], [1.0] * 3, ["points"] * 3)]
    assert alike == [False, False, True]
    apart = [line["narrow"] for line in judge_family([wide, wide, small], [1.0] * 3, ["points", "points", ""])]
    assert apart == [False] * 3
