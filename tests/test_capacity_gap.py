"""Published results, one number a seed: what the text says of them is computed again by kd's own statistics."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from kd.report.comparisons import holm
from kd.report.own_claims import read_claims, read_table
from kd.report.verdict import judged

FOLDER = ROOT / "reports/capacity-gap"
STARRED = ("ResNet-101 → ResNet-34", "ResNet-50 → ResNet-34")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return read_table(FOLDER / "table.csv")


@pytest.fixture(scope="module")
def lines(table: pd.DataFrame) -> pd.DataFrame:
    return judged(table, read_claims(ROOT / "reports/capacity-gap/claims.yaml"))


def welch(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    taught = table[table["loss"] != "ce"]
    return {
        (loss, networks): stats.ttest_ind(
            arm["test_top1"],
            table[(table["loss"] == "ce") & (table["student"] == arm["student"].iloc[0])]["test_top1"],
            equal_var=False,
        ).pvalue
        for (loss, networks), arm in taught.groupby(["loss", "networks_name"])
    }


def test_two_gains_have_a_small_p_alone_and_none_survives_holm_over_eight(table, lines) -> None:
    alone = welch(table)
    assert len(alone) == 8
    assert {key for key, p in alone.items() if p < 0.05} == {("feature", networks) for networks in STARRED}
    corrected = dict(zip(alone, holm([*alone.values()]), strict=True))
    eight = lines[lines["kind"] == "confirmatory"].set_index("networks_name")
    assert (eight["family"] == 8).all()
    assert (eight["pairs"] == 5).all()
    assert set(eight["verdict"]) == {"undecided"}
    starred = eight[eight["claim"] == "feature"].loc[[*STARRED]]
    numbers = [[starred.loc[n, "difference"], alone["feature", n], starred.loc[n, "p"]] for n in STARRED]
    told = [[corrected["feature", n], starred.loc[n, "p_holm"], starred.loc[n, "seeds_needed"]] for n in STARRED]
    assert numbers == [pytest.approx([0.214, 0.022, 0.093], abs=6e-4), pytest.approx([0.194, 0.031, 0.040], abs=6e-4)]
    assert told == [pytest.approx([0.18, 0.65, 41], abs=6e-3), pytest.approx([0.22, 0.32, 21], abs=6e-3)]
    assert eight["p"].drop(STARRED[1]).gt(0.09).all()


def test_seed_0_chose_each_arm_and_without_it_four_pairs_decide_nothing(table, lines) -> None:
    taught = table[table["loss"] != "ce"]
    assert (taught["chose_the_arm"] == (taught["seed"] == 0)).all()
    rest = lines[lines["kind"] == "exploratory"]
    assert (rest["pairs"] == 4).all()
    assert rest["statement"].str.contains("4 pairs are fewer than the 5 that decide").all()
    left = rest[rest["claim"] == "feature_unchosen"].set_index("networks_name")["difference"]
    assert left[[*STARRED]].tolist() == pytest.approx([0.12, 0.14], abs=6e-3)


def test_the_text_has_the_numbers() -> None:
    text = Path(FOLDER / "README.md").read_text(encoding="utf-8")
    assert "| feature maps | ResNet-101 → ResNet-34 | +0.21 | 0.022 | 0.093 | 0.18 | 0.65 |" in text
    assert "| feature maps | ResNet-50 → ResNet-34 | +0.19 | 0.031 | 0.040 | 0.22 | 0.32 |" in text
