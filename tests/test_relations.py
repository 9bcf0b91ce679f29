"""Relations between classes, published: a teacher says once how alike it finds them, for all students that ask."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import recipe, relate, resigned, study, train, values
from hypothesis import given
from hypothesis import strategies as st
from made.project import SMALL, Project
from made.study import DATA, LOSSES, TEACHER, finish, images, judge, make, tiny

from kd import losses
from kd.__main__ import main
from kd.core import files
from kd.core.errors import ConfigError, StorageError
from kd.losses import LOSSES as REGISTERED
from kd.losses import Choice, Loss, Needs
from kd.losses.spec import RELATED
from kd.machine.room import disk_bytes
from kd.study import products
from kd.study.cells import spell_related
from kd.study.config import Study
from kd.study.judge import Judge, told
from kd.study.paths import parse_cell, parse_related, parse_selection
from kd.study.values import Related
from kd.train import lesson, material
from kd.train.relating import class_features, kernel_alignment

ASKS = {**LOSSES, "loss": ["ce", "wkd_l", {"wkd_l": {"kappa": 2}}, {"wkd_l": {"relation": "logits"}}]}
CHANGES = {"experiments": {"losses": ASKS}}
STUDENT = f"{TEACHER}/resnet8.wkd_l.s0"
MAPS, LOGITS = (products.relation(parse_cell(TEACHER.name), Related(by)) for by in RELATED)
NETWORK = products.network(parse_cell(STUDENT))


def asking(**changes: object) -> Study:
    return study(**tiny(**CHANGES, **changes))


def found(made: Study) -> list[str]:
    return [one.name for one in Judge.of_study(made).everything if one.kind == "relation"]


@pytest.fixture
def taught(project: Path) -> Path:
    """A project with data, the teacher, and by it the relation that STUDENT reads."""
    images(project / "images")
    for product in (DATA, TEACHER, MAPS):
        assert make(product, **CHANGES) == 0
    return project


# -- who asks for one, and where it lies ------------------------------------------------------------------------------


def test_a_study_has_a_relation_for_each_teacher_and_choice_and_no_other_loss_asks_for_one() -> None:
    assert found(asking()) == [MAPS.name, LOGITS.name]  # whatever kappa
    assert found(study(**tiny())) == []
    order = [one.name for one in Judge.of_study(asking()).everything]
    assert order.index(TEACHER.name) < order.index(MAPS.name) < order.index(STUDENT)
    read = [one for one in judge(**CHANGES).inputs(NETWORK) if one.kind == "relation"]
    assert read == [MAPS]
    assert "2 relations: not made yet" in told(judge(**CHANGES).all_to_do)


def test_any_loss_may_ask_for_one_by_a_hyperparameter_that_its_needs_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def built(by: Choice) -> Loss:
        return Loss(None, "made", {"by": by}, needs=Needs(relation="by"), build=lambda course, by: None)

    monkeypatch.setitem(REGISTERED, "mine", built(Choice("logits", RELATED)))
    assert found(study(**tiny(experiments={"losses": {**LOSSES, "loss": "mine"}}))) == [LOGITS.name]
    for wrong in (Choice("edges", ("edges", "maps")), losses.Number(1.0)):
        with pytest.raises(ValueError, match=r"needs\.relation: by is no choice of maps or logits"):
            built(wrong)


@given(
    st.builds(
        Related,
        st.sampled_from(RELATED),
        st.none() | st.sampled_from([0.5, 8.0, float("inf")]),
        st.sampled_from([0.1, 0.5, 1.0]),
        st.none() | st.sampled_from(["fine", "fine0.7", "fineprinted", "smallloss0.6"]).map(parse_selection),
    )
)
def test_the_spelling_of_a_relation_is_read_back_and_names_its_product(by: Related) -> None:
    assert parse_related(spell_related(by)) == by
    product = products.relation(parse_cell(TEACHER.name), by)
    assert products.owner(product.name) == products.owner(f"{product}/relation.npy") == product.name
    assert product.cell == TEACHER.name
    assert re.fullmatch(r"[a-z]+(-[a-z]+[0-9.]*)*", spell_related(by))  # as the rule expects it


@pytest.mark.parametrize("text", ["edges", "maps-fin", "maps-tau0", "maps-frac2", "maps-frac0.5-tau3", "maps-tau1.2.3"])
def test_another_word_names_no_relation(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        parse_related(text)


@pytest.mark.parametrize(
    ("student", "word"),
    [
        (f"{TEACHER}/resnet8.wkd_l.s0-frac0.5", "maps-frac0.5"),
        (f"{TEACHER}/resnet8.wkd_l-relationlogits.s0-frac0.5-fine", "logits-frac0.5-fine"),
        (f"{TEACHER}+1/resnet8.wkd_l-tau2-relationlogits.s0", "logits"),
        (f"{TEACHER}+1-meanprob/resnet8.wkd_l-tau2-relationlogits.s0", "logits-tau2"),  # whose logits depend on tau
    ],
)
def test_a_student_reads_the_relation_on_what_it_learns_from(student: str, word: str) -> None:
    cell = parse_cell(student)
    assert spell_related(cell.related) == word
    assert products.relation(cell.teacher, cell.related) in judge().inputs(products.network(cell))


def test_an_ensemble_has_no_maps_to_relate_classes_by() -> None:
    with pytest.raises(ConfigError, match=r"s0\+1 is an ensemble, which does not have the maps"):
        parse_cell(f"{TEACHER}+1/resnet8.wkd_l.s0")
    with pytest.raises(ConfigError, match="looks at more of a teacher than its logits, which an ensemble does not"):
        asking(teacher_seeds="0+1")
    only = {"losses": {**LOSSES, "loss": {"wkd_l": {"relation": "logits"}}}}
    assert found(study(**tiny(experiments=only, teacher_seeds="0+1")))  # it has common logits


# -- what is published ------------------------------------------------------------------------------------------------


def test_it_is_what_the_teacher_says_of_all_that_is_learnt_from_to_the_bit(taught: Path) -> None:
    published = np.load(MAPS.folder / "relation.npy")
    assert published.shape == (3, 3)
    assert published.dtype == np.float32
    cell = parse_cell(STUDENT)
    course = lesson.course_of(cell, asking().protocol, material.prepared(cell, recipe(cell, asking())))
    expected = kernel_alignment(class_features(course.told("maps"), 3, "maps"))
    assert torch.from_numpy(published).equal(expected)
    assert course.relation().equal(expected)


def test_promise_2_a_relation_may_be_deleted_and_is_the_same_when_it_comes_back(taught: Path) -> None:
    train(STUDENT, asking())
    before = (MAPS.folder / "relation.npy").read_bytes()
    assert files.read_manifest(Path(STUDENT))["inputs"][MAPS.name]["digest"]
    shutil.rmtree("relations")
    assert judge(**CHANGES).to_do(NETWORK) is None  # absence is not staleness
    files.discard(NETWORK.manifest)
    with pytest.raises(StorageError, match=rf"{MAPS}: not made yet"):
        train(STUDENT, asking())
    relate(STUDENT, asking())
    assert (MAPS.folder / "relation.npy").read_bytes() == before
    assert train(STUDENT, asking())["status"] == "ok"


def test_a_replaced_teacher_relates_anew_and_a_damaged_relation_is_refused(taught: Path) -> None:
    train(STUDENT, asking())
    slower = asking(protocol={**tiny()["protocol"], "lr": 0.05})
    train(TEACHER.name, slower)
    assert Judge.of_study(slower).reason(MAPS) == "a network is another now"
    with pytest.raises(StorageError, match=rf"{MAPS}: a network is another now"):
        train(STUDENT, slower)
    relate(STUDENT, slower)
    then = files.read_manifest(Path(STUDENT))["inputs"][MAPS.name]["digest"]
    assert train(STUDENT, slower)["inputs"][MAPS.name]["digest"] != then
    files.discard(NETWORK.manifest)
    path = MAPS.folder / "relation.npy"
    path.write_bytes(path.read_bytes()[:-4] + bytes(4))
    with pytest.raises(StorageError, match=rf"{path}: damaged"):
        train(STUDENT, slower)


def test_another_relation_makes_its_students_stale_and_says_why(taught: Path) -> None:
    train(STUDENT, asking())
    np.save(MAPS.folder / "relation.npy", np.eye(3, dtype=np.float32))
    resigned(MAPS.folder)
    assert judge(**CHANGES).to_do(NETWORK) == "its relation between classes is another now"


def test_a_teacher_that_diverged_relates_nothing_and_its_students_count_as_diverged(taught: Path) -> None:
    wild = asking(protocol={**tiny()["protocol"], "lr": 1e9})
    assert train(TEACHER.name, wild)["status"] == "diverged"
    assert relate(STUDENT, wild)["status"] == "diverged"
    assert train(STUDENT, wild)["cause"] == f"its teacher {TEACHER} diverged"


def test_a_class_of_one_example_is_refused_and_nothing_is_published(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = {"losses": {**ASKS, "student_fraction": 0.1}}  # one image of each class
    product = products.relation(parse_cell(TEACHER.name), Related("maps", fraction=0.1))
    assert product.name in found(study(**tiny(experiments=part)))
    assert make(product, experiments=part) == ConfigError.exit_code
    assert "relation between classes: class 0 has 1 training examples" in capsys.readouterr().err
    assert not product.manifest.exists()


@pytest.mark.slow
def test_by_hand_the_verb_finds_it_done_and_a_student_lacks_it_first(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("config.yaml").write_text(json.dumps(tiny(**CHANGES)))
    before = MAPS.manifest.stat().st_mtime_ns
    assert main(["relation", TEACHER.name, "maps"]) == 0
    assert MAPS.manifest.stat().st_mtime_ns == before
    assert main(["prune", "relations", "--yes"]) == 0
    assert not MAPS.manifest.exists()
    capsys.readouterr()
    assert main(["train", STUDENT]) == 0
    assert f"{STUDENT} lacks 1 thing; it is made first:\n  {MAPS}: not made yet\n" in capsys.readouterr().out
    assert MAPS.manifest.exists()
    assert main(["delete", TEACHER.name, "--yes"]) == 0
    assert not list(Path("relations").rglob("*.npy"))


def test_plan_counts_its_bytes_until_it_is_there(taught: Path) -> None:
    cells = [parse_cell(STUDENT), parse_cell(f"{TEACHER}/resnet8.wkd_l-relationlogits.s0")]
    one, other = (disk_bytes(cells[:count], asking())["relations"] for count in (1, 2))
    assert one == 0  # it is there
    assert 4 * 3**2 < other < 10_000


def test_each_is_made_once_and_the_study_is_done(project: Path) -> None:
    images(project / "images")
    made = finish(without=("figure", "verdict", "page"), **CHANGES)
    assert [one for one in made if one.kind == "relation"] == [MAPS, LOGITS]
    assert not {one.kind for one in judge(**CHANGES).all_to_do} - {"figure", "verdict", "page"}


# -- by Snakemake -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.process
def test_snakemake_makes_one_before_its_students_and_a_trial_makes_its_own(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    chosen = {"teacher": "resnet14", "student": "resnet8", "loss": ["wkd_l", {"wkd_l": {"kappa": 2}}]}
    space = {"loss": ["wkd_l"], "relation": ["logits"]}
    search = {"teacher": "resnet14", "student": "resnet8", "space": space, "rounds": 1, "batch": 1, "seed": 1000}
    protocol = {**SMALL["protocol"], "heldout": 0.1}
    asked = {"seeds": [0], "experiments": {"a": chosen}, "searches": {"s": search}}
    project.study({**SMALL, "protocol": protocol, **asked})
    jobs, _ = project.planned()
    assert jobs["relation"] == 1
    project.run()
    assert "Nothing to be done" in project.run()
    folder = project.folder / "relations" / "digits" / protocol["name"] / "resnet14.ce.s0"
    assert sorted(one.parent.name for one in folder.rglob("manifest.json")) == ["logits", "maps"]


def test_a_study_without_such_a_loss_makes_none() -> None:
    assert found(study(**values())) == []
