"""The plan says before a run what the verdict says after it: pairs, families, what seeds show and what it takes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bench import spreads as measured
from kd.report import planned as module
from kd.report.paper.claims import CLAIMS
from kd.report.planned import planned, said, spreads
from kd.report.power import ALPHA, seeds_needed, shown_by, spread_limit
from kd.report.verdict import judged
from kd.study.config import validate
from kd.study.judge import Judge
from kd.study.paths import parse_cell

STUDY = {
    "study": "planned",
    "dataset": "digits",
    "protocol": {"name": "quick", "epochs": 2},
    "experiments": {
        "losses": {
            "teacher": "wrn-10-2",
            "student": "resnet8",
            "loss": ["ce", {"kl": {"tau": [1, 3, 20]}}, "mse"],
        }
    },
}


def plan(seeds: int, **more: object) -> pd.DataFrame:
    return planned(Judge.of_study(validate(STUDY | {"seeds": list(range(seeds))} | more)), CLAIMS)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_spreads_are_those_of_the_tables_that_the_project_keeps() -> None:
    pd.testing.assert_frame_equal(spreads(), pd.DataFrame(measured.measured()))


def test_a_spread_of_arms_by_seeds_is_that_of_a_difference() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"networks": "n", "objectives": f"o{arm}", "seed": seed, "v": arm + 5 * seed + rng.normal(0, 0.3)}
        for arm in range(20)
        for seed in range(20)
    ]
    sd, df = measured.spread(pd.DataFrame(rows), "v")
    assert df == 19 * 19
    assert sd == pytest.approx(0.3 * math.sqrt(2), rel=0.1)


def test_what_is_planned_follows_from_seeds_family_and_the_measured_spread() -> None:
    few, many = plan(3).set_index("claim"), plan(8).set_index("claim")
    assert few["family"].to_dict() == many["family"].to_dict()
    assert many.groupby("kind")["family"].agg(["size", "max"]).diff(axis=1)["max"].eq(0).all()
    known = spreads()
    known = known[(known["dataset"] == "digits") & ~known["noisy"] & (known["value"] == "test_top1")].iloc[0]
    line, limit = many.loc["mse_kl3"], spread_limit(known["sd"], known["df"])
    assert (line["seeds"], line["spread"], line["source"]) == (8, pytest.approx(limit), known["source"])
    assert line["shows"] == pytest.approx(shown_by(8, limit, ALPHA / line["family"]))
    assert line["needs"] == few.loc["mse_kl3", "needs"] == seeds_needed(1, limit, ALPHA / line["family"])
    assert few["shows"].isna().all()
    assert all("3 seeds cannot decide, 5 are the least" in words for words in said(plan(3))[1:])
    assert any(
        f"8 seeds show {line['shows']:.2g} points; {line['needs']} would show 1 point" in w for w in said(plan(8))
    )


def test_crossed_teachers_count_as_the_fewer_and_unknown_data_have_no_spread() -> None:
    assert set(plan(6, teacher_seeds=[0, 1])["seeds"]) == {2}
    assert set(plan(6, teacher_seeds="matched")["seeds"]) == {6}
    unknown = plan(6, dataset="cifar100")
    assert unknown["shows"].isna().all()
    assert "spread not known for cifar100: finish 6 seeds, and ask again" in said(unknown)[1]


def test_plan_and_verdict_are_one_calculation_once_cells_are_finished() -> None:
    """Six of eight seeds are finished: the plan states their spread, and what it takes, as the verdict does."""
    judge = Judge.of_study(validate(STUDY | {"seeds": list(range(8))}))

    def manifest(product: object) -> dict | None:
        cell = parse_cell(product.name)
        top1 = 90 + np.random.default_rng(list(product.name.encode())).normal(0, 0.4)
        last = {"epoch": 2, "test_top1": top1, "train_top1": top1 + 5}
        return {"status": "ok", "last": last, "best_on_test": last} if cell.stage.seed < 6 else None

    fake = SimpleNamespace(
        study=judge.study, cells=judge.cells, students=judge.students, manifest=manifest, to_do=lambda one: None
    )
    rows = module._measured(module._rows(fake), fake)
    after = judged(rows[rows["status"] == "ok"]).set_index("claim")
    before = planned(fake, CLAIMS).set_index("claim")
    assert {"taught", "tau", "mse_kl1", "mse_kl3"} <= set(before.index)
    for claim, line in before.iterrows():
        assert line["source"] == "6 finished pairs"
        assert line["needs"] == after.loc[claim, "seeds_needed"]
        assert line["shows"] == pytest.approx(shown_by(8, line["spread"], ALPHA / line["family"]))
        assert shown_by(6, line["spread"], ALPHA / line["family"]) == pytest.approx(after.loc[claim, "shows"])
