"""E-values: their formula against an integral, their error whoever stops when, and where the verdict takes them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import table as made
from scipy import integrate, stats

from bench import simulation
from kd.report.evalues import PRIOR, e_value, p_always, p_within_always
from kd.report.statistics import judge, judge_crossed
from kd.report.verdict import judged, verdict_on


@pytest.mark.parametrize(("n", "mean"), [(5, 0.0), (5, 2.0), (9, -1.0), (30, 0.4)])
def test_an_e_value_is_the_mixture_of_noncentral_t_against_the_central(n: int, mean: float) -> None:
    found = judge(np.random.default_rng(n).normal(mean, 1, n))
    t = found.effect / found.se

    def density(size: float) -> float:
        return stats.nct.pdf(t, n - 1, size * math.sqrt(n)) * stats.norm.pdf(size, 0, math.sqrt(PRIOR))

    mixed = integrate.quad(density, -15, 15, limit=200)[0]
    assert e_value(found) == pytest.approx(mixed / stats.t.pdf(t, n - 1), rel=1e-6)


def test_who_looks_after_each_seed_errs_by_the_t_test_and_not_by_e_values() -> None:
    """Of 400 studies without a difference: 1 in 5 finds one by the t test. By e-values 1 in 20 at most may."""
    for lines, runs, naive in ((1, 400, 0.15), (8, 60, 0.08)):
        rng = np.random.default_rng(0)
        t, e = zip(*(simulation.looking(rng, 0.0, lines) for _ in range(runs)), strict=True)
        assert np.mean([n is not None for n in t]) > naive
        assert np.mean([n is not None for n in e]) <= 0.05


def test_e_values_find_what_is_there_with_a_seed_or_two_more() -> None:
    rng = np.random.default_rng(0)
    t, e = zip(*(simulation.looking(rng, 3.0) for _ in range(60)), strict=True)
    assert None not in e
    assert np.mean(t) <= np.mean(e) <= np.mean(t) + 1


def test_a_p_value_for_small_differences_holds_at_any_time_too() -> None:
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        drawn = rng.normal(1.0, 0.5, 20)  # exactly the smallest of interest
        wrong += any(p_within_always(judge(drawn[:n]), 1.0) < 0.05 for n in range(5, 21))
    assert wrong <= 15
    assert p_within_always(judge(rng.normal(0, 0.2, 12)), 1.0) < 0.05
    assert p_within_always(judge([1.2, 1.1, 1.3, 1.2, 1.1]), 1.0) == 1.0


def test_crossed_pairs_and_equal_ones_have_no_e_value_and_a_huge_one_is_a_number() -> None:
    assert math.isnan(e_value(judge_crossed(np.random.default_rng(0).normal(0, 1, (5, 5)))))
    assert math.isnan(p_always(judge([0.5] * 6)))
    assert math.isnan(p_within_always(judge([0.5] * 6), 1.0))
    assert math.isfinite(e_value(judge(1e6 + np.random.default_rng(0).normal(0, 1, 600))))


# -- the verdict ------------------------------------------------------------------------------------------------------

CLAIMS = """
claims:
  - {id: mse, sentence: MSE is above KL, a: {objective: mse}, b: {objective: kl-tau3}, confirmatory: true}
  - {id: ce, sentence: CE is above KL, a: {objective: ce}, b: {objective: kl-tau3}, confirmatory: true}
"""


def table(folder: Path, seeds: int, gain: float) -> Path:
    rows = made.losses(("wrn-16-2",), ["ce", "kl-tau3", "mse"], seeds=tuple(range(seeds)))
    wobble = np.random.default_rng(0).normal(0, 0.5, (40, 3))
    place = {"ce": 0, "kl-tau3": 1, "mse": 2}
    rows["test_top1"] = [
        70 + wobble[seed, place[one]] + gain * (one == "mse")
        for seed, one in zip(rows["seed"], rows["objective"], strict=True)
    ]
    rows.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def told(folder: Path, seeds: int, gain: float) -> pd.DataFrame:
    (folder / "mine.yaml").write_text(CLAIMS)
    for name, content in verdict_on(table(folder, seeds, gain), folder / "mine.yaml").items():
        if name.startswith("verdict."):
            (folder / "verdicts/mine").mkdir(parents=True, exist_ok=True)
            (folder / "verdicts/mine" / name).write_bytes(content)
    return pd.read_csv(folder / "verdicts/mine/verdict.csv", keep_default_na=False).set_index("claim")


def test_seeds_that_were_added_after_a_look_are_judged_by_the_e_value_and_marked(tmp_path: Path) -> None:
    first = told(tmp_path, 4, 1.0)
    assert set(first["looks"]) == {""}
    assert told(tmp_path, 4, 1.0).equals(first)  # the same pairs again are no second look
    assert set(told(tmp_path, 6, 1.0)["looks"]) == {4}
    third = told(tmp_path, 7, 1.0).loc["mse"]
    assert third["looks"] == "4, 6"
    assert third["p_holm"] == pytest.approx(min(1, 2 / third["e"]))
    assert third["p_holm"] > third["p"] * 2
    assert third["statement"].endswith("; by its e-value, because it was looked at with 4, 6 pairs before")
    assert "their t test does not count" in (tmp_path / "verdicts/mine/verdict.md").read_text()
    more = told(tmp_path, 20, 1.0).loc["mse"]
    assert more["verdict"] == "holds"


def test_what_was_judged_once_is_judged_by_the_t_test() -> None:
    rows = made.losses(("wrn-16-2",), seeds=tuple(range(6)))
    lines = judged(rows)
    assert (lines["looks"] == "").all()
    pd.testing.assert_frame_equal(lines, judged(rows, former=lines.astype(str)))
