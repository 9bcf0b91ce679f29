"""A user's own file adds to what kd has: everywhere, by its code, and never from data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, prepare, study, train, values
from made.project import Project
from made.study import finish, images, judge, tiny

from kd import losses, models
from kd.__main__ import main
from kd.core.errors import ConfigError
from kd.report import figures
from kd.study import config, plugins, stamps
from kd.study.paths import parse_cell
from kd.study.staleness import code_behind

MINE = '''"""One of each."""
import re

import matplotlib.figure
import numpy as np
import torch

from kd.data import NoiseKind, Source
from kd.data.arrays import Images, normalisation
from kd.losses import Loss, Number, Whole
from kd.models import Family
from kd.models.network import Network
from kd.report.figures import Figure


def power(student, teacher, labels, *, order, shift):
    return (student - teacher + shift).abs().clamp(max=1).pow(order).mean(-1)


class Plain(Network):
    def __init__(self, width, classes, channels=3):
        super().__init__()
        self.first = torch.nn.Linear(channels, width)
        self.classifier = torch.nn.Linear(width, classes)

    def features(self, images):
        return self.first(images.mean((2, 3))).relu()


def stripes():
    labels = np.arange(24) % 3
    pixels = np.random.default_rng(0).integers(0, 99, (24, 8, 8, 3), dtype=np.uint8)
    pixels[..., 0] += np.uint8(60) * labels[:, None, None].astype(np.uint8)
    return Images(pixels, labels, pixels[:9], labels[:9], ["a", "b", "c"], *normalisation(pixels))


def next_class(labels, rate, seed, class_names):
    noisy = labels.copy()
    noisy[: round(rate * len(labels))] += 1
    return noisy % len(class_names)


def draw(rows, curves):
    figure = matplotlib.figure.Figure()
    figure.subplots().plot(rows["test_top1"])
    return figure


def caption(rows, curves):
    return f"{len(rows)} networks."


LOSSES = {
    "power": Loss(power, "a power of the distance", {"order": Whole(2, high=9), "shift": Number(0.0, low=-1)}),
}
NETWORKS = [Family(re.compile("plain(?P<width>[1-9][0-9]*)"), __name__, "Plain", ("plain4",), "one layer")]
DATASETS = {"stripes": Source(f"{__name__}:stripes", "three colours", pad=1)}
NOISES = {"next": NoiseKind("following", f"{__name__}:next_class", "the first examples take the next class")}
FIGURES = {"accuracies": Figure("accuracies", __name__)}
'''
PHOTOS = "results/mine/quick/resnet8.ce.s0"
STRIPES = "results/stripes/quick/plain4.ce.s0"
NAMED = {
    "plugins": ["mine.py"],
    "experiments": {
        "photos": {
            "teacher": "resnet8",
            "student": "resnet8",
            "loss": [{"kl": {"tau": 3}}, {"power": {"order": 3, "shift": -0.5}}],
            "figure": ["dots", "accuracies"],
        },
        "stripes": {"dataset": "stripes", "teacher": "plain4", "student": "resnet8", "loss": {"kl": {"tau": 3}}},
        "noise": {"student": "resnet8", "loss": "ce", "label_noise": {"following": 0.5}},
    },
}
# What the code of the file decides; what is only made from it is looked at again.
ITS_OWN = {
    "data/stripes",
    "data/mine+next0.5",
    STRIPES,
    f"banks/{STRIPES.removeprefix('results/')}",
    f"{PHOTOS}/resnet8.power-order3-shift-0.5.s0",
    "reports/small/figures/photos.accuracies",
}


@pytest.fixture(autouse=True)
def _none_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(plugins._SAID, raising=False)
    yield
    plugins.load(())


@pytest.fixture
def mine(project: Path) -> Path:
    """A project with a plug-in that adds one of each, and images of its own."""
    images(project / "images")
    (project / "mine.py").write_text(MINE)
    return project / "mine.py"


def other_code(**changes: object) -> set[str]:
    now = judge(**changes)
    return {one.name for one in now.everything if now.reason(one) == "made by other code"}


@pytest.mark.slow
def test_what_a_plug_in_adds_every_verb_makes_and_its_code_makes_stale(mine: Path, capsys) -> None:
    finish(**NAMED)
    assert "kd: runs code from mine.py\n" in capsys.readouterr().err
    assert not judge(**NAMED).all_to_do
    assert Path("reports/small/figures/photos.accuracies.txt").read_text().startswith("2 networks.\n")
    assert Path("data/mine+next0.5/manifest.json").exists()
    student = json.loads(Path(f"{PHOTOS}/resnet8.power-order3-shift-0.5.s0/manifest.json").read_text())
    assert student["recipe"]["objective"] == {"loss": "power", "order": 3, "shift": -0.5}

    mine.write_text(f"# a comment\n{MINE.replace('One of each', 'One of every kind')}")
    assert not judge(**NAMED).all_to_do
    mine.write_text(MINE.replace("clamp(max=1)", "clamp(max=0.5)"))
    assert other_code(**NAMED) == ITS_OWN
    to_do = {one.name for one in judge(**NAMED).all_to_do}
    assert not {PHOTOS, f"{PHOTOS}/resnet8.kl-tau3.s0", "data/mine"} & to_do
    redone = {one.name for one in finish(**NAMED)}
    assert ITS_OWN - redone <= {f"banks/{STRIPES.removeprefix('results/')}"}  # its student is not to do
    assert not judge(**NAMED).all_to_do


@pytest.mark.slow
def test_no_manifest_names_code_to_run(mine: Path) -> None:
    """Promise 6: what was published says by which code it was made, and not where that lies."""
    finish(**NAMED)
    written = [path for top in ("data", "results", "banks", "reports") for path in Path(top).rglob("*.json")]
    assert len(written) > 10
    for path in written:
        assert "plugin" not in path.read_text()
        assert "mine.py" not in path.read_text()


def test_a_recipe_on_a_command_line_names_the_plug_ins_that_its_cell_needs(mine: Path, capsys) -> None:
    protocol = tiny()["protocol"]
    plugins.load(())
    recipe = json.dumps({"plugins": ["mine.py"], "protocol": protocol})
    assert main(["data", "stripes", "--recipe", recipe]) == 0
    assert main(["train", STRIPES, "--recipe", recipe]) == 0
    plugins.load(())
    assert main(["train", STRIPES, "--recipe", json.dumps({"protocol": protocol})]) == 2
    assert "network 'plain4': unknown" in capsys.readouterr().err


def test_a_plug_in_may_build_an_objective_that_learns(project: Path) -> None:
    (project / "mine.py").write_text(
        """
import torch
from torch import nn

from kd.losses import Loss, Needs, Number
from kd.losses.objective import Objective


class Scaled(Objective):
    def __init__(self, course, start):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(start))

    def forward(self, batch):
        return nn.functional.cross_entropy(self.scale * batch.student[0].logits, batch.labels, reduction="none")


LOSSES = {
    "scaled": Loss(None, "a learnt scale", {"start": Number(1.0)}, Needs(teacher=frozenset()), build=Scaled),
}
"""
    )
    prepare()
    asked = {"plugins": ["mine.py"], "experiments": {"a": {"student": "resnet8", "loss": {"scaled": {"start": 2}}}}}
    cell = "results/digits/quick/resnet8.scaled-start2.s0"
    manifest = train(cell, study(**asked))
    assert manifest["status"] == "ok"
    assert manifest["recipe"]["objective"] == {"loss": "scaled", "start": 2.0}


def test_without_its_plug_in_a_study_is_refused_and_a_cell_can_be_deleted(mine: Path, capsys) -> None:
    assert main(["data", "stripes", "--study-json", json.dumps(tiny(**NAMED))]) == 0
    assert main(["train", STRIPES, "--study-json", json.dumps(tiny(**NAMED))]) == 0
    with pytest.raises(ConfigError, match="power: no such loss"):
        study(**tiny(experiments=NAMED["experiments"]))
    mine.unlink()
    assert main(["verify"]) == 0
    assert main(["delete", STRIPES, "--yes"]) == 0
    assert not Path(STRIPES).exists()


def test_the_schema_of_a_study_knows_what_its_plug_ins_add(mine: Path, capsys) -> None:
    plain = config.schema()
    assert '"shift"' not in json.dumps(plain)
    assert main(["schema", "--study-json", json.dumps(tiny(**NAMED))]) == 0
    found = capsys.readouterr().out
    for word in ("power", "shift", "accuracies", "following"):
        assert f'"{word}"' in found
    study()
    assert config.schema() == plain


def test_stamps_are_of_the_plug_ins_too(mine: Path) -> None:
    asked = tiny(**NAMED)
    study(**asked)
    before = stamps.question(asked)
    mine.write_text(MINE + "\n# a comment: Snakemake looks at everything again, and finds it current\n")
    study(**asked)
    assert stamps.question(asked) != before


def test_the_code_of_one_plug_in_that_another_imports_counts(project: Path) -> None:
    shared = "import kd_plugins.base\ndef f(student, teacher, labels): return kd_plugins.base.g(student)\n"
    loss = "from kd.losses import Loss\nLOSSES = {%r: Loss(f, '')}\n"
    Path("base.py").write_text("def g(x): return x.sum(-1)\nf = lambda *logits: g(logits[0])\n" + loss % "first")
    Path("user.py").write_text(shared + loss % "two")
    Path("other.py").write_text("def f(student, teacher, labels): return student\n" + loss % "three")
    asked = {"plugins": ["base.py", "user.py", "./other.py"]}

    def digests() -> list[str]:
        study(**asked)
        cell = "results/digits/quick/resnet8.ce.s0/resnet8.{}.s0"
        protocol = study(**asked).protocol
        return [code_behind(parse_cell(cell.format(name)), protocol) for name in ("first", "two", "three", "mse")]

    before = digests()
    Path("base.py").write_text(Path("base.py").read_text().replace("sum", "mean"))
    assert [a != b for a, b in zip(before, digests(), strict=True)] == [True, True, False, False]


HEAD = """import re
from kd.data import NoiseKind, Source
from kd.losses import Choice, Loss
from kd.models import Family
from kd.report.figures import Figure
def f(student, teacher, labels): return labels
class C: pass
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import re\nx = re.compile(\n", "mine.py, line 2: SyntaxError: '(' was never closed"),
        ("\n\n\n\n\n\nprint(undefined)\n", "mine.py, line 7: NameError: name 'undefined' is not defined"),
        ("def f():\n    return 1 / 0\nf()\n", "mine.py, line 2: ZeroDivisionError: division by zero"),
        ("import json\njson.loads('x')\n", "mine.py, line 2: JSONDecodeError: "),
        ("import no_such_module\n", "mine.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)\n", "mine.py, line 1: SystemExit: 3"),
        ("open('nowhere')\n", "mine.py, line 1: FileNotFoundError: "),
        ("\0", "mine.py: SyntaxError: source code string cannot contain null bytes"),
        ("X = 1\n", "mine.py: adds nothing; it may define LOSSES, DATASETS, NOISES, FIGURES, NETWORKS"),
        (f"{HEAD}LOSSES = [Loss(f, '')]", "mine.py, line 8: LOSSES: expected names and entries, got list"),
        (
            f"{HEAD}LOSSES = {{\n  'first': Loss(f, ''),\n  'two': f,\n}}",
            "line 10: LOSSES: two: expected a Loss, got func",
        ),
        (f"{HEAD}LOSSES = {{'kl': Loss(f, '')}}", "mine.py, line 8: LOSSES: kl: there is one of this name already"),
        (f"{HEAD}LOSSES = {{'weights': Loss(f, '')}}", "line 8: LOSSES: weights: no name that a path can spell"),
        (f"{HEAD}LOSSES = {{'a-b': Loss(f, '')}}", "line 8: LOSSES: a-b: no name that a path can spell"),
        (f"{HEAD}LOSSES = {{3: Loss(f, '')}}", "line 8: LOSSES: 3: no name that a path can spell"),
        (
            f"{HEAD}LOSSES = {{'first': Loss(re.sub, '')}}",
            "LOSSES: first: its function must be defined in this file",
        ),
        (f"{HEAD}LOSSES = {{'first': Loss(lambda x: x, '')}}", "first: <lambda> cannot be called as kd does: too many"),
        (
            f"{HEAD}LOSSES = {{'first': Loss(f, '', {{'how': Choice('a', ('a',))}})}}",
            "first: f cannot be called as kd does: got an unexpected keyword argument 'how'",
        ),
        (
            f"{HEAD}LOSSES = {{'one': Loss(f, '', {{'how2': Choice('a', ('a',))}})}}",
            "mine.py, line 8: ValueError: how2: the name of a hyperparameter",
        ),
        (f"{HEAD}NETWORKS = 'wrn'", "line 8: NETWORKS: expected a list, got str"),
        (f"{HEAD}NETWORKS = [C]", "line 8: NETWORKS: expected a Family, got type"),
        (f"{HEAD}NETWORKS = [Family('x', __name__, 'C', ('x',), '')]", "line 8: NETWORKS: AttributeError: "),
        (f"{HEAD}NETWORKS = [Family(re.compile('x'), __name__, 'D', ('x',), '')]", "there is no function 'D'"),
        (f"{HEAD}NETWORKS = [Family(re.compile('x'), 'kd.models.wrn', 'C', ('x',), '')]", "its module is 'kd.models."),
        (f"{HEAD}NETWORKS = [Family(re.compile('x'), __name__, 'C', ('x',), '')]", "C cannot be called as kd does"),
        (f"{HEAD}DATASETS = {{'cifar10': Source(__name__ + ':f', '')}}", "cifar10: there is one of this name already"),
        (
            f"{HEAD}DATASETS = {{'x': Source(__name__ + ':g', '')}}",
            "x: there is no function 'g' in this file",
        ),
        (f"{HEAD}DATASETS = {{'x': Source(3, '')}}", "DATASETS: x: AttributeError"),
        (f"{HEAD}DATASETS = {{'x': Source('', '', streamed=True)}}", "only a folder of images can be streamed"),
        (f"{HEAD}NOISES = {{'x': NoiseKind('symmetric', __name__ + ':f', '')}}", "called 'symmetric' is kd's own"),
        (
            f"{HEAD}NOISES = {{'frac': NoiseKind('x', __name__ + ':f', '')}}",
            "frac: no name that a path can spell",
        ),
        (f"{HEAD}FIGURES = {{'dots': Figure('', __name__, 'f', 'f')}}", "dots: there is one of this name already"),
        (f"{HEAD}FIGURES = {{'x': Figure('', __name__, 'f')}}", "FIGURES: x: there is no function 'caption'"),
        (f"{HEAD}FIGURES = {{'x': Figure('', __name__, 'f', 'f', 'y')}}", "FIGURES: x: no such analysis: y"),
    ],
)
def test_a_plug_in_that_is_wrong_is_refused_by_file_and_line_and_leaves_nothing(
    project: Path, capsys, text: str, message: str
) -> None:
    Path("mine.py").write_text(text)
    Path("config.yaml").write_text(json.dumps(values(plugins=["mine.py"])))
    before = list(losses.LOSSES), list(models.NETWORKS), list(figures.FIGURES)
    assert main(["plan"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.splitlines()[-1].startswith("kd: mine.py")
    assert "Traceback" not in said
    assert (list(losses.LOSSES), list(models.NETWORKS), list(figures.FIGURES)) == before


EXAMPLE = f"{HEAD}class N:\n  def __init__(self, classes, channels): pass\n"


@pytest.mark.parametrize(
    ("pattern", "examples", "message"),
    [
        ("resnet8", ("resnet8",), "resnet8: there is a network of this name already"),
        ("wrn-.*|mine", ("mine",), "its pattern also matches wrn-16-1, another network"),
        ("mine", ("yours",), "yours: an example that is no name of this family"),
        ("Mine", ("Mine",), "Mine: an example that is no name of this family, or none that a path can spell"),
        ("mine", (), "examples: give at least one name"),
    ],
)
def test_a_network_has_a_name_of_its_own_that_a_path_can_spell(
    project: Path, pattern: str, examples: tuple, message: str
) -> None:
    Path("mine.py").write_text(f"{EXAMPLE}NETWORKS = [Family(re.compile({pattern!r}), __name__, 'N', {examples}, '')]")
    with pytest.raises(ConfigError, match=f"mine.py, line 10: NETWORKS: {message}"):
        study(plugins="mine.py")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("nowhere.py", "plugins: nowhere.py: No such file"),
        ("mine.txt", "plugins: 'mine.txt': not a Python file"),
        ("my-own.py", "plugins: 'my-own.py': not a Python file"),
        ("a\0/mine.py", "embedded null byte"),
        (3, "plugins: got 3, expected a list of Python files"),
        ({"mine.py": 1}, "plugins: got {'mine.py': 1}, expected a list"),
        (["mine.py", "again/mine.py"], "mine.py: another plug-in has the same name"),
    ],
)
def test_a_plug_in_is_a_python_file_of_its_own_name(mine: Path, named: object, message: str) -> None:
    Path("again").mkdir()
    Path("again/mine.py").write_text(MINE)
    with pytest.raises(ConfigError) as refused:
        study(plugins=named)
    assert message in str(refused.value)


@pytest.mark.slow
def test_snakemake_hands_the_plug_ins_to_its_jobs(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    images(project.folder / "images")
    (project.folder / "mine.py").write_text(MINE)
    project.study(tiny(**NAMED))
    said = project.run("--dry-run", "--printshellcmds")
    assert said.count("kd: runs code from mine.py\n") == 1
    for job in (f"train {STRIPES}", "data stripes", "labels mine+next0.5"):
        (command,) = [line for line in said.splitlines() if f"kd {job} " in line]
        assert '"plugins": ["mine.py"]' in command


@pytest.mark.slow
def test_a_command_says_once_that_it_runs_code_and_never_without_plug_ins(mine: Path) -> None:
    def said(command: str, **changes: object) -> str:
        line = [sys.executable, "-m", "kd", command, "--study-json", json.dumps(tiny(**changes))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert said("plan", **NAMED) == "kd: runs code from mine.py\n"
    assert said("plan") == ""
