"""Several networks that teach as one: what their cell is, what it answers, and what it makes of a member's fate."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import prepare, recipe, resigned, study, verb, written
from conftest import train as trained

from kd import losses
from kd.core.errors import Diverged, StorageError
from kd.jobs import train as jobs_train
from kd.models.output import Output
from kd.report import table
from kd.study import cells
from kd.study.cells import Cell, stage
from kd.study.config import Study
from kd.study.expansion import all_cells, cells_of, taught_by
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.study.values import LossChoice
from kd.train import material, published
from kd.train.device import place
from kd.train.fit import evaluate
from kd.train.published import MODEL
from kd.train.teachers import Ensemble

PLACE = "results/digits/quick"
MEMBERS = (f"{PLACE}/resnet14.ce.s0", f"{PLACE}/resnet14.ce.s1")
BOTH = f"{PLACE}/resnet14.ce.s0+1"


@pytest.fixture
def digits(project: Path) -> Path:
    """A project with the digits prepared."""
    prepare()
    return project


def seeds(**keys: object) -> Study:
    """A study of an ensemble of two seeds."""
    return study(**two_seeds(**keys))


def two_seeds(**keys: object) -> dict:
    experiment = {"teacher": "resnet14", "student": "resnet8", "loss": {"kl": {"tau": 3}}, "teacher_seeds": "0+1"}
    protocol = {"name": "quick", "epochs": 2, "batch": 64, "precision": "fp32", **keys.pop("protocol", {})}
    return {"experiments": {"both": {**experiment, **keys}}, "protocol": protocol, "seeds": [0]}


def train(path: str | Cell, made: Study | None = None, **options: object) -> dict:
    return trained(path, made or seeds(), **options)


def train_all(made: Study) -> dict[str, dict]:
    return {cell.path: train(cell, made) for cell in all_cells(made)}


# -- paths ------------------------------------------------------------------------------------------------------------


def paths(**keys: object) -> list[str]:
    made = study(dataset="cifar100", seeds=[0], protocol={"name": "paper"}, experiments={"e": {"loss": "mse", **keys}})
    return [cell.path.removeprefix("results/cifar100/paper/") for cell in cells_of(made, "e")]


def test_an_ensemble_stands_in_the_place_of_the_teacher() -> None:
    one = {"teacher": "wrn-28-4", "student": "wrn-16-2"}
    assert paths(**one, teacher_seeds=[2, "0+1+2"]) == [
        "wrn-28-4.ce.s2/wrn-16-2.mse.s0",
        "wrn-28-4.ce.s0+1+2/wrn-16-2.mse.s0",
    ]
    several = {"teacher": ["wrn-28-4+wrn-16-4", "wrn-28-4"], "student": "wrn-16-2"}
    assert paths(**several) == ["wrn-16-4+wrn-28-4.ce.s0/wrn-16-2.mse.s0", "wrn-28-4.ce.s0/wrn-16-2.mse.s0"]
    assert paths(**one, teacher_seeds="0+1", teacher_epochs=9, ensemble=["mean_prob", "sum_logit"]) == [
        f"wrn-28-4.ce.s0+1-{how}-epochs9/wrn-16-2.mse.s0" for how in ("meanprob", "sumlogit")
    ]
    chain = paths(path=["wrn-28-4+wrn-16-4", "wrn-16-4", "wrn-16-2"], teacher_seeds="0+1")
    assert chain == ["wrn-16-4+wrn-28-4.ce.s0+1/wrn-16-4.mse.s0+1/wrn-16-2.mse.s0"]


@pytest.mark.parametrize("order", list(itertools.permutations(("wrn-28-4", "wrn-16-4", "wrn-40-2"))))
def test_the_order_of_members_does_not_matter(order: tuple[str, ...]) -> None:
    found = paths(teacher="+".join(order), student="wrn-16-2")
    assert found == ["wrn-16-4+wrn-28-4+wrn-40-2.ce.s0/wrn-16-2.mse.s0"]
    ce = LossChoice("ce")
    assert stage(order, ce, [2, 0, 1]) == stage(sorted(order), ce, [0, 1, 2, 2])


def test_an_ensemble_of_one_is_that_network_whatever_is_made_of_it() -> None:
    alone = stage(["wrn-28-4"], LossChoice("ce"), [3], ensemble="mean_prob")
    assert (str(alone), alone.members, alone.is_ensemble) == ("wrn-28-4.ce.s3", (alone,), False)
    assert parse_cell(MEMBERS[0]).members == (parse_cell(MEMBERS[0]),)


def test_members_are_ordinary_cells_trained_before_the_ensemble_and_shared() -> None:
    made = seeds(teacher_seeds=[0, "0+1"], ensemble=["mean_logit", "sum_logit"])
    listed = [cell.path for cell in all_cells(made)]
    assert len(set(listed)) == len(listed) == 2 + 2 + 3
    for path in (BOTH, f"{BOTH}-sumlogit"):
        assert [member.path for member in parse_cell(path).members] == list(MEMBERS)
        assert max(map(listed.index, MEMBERS)) < listed.index(path) < listed.index(f"{path}/resnet8.kl-tau3.s0")
    ensemble = parse_cell(BOTH)
    assert (ensemble.teacher, ensemble.epochs(made.protocol)) == (None, 0)
    students = taught_by(all_cells(made))
    assert len(students[ensemble.members[0]]) == 3  # whose views its bank holds
    assert len(students[ensemble.members[1]]) == 2


def test_an_ensemble_of_students_lies_inside_their_teacher() -> None:
    path = f"{MEMBERS[0]}/resnet8.mse.s0+1"
    cell = parse_cell(path)
    assert [member.path for member in cell.members] == [f"{MEMBERS[0]}/resnet8.mse.s{seed}" for seed in (0, 1)]
    assert [ancestor.path for ancestor in cell.lineage] == [MEMBERS[0], *(m.path for m in cell.members), path]


# -- what it answers --------------------------------------------------------------------------------------------------


def logits_of(path: str, images: torch.Tensor) -> torch.Tensor:
    have = material.prepared(parse_cell(path), recipe(path, seeds()))
    with torch.no_grad():
        return published.load_network(parse_cell(path), have).eval()(images)


class Says:
    """A teacher that gives these logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits

    def output(self, index: object, view: object, inputs: object) -> Output:
        return Output(self._logits)


@pytest.mark.parametrize("how", losses.ENSEMBLES)
@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0, math.inf])
def test_a_teacher_of_several_answers_their_combination_at_the_tau_of_who_asks(how: str, tau: float) -> None:
    members = torch.randn(3, 5, 10, generator=torch.Generator().manual_seed(0))
    found = Ensemble([Says(one) for one in members], how, tau).output(None, None, None).logits
    assert found.equal(losses.ENSEMBLES[how](members, tau))
    alone = Ensemble([Says(members[0])], how, tau).output(None, None, None).logits
    torch.testing.assert_close(alone, members[0], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["bank", "online"])
@pytest.mark.parametrize(("how", "tau"), [("", 3.0), ("-meanprob", 3.0), ("-sumlogit", 1.0)])
def test_a_student_reads_the_combination_of_its_members_logits(
    digits: Path, monkeypatch: pytest.MonkeyPatch, where: str, how: str, tau: float
) -> None:
    made, asked = seeds(protocol={"teacher": where}), {}
    for member in MEMBERS:
        train(member, made)
    train(f"{BOTH}{how}", made)

    def caught(network, examples, plan, teacher, place, state, history, name="") -> None:
        index = examples.train[:20]
        view = plan.grid.draw(plan.seed, 0, index)
        inputs = examples.normalise(plan.grid.render(examples.images[index], view))
        asked["answer"], asked["inputs"] = teacher.output(index, view, inputs).logits, inputs
        raise Diverged("seen enough")

    monkeypatch.setattr(jobs_train, "fit", caught)
    train(f"{BOTH}{how}/resnet8.kl-tau{cells.spell(tau)}.s0", made)
    members = torch.stack([logits_of(member, asked["inputs"]) for member in MEMBERS])
    expected = losses.ENSEMBLES[parse_cell(f"{BOTH}{how}").stage.ensemble](members, tau)
    # What is stored is rounded to float16.
    torch.testing.assert_close(asked["answer"], expected, rtol=2e-3, atol=2e-3 if where == "bank" else 1e-4)


@pytest.mark.slow
def test_an_ensemble_stores_no_bank_and_fills_those_of_its_members(digits: Path) -> None:
    for path in (*MEMBERS, BOTH):
        train(path)
    assert verb("bank", BOTH, **two_seeds()) == 0
    assert sorted(str(path.parent) for path in Path("banks").rglob("manifest.json")) == [
        member.replace("results", "banks") for member in MEMBERS
    ]
    assert verb("release", BOTH, **two_seeds()) == 74  # a student that will read them is not trained yet
    train(f"{BOTH}/resnet8.kl-tau3.s0")
    assert verb("release", BOTH, **two_seeds()) == 0
    assert [path for path in Path("banks").rglob("*") if path.is_file()] == []


# -- what is published ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_ensemble_publishes_its_members_digests_and_accuracy_and_no_weights(digits: Path) -> None:
    made = seeds()
    manifests = train_all(made)
    manifest = manifests[BOTH]
    assert {m: manifest["inputs"][m]["digest"] for m in MEMBERS} == {m: manifests[m]["files"][MODEL] for m in MEMBERS}
    assert (manifest["kind"], manifest["status"], manifest["epochs"]) == ("network", "ok", 0)
    assert manifest["parameters"] == 2 * manifests[MEMBERS[0]]["parameters"]
    assert Path(BOTH, MODEL).stat().st_size < 1000
    have = material.prepared(parse_cell(BOTH), recipe(BOTH, made)).examples

    def mean(inputs: torch.Tensor) -> torch.Tensor:
        return torch.stack([logits_of(member, inputs) for member in MEMBERS]).mean(0)

    with place("fp32", 1) as where:
        row = evaluate(mean, have, "test", where)
    assert manifest["last"] == pytest.approx({"epoch": 0, **row}, rel=1e-5)
    assert manifest["last"]["test_loss"] <= max(manifests[m]["last"]["test_loss"] for m in MEMBERS)
    student = manifests[f"{BOTH}/resnet8.kl-tau3.s0"]
    assert student["inputs"][BOTH]["digest"] == manifest["files"][MODEL]
    assert train(BOTH)["seconds"] == 0  # published: left alone


@pytest.mark.slow
def test_an_ensemble_has_its_row_in_the_table(digits: Path, tmp_path: Path) -> None:
    made = seeds(ensemble=["mean_logit", "mean_prob"], label_noise={"symmetric": 0})
    train_all(made)
    written(table.collect(made, Judge.of_study(made)), tmp_path)
    rows = pd.read_parquet(tmp_path / "table.parquet").set_index("cell")
    assert rows.loc[BOTH, ["experiment", "networks", "student", "objective", "stages", "epochs"]].tolist() == [
        "teachers", "2*resnet14", "2*resnet14", "ce", 1, 0
    ]  # fmt: skip
    assert 0 < rows.loc[BOTH, "test_top1"] == rows.loc[BOTH, "best_test_top1"]
    student = rows.loc[f"{BOTH}-meanprob/resnet8.kl-tau3.s0"]
    assert (student.teacher, student.networks) == ("2*resnet14-meanprob", "2*resnet14-meanprob > resnet8")


def test_a_member_that_diverged_makes_the_ensemble_and_its_students_diverged(digits: Path) -> None:
    made = seeds(protocol={"lr": 1e12})
    manifests = train_all(made)
    assert {manifest["status"] for manifest in manifests.values()} == {"diverged"}
    assert manifests[BOTH]["cause"] == f"its member {MEMBERS[0]} diverged"
    assert manifests[f"{BOTH}/resnet8.kl-tau3.s0"]["cause"] == f"its teacher {BOTH} diverged"


@pytest.mark.slow
def test_a_member_that_is_another_makes_the_ensemble_and_its_students_others(digits: Path) -> None:
    before = train_all(seeds())
    forge(MEMBERS[1])
    student = f"{BOTH}/resnet8.kl-tau3.s0"
    with pytest.raises(StorageError, match=rf"not current.*\n  {re.escape(BOTH)}: a member is another now"):
        train(student)
    after = {path: train(path) for path in (BOTH, student)}
    for path in (BOTH, student):
        assert after[path]["fingerprint"] != before[path]["fingerprint"]
        assert after[path]["last"] != before[path]["last"]


@pytest.mark.slow
def test_no_table_holds_an_ensemble_or_a_student_of_what_is_another_now(digits: Path, capsys) -> None:
    train_all(seeds())
    assert verb("collect", **two_seeds()) == 0
    forge(MEMBERS[1])
    assert verb("collect", **two_seeds()) == 74
    said = capsys.readouterr().err
    assert f"{BOTH}: a member is another now" in said
    assert f"{BOTH}/resnet8.kl-tau3.s0: looked at again after its teacher" in said
    train(BOTH)
    assert verb("collect", **two_seeds()) == 74
    assert f"{BOTH}/resnet8.kl-tau3.s0: its teacher is another now" in capsys.readouterr().err
    train(f"{BOTH}/resnet8.kl-tau3.s0")
    assert verb("collect", **two_seeds()) == 0


def forge(path: str) -> None:
    """Give a published network the weights of one that was trained from another seed."""
    other = path.replace(".s1", ".s7")
    train(other)
    (Path(path) / MODEL).write_bytes((Path(other) / MODEL).read_bytes())
    resigned(path)
