"""Selections published: a noisy teacher that is stopped early selects, and students learn from what it kept."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import prepare, recipe, study, train, values
from made.project import SMALL, Project

from kd.__main__ import main
from kd.core import files
from kd.core.errors import ConfigError, DataError, StorageError
from kd.jobs import select as job
from kd.jobs.places import Resources
from kd.losses import LOSSES
from kd.study import products
from kd.study.config import Study, validate
from kd.study.expansion import all_cells, cells_of
from kd.study.judge import Judge
from kd.study.paths import parse_cell, parse_selection
from kd.train.material import QUALITY, kept, prepared

NOISY = "digits+sym0.4"
TEACHER = f"results/{NOISY}/quick/resnet8.ce.s0-epochs2"
CHOSEN = {"teacher": "resnet8", "student": "resnet8", "label_noise": {"symmetric": 0.4}, "teacher_epochs": 2}


EXPERIMENTS = {"a": {**CHOSEN, "loss": "mse", "student_selection": "fine"}}


def made(**experiment: object) -> Study:
    return study(seeds=[0], experiments={"a": {**EXPERIMENTS["a"], **experiment}})


def select(teacher: str, by: str = "fine", of: Study | None = None) -> dict:
    cell, given = parse_cell(teacher), recipe(teacher, of)
    job.select(Judge.of_recipe(given), cell, parse_selection(by), given, Resources())
    return json.loads(Path("selections", cell.name, by, "manifest.json").read_text())


@pytest.fixture
def taught(project: Path) -> Path:
    prepare(NOISY)
    train(TEACHER)
    return project


# -- how a study and a path say it ------------------------------------------------------------------------------------


def test_a_study_says_who_selects_and_the_path_of_each_student_says_it() -> None:
    chosen = ["none", "fine", {"fine_printed": [0.5, 0.7]}, {"small_loss": 0.6}, "loss_gmm"]
    found = [str(cell.stage) for cell in cells_of(made(student_selection=chosen), "a")]
    endings = ["", "-fine", "-fineprinted", "-fineprinted0.7", "-smallloss0.6", "-lossgmm"]
    assert found == [f"resnet8.mse.s0{ending}" for ending in endings]
    for cell in cells_of(made(student_selection=chosen), "a"):
        assert parse_cell(cell.path) == cell
        assert cell.path.startswith(f"{TEACHER}/")


def test_a_loss_of_labels_alone_keeps_the_teacher_that_selects_and_reads_no_bank() -> None:
    of = made(loss=["ce", "gce", "symmetric_ce", "elr"])
    found = cells_of(of, "a")
    assert [cell.path for cell in found] == [
        f"{TEACHER}/resnet8.{loss}.s0-fine" for loss in ("ce", "gce", "symmetric_ce", "elr")
    ]
    assert not any(cell.reads_banks(of.protocol) for cell in found)
    assert [one.name for one in Judge.of_study(of).everything if one.kind == "bank"] == []


def test_a_teacher_may_be_stopped_after_several_lengths_each_of_which_selects() -> None:
    found = [cell.teacher.path for cell in cells_of(made(teacher_epochs=[1, 2]), "a")]
    assert found == [TEACHER.replace("epochs2", "epochs1"), TEACHER]


def test_in_a_chain_each_link_selects_for_the_next() -> None:
    chain = {"path": ["resnet8", "resnet8", "resnet8"], "teacher": None, "student": None, "loss": "mse"}
    of = made(**chain)
    selections = [one for one in Judge.of_study(of).everything if one.kind == "selection"]
    first = f"selections/{NOISY}/quick/resnet8.ce.s0-epochs2"
    assert [one.name for one in selections] == [f"{first}/fine", f"{first}/resnet8.mse.s0-fine/fine"]
    order = [one.name for one in Judge.of_study(of).everything]
    assert order.index(f"results/{NOISY}/quick/resnet8.ce.s0-epochs2") < order.index(selections[0].name)
    assert order.index(selections[0].name) < order.index(f"{TEACHER}/resnet8.mse.s0-fine")
    for one in selections:
        assert products.owner(one.name) == products.owner(f"{one.name}/kept.npy") == one.name
        assert one.cell == one.name.removesuffix("/fine").replace("selections", "results", 1)


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ({"student_selection": "fin"}, r"'fin': no such selection; did you mean 'fine'"),
        ({"student_selection": [["fine"]]}, r"got \['fine'\], expected a selection: fine, or"),
        ({"student_selection": []}, r"student_selection: an empty list"),
        ({"student_selection": {}}, r"student_selection: no selection; leave the key out"),
        ({"student_selection": {"fine": 1}}, r"fine: got 1; allowed is a number above 0 and below 1"),
        ({"student_selection": {"fine": "much"}}, r"got 'much', expected a number"),
        ({"student_selection": "small_loss"}, r"small_loss: got no share of examples to keep; allowed is .*0\.6"),
        ({"teacher": None, "loss": "ce", "teacher_epochs": None}, r"student_selection: there is no teacher that could"),
        (
            {"teacher_seeds": "0+1"},
            r"experiments\.a\.student_selection: an ensemble teaches, but only one network can select",
        ),
    ],
)
def test_a_selection_that_cannot_be_is_refused_with_its_key_and_what_is_allowed(experiment: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**experiment)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("resnet8.mse.s0-fine", "needs a teacher"),
        ("resnet8.ce.s0/resnet8.mse.s0-fine0.5", r"this recipe's path is .*s0-fine$"),
        ("resnet8.ce.s0/resnet8.mse.s0-fine0", "got '0'; allowed is a number above 0"),
        ("resnet8.ce.s0/resnet8.mse.s0-smallloss", "got no share"),
        ("resnet8.ce.s0+1/resnet8.mse.s0-fine", "is an ensemble, but only one network can select"),
        ("resnet8.ce.s0/resnet8.mse.s0+1-fine", r"s0\+1-fine is an ensemble, but only a single network learns from"),
        ("resnet8.ce.s0/resnet14+resnet8.mse.s0-fine/resnet8.mse.s0", "is an ensemble, but only a single network"),
    ],
)
def test_a_path_that_selects_otherwise_than_canonically_is_refused(stages: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_cell(f"results/{NOISY}/quick/{stages}")


# -- what is published ------------------------------------------------------------------------------------------------


def test_a_selection_says_what_it_kept_and_how_well_against_the_known_noise(taught: Path) -> None:
    manifest = select(TEACHER)
    have = prepared(cell := parse_cell(f"{TEACHER}/resnet8.mse.s0-fine"), recipe(cell))
    index = kept(cell.teacher, cell.stage.selection)
    right = have.examples.labels.numpy() == have.clean
    assert manifest["kept"] == len(index) / 898
    assert manifest["precision"] == right[index].mean() > 0.6
    assert manifest["recall"] == right[index].sum() / right.sum()
    assert 2 / manifest["f1"] == pytest.approx(1 / manifest["precision"] + 1 / manifest["recall"])
    assert len(manifest["precision_by_class"]) == 10
    assert manifest["teacher_epochs"] == 2
    assert np.array_equal(np.sort(index), index)
    assert np.array_equal(have.examples.train.numpy(), index)


@pytest.mark.slow
def test_a_student_learns_from_what_was_kept_by_any_loss_and_tells_its_quality(taught: Path) -> None:
    said = select(TEACHER)
    for loss in ("mse", "gce", "elr"):
        manifest = train(f"{TEACHER}/resnet8.{loss}.s0-fine")
        assert manifest["status"] == "ok"
        assert manifest["inputs"][f"selections/{NOISY}/quick/resnet8.ce.s0-epochs2/fine"]["digest"]
        assert manifest["selection"] == {key: said[key] for key in QUALITY}
    all_of_them = train(f"{TEACHER}/resnet8.mse.s0")
    assert "selection" not in all_of_them
    assert all_of_them["last"]["train_loss"] != manifest["last"]["train_loss"]


@pytest.mark.slow
def test_a_link_of_a_chain_selects_by_what_it_learnt_from_and_judges_all(taught: Path) -> None:
    select(TEACHER)
    link = f"{TEACHER}/resnet8.ce.s0-fine"
    train(link)
    second = select(link)
    train(f"{link}/resnet8.mse.s0-fine")
    one, other = (kept(parse_cell(above), parse_selection("fine")) for above in (TEACHER, link))
    assert np.setdiff1d(other, one).size  # what the first left out may come back
    assert second["name"] == f"selections/{link.removeprefix('results/')}/fine"


def test_by_hand_and_twice_the_second_time_nothing_is_made(taught: Path) -> None:
    Path("config.yaml").write_text(json.dumps(values(seeds=[0], experiments={"a": {**CHOSEN, "loss": "mse"}})))
    assert main(["select", TEACHER, "smallloss0.6"]) == 0
    manifest = Path(TEACHER.replace("results", "selections", 1), "smallloss0.6", "manifest.json")
    before = manifest.stat().st_mtime_ns
    assert main(["select", TEACHER, "smallloss0.6"]) == 0
    assert manifest.stat().st_mtime_ns == before
    assert json.loads(manifest.read_text())["kept"] == pytest.approx(0.6, abs=1e-3)


def test_a_selection_that_leaves_nothing_of_a_class_is_refused_and_not_published(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("config.yaml").write_text(json.dumps(values(seeds=[0], experiments={"a": {**CHOSEN, "loss": "mse"}})))
    assert main(["select", TEACHER, "smallloss0.01"]) == DataError.exit_code  # nine examples for ten classes
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"kd: selection: class '\d': got none of its \d+ examples kept, allowed is 1 or more", said)
    assert not list(Path("selections").rglob("manifest.json"))


@pytest.mark.slow
def test_promise_2_a_selection_may_be_deleted_and_is_the_same_when_it_comes_back(taught: Path) -> None:
    of, student = made(), f"{TEACHER}/resnet8.mse.s0-fine"
    product = products.network(parse_cell(student))
    select(TEACHER, of=of)
    train(student, of)
    assert Judge.of_study(of).reason(product) is None
    path = Path("selections", *Path(TEACHER).parts[1:], "fine", "kept.npy")
    before = path.read_bytes()
    shutil.rmtree("selections")
    assert Judge.of_study(of).to_do(product) is None  # absence is not staleness
    files.discard(product.manifest)
    with pytest.raises(StorageError, match=r"selections/.*/fine: not made yet"):
        train(student, of)
    select(TEACHER, of=of)
    assert path.read_bytes() == before
    assert train(student, of)["status"] == "ok"


@pytest.mark.slow
def test_a_selection_by_another_teacher_is_another_and_a_damaged_one_is_refused(taught: Path) -> None:
    of, student = made(), f"{TEACHER}/resnet8.mse.s0-fine"
    select(TEACHER, of=of)
    train(student, of)
    slower = study(seeds=[0], protocol={**values()["protocol"], "lr": 0.05}, experiments=EXPERIMENTS)
    train(TEACHER, slower)
    chosen = products.selection(parse_cell(TEACHER), parse_selection("fine"))
    assert Judge.of_study(slower).reason(chosen) == "a network is another now"
    with pytest.raises(StorageError, match=r"selections/.*/fine: a network is another now"):
        train(student, slower)
    select(TEACHER, of=slower)
    judge, wanted = Judge.of_study(slower), products.network(parse_cell(student))
    assert (
        judge.named(wanted)[chosen.name]["digest"]
        != files.read_manifest(Path(student))["inputs"][chosen.name]["digest"]
    )
    path = Path(chosen.folder, "kept.npy")
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(StorageError, match=r"kept\.npy: damaged"):
        train(student, slower)


def test_a_teacher_that_diverged_selects_nothing_and_its_students_count_as_diverged(project: Path) -> None:
    prepare(NOISY)
    wild = study(seeds=[0], protocol={**values()["protocol"], "lr": 1e6}, experiments=EXPERIMENTS)
    assert train(TEACHER, wild)["status"] == "diverged"
    manifest = select(TEACHER, of=wild)
    assert manifest["status"] == "diverged"
    assert "kept" not in manifest
    student = train(f"{TEACHER}/resnet8.mse.s0-fine", wild)
    assert student["status"] == "diverged"
    assert student["cause"] == f"its teacher {TEACHER} diverged"


def test_every_loss_that_a_path_can_name_may_stand_before_a_selection() -> None:
    for name, loss in LOSSES.items():
        needed = {key: 4.0 for key, p in loss.parameters.items() if p.default is None and not p.optional}
        of = made(loss={name: needed})
        (cell,) = cells_of(of, "a")
        assert parse_cell(cell.path) == cell
        assert cell in all_cells(of)


# -- what it finds ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_planted_noise_fine_finds_more_right_labels_than_there_are(project: Path) -> None:
    """By 5 points in 9 of 10 seeds."""
    prepare(NOISY)
    precisions = []
    for seed in range(10):
        teacher = TEACHER.replace(".s0", f".s{seed}")
        train(teacher)
        precisions.append(select(teacher)["precision"])
    assert sum(precision > 1 - 0.4 + 0.05 for precision in precisions) >= 9


def test_of_clean_labels_fine_keeps_most_and_drops_the_rest_for_nothing(project: Path) -> None:
    """As published it has no way to keep all: each class is taken for a mixture of two."""
    prepare()
    teacher = "results/digits/quick/resnet8.ce.s0"
    train(teacher)
    manifest = select(teacher)
    assert 0.55 < manifest["kept"] == manifest["recall"] < 0.95
    assert manifest["precision"] == 1.0


# -- by Snakemake -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.process
def test_snakemake_selects_before_it_trains_and_the_table_has_the_quality(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    chosen = {**CHOSEN, "teacher_epochs": 1, "loss": ["ce", "mse"], "student_selection": ["none", "fine"]}
    chosen["figure"] = "detector"
    project.study({**SMALL, "seeds": [0], "experiments": {"noise": chosen}})
    jobs, _ = project.planned()
    assert jobs["select"] == 1
    project.run()
    assert "Nothing to be done" in project.run()
    assert "FINE has" in (project.folder / "reports/small/figures/noise.detector.txt").read_text()
    rows = pd.read_parquet(project.folder / "reports" / "small" / "table.parquet").set_index("cell")
    teacher = TEACHER.replace("epochs2", "epochs1")
    selected = rows.loc[f"{teacher}/resnet8.mse.s0-fine"]
    manifest = json.loads(
        Path(project.folder, "selections", *Path(teacher).parts[1:], "fine/manifest.json").read_text()
    )
    assert selected[["kept", "kept_precision", "kept_recall", "kept_f1", "selected_after"]].tolist() == [
        *(manifest[name] for name in ("kept", "precision", "recall", "f1")),
        1,
    ]
    by_class = selected["kept_f1_by_class"].split()
    assert [float(value) for value in by_class] == pytest.approx(manifest["f1_by_class"], abs=1e-4)
    assert selected["student"] == "resnet8-fine"
    assert rows.loc[f"{teacher}/resnet8.mse.s0", "kept":"kept_f1"].isna().all()


def test_a_study_without_selections_makes_none() -> None:
    of = validate(values())
    assert not [one for one in Judge.of_study(of).everything if one.kind == "selection"]
