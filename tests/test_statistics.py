"""The statistics against hand values, and the laws of promise 5: no NaN in a mean, no diverged network out of count."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made import table as made
from scipy import stats

from kd.core.errors import DataError
from kd.report.statistics import mean_interval, paired, settings, summarise


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
    assert (one.verdict, other.verdict) == ("higher", "lower")


def test_fewer_than_two_pairs_are_undecided() -> None:
    lost = made.lose(made.losses(("wrn-16-2",)), "mse", 0, 1)
    found = paired(lost, "mse", "ce")
    assert (found.n, found.left_out, found.verdict) == (1, 2, "undecided")
    none = paired(made.lose(lost, "mse", 2), "mse", "ce")
    assert (none.n, none.verdict) == (0, "undecided")


def test_equal_differences_are_undecided_and_not_certain() -> None:
    rows = made.losses(("wrn-16-2",), ["ce", "mse"], seeds=(0, 1))
    rows["test_top1"] = [70.0, 71.0, 70.5, 71.5]
    found = paired(rows, "mse", "ce")
    assert (found.effect, found.verdict) == (0.5, "undecided")
    assert math.isnan(found.p)


def test_a_seed_with_several_teachers_is_one_pair() -> None:
    rows = [made.cell_row("e", (("wrn-16-2", "ce", seed),)) for seed in (0, 1, 2)]
    for teacher in (0, 1):
        rows += [made.cell_row("e", (("wrn-28-4", "ce", teacher), ("wrn-16-2", "mse", seed))) for seed in (0, 1, 2)]
    assert paired(made.frame(rows), "mse", "ce").n == 3


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
