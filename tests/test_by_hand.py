"""What one does by hand: show a network, compare two, train one with all that it lacks, export, import, prune, pack."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import prepare, resigned, train, values

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
