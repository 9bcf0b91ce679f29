"""What one does by hand: show a network, compare two, train one with all that it lacks, export, import, prune, pack."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import prepare, resigned, train, values
from scipy import stats

from kd.__main__ import main

TEACHER = "results/digits/quick/resnet14.ce.s0"
STUDENT = f"{TEACHER}/resnet8.kl-tau3.s0"
MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a teacher and its student, made once for all tests of this file."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "config.yaml").write_text(json.dumps(values()))
        prepare()
        for cell in (TEACHER, STUDENT):
            train(cell)
    return folder


@pytest.fixture
def trained(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, which is also the working directory."""
    folder = shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def said(capsys: pytest.CaptureFixture, *arguments: object, code: int = 0) -> str:
    """Run a verb; return what it printed, of which a message of an error is all."""
    assert main(list(map(str, arguments))) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


# -- show -------------------------------------------------------------------------------------------------------------


def test_show_says_recipe_numbers_family_and_files_of_a_network(trained: Path, capsys) -> None:
    manifest = json.loads(Path(STUDENT, "manifest.json").read_text())
    shown = said(capsys, "show", f"{STUDENT}/")
    assert shown == said(capsys, "show", f"{STUDENT}/metrics.csv")
    reached = f"{manifest['last']['test_top1']:.2f} %"
    for line in (
        f"  test top-1 {reached} after epoch 3, the last",
        "  objective: kl tau 3, alpha 1, scale tau2, weight 1, logits raw",
        "  protocol: quick: epochs 3, batch 64, lr 0.1",
        "  current: this code and these inputs make it",
        f"    resnet8.kl-tau3.s0  {reached}  <- this",
        f"  model.safetensors  {manifest['sizes'][MODEL]:,} bytes  sha256 {manifest['files'][MODEL]}",
    ):
        assert line in shown
    assert f"    resnet8.kl-tau3.s0  {reached}\n" in said(capsys, "show", TEACHER)


def test_show_lists_the_networks_of_a_folder_and_what_is_wrong_with_them(trained: Path, capsys) -> None:
    resigned(STUDENT, status="diverged", cause="NaN")
    assert "\n  resnet8.kl-tau3.s0  diverged\n" in said(capsys, "show", "results/digits")
    assert "diverged: NaN" in said(capsys, "show", STUDENT)
    Path(STUDENT, "manifest.json").write_text("{}")
    assert "\n  resnet8.kl-tau3.s0  damaged\n" in said(capsys, "show", "results")


def test_show_says_when_the_teacher_of_a_network_is_another_now(trained: Path, capsys) -> None:
    with Path(TEACHER, "model.safetensors").open("ab") as file:
        file.write(b" ")
    resigned(TEACHER)
    assert "not current by its own recipe: its teacher is another now" in said(capsys, "show", STUDENT)


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("data/digits", 2, "data/digits: not a network; expected results/DATASET"),
        ("results/mnist", 74, "results/mnist: no network here"),
        (f"{TEACHER}/resnet8.kl-tau4.s0", 74, "not trained yet; `kd train` with this path trains it"),
        (f"{TEACHER}/resnet8.kll-tau4.s0", 2, "kll: no such loss; did you mean 'kl'?"),
    ],
)
def test_show_names_what_is_not_there(trained: Path, capsys, path: str, code: int, message: str) -> None:
    assert message in said(capsys, "show", path, code=code)


# -- compare ----------------------------------------------------------------------------------------------------------

MSE = f"{TEACHER}/resnet8.mse.s"
KL = STUDENT[:-1]
OF_A, OF_B = (60.0, 61.5, 63.0, 60.5, 62.0, 64.0), (58.0, 60.5, 60.0, 59.0, 58.5, 61.0)


def forged(path: str, top1: float | None, **changes: object) -> None:
    """Publish a copy of the student under another path, with this accuracy; None: it diverged."""
    if not Path(path).exists():
        shutil.copytree(STUDENT, path)
    last = {"epoch": 3, "test_top1": top1}
    resigned(path, name=path, status="diverged" if top1 is None else "ok", last=last, best_on_test=last, **changes)


@pytest.fixture
def two(trained: Path) -> Path:
    """The project with six seeds of two losses, of made up accuracies."""
    for seed, (a, b) in enumerate(zip(OF_A, OF_B, strict=True)):
        forged(f"{MSE}{seed}", b)
        forged(f"{KL}{seed}", a)
    return trained


def test_compare_pairs_all_seeds_of_two_recipes(two: Path, capsys) -> None:
    """The numbers are those of scipy's paired t test."""
    printed = said(capsys, "compare", f"{KL}2", f"{MSE}4")
    test = stats.ttest_rel(OF_A, OF_B)
    low, high = test.confidence_interval(0.95)
    assert f"a - b = {sum(OF_A) / 6 - sum(OF_B) / 6:+.2f} points of test top-1, 6 pairs of equal seeds" in printed
    assert (
        f"95 % interval {low:+.2f} to {high:+.2f}, paired t(5) = {test.statistic:.2f}, p = {test.pvalue:.2g}\n"
        in printed
    )
    assert "differ in objectives: ce > kl-tau3 | ce > mse\n" in printed
    assert "verdict: a is higher" in printed
    assert printed.count("differ in") == 1


def test_compare_leaves_out_what_has_no_partner_and_never_averages_what_diverged(two: Path, capsys) -> None:
    forged(f"{KL}0", None)
    shutil.rmtree(f"{MSE}5")
    printed = said(capsys, "compare", f"{KL}1", f"{MSE}1")
    assert "4 pairs of equal seeds" in printed
    assert "left out: 2, not in both or diverged" in printed
    assert "n = 5, 1 diverged" in printed
    assert "verdict: undecided; 4 pairs are fewer than the 5 that decide" in printed


def test_compare_of_a_teacher_with_its_students_says_that_the_networks_differ(two: Path, capsys) -> None:
    printed = said(capsys, "compare", TEACHER, f"{KL}0")
    assert "differ in networks: resnet14 | resnet14 > resnet8\n" in printed
    assert "differ in teacher: none | resnet14.ce\n" in printed
    assert "verdict: undecided; one pair has no spread to judge by" in printed


def test_compare_refuses_two_protocols_of_one_name_and_other_data(two: Path, capsys) -> None:
    manifest = json.loads(Path(f"{KL}3", "manifest.json").read_text())
    recipe, inputs = manifest["recipe"], manifest["inputs"]
    forged(f"{KL}3", 50.0, recipe={**recipe, "protocol": {**recipe["protocol"], "lr": 0.05}})
    message = said(capsys, "compare", f"{KL}0", f"{MSE}0", code=2)
    assert f"{KL}3: trained by other values of protocol quick than the others: lr 0.1 -> 0.05" in message
    forged(f"{KL}3", 50.0, recipe=recipe, inputs={**inputs, "data/digits": {**inputs["data/digits"], "digest": "x"}})
    assert "tested on other data than the others" in said(capsys, "compare", f"{KL}0", f"{MSE}0", code=2)


def test_compare_tells_which_networks_are_not_current(two: Path, capsys) -> None:
    forged(f"{KL}4", 50.0, code="0123456789abcdef")
    assert f"note: {KL}4 is not current: made by other code" in said(capsys, "compare", f"{KL}0", f"{MSE}0")


def test_compare_refuses_one_recipe_and_what_is_not_trained(trained: Path, capsys) -> None:
    assert "the same recipe as" in said(capsys, "compare", f"{KL}0", f"{KL}1", code=2)
    assert f"{MSE}0: not trained, with any seed" in said(capsys, "compare", f"{KL}0", f"{MSE}0", code=74)
