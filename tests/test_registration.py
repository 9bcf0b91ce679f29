"""Preregistration: what was fixed and committed before the first cell is marked; anything else says why it is not."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kd.core import files
from kd.core.errors import ConfigError
from kd.report import planned
from kd.report.own_claims import claim_of
from kd.report.preregister import preregister
from kd.report.registration import AFTERWARDS, BEFORE, BROKEN, Registration
from kd.report.verdict import judged
from kd.study import products
from kd.study.config import validate
from kd.study.judge import Judge

STUDY = {
    "study": "fixed",
    "dataset": "digits",
    "protocol": {"name": "quick", "epochs": 2},
    "seeds": [0, 1, 2, 3, 4, 5],
    "experiments": {"losses": {"teacher": "resnet14", "student": "resnet8", "loss": ["mse", {"kl": {"tau": [3, 20]}}]}},
}
FILE = Path("preregistrations/fixed.json")


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)


def commit(message: str = "Register") -> None:
    git("add", "-A")
    git("commit", "-qm", message)


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "Begin")
    return Judge.of_study(validate(STUDY))


def publish(judge: Judge, later: float = 60, **more: object) -> pd.DataFrame:
    """Publish manifests of all cells so many seconds from now, and return the table of them."""
    for cell in judge.cells:
        recipe = judge.expected(products.network(cell)).recipe | more
        manifest = {"recipe": recipe, "published": time.time() + later, "files": {}, "sizes": {}}
        files.write_manifest(Path(cell.path, files.MANIFEST), manifest)
    rows = planned._rows(judge)
    values = 90 + np.random.default_rng(0).normal(0, 1, len(rows))
    same = dict.fromkeys(["test_top1", "train_top1", "teacher_top1"], values)
    return rows.assign(status="ok", best_gap=0.1, **same)


def marks(rows: pd.DataFrame) -> set[str]:
    lines = judged(rows, registration=Registration.find("fixed"))
    return set(lines.loc[lines["claim"].isin(["mse_kl3", "mse_kl20"]), "registered"])


@pytest.mark.slow
def test_what_was_committed_before_the_first_cell_is_marked(judge: Judge) -> None:
    assert preregister(judge, None) == FILE
    content = json.loads(FILE.read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert (content["commit"], content["seeds"]) == (head, STUDY["seeds"])
    assert {line["claim"]: line["pairs"] for line in content["lines"]} == {"mse_kl3": 6, "mse_kl20": 6}
    assert "diverged" in content["rule"]
    commit()
    rows = publish(judge)
    assert marks(rows) == {BEFORE}
    lines = judged(rows, registration=Registration.find("fixed")).set_index("claim")
    assert lines.loc["mse_kl3", "statement"].endswith(BEFORE)
    assert lines.loc["taught", "registered"] == lines.loc["selection", "registered"] == AFTERWARDS
    lost = rows.assign(status=["diverged", *rows["status"][1:]])
    assert marks(lost) == {BEFORE}  # a diverged network is left out as the rule says
    assert marks(rows[rows["seed"] < 5]) == {f"{AFTERWARDS}: 5 pairs, not 6"}


@pytest.mark.slow
def test_a_registered_number_of_pairs_is_judged_by_the_t_test_whoever_looked_meanwhile(judge: Judge) -> None:
    preregister(judge, None)
    commit()
    rows = publish(judge)
    early = judged(rows[rows["seed"] < 5]).astype(str)
    fixed = judged(rows, former=early, registration=Registration.find("fixed")).set_index("claim")
    assert fixed.loc["mse_kl3", "looks"] == ""
    assert judged(rows, former=early).set_index("claim").loc["mse_kl3", "looks"] == "5"


def broken(rows: pd.DataFrame) -> str:
    (mark,) = marks(rows)
    assert mark.startswith(BROKEN)
    return mark


@pytest.mark.slow
def test_what_is_not_committed_or_changed_after_the_first_cell_is_broken_and_says_so(judge: Judge) -> None:
    preregister(judge, None)
    rows = publish(judge)
    assert "is not committed as it is" in broken(rows)
    commit()
    assert marks(rows) == {BEFORE}
    FILE.write_text(FILE.read_text().replace('"smallest": 1.0', '"smallest": 1.00'))
    assert "is not committed as it is" in broken(rows)
    commit("Change it")
    assert marks(rows) == {BEFORE}  # changed, but before the first cell
    assert "was published before preregistrations/fixed.json was last changed (commit " in broken(publish(judge, -60))


def test_other_values_and_cells_of_unknown_time_break_it(judge: Judge) -> None:
    preregister(judge, None)
    commit()
    assert "was trained with other values" in broken(publish(judge, more=1))
    rows = publish(judge)
    cell = rows["cell"].iloc[0]
    Path(cell, files.MANIFEST).unlink()
    assert broken(rows).endswith(f"nothing says when {cell} was published")


def test_nothing_is_registered_after_a_cell_or_twice_or_without_git(judge: Judge, tmp_path: Path) -> None:
    rows = publish(judge)
    with pytest.raises(ConfigError, match="18 of the cells are published"):
        preregister(judge, None)
    for path in Path("results").rglob(files.MANIFEST):
        path.unlink()
    Path("reports/old").mkdir(parents=True)
    rows.head(2).to_csv("reports/old/table.csv")
    with pytest.raises(ConfigError, match="2 of the cells are published"):
        preregister(judge.again(), None)
    Path("reports/old/table.csv").unlink()
    preregister(judge.again(), None)
    with pytest.raises(ConfigError, match="exists; a change after the first cell breaks it"):
        preregister(judge.again(), None)


def test_a_file_of_claims_that_changed_breaks_it(judge: Judge) -> None:
    claims = Path("mine.yaml")
    claims.write_text("claims: [{id: m, sentence: MSE wins, a: {objective: mse}, b: {objective: kl-tau3}}]")
    assert preregister(judge, claims) == Path("preregistrations/fixed.mine.json")
    commit()
    publish(judge)
    assert Registration.find("fixed") is None
    assert Registration.find("fixed", claims).broken == ""
    claims.write_text(claims.read_text().replace("kl-tau3", "kl-tau20"))
    assert Registration.find("fixed", claims).broken == "mine.yaml is another now"


def test_claims_of_the_study_itself_are_registered_and_break_it_when_they_change(judge: Judge) -> None:
    claim = {"id": "m", "sentence": "MSE wins", "a": {"objective": "mse"}, "b": {"objective": "kl-tau3"}}
    own = Judge.of_study(validate(STUDY | {"claims": [claim]}))
    assert preregister(own, None) == FILE
    commit()
    rows = publish(own)
    told = {"registration": Registration.find("fixed", own=own.study.claims)}
    assert judged(rows, list(map(claim_of, own.study.claims)), **told)["registered"].tolist() == [BEFORE]
    turned = validate(STUDY | {"claims": [claim | {"a": claim["b"], "b": claim["a"]}]}).claims
    assert Registration.find("fixed", own=turned).broken == "the study has other claims now"
