"""The statistics against hand values, and the laws of promise 5: no NaN in a mean, no diverged network out of count."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made import table as made
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from bench.simulation import VARIANCES, crossed
from kd.core.errors import DataError
from kd.report.statistics import Side, judge, judge_crossed, mean_interval, paired, settings, share, summarise


def test_mean_interval_matches_hand_values() -> None:
    # t(0.975, 2) = 4.302653, sd = 1, so the half-width is 4.302653 / sqrt(3)
    assert mean_interval([1, 2, 3]) == pytest.approx((2.0, 2 - 2.484138, 2 + 2.484138, 3), abs=1e-6)
    assert mean_interval([70.0, 71.0]) == pytest.approx((70.5, 70.5 - 6.353102, 70.5 + 6.353102, 2), abs=1e-6)


def test_mean_interval_covers_the_truth_19_times_in_20() -> None:
    samples = np.random.default_rng(0).normal(74, 0.3, (2000, 3))
    inside = [low <= 74 <= high for _, low, high, _ in map(mean_interval, samples)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_one_value_has_a_mean_and_no_interval() -> None:
    mean, low, high, n = mean_interval([74.2])
    assert (mean, n) == (74.2, 1)
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf, 1.0], []])
def test_nan_infinity_and_nothing_are_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match="finite"):
        mean_interval(values)


def test_diverged_is_counted_and_not_averaged() -> None:
    whole, lost = made.losses(("wrn-16-2",)), made.lose(made.losses(("wrn-16-2",)), "mse", 1)
    line = summarise(lost, ["objective"]).set_index("objective").loc["mse"]
    left = whole[(whole["objective"] == "mse") & (whole["seed"] != 1)]["test_top1"]
    assert (line["n"], line["diverged"]) == (2, 1)
    assert line["mean"] == pytest.approx(left.mean())
    assert line["sd"] == pytest.approx(left.std(ddof=1))


def test_a_group_that_diverged_whole_has_no_mean() -> None:
    line = (
        summarise(made.lose(made.losses(("wrn-16-2",)), "mse", 0, 1, 2), ["objective"])
        .set_index("objective")
        .loc["mse"]
    )
    assert (line["n"], line["diverged"]) == (0, 3)
    assert math.isnan(line["mean"])


def test_nan_in_a_network_that_ended_well_stops_with_its_name() -> None:
    rows = made.grid()
    rows.loc[4, "test_top1"] = math.nan
    with pytest.raises(DataError, match=rows.loc[4, "cell"]):
        summarise(rows, ["objective"])


def test_a_cell_twice_stops_with_its_name() -> None:
    rows = made.grid()
    with pytest.raises(DataError, match=f"more than one row for {rows.loc[0, 'cell']}"):
        summarise(pd.concat([rows, rows.head(1)]), ["objective"])


def test_groups_with_nan_and_infinity_in_their_key_are_kept() -> None:
    assert len(summarise(made.grid(), ["tau", "alpha"])) == 1 + 5 * 3
    assert set(summarise(made.grid(), ["tau"])["n"]) == {3, 9}


def test_paired_matches_scipy() -> None:
    rows = made.losses(("wrn-16-2",))
    mse, kl = (rows[rows["objective"] == name].set_index("seed")["test_top1"] for name in ("mse", "kl-tau3"))
    found = paired(rows, "mse", "kl-tau3")
    test = stats.ttest_rel(mse, kl)
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()))
    assert (found.effect, found.n, found.left_out) == (pytest.approx((mse - kl).mean()), 3, 0)


def test_paired_is_antisymmetric() -> None:
    rows = made.losses(("wrn-16-2",))
    one, other = paired(rows, "mse", "ce"), paired(rows, "ce", "mse")
    assert one.effect == pytest.approx(-other.effect)
    assert one.p == pytest.approx(other.p)


def test_fewer_than_two_pairs_have_no_spread() -> None:
    lost = made.lose(made.losses(("wrn-16-2",)), "mse", 0, 1)
    found = paired(lost, "mse", "ce")
    assert (found.n, found.left_out, found.tested) == (1, 2, False)
    assert math.isnan(found.low)
    none = paired(made.lose(lost, "mse", 2), "mse", "ce")
    assert (none.n, none.tested) == (0, False)


def test_equal_differences_have_no_spread_and_are_not_certain() -> None:
    rows = made.losses(("wrn-16-2",), ["ce", "mse"], seeds=(0, 1))
    rows["test_top1"] = [70.0, 71.0, 70.5, 71.5]
    found = paired(rows, "mse", "ce")
    assert (found.effect, found.tested) == (0.5, False)
    assert math.isnan(found.p)
    assert math.isnan(found.p_within(1))


def test_two_one_sided_tests_are_those_of_statsmodels() -> None:
    differences = [0.3, -0.1, 0.2, 0.4, 0.0]
    assert judge(differences).p_within(0.8) == pytest.approx(DescrStatsW(differences).ttost_mean(-0.8, 0.8)[0])


# -- teachers ---------------------------------------------------------------------------------------------------------


def taught(teachers: tuple[int, ...], seeds: tuple[int, ...], losses: tuple[str, ...] = ("mse",)) -> pd.DataFrame:
    """Make each student under each of these teachers, and CE alone."""
    pairs = [(teacher, seed) for teacher in teachers for seed in seeds]
    return together(pairs, losses)


def together(pairs: list[tuple[int, int]], losses: tuple[str, ...] = ("mse",)) -> pd.DataFrame:
    rows = [made.cell_row("e", (("wrn-16-2", "ce", seed),)) for seed in dict.fromkeys(seed for _, seed in pairs)]
    rows += [
        made.cell_row("e", (("wrn-28-4", "ce", teacher), ("wrn-16-2", loss, seed)))
        for loss in losses
        for teacher, seed in pairs
    ]
    return made.frame(rows)


def test_matched_seeds_are_independent_pairs() -> None:
    rows = together([(seed, seed) for seed in range(5)], ("mse", "kl-tau3"))
    for other in ("ce", "kl-tau3"):
        found = paired(rows, "mse", other)
        assert (found.n, found.teachers, found.independent, found.df) == (5, 1, 5, 4)
    line = summarise(rows, ["objective"]).set_index("objective").loc["mse"]
    assert tuple(line[["mean", "low", "high"]]) == mean_interval(rows[rows["objective"] == "mse"]["test_top1"])[:3]


def test_students_that_share_teachers_are_not_independent_pairs() -> None:
    rows = taught((0, 1, 2), (0, 1, 2, 3), ("mse", "kl-tau3"))
    for other in ("ce", "kl-tau3"):
        found = paired(rows, "mse", other)
        assert (found.n, found.teachers, found.independent) == (12, 3, 3)
    values = rows[rows["objective"] == "mse"].pivot(index="teacher_seed", columns="seed", values="test_top1")
    alone = judge_crossed(values.to_numpy(dtype=float))
    line = summarise(rows, ["objective"]).set_index("objective").loc["mse"]
    assert (line["low"], line["high"]) == pytest.approx((alone.low, alone.high))
    assert (line["n"], line["teachers"]) == (12, 3)


def test_a_student_that_lacks_one_of_the_teachers_is_left_out() -> None:
    rows = taught((0, 1), (0, 1, 2))
    rows.loc[(rows["teacher_seed"] == 1) & (rows["seed"] == 2), ["status", "test_top1"]] = "diverged", math.nan
    found = paired(rows, "mse", "ce")
    assert (found.n, found.teachers, found.left_out) == (4, 2, 2)


def test_students_of_one_teacher_each_count_as_their_teachers() -> None:
    rows = together([(teacher, 3 * teacher + n) for teacher in range(4) for n in range(3)])
    assert paired(rows, "mse", "ce")[2:5] == (3, 4, 0)  # degrees of freedom, pairs, left out


def test_crossed_effects_match_hand_values() -> None:
    # MS_T = 2 x 1 = 2, MS_S = 2 x 4 = 8, MS_E = 0: (2 + 8 - 0) / 4, and 10^2 / (2^2 + 8^2) degrees of freedom
    differences = np.array([[0.0, 2 * math.sqrt(2)], [math.sqrt(2), 3 * math.sqrt(2)]])
    found = judge_crossed(differences)
    assert (found.se**2, found.df) == pytest.approx((2.5, 100 / 68))
    assert found.effect == pytest.approx(1.5 * math.sqrt(2))
    # MS_T = MS_S = 0 and MS_E = 1: no less than the larger of the two, here nothing to judge by
    assert not judge_crossed(np.array([[0.5, -0.5], [-0.5, 0.5]])).tested


@pytest.mark.parametrize("variances", ["even", "teachers", "students"])
@pytest.mark.parametrize("students", [3, 5])
@pytest.mark.parametrize("teachers", [3, 5])
def test_crossed_teachers_and_students_claim_a_difference_where_none_is_in_at_most_6_of_100(
    teachers: int, students: int, variances: str
) -> None:
    """A paired t test of all pairs does so in 10 to 50 of 100."""
    rng = np.random.default_rng(0)
    drawn = [crossed(rng, teachers, students, VARIANCES[variances]) for _ in range(2000)]
    assert np.mean([judge_crossed(differences).p < 0.05 for differences in drawn]) <= 0.06
    assert np.mean([judge(differences.ravel()).p < 0.05 for differences in drawn]) > 0.1


def test_objectives_of_different_settings_are_not_compared() -> None:
    with pytest.raises(DataError, match="student differs"):
        paired(made.losses(), "mse", "ce")


def test_each_setting_has_its_own_baseline() -> None:
    found = settings(made.noise(rates=(0.4, 0.2)))
    assert [key["noise_rate"] for key, _ in found] == [0.2, 0.4]
    assert all(len(frame) == 9 * 3 for _, frame in found)
    assert all((frame["noise_rate"] == key["noise_rate"]).all() for key, frame in found)


def test_teachers_of_different_recipes_are_different_settings() -> None:
    early = made.early(made.frame(made.students("e", "wrn-16-2", ["kl-tau3"])))
    assert len(settings(pd.concat([made.losses(("wrn-16-2",)), early]))) == 2


def test_teachers_that_differ_in_seeds_alone_are_one_setting_ensembles_too() -> None:
    rows = made.losses(("wrn-16-2",))
    together = [made.renamed(rows, ".ce.s0/", f".ce.s{seeds}/") for seeds in ("0+1", "2+3")]
    for several in ([rows, made.renamed(rows, ".ce.s0/", ".ce.s1/")], together):
        found = settings(pd.concat(several).drop_duplicates("cell"))
        assert len(found) == 1
        assert set(summarise(found[0][1], ["lineage"])["n"]) == {3, 6}


def learnt(*values: float, teacher: int | None = None) -> Side:
    """Make one side: student s has the value at place s, from this teacher, or without one, or from teacher s."""
    found = {(seed if teacher is None else teacher, seed): value for seed, value in enumerate(values)}
    return Side({}, {"a"}, set(found), found)


def test_a_share_is_that_of_the_means_and_its_spread_that_of_their_ratio() -> None:
    """Hinton et al. 2015, speech: 57.0 between 44.5 and 58.9 is 87 %; 60.8 between 58.9 and 61.1 is 86 %."""
    assert share(learnt(57.0), learnt(44.5), learnt(58.9)).effect == pytest.approx(86.8, abs=0.05)
    assert share(learnt(60.8), learnt(58.9), learnt(61.1)).effect == pytest.approx(86.4, abs=0.05)
    gained, way = np.array([4.0, 6.0, 5.0]), np.array([8.0, 9.0, 13.0])
    found = share(learnt(*(50 + gained)), learnt(50, 50, 50, teacher=-1), learnt(*(50 + way), teacher=-1))
    assert found.effect == pytest.approx(50.0)
    assert (found.n, found.df, found.left_out) == (3, 2, 0)
    residual = gained - 0.5 * way
    assert found.se == pytest.approx(100 * residual.std(ddof=1) / 10 / math.sqrt(3))


def test_an_interval_of_a_share_covers_the_truth_19_times_in_20() -> None:
    rng, inside = np.random.default_rng(0), []
    for _ in range(1000):
        floor, reached, ceiling = (mean + rng.normal(0, 1, 6) for mean in (50, 56, 60))
        found = share(learnt(*reached), learnt(*floor), learnt(*ceiling))
        inside.append(found.low <= 60 <= found.high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_where_there_may_be_no_way_there_is_no_share() -> None:
    for ceiling in ((50, 50, 50), (49, 49.5, 48), (51, 49, 51)):
        assert not share(learnt(51, 52, 53), learnt(50, 50, 50), learnt(*ceiling)).n
