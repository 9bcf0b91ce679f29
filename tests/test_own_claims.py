"""Claims of one's own: any column of any tidy table, or of an analysis, judged by the verdict's rule."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from made import table as made

from kd.__main__ import main
from kd.core.errors import ConfigError, DataError, StorageError
from kd.measure.frames import frame_files
from kd.report import planned
from kd.report.own_claims import analyses_in, claim_of, read_claims, read_table
from kd.report.statistics import judge, least_sure
from kd.report.verdict import judged, verdict, verdict_on
from kd.study import products
from kd.study.config import merged, validate
from kd.study.judge import Judge
from kd.study.plain_yaml import parse_yaml, read_yaml

NEAR = """
claims:
  - id: near
    sentence: MSE agrees more often
    value: measures.agreement
    a: {objective: mse}
    b: {objective: kl-tau3}
    smallest: 2
  - id: tau
    sentence: Accuracy rises with τ
    rows: {family: kl, tau: [1, 3, inf]}
    over: tau
  - id: wrong
    sentence: Wrong labels cost less than 40 points
    rows: {objective: mse}
    a: {noise_rate: 0.4}
    b: {noise_rate: 0}
    confirmatory: true
"""
BEATS = """
claims:
  - id: knowledge
    sentence: Ours beats its controls
    a: {method: ours}
    beats: [{method: ls}, {method: another}]
"""
OTHERS = """
claims:
  - {id: ours, sentence: Ours is slower, value: seconds, a: {method: ours}, b: {method: theirs}, smallest: 5}
"""


def claims(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def write(folder: Path, frame: pd.DataFrame, name: str) -> None:
    for path, content in frame_files(frame, name).items():
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).write_bytes(content)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Make a table of six seeds, clean and with wrong labels, and its analysis: a row for each of two splits."""
    rows = pd.concat([made.losses(("wrn-16-2",), seeds=range(6)), made.noise(rates=(0.4,), seeds=range(6))])
    rows = rows.drop_duplicates("cell").reset_index(drop=True)
    write(tmp_path, rows, "table")
    known = [*rows.loc[:, "dataset":"seed"]]
    clean = rows[(rows["noise"] == "none") & (rows["stages"] > 1)]
    agreement = 80 + 5 * (clean["objective"] == "mse") + 0.1 * clean["seed"] ** 2 * (clean["objective"] == "mse")
    measured = clean[["experiment", "cell", *known]]
    test, train = measured.assign(split="test", agreement=agreement), measured.assign(split="train", agreement=0.0)
    write(tmp_path, pd.concat([test, train]), "analyses/losses.measures")
    return tmp_path


def test_claims_are_on_any_column_of_the_table_or_of_an_analysis(study: Path) -> None:
    lines = judged(read_table(study / "table.parquet"), read_claims(claims(study, NEAR)), analyses_in(study)).set_index(
        "claim"
    )
    near = lines.loc["near"]
    assert near["measured"] == "85.92 against 80.00"
    assert (near["verdict"], near["pairs"], near["smallest"]) == ("holds", 6, 2)
    assert len(lines.loc[["tau"]]) == 2  # settings: clean, and with wrong labels
    wrong = lines.loc["wrong"]
    assert (wrong["verdict"], wrong["kind"], wrong["family"]) == ("does not hold", "confirmatory", 1)
    assert wrong["difference"] < -10


def controlled(tmp_path: Path, **means: float) -> pd.DataFrame:
    """Judge that ours beats ls and another, by a table of methods with these means over eight seeds."""
    rng = np.random.default_rng(3)
    each = [(name, seed, mean + rng.normal(0, 0.3)) for name, mean in means.items() for seed in range(8)]
    path = tmp_path / "methods.csv"
    pd.DataFrame(each, columns=["method", "seed", "test_top1"]).to_csv(path, index=False)
    return judged(read_table(path), read_claims(claims(tmp_path, BEATS)))


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ({"ls": 70, "another": 75}, "holds"),
        ({"ls": 70, "another": 80}, "does not hold"),
        ({"ls": 90, "another": 60}, "does not hold"),
        ({"ls": 70}, "not measured"),
    ],
)
def test_a_claim_holds_only_if_it_beats_every_control(tmp_path: Path, means: dict, verdict: str) -> None:
    line = controlled(tmp_path, ours=76, **means)
    assert line["verdict"].tolist() == [verdict]
    assert (line["measured"][0].count(",") == 1) == (len(means) == 2)
    if len(means) == 2:
        assert line["difference"][0] == pytest.approx(76 - max(means.values()), abs=0.5)


def test_more_controls_need_no_correction() -> None:
    """Where one of three is as good, the claim holds in at most half of the level's share of studies."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(1500):
        found = least_sure([judge(rng.normal(gain, 1, 6)) for gain in (0, 0, 3)])
        wrong += found.p < 0.05 and found.effect > 0
    assert wrong / 1500 < 0.025 + 3 * (0.025 / 1500) ** 0.5
    assert np.isnan(least_sure([judge([3.0, 4.0]), judge([5.0])]).p)  # one pair of a control decides nothing


@pytest.mark.parametrize("more", ["b: {method: ls}", "over: seed"])
def test_a_claim_that_beats_controls_has_no_other_side(tmp_path: Path, more: str) -> None:
    with pytest.raises(ConfigError, match="give either a and b, the higher side first, or a and beats, or over"):
        read_claims(claims(tmp_path, f"{BEATS}    {more}\n"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_any_table_with_a_column_seed_is_judged(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame([{"method": m, "seed": s} for m in ("ours", "theirs") for s in range(6)])
    table["seconds"] = 100 + 20 * (table["method"] == "ours") + rng.normal(0, 1, 12)
    path = tmp_path / f"times.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    line = judged(read_table(path), read_claims(claims(tmp_path, OTHERS)))
    assert line["verdict"].tolist() == ["holds"]
    assert line["difference"].iloc[0] == pytest.approx(20, abs=2)
    written = verdict_on(path, claims(tmp_path, OTHERS))
    assert "The claims of mine.yaml" in written["figures/verdict.txt"].decode()
    assert "points of top-1" not in written["figures/verdict.txt"].decode()
    assert "Kim" not in written["verdict.md"].decode()


@pytest.mark.slow
def test_the_verb_writes_beside_the_table_and_not_over_the_papers_verdict(study: Path) -> None:
    (study / "verdict.csv").write_text("the paper's")
    assert main(["verdict", str(study / "table.csv"), "--claims", str(claims(study, NEAR))]) == 0
    assert (study / "verdict.csv").read_text() == "the paper's"
    written = pd.read_csv(study / "verdicts" / "mine" / "verdict.csv")
    by_parquet = judged(read_table(study / "table.parquet"), read_claims(study / "mine.yaml"), analyses_in(study))
    assert written["verdict"].tolist() == by_parquet["verdict"].tolist()
    assert written["difference"].tolist() == pytest.approx(by_parquet["difference"].tolist())


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ("{id: x, sentence: s, a: {loss: mse}}", "give either a and b"),
        ("{id: x, sentence: s, over: tau, a: {loss: mse}, b: {loss: kl}}", "give either a and b"),
        ("{id: x, sentence: s, over: tau, value: train_loss}", "smallest: missing"),
        ("{id: x, sentence: s, over: tau, smallest: 0}", "expected more than 0"),
        ("{id: x, sentence: s, over: tau, falsl: true}", "did you mean 'falls'"),
        ("{id: x, sentence: s, a: {los: mse}, b: {loss: kl}}", "no such column; did you mean 'loss'"),
        ("{id: x, sentence: s, a: {tau: big}, b: {loss: kl}}", "expected numbers"),
        ("{id: x, sentence: s, over: tau, value: test_top, smallest: 1}", "no column test_top"),
        ("{id: x, sentence: s, over: tau, value: plane.top1}", "no such analysis"),
        (", ".join(["{id: x, sentence: s, over: tau}"] * 2), "an id twice"),
        (
            ", ".join(f"{{id: x{n}, sentence: s, over: tau, confirmatory: true}}" for n in range(9)),
            "9 are confirmatory; 8 at most",
        ),
    ],
)
def test_what_is_wrong_with_a_claim_is_said(study: Path, claim: str, words: str) -> None:
    assert parse_yaml(f"claims: [{claim}]", "here")
    with pytest.raises(ConfigError, match=words):
        judged(
            read_table(study / "table.parquet"), read_claims(claims(study, f"claims: [{claim}]")), analyses_in(study)
        )


def test_a_table_without_seeds_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"seeds": [0, 1], "test_top1": [1.0, 2.0]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ConfigError, match=r"needs a column seed.*did you mean 'seeds'"):
        read_table(tmp_path / "t.csv")


def test_a_network_that_stands_twice_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"seed": [0, 0], "test_top1": [1.5, 2.5]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="more than one row for 0"):
        read_table(tmp_path / "t.csv")


ASKING = [path for path in sorted((ROOT / "workflow" / "studies").glob("*.yaml")) if "claims" in read_yaml(path)]


@pytest.mark.parametrize("path", ASKING, ids=lambda path: path.stem)
def test_claims_of_a_shipped_study_are_judged_by_every_one_of_its_seeds(path: Path) -> None:
    study = validate(merged(read_yaml(path)))
    rows = planned._rows(Judge.of_study(study))
    claims = [own for own in study.claims if not own.analysis]
    measured = {own.column: 50 + np.random.default_rng(0).normal(0, 1, len(rows)) for own in claims}
    lines = judged(rows.assign(status="ok", **measured), list(map(claim_of, claims)))
    assert set(lines["pairs"]) == {len(study.seeds)}
    assert set(lines["claim"]) == {own.id for own in claims}


def test_a_study_with_claims_is_judged_by_them_on_its_table_and_analyses(study: Path) -> None:
    asked = {**read_yaml(ROOT / "config.yaml"), **parse_yaml(NEAR, "here")}
    losses = {"student": "wrn-16-2", "teacher": "wrn-28-4", "loss": ["mse"]}
    with pytest.raises(ConfigError, match=r"claims\.near\.value: no experiment measures measures; .*: .*fidelity"):
        validate({**asked, "experiments": {"losses": losses}})
    mine = validate({**asked, "experiments": {"losses": {**losses, "figure": "fidelity"}}})
    lines = pd.read_csv(io.BytesIO(verdict(study, mine)["verdict.csv"]))
    assert lines["claim"].drop_duplicates().tolist() == ["near", "tau", "wrong"]
    expected = Judge.of_study(mine).expected(products.verdict(mine.study))
    assert [own["id"] for own in expected.recipe["claims"]] == ["near", "tau", "wrong"]
    assert [one.kind for one in expected.inputs] == ["table", "analysis"]


def test_an_analysis_of_an_experiment_that_the_study_lacks_is_not_read(study: Path) -> None:
    (study / "analyses/losses.measures.parquet").rename(study / "analyses/earlier.measures.parquet")
    losses = {"student": "wrn-16-2", "teacher": "wrn-28-4", "loss": ["mse"], "figure": "fidelity"}
    mine = {**read_yaml(ROOT / "config.yaml"), **parse_yaml(NEAR, "here"), "experiments": {"losses": losses}}
    with pytest.raises(StorageError, match=r"analyses/losses\.measures\.parquet"):
        verdict(study, validate(mine))
