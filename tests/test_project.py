"""One root is behind all paths: a process works from anywhere, and in several projects in turn."""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import resigned, values
from made import imagenet, study, tiny
from made.command import kd as command
from sklearn.datasets import load_digits

import kd
import kd.train.fit
from kd import models
from kd.__main__ import main
from kd.core import files, project
from kd.study import plugins

CELL = "results/digits/quick/resnet8.ce.s0"
Said = tuple[int, str, str]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two folders for projects of the same content; the working directory is a third one."""
    for name in ("inside", "root", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "inside", tmp_path / "root"


@pytest.fixture(autouse=True)
def _no_plug_in_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(plugins._SAID, raising=False)
    yield
    plugins.load(())


@pytest.fixture
def both(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capfd) -> Callable[..., tuple[Said, Said]]:
    """What runs a verb within the one project, and on the other from elsewhere; it returns what either said."""
    inside, _ = folders
    elsewhere = Path.cwd()

    def run(*arguments: str) -> tuple[Said, Said]:
        monkeypatch.chdir(inside)
        there = main(arguments), *capfd.readouterr()
        monkeypatch.chdir(elsewhere)
        here = main(["-d", "../root", *arguments]), *capfd.readouterr()
        assert list(elsewhere.iterdir()) == []
        return _timeless(there), _timeless(here)

    return run


def _timeless(said: Said) -> Said:
    code, *texts = said
    return code, *(re.sub(r"\d\d:\d\d:\d\d |[\d.,]+(?= ([MG]B|s\b|images/s))", "", text) for text in texts)


def put(content: dict, *roots: Path) -> None:
    for root in roots:
        (root / "config.yaml").write_text(json.dumps(content))


# Of what none is a project's: the machine's, the user's, kd's own. And kd.core.files, which makes places itself.
ELSEWHERE = ("core/code", "core/files", "core/patches", "core/project", "machine/kernels", "machine/processor")
ELSEWHERE += ("report/paper/__init__", "report/figures/style")
ELSEWHERE += ("models/loader", "jobs/reader")  # these run without kd
METHODS = (
    "exists|is_file|is_dir|stat|unlink|r?glob|iterdir|mkdir|touch|rmdir|symlink_to|(read|write)_(text|bytes)|"
    "(?<!os.)(?<!Image.)open"
)
FUNCTIONS = (
    r"open|os\.(open|scandir|walk|stat|replace|utime|listdir)|os\.path\.(exists|getsize)|shutil\.rmtree|np\.load|"
    r"np\.lib\.format\.open_memmap|safetensors\.torch\.load_file|pd\.read_(csv|parquet)"
)
# A place by its name, an entry of a folder, a temporary file beside a place, a file that is open; the system's own.
PLACES = r"\(?(place|entr(y|ies)\b|pending|file$|io\.BytesIO|package|header|os\.devnull)"


def test_whoever_asks_the_disk_makes_a_place_of_the_path() -> None:
    """Without `on_disk` a path would be one of the working directory, which is the root in nearly every test."""
    folder, asked = Path(kd.__file__).parent, 0
    for path in folder.rglob("*.py"):
        if str(path.relative_to(folder).with_suffix("")) in ELSEWHERE:
            continue
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if re.fullmatch(FUNCTIONS, name):
                what = ast.unparse(call.args[0])
            elif re.search(rf"\.({METHODS})$", name):
                what = name.rpartition(".")[0]
            else:
                continue
            asked += 1
            assert "on_disk(" in what or re.match(PLACES, what), f"{path}, line {call.lineno}: {ast.unparse(call)}"
    assert asked > 60


@pytest.mark.slow
def test_every_verb_says_and_makes_from_elsewhere_what_it_does_inside(folders, both, monkeypatch) -> None:
    seconds = itertools.count(0.0)
    monkeypatch.setattr(kd.train.fit, "time", SimpleNamespace(monotonic=lambda: next(seconds)))  # it is in the table
    monkeypatch.setattr(kd.measure.inference, "_milliseconds", lambda network, shape: 1.0)  # so is this
    for folder, (name, content) in itertools.product(folders, tiny.FILES.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for verb in tiny.VERBS:
        there, here = both(*verb.arguments)
        assert there == here, verb.name
        assert there[0] == 0, verb.name
        made, found = (tiny.published(tiny.tree(folder)) for folder in folders)
        assert made.keys() == found.keys(), verb.name
        assert [path for path in made if made[path] != found[path]] == [], verb.name


@pytest.mark.slow
def test_what_a_study_names_lies_in_the_project(folders, both) -> None:
    """Images, kept or streamed, labels, weights, code, claims, and tables of any origin."""
    torch.manual_seed(0)
    safetensors.torch.save_file(models.build("resnet8", 3).state_dict(), "weights")
    weights = Path("weights").read_bytes()
    Path("weights").unlink()
    own = {
        "study": "own",
        "plugins": ["own/mine.py"],
        "dataset": "photos",
        "datasets": {"photos": {"folder": "own/images", "size": 8}},
        "label_files": {"human": "own/labels.npy"},
        "weights": {"known": {"file": "own/known.safetensors", "sha256": files.sha256(weights)}},
        "protocol": tiny.PROTOCOL,
        "experiments": {
            "a": {
                "teacher": "resnet8",
                "teacher_weights": "known",
                "student": "resnet8",
                "label_noise": {"file": "human"},
                "loss": "l1",
            }
        },
    }
    streamed = {
        "datasets": {"photos": {"folder": "own/images", "size": 32, "streamed": True}},
        "dataset": "photos",
        "protocol": {**imagenet.PROTOCOL, "name": "streamed", "epochs": 1},
        "experiments": {"b": {"student": "resnet8", "loss": "ce"}},
    }
    for folder in folders:
        study.images(folder / "own" / "images")
        np.save(folder / "own" / "labels.npy", np.arange(36) // 12)
        (folder / "own" / "known.safetensors").write_bytes(weights)
        (folder / "own" / "mine.py").write_text(MINE)
        (folder / "own" / "claims.yaml").write_text(CLAIMS)
        (folder / "own" / "table.csv").write_text(TABLE)
        (folder / "own" / "streamed.yaml").write_text(json.dumps(streamed))
    put(own, *folders)
    teacher = "results/photos+labels-human/quick/resnet8.weights-known.s0"
    by_stream = ("--configfile", "own/streamed.yaml")
    for verb in (
        ("data", "photos"),
        ("labels", "photos+labels-human"),
        ("train", teacher),
        ("train", f"{teacher}/resnet8.l1.s0"),
        ("verify",),
        ("verdict", "own/table.csv", "--claims", "own/claims.yaml"),
        ("data", "photos", *by_stream),
        ("train", "results/photos/streamed/resnet8.ce.s0", "--threads", "2", "--workers", "1", *by_stream),
    ):
        there, here = both(*verb)
        assert there == here
        assert there[0] == 0, there
    inside, root = folders
    made, found = (repr(sorted(tiny.published(tiny.tree(folder)).items())) for folder in folders)
    assert found.replace(str(root), str(inside)) == made
    assert (inside / "own/verdicts/claims/verdict.md").read_bytes() == (
        root / "own/verdicts/claims/verdict.md"
    ).read_bytes()


MINE = """
from kd.losses import Loss


def f(student, teacher, labels):
    return (student - teacher).abs().sum(1)


LOSSES = {"l1": Loss(f, "distance")}
"""
CLAIMS = """
claims:
  - {id: one, sentence: a is better, a: {objective: a}, b: {objective: b}}
"""
TABLE = "objective,seed,test_top1\na,0,2.5\na,1,2.75\nb,0,1.5\nb,1,1.25\n"


def test_messages_spell_paths_as_inside(folders, both) -> None:
    given = values(datasets={"photos": {"folder": "gone", "size": 8}})
    put(given, *folders)
    assert both("data", "digits")[0][0] == 0
    for folder in folders:
        (folder / "data/digits/train_labels.npy").write_bytes(b"other")
        (folder / "answers").write_bytes(b"")
    for code, *verb in (
        (74, "verify"),
        (74, "train", CELL, "--study-json", json.dumps(given)),  # as Snakemake asks; by hand it would mend the data
        (74, "answers", CELL),
        (74, "figure", "reports/small/table.parquet", "losses", "dots"),
        (2, "plan", "--configfile", "nowhere.yaml"),
        (2, "plan", "nowhere"),
        (2, "data", "photos"),
        (0, "status"),
        (0, "delete", CELL, "--dry-run"),
        (74, "verify", "--discard"),
    ):
        there, here = both(*verb)
        assert there == here, verb
        assert there[0] == code, there


def test_projects_in_turn_do_not_mix(folders, capfd) -> None:
    """Of the same names: a cell, a file of labels, a plug-in."""
    for number, root in enumerate(folders):
        put(
            values(
                plugins=["mine.py"],
                protocol={**tiny.PROTOCOL, "epochs": 1 + number},
                label_files={"human": "labels.npy"},
                experiments={"a": {"student": "resnet8", "label_noise": {"file": "human"}, "loss": "ce"}},
            ),
            root,
        )
        np.save(root / "labels.npy", np.where(np.arange(898) < 100, number, load_digits().target[:898]))
        (root / "mine.py").write_text(MINE)
    cell = "results/digits+labels-human/quick/resnet8.ce.s0"
    verbs = (("data", "digits"), ("labels", "digits+labels-human"), ("train", cell))
    for verb in (*verbs, *verbs):
        for root in folders:
            with project.enter(root):
                assert main(verb) == 0
            assert "kd: runs code from mine.py\n" in capfd.readouterr().err
    labels = [np.load(root / "data/digits+labels-human/labels.npy") for root in folders]
    assert [set(one[:100]) for one in labels] == [{0}, {1}]
    assert [files.read_manifest(root / cell)["epochs"] for root in folders] == [1, 2]
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.slow
def test_what_kd_starts_works_in_the_project(folders, capfd) -> None:
    """A proof of `kd adopt` is a training of its own; several processes are torchrun's."""
    root = folders[1]
    put(values(protocol={**tiny.PROTOCOL, "batch": 60}), root)
    for verb in (("data", "digits"), ("train", CELL)):
        assert main(["-d", str(root), *verb]) == 0
    resigned(root / CELL, code="0" * 16)
    assert main(["-d", str(root), "adopt"]) == 0
    assert f"the same to the bit: {CELL}\n" in capfd.readouterr().out
    by_two = CELL.replace("s0", "s1")
    run = command("-d", "../root", "train", by_two, "--processes", "2", "--threads", "2")
    assert run.returncode == 0, run.stderr
    assert files.verified(root / by_two)["processes"] == 2
    assert list(Path.cwd().iterdir()) == []


def test_the_root_is_the_working_directory_until_another_is_entered(folders, monkeypatch) -> None:
    inside, root = folders
    assert project.here() == Path.cwd()
    monkeypatch.chdir(inside)
    assert project.here() == inside
    with project.enter(root):
        assert (project.here(), project.on_disk(Path("a/b"))) == (root, root / "a/b")
        assert project.on_disk(Path("/dev/shm")) == Path("/dev/shm")
        assert [project.named(place) for place in (root / "a/b", inside)] == [Path("a/b"), inside]
        with project.enter("../inside"):
            assert project.here().samefile(inside)
        assert project.here() == root
        monkeypatch.chdir("/")
        assert project.here() == root
    assert project.here() == Path("/")
    left = project.enter(root)
    assert project.here() == root
    left.close()
    assert project.here() == Path("/")


def test_a_root_that_is_no_folder_is_refused(folders, capsys) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"):
        project.enter("nowhere")
    with pytest.raises(SystemExit, match="2"):
        main(["--directory", "nowhere", "plan"])
    assert "-d/--directory: nowhere: no such folder" in capsys.readouterr().err
    assert project.here() == Path.cwd()
