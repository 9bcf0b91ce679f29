"""What one does by hand: show a network, compare two, train one with all that it lacks, export, import, prune, pack."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import prepare, recipe, resigned, train, values
from safetensors.torch import load_file
from scipy import stats

from kd import models
from kd.__main__ import _parser, main
from kd.cli.examples import EXAMPLES
from kd.core import files
from kd.core.errors import ConfigError, StorageError
from kd.jobs.export import source_of
from kd.jobs.lineage import lacking
from kd.study import plugins, products
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.train.material import prepared
from kd.train.published import load_network

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


@pytest.mark.slow
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


# -- train ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_by_hand_makes_first_what_is_lacking(made: Path, project: Path, capfd) -> None:
    """It says what that is, and the bytes are those of each verb called alone."""
    shutil.copy(made / "config.yaml", project)
    assert main(["train", TEACHER]) == 0
    printed = capfd.readouterr().out
    assert f"{TEACHER} lacks 1 thing; it is made first:\n  data/digits: not made yet\n[1/1] data/digits\n" in printed
    assert Path(TEACHER, MODEL).read_bytes() == (made / TEACHER / MODEL).read_bytes()


@pytest.mark.slow
def test_train_by_hand_makes_a_whole_lineage(made: Path, project: Path, capfd) -> None:
    shutil.copy(made / "config.yaml", project)
    assert main(["train", STUDENT]) == 0
    assert f"[1/2] data/digits\n[2/2] {TEACHER}\n" in capfd.readouterr().out
    for cell in (TEACHER, STUDENT):
        assert Path(cell, MODEL).read_bytes() == (made / cell / MODEL).read_bytes()


def test_train_by_hand_replaces_nothing_that_is_published(trained: Path, capsys) -> None:
    """A teacher of other values is named; the data, which are gone, are not made for nothing."""
    shutil.rmtree("data")
    other = json.dumps(values()["protocol"] | {"lr": 0.05})
    message = said(capsys, "train", STUDENT, "--config", f"protocol={other}", code=74)
    assert f"{TEACHER}: lr 0.1 -> 0.05" in message
    assert not Path("data").exists()


def test_train_by_hand_ends_as_what_it_lacks_ends(project: Path, capfd) -> None:
    study = values(datasets={"mine": {"folder": "nowhere", "size": 8}}, dataset="mine")
    (project / "config.yaml").write_text(json.dumps(study))
    assert main(["train", STUDENT.replace("digits", "mine")]) == 2
    assert "kd: nowhere" in capfd.readouterr().err


def test_what_a_lineage_lacks_is_listed_inputs_first(project: Path) -> None:
    first = "results/digits+sym0.4/quick/resnet14.ce.s0"
    cell = parse_cell(f"{first}/resnet8.mse.s0-smallloss0.6/resnet8.mse.s0+1/resnet8.mse.s0")
    judge = Judge.of_recipe(recipe(cell))
    assert [one.name for one in lacking(judge, products.network(cell))] == [
        "data/digits",
        "data/digits+sym0.4",
        first,
        "selections/digits+sym0.4/quick/resnet14.ce.s0/smallloss0.6",
        f"{first}/resnet8.mse.s0-smallloss0.6",
        f"{first}/resnet8.mse.s0-smallloss0.6/resnet8.mse.s0",
        f"{first}/resnet8.mse.s0-smallloss0.6/resnet8.mse.s1",
        f"{first}/resnet8.mse.s0-smallloss0.6/resnet8.mse.s0+1",
    ]


# -- export -----------------------------------------------------------------------------------------------------------

WITHOUT_KD = """
import sys
sys.modules["kd"] = None  # an import of it fails
import numpy, torch
from model import load
network = load()
with torch.no_grad():
    images = torch.from_numpy(numpy.load(sys.argv[1])).permute(0, 3, 1, 2) / 255
    numpy.save(sys.argv[2], network(images).numpy())
"""


@pytest.mark.slow
def test_an_export_loads_without_kd_and_answers_the_same(trained: Path, tmp_path: Path, capsys) -> None:
    """It says of every test image what the published network says, and reaches the published accuracy."""
    folder, answers = tmp_path / "export", tmp_path / "answers.npy"
    said(capsys, "export", STUDENT, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.py", MODEL]
    assert (folder / MODEL).read_bytes() == Path(STUDENT, MODEL).read_bytes()
    command = [sys.executable, "-c", WITHOUT_KD, Path("data/digits/test_images.npy").absolute(), answers]
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": ""}, check=True)
    found = np.load(answers)
    have = prepared(parse_cell(STUDENT), recipe(STUDENT))
    with torch.no_grad():
        wanted = load_network(parse_cell(STUDENT), have).eval()(
            next(have.examples.plain("test", torch.arange(899), 899))
        )
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-3)
    last = json.loads(Path(STUDENT, "manifest.json").read_text())["last"]
    assert 100 * (found.argmax(1) == np.load("data/digits/test_labels.npy")).mean() == pytest.approx(last["test_top1"])


def test_an_export_has_the_card_and_the_config_of_the_hub(trained: Path, capsys) -> None:
    said(capsys, "export", STUDENT, "out")
    _, header, text = Path("out/README.md").read_text().split("---\n", 2)
    last = json.loads(Path(STUDENT, "manifest.json").read_text())["last"]
    (model,) = yaml.safe_load(header)["model-index"]
    assert model["results"][0]["metrics"][0]["value"] == pytest.approx(last["test_top1"], abs=1e-4)
    assert "network = load()" in text
    config = json.loads(Path("out/config.json").read_text())
    assert config["arguments"] == {"depth": 8, "width": 1, "classes": 10, "channels": 1}
    assert config["kd"]["cell"] == STUDENT
    said(capsys, "export", STUDENT, "again")
    assert all(path.read_bytes() == Path("again", path.name).read_bytes() for path in Path("out").iterdir())


@pytest.mark.parametrize("name", [family.examples[0] for family in models.NETWORKS if family.examples])
def test_the_code_of_every_network_stands_alone(name: str) -> None:
    """It has the names and shapes of the weights, imports nothing of kd, and is formatted code."""
    source = source_of(name)
    imported = {node.module or "" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert not any(module.split(".")[0] == "kd" for module in imported)
    namespace: dict = {"__file__": "model.py", "__name__": "model"}
    exec(compile(source, "model.py", "exec"), namespace)
    _, function, numbers = models.made_by(name)
    with torch.device("meta"):
        alone = namespace[function](**numbers, classes=7, channels=3)
        whole = models.build(name, 7)
    shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (alone, whole)]
    assert shapes[0] == shapes[1]


PLUGIN = """
import re
import torch
from kd.models import Family
from kd.models.network import Network, average

WIDE = 3


class Plain(Network):
    def __init__(self, width, classes, channels=3):
        super().__init__()
        self.first = torch.nn.Linear(channels, WIDE * width)
        self.classifier = torch.nn.Linear(WIDE * width, classes)

    def features(self, images):
        return self.first(average(images)).relu()


NETWORKS = [Family(re.compile("plain(?P<width>[1-9])"), __name__, "Plain", ("plain4",), "one layer")]
"""


def test_the_code_of_a_plug_in_stands_alone_if_it_uses_networks_alone(project: Path) -> None:
    Path("mine.py").write_text(PLUGIN)
    try:
        plugins.load(("mine.py",))
        namespace: dict = {"__file__": "model.py", "__name__": "model"}
        exec(source_of("plain4"), namespace)
        assert namespace["Plain"](4, 10)(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
        Path("mine.py").write_text(f"from kd.data.views import normalise{PLUGIN}")
        plugins.load(("mine.py",))
        with pytest.raises(ConfigError, match=r"imports kd\.data\.views, so the network cannot stand without kd"):
            source_of("plain4")
    finally:
        plugins.load(())


def test_an_export_is_refused_where_it_cannot_be_whole(trained: Path, capsys) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    assert "full: is there already" in said(capsys, "export", STUDENT, "full", code=2)
    both = f"{TEACHER[:-1]}0+1"
    assert f"{both}: is an ensemble" in said(capsys, "export", both, "out", code=2)
    shutil.rmtree("data")
    assert "data/digits: the data of" in said(capsys, "export", STUDENT, "out", code=74)
    resigned(STUDENT, status="diverged", cause="NaN")
    assert "diverged, so it has no weights: NaN" in said(capsys, "export", STUDENT, "out", code=2)
    assert not Path("out").exists()


def test_an_export_that_is_cut_short_leaves_nothing(trained: Path, capsys, monkeypatch) -> None:
    write = files.write_atomic

    def full(path: Path, content: bytes) -> str:
        if path.name == "model.py":
            raise StorageError(f"{path}: no space")
        return write(path, content)

    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(files, "write_atomic", full)
    assert "no space" in said(capsys, "export", STUDENT, "out", code=74)
    assert sorted(Path().rglob("*")) == before


# -- import -----------------------------------------------------------------------------------------------------------


def test_import_prints_the_block_that_a_study_takes(trained: Path, tmp_path: Path, capsys) -> None:
    """The accuracy is that of the published network, and the pasted block is read and imported."""
    network = {f"module.{key}": value for key, value in load_file(Path(TEACHER, MODEL)).items()}
    torch.save({"epoch": 3, "state_dict": network}, tmp_path / "theirs.pth")
    printed = said(capsys, "import", tmp_path / "theirs.pth", "theirs", "--network", "resnet14")
    block = yaml.safe_load(printed)
    last = json.loads(Path(TEACHER, "manifest.json").read_text())["last"]
    digest = files.file_digest(tmp_path / "theirs.pth")
    top1 = pytest.approx(last["test_top1"], abs=0.006)
    assert block == {"weights": {"theirs": {"file": str(tmp_path / "theirs.pth"), "sha256": digest, "top1": top1}}}
    pasted = f"weights={json.dumps(block['weights'])}"
    said(capsys, "train", "results/digits/quick/resnet14.weights-theirs.s0", "--config", pasted)


def test_import_names_the_file_and_what_is_wrong(trained: Path, capsys) -> None:
    given = ("import", f"{TEACHER}/{MODEL}", "theirs", "--network")
    message = said(capsys, *given, "resnet8", code=2)
    assert f"{TEACHER}/{MODEL}: not the weights of this network" in message
    assert "they are those of a resnet14" in message
    assert "give one number of each for every channel" in said(capsys, *given, "resnet14", "--mean", 0.5, code=2)
    assert "'a-b': not a name" in said(capsys, "import", "x", "a-b", "--network", "resnet8", code=2)
    assert "nowhere: cannot read" in said(capsys, "import", "nowhere", "a", "--network", "resnet8", code=2)


# -- prune ------------------------------------------------------------------------------------------------------------

STATE = "state/digits/quick/resnet14.ce.s1/run-0123456789ab"


def tree(*tops: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for top in tops for path in sorted(Path(top).rglob("*")) if path.is_file()}


@pytest.fixture
def full(trained: Path) -> Path:
    """The project with a saved state and answers, beside the bank that its student filled."""
    for name in (f"{STATE}/last.pt", f"answers/{STUDENT.partition('/')[2]}/logits.npy"):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_bytes(bytes(2_000_000))
    return trained


def test_prune_says_what_it_frees_and_touches_no_network(full: Path, capsys) -> None:
    before = tree(".")
    printed = said(capsys, "prune", "--dry-run")
    for line in ("banks: 1, 0", "answers: 1, 2.0 MB (", "states: 1, 2.0 MB (", f"  {STATE}  2.0 MB, 0 days old\n"):
        assert line in printed
    assert tree(".") == before
    published = tree("results", "data")
    assert "freed 4." in said(capsys, "prune", "--yes")
    assert tree("results", "data") == published
    assert not tree("banks", "answers")
    assert not Path(STATE).exists()
    assert said(capsys, "prune") == "there is nothing to free\n"
    assert main(["train", STUDENT]) == 0


def test_prune_takes_only_the_kind_age_and_study_that_are_asked_for(full: Path, capsys) -> None:
    assert said(capsys, "prune", "--days", 1, "-y") == "there is nothing to free\n"
    os.utime(f"{STATE}/last.pt", (0, 0))
    assert said(capsys, "prune", "banks", "answers", "--days", 1, "-y") == "there is nothing to free\n"
    assert f"{STATE}  2.0 MB" not in said(capsys, "prune", "states", "--study", "config.yaml", "-n")
    assert "freed 2.0 MB" in said(capsys, "prune", "--days", 1, "-y")
    assert len(tree("banks", "answers")) > 1
    assert "bank: cannot be freed; did you mean 'banks'?" in said(capsys, "prune", "bank", code=2)


def test_prune_leaves_what_a_process_works_on(full: Path, capsys) -> None:
    with files.lock(products.network(parse_cell("results/digits/quick/resnet14.ce.s1")).lock):
        printed = said(capsys, "prune", "states", "-y")
    assert f"{STATE}: left, because" in printed
    assert "freed 0.0 MB" in printed
    assert Path(STATE).exists()


def test_prune_asks_and_takes_no_answer_for_no(full: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert said(capsys, "prune", "states").endswith("nothing is freed\n")
    assert Path(STATE).exists()


def test_from_elsewhere_it_is_as_in_the_project(trained: Path, capsys, monkeypatch) -> None:
    verbs = (["show", STUDENT], ["compare", STUDENT, TEACHER], ["export", STUDENT, "out"], ["prune", "-n"])
    there = [said(capsys, *verb) for verb in verbs]
    shutil.rmtree("out")
    (trained.parent / "elsewhere").mkdir()
    monkeypatch.chdir(trained.parent / "elsewhere")
    assert [said(capsys, "-d", trained, *verb) for verb in verbs] == there
    assert not list(Path().iterdir())


# -- pack -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a study of two networks that is finished, made once for all tests of this file."""
    folder = tmp_path_factory.mktemp("whole")
    clean = {"student": "resnet8", "loss": "ce"}
    study = values(experiments={"clean": clean, "noise": clean | {"label_noise": {"symmetric": 0.4}}}, seeds=[0])
    (folder / "config.yaml").write_text(json.dumps(study))
    (folder / "LICENSE").write_text("yours")
    with contextlib.chdir(folder):
        for noise in ("", "+sym0.4"):
            assert main(["labels" if noise else "data", f"digits{noise}"]) == 0
            assert main(["train", f"results/digits{noise}/quick/resnet8.ce.s0"]) == 0
        assert main(["collect"]) == 0
        for verb in ("tables", "verdict"):
            assert main([verb, "reports/small/table.parquet", "--configfile", "config.yaml"]) == 0
        assert main(["report"]) == 0
    return folder


@pytest.fixture
def complete(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, which is also the working directory."""
    monkeypatch.chdir(shutil.copytree(whole, tmp_path / "project"))
    return tmp_path


def unpacked(archive: str) -> Path:
    with tarfile.open(archive) as file:
        file.extractall("unpacked", filter="data")
    return Path("unpacked/small")


@pytest.mark.slow
def test_a_pack_has_all_that_a_paper_needs_and_is_read_without_kd(complete: Path, capsys) -> None:
    """The reader needs Python alone, and finds each byte that is another."""
    said(capsys, "pack")
    folder = unpacked("small.tar")
    noisy = "results/digits+sym0.4/quick/resnet8.ce.s0"
    for name in (
        *("README.md", "LICENSE", "versions.txt", "SHA256SUMS", "study/config.yaml", "data/digits+sym0.4/labels.npy"),
        *("reports/small/table.csv", "reports/small/report.html", f"{noisy}/{MODEL}", f"{noisy}/manifest.json"),
    ):
        assert (folder / name).is_file(), name
    assert not (folder / "data/digits/train_images.npy").exists()
    read = [sys.executable, "-I", "-S", folder / "read.py"]  # no site-packages
    top1 = json.loads(Path(noisy, "manifest.json").read_text())["last"]["test_top1"]
    printed = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    assert f"{noisy} {top1}\n" in printed
    assert printed.endswith("every file is as it was packed\n")
    code = f"import runpy; print(*runpy.run_path('read.py')['weights']({noisy!r})['classifier.bias'].tolist())"
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert list(map(float, found.split())) == load_file(Path(noisy, MODEL))["classifier.bias"].tolist()
    with (folder / noisy / MODEL).open("ab") as file:
        file.write(b" ")
    run = subprocess.run(read, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (1, f"damaged or missing: {noisy}/{MODEL}\n")


def test_equal_studies_give_equal_packs(complete: Path, capsys) -> None:
    said(capsys, "pack", "-o", "one.tar")
    for path in Path().rglob("*"):
        os.utime(path, (10**9, 10**9))
    said(capsys, "pack", "-o", "two.tar")
    assert Path("one.tar").read_bytes() == Path("two.tar").read_bytes()
    said(capsys, "pack", "--without-weights", "-o", "three.tar")
    assert not list(unpacked("three.tar").rglob(MODEL))


def test_a_study_that_is_not_finished_or_damaged_is_not_packed(complete: Path, capsys) -> None:
    noisy = Path("results/digits+sym0.4/quick/resnet8.ce.s0", MODEL)
    content = noisy.read_bytes()
    noisy.write_bytes(content[:-1] + b"!")
    assert f"{noisy}: damaged" in said(capsys, "pack", code=74)
    assert "not finished; snakemake --cores all --config 'seeds=[0, 1]'" in said(
        capsys, "pack", "--config", "seeds=[0, 1]", code=74
    )
    assert not [path for path in Path().iterdir() if path.suffix == ".tar"]


# -- help and completion ----------------------------------------------------------------------------------------------


def verbs() -> dict[str, argparse.ArgumentParser]:
    return _parser()._subparsers._group_actions[0].choices


def test_the_help_of_each_verb_has_an_example_that_kd_understands() -> None:
    assert verbs().keys() == EXAMPLES.keys()
    for name, example in EXAMPLES.items():
        assert example in verbs()[name].format_help()
        program, *arguments = shlex.split(example.partition(" > ")[0])
        assert (program, arguments[0]) == ("kd", name)
        _parser().parse_args(arguments)


def completed(words: str) -> set[str]:
    """Return what bash offers for the last word of a command line."""
    script = f"""source kd.bash; {words_of(words)}; _shtab_kd; printf '%s\\n' "${{COMPREPLY[@]}}" """
    run = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True)
    return set(run.stdout.split())


def words_of(line: str) -> str:
    words = line.split(" ")
    return f"COMP_WORDS=({shlex.join(words[:-1])} {words[-1] or repr('')}); COMP_CWORD={len(words) - 1}"


def test_bash_completes_verbs_options_and_paths(trained: Path, capsys) -> None:
    Path("kd.bash").write_text(said(capsys, "completion", "bash"))
    assert completed("kd comp") == {"compare", "completion"}
    assert completed("kd prune --da") == {"--days"}
    assert completed("kd completion f") == {"fish"}
    assert "results/digits" in {path.rstrip("/") for path in completed("kd show results/d")}


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish on this machine")
def test_fish_completes_verbs_options_and_paths(trained: Path, capsys) -> None:
    Path("kd.fish").write_text(said(capsys, "completion", "fish"))

    def completed(line: str) -> set[str]:
        script = f"source kd.fish; complete --do-complete {shlex.quote(line)}"
        run = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True)
        return {offer.partition("\t")[0] for offer in run.stdout.splitlines()}

    assert completed("kd comp") == {"compare", "completion"}
    assert "--days" in completed("kd prune --")
    assert completed("kd completion z") == {"zsh"}
    assert "results/digits/" in completed("kd show results/d")


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh on this machine")
def test_zsh_completes_verbs_options_and_paths(trained: Path, capsys) -> None:
    Path("_kd").write_text(said(capsys, "completion", "zsh"))
    process, terminal = pty.fork()  # zsh completes where a person types
    if process == 0:
        os.execvpe("zsh", ["zsh", "-f"], {**os.environ, "TERM": "dumb", "PS1": "> "})
    try:
        typed(terminal, "fpath=($PWD $fpath); autoload -U compinit; compinit -u -d ./dump; echo rea''dy\n", "ready")
        typed(terminal, "kd compl\t", "kd completion ")
        typed(terminal, "\x15kd prune --da\t", "--days ")
        typed(terminal, "\x15kd completion z\t", "zsh ")
        typed(terminal, "\x15kd show results/d\t", "results/digits/")
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def typed(terminal: int, keys: str, expected: str) -> None:
    """Type keys into a terminal and wait until it shows the expected text."""
    os.write(terminal, keys.encode())
    shown, ends = "", time.monotonic() + 30
    while expected not in shown and time.monotonic() < ends:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 1 << 16).decode(errors="replace")
    assert expected in shown, shown
