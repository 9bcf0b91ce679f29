"""Further test sets: they are tests of published networks, retrain nothing, and what is wrong with them is named."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import prepare, study, verb
from made.study import (
    BANK,
    DATA,
    NOISY,
    STUDENT,
    TEACHER,
    finish,
    images,
    judge,
    make,
    protocol,
    tiny,
)
from PIL import Image

from kd.__main__ import main
from kd.core.errors import ConfigError
from kd.data.arrays import open_dataset
from kd.data.testsets import IMAGES, on_testset
from kd.machine.room import disk_bytes
from kd.measure import scores, tested
from kd.study import products
from kd.study.paths import parse_cell
from kd.study.products import Product

SAME, NOISE = {"same": "images/test"}, {"same": "images/test", "noise": "noise"}
TESTSETS = {name: products.testset("mine", name) for name in NOISE}
NETWORKS = (TEACHER, STUDENT, NOISY)
SCORES = [products.scores(parse_cell(one.name)) for one in NETWORKS]
DRAWN = ("figure", "tables", "verdict", "page")


def noise(folder: Path, size: int = 8, count: int = 4) -> None:
    """Write images that show nothing, in the class folders of the study's dataset."""
    generator = np.random.default_rng(1)
    for name in ("ant", "bee", "cat"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of made/study.py with one test set, its dataset's own, up to the table."""
    folder = tmp_path_factory.mktemp("testsets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        images(folder / "images")
        noise(folder / "noise")
        finish(tests=SAME, without=DRAWN)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def table() -> pd.DataFrame:
    return pd.read_parquet("reports/small/table.parquet").drop_duplicates("cell").set_index("cell")


def said_by(product: Product, capsys: pytest.CaptureFixture, **changes: object) -> str:
    assert make(product, **changes) != 0
    return capsys.readouterr().err


def test_a_network_scores_on_its_own_test_images_what_it_reached(project: Path) -> None:
    rows = table()
    assert {*rows.index} == {one.name for one in NETWORKS}
    assert rows["tests_same_top1"].tolist() == pytest.approx(rows["test_top1"].tolist())
    for product in SCORES:
        (line,) = csv.DictReader(Path(product.name, scores.FILE).read_text().splitlines())
        assert (line["test"], line["n"]) == ("same", "18")
        assert float(line["top1"]) == rows.loc[product.cell, "tests_same_top1"]


def test_a_further_test_set_trains_nothing_and_tests_nothing_twice(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, shown = table(), []
    one = tested.scored
    monkeypatch.setattr(tested, "scored", lambda *of: shown.append(len(of[2].test_labels)) or one(*of))
    made = Counter(product.kind for product in finish(tests=NOISE, without=DRAWN))
    assert made == {"testset": 1, "scores": 3, "table": 1}
    assert shown == [12] * 3  # the 18 images of the other are not shown again
    after = table()
    assert after["tests_same_top1"].equals(before["tests_same_top1"])
    assert after["tests_noise_top1"].between(0, 100).all()
    assert len(shown) == 3
    # A study that asks for fewer finds them there, and leaves what the other has.
    assert finish(tests={"noise": "noise"}, without=DRAWN)[-1].kind == "table"
    assert [*scores.read(parse_cell(TEACHER.name))] == ["noise", "same"]
    assert len(shown) == 3
    assert "tests_same_top1" not in table()


def test_scores_and_images_may_be_gone_while_the_table_is_current(project: Path) -> None:
    shutil.rmtree("scores")
    shutil.rmtree("data")
    assert judge(tests=SAME).all_to_do.keys() == judge(tests=SAME, figures={}).all_to_do.keys()
    assert not {one for one in judge(tests=SAME).all_to_do if one.kind not in DRAWN}
    Path("reports/small/table.csv").unlink()
    made = Counter(product.kind for product in finish(tests=SAME, without=DRAWN))
    assert made == {"data": 1, "labels": 1, "testset": 1, "scores": 3, "table": 1}


def test_a_folder_that_changed_is_read_anew_and_its_scores_alone(project: Path, capsys: pytest.CaptureFixture) -> None:
    finish(tests=NOISE, without=DRAWN)
    Image.new("RGB", (8, 8), "red").save("noise/ant/more.png")
    assert main(["verify"]) != 0
    assert "run `kd testset mine@noise`" in capsys.readouterr().err
    assert verb("testset", "mine@noise", **tiny(tests=NOISE)) == 0
    assert {judge(tests=NOISE).reason(one) for one in SCORES} == {"the testset is another now"}
    made = Counter(product.kind for product in finish(tests=NOISE, without=DRAWN))
    assert made == {"scores": 3, "table": 1}
    found = [scores.read(parse_cell(one.name)) for one in NETWORKS]
    assert [(one["same"].n, one["noise"].n) for one in found] == [(18, 13)] * 3


def test_scores_are_of_the_published_network_and_by_the_code_of_now(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = finish(tests=SAME, without=(*DRAWN, "scores", "table"), **protocol(lr=0.05))
    assert {*NETWORKS} < {*trained}
    asked = judge(tests=SAME, **protocol(lr=0.05))
    assert {asked.reason(one) for one in SCORES} == {"a network is another now"}
    with monkeypatch.context() as patch:
        patch.setattr("kd.study.staleness.code_behind_scores", lambda cell: "other")
        finish(tests=SAME, without=DRAWN, **protocol(lr=0.05))
    asked = judge(tests=SAME, **protocol(lr=0.05))
    assert {asked.reason(one) for one in SCORES} == {"made by other code"}


def test_a_network_that_diverged_has_no_score_and_no_number_in_the_table(project: Path) -> None:
    lost = {"tests": NOISE, **protocol(lr=1e12)}
    assert [make(one, **lost) for one in (TEACHER, NOISY, BANK, STUDENT)] == [65, 65, 0, 65]
    finish(without=(*DRAWN, "answers", "analysis"), **lost)
    assert scores.read(parse_cell(TEACHER.name)) == {}
    rows = table()
    assert rows["status"].eq("diverged").all()
    assert rows[["tests_same_top1", "tests_noise_top1"]].isna().all(axis=None)


def test_damaged_scores_and_damaged_images_stop_what_reads_them(project: Path, capsys: pytest.CaptureFixture) -> None:
    Path("reports/small/table.csv").unlink()
    path = Path(SCORES[0].name, scores.FILE)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"same", b"sane"))  # of the same size
    assert f"{path}" in said_by(products.table("small"), capsys, tests=SAME)
    assert make(TESTSETS["noise"], tests=NOISE) == make(SCORES[0], tests=NOISE) == 0
    assert [*scores.read(parse_cell(TEACHER.name))] == ["noise", "same"]  # of what is damaged nothing is kept
    path.unlink()
    array = Path(TESTSETS["same"].name, f"{IMAGES}.npy")
    array.write_bytes(array.read_bytes()[:-1] + b"?")
    assert f"{array}" in said_by(SCORES[0], capsys, tests=SAME)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda: shutil.rmtree("noise"), "noise: no such folder"),
        (lambda: shutil.rmtree("noise/bee"), "noise: lacks of the 3 class folders of mine: bee"),
        (
            lambda: shutil.copytree("noise/bee", "noise/dog"),
            "noise: has what are none of the 3 class folders of mine: dog",
        ),
        (lambda: [path.unlink() for path in Path("noise/bee").iterdir()], "noise/bee: no image directly in this"),
        (lambda: Path("noise/bee/0.png").write_bytes(b"none"), "noise/bee/0.png: cannot read this image"),
    ],
)
def test_what_is_wrong_with_a_test_set_is_named_with_its_key(
    project: Path, spoil: Callable, expected: str, capsys: pytest.CaptureFixture
) -> None:
    spoil()
    said = said_by(TESTSETS["noise"], capsys, tests=NOISE)
    assert f"kd: tests.noise: {expected}" in said
    assert not Path(TESTSETS["noise"].name).exists()


def test_verbs_name_what_they_do_not_know(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert verb("testset", "mine@nois", **tiny(tests=NOISE)) == 2
    assert "'mine@nois': no such test set; did you mean 'mine@noise'?" in capsys.readouterr().err
    assert verb("score", TEACHER.name, **tiny()) == 2
    assert "or the study has no tests" in capsys.readouterr().err


def test_tests_without_a_network_to_test_are_refused() -> None:
    one = {"dataset": "digits", "student": "resnet8", "loss": "ce"}
    with pytest.raises(ConfigError, match="tests: no experiment has networks of mine"):
        study(**tiny(tests=NOISE, experiments={"e": one}))
    assert study(**tiny(tests=NOISE)).tests == NOISE


def test_networks_of_another_dataset_are_not_tested(project: Path) -> None:
    other = {"dataset": "digits", "student": "resnet8", "loss": "ce"}
    found = judge(tests=NOISE, experiments={**tiny()["experiments"], "other": other})
    assert {cell.dataset.name for cell in found.tested} == {"mine"}
    assert len(found.tested) == 3


def test_deleting_a_network_deletes_its_scores(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["delete", STUDENT.name, "--yes"]) == 0
    assert not Path(SCORES[1].name).exists()
    assert Path(SCORES[0].name, scores.FILE).exists()


def test_a_claim_may_be_about_a_further_test_set(project: Path) -> None:
    claim = {"id": "robust", "sentence": "KL is more robust", "value": "tests_same_top1", "a": {"loss": "kl"}}
    keys = {"tests": SAME, "claims": [{**claim, "b": {"loss": "ce"}}]}
    assert make(products.verdict("small"), **keys) == 0
    line = pd.read_csv("reports/small/verdict.csv").iloc[0]
    assert (line["claim"], line["unit"]) == ("robust", "points")


def test_a_plan_counts_the_images_of_test_sets_that_are_not_there_yet(project: Path) -> None:
    before, asked = (disk_bytes([], study(**tiny(tests=tests)))["data"] for tests in (SAME, NOISE))
    assert asked - before == 12 * (8 * 8 * 3 + 8)


# -- how images are read ----------------------------------------------------------------------------------------------


def grey(folder: Path, mode: str = "L", size: int = 8, colour: int | tuple = 7) -> dict:
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True)
        Image.new(mode, (size, size), colour).save(folder / str(digit) / "0.png")
    return {"dataset": "digits", "tests": {"grey": str(folder)}}


def test_images_of_a_built_in_dataset_have_its_channels(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare()
    keys = grey(Path("grey"))
    assert verb("testset", "digits@grey", **keys) == 0
    shown = on_testset(open_dataset(Path("data/digits")), Path("data/digits@grey"), "grey")
    assert shown.test_images.shape == (10, 8, 8, 1)
    assert (shown.test_images == 7).all()
    assert shown.test_labels.tolist() == [*range(10)]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"size": 9}, "grey/0/0.png: cannot read this image: it has 9 x 9 pixels, expected 8 x 8"),
        ({"mode": "RGB", "colour": (1, 2, 3)}, "grey: has images in colour, but those of digits are grey"),
    ],
)
def test_images_unlike_those_of_a_built_in_dataset_are_refused(tmp_path, monkeypatch, capsys, keys, expected) -> None:
    monkeypatch.chdir(tmp_path)
    prepare()
    assert verb("testset", "digits@grey", **grey(Path("grey"), **keys)) == 2
    assert f"kd: tests.grey: {expected}" in capsys.readouterr().err


def test_labels_follow_the_order_of_the_classes_of_the_dataset(project: Path) -> None:
    dataset = open_dataset(Path(DATA.name))
    shown = on_testset(dataset, Path(TESTSETS["same"].name), "images/test")
    assert shown.class_names == ("ant", "bee", "cat")
    assert np.array_equal(shown.test_images, dataset.test_images)
    assert np.array_equal(shown.test_labels, dataset.test_labels)


def test_the_images_of_a_streamed_dataset_are_read_where_they_are(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    images(Path("images"))
    keys = {
        "datasets": {"mine": {"folder": "images", "size": 8, "streamed": True}},
        "protocol": {
            "name": "quick",
            "epochs": 1,
            "batch": 16,
            "precision": "fp32",
            "crop": "resized",
            "teacher": "online",
        },
        "experiments": {"alone": {"student": "resnet8", "loss": "ce"}},
        "tests": SAME,
    }
    finish(without=DRAWN, **keys)
    assert np.load(f"{TESTSETS['same']}/{IMAGES}.npy")["name"][0] == b"test/ant/0.png"
    rows = table()
    assert rows["tests_same_top1"].tolist() == pytest.approx(rows["test_top1"].tolist())
    Path("images/test").rename("moved")  # where the study says that they are now
    asked = judge(**keys | {"tests": {"same": "moved"}})
    assert asked.reason(products.scores(asked.tested[0])) is None


def test_an_ensemble_is_tested_on_what_its_members_say_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "run", lambda logits, *of: (logits, None))
    one, other = torch.tensor([[2.0, 1.0, 0.0], [0.0, 9.0, 0.0]]), torch.tensor([[0.0, 2.0, 3.0], [9.5, 0.0, 0.0]])
    examples = SimpleNamespace(test_labels=torch.tensor([1, 0]))
    found = [tested.scored(networks, "mean_logit", examples, None) for networks in ([one], [other], [one, other])]
    assert found == [(2, 0.0), (2, 50.0), (2, 100.0)]
