"""Fixtures and helpers of all tests: a small study on digits, and a project folder to run it in."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from kd.__main__ import main
from kd.core import files
from kd.jobs import answers as jobs_answers
from kd.jobs import bank as jobs_bank
from kd.jobs import data as jobs_data
from kd.jobs import relation as jobs_relation
from kd.jobs import train as jobs_train
from kd.jobs.places import Resources
from kd.study import expansion, products
from kd.study.cells import Cell, DatasetChoice
from kd.study.config import Recipe, Study, validate
from kd.study.judge import Judge
from kd.study.needs import Need
from kd.study.paths import parse_cell, parse_dataset
from kd.study.products import Product

ROOT = Path(__file__).parent.parent

# The same examples each time, so that a failure can be repeated. To try others: pytest --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


os.environ["KD_OUTPUT"] = "snakemake"  # tests count the jobs that Snakemake tells of

# Files whose tests start processes or train. `make check` leaves them out. In other files a mark on the test says so.
TAKE_TIME = re.compile(
    "test_(analyses|answers|bank|bench|by_hand|controllers|ensembles|failures|faults|figures|flips|golden|gpu|judge|left_clean|main|"
    "ikl|objective|page|patches|peers|plugins|project|relations|report|search|signals|slurm|slurm_answers|stages|startup|states|status|storage|streamed|"
    "table|targets|upgrades|verdict|weights|wkd|workflow)"
)


def pytest_configure(config: pytest.Config) -> None:
    """Have the test processes of a session share the server that starts kd for them."""
    from made import starting  # here, because what is made imports this file

    several = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if several and "not process" not in config.option.markexpr:
        os.environ[starting.SHARED] = starting.STARTER.begin()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if TAKE_TIME.fullmatch(item.path.stem):
            item.add_marker("process")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the number of threads changes bits, and tests run in parallel


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The two studies of made/faults.py, `now` and `earlier`, made once for all test processes."""
    from made.faults import made_once  # here, because made.faults imports this file

    return made_once(tmp_path_factory)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, which is also the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The small study, run to its end once for all test processes."""
    from made.project import Project, shared_folder

    folder = shared_folder(tmp_path_factory) / "finished"
    with files.lock(folder.with_suffix(".lock")):
        if folder.exists():
            return Project(folder, copy=False)
        folder.mkdir()
        project = Project(folder)
        project.run()
    return project


@pytest.fixture
def done(finished: object, tmp_path: Path) -> object:
    """A copy of the finished study, with its timestamps, that a test may change."""
    from made.project import Project

    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy", copy=False)


@pytest.fixture
def small(project: Path) -> Path:
    """A project folder with a study of two losses."""
    (project / "config.yaml").write_text(
        json.dumps(
            {
                "study": "small",
                "dataset": "digits",
                "protocol": {"name": "quick", "epochs": 2, "batch": 64, "precision": "fp32"},
                "experiments": {"a": {"teacher": "resnet14", "student": "resnet8", "loss": ["ce", "mse"]}},
            }
        )
    )
    return project


def declared(path: str | Path, **claims: object) -> dict:
    """What a study says of this file."""
    return {"file": str(path), "sha256": files.file_digest(Path(path)), **claims}


def study(**changes: object) -> Study:
    """A study of two losses on digits that trains in a second, with these keys changed."""
    return validate(values(**changes))


def values(**changes: object) -> dict:
    """The values that a config.yaml of that study would have."""
    said = {
        "study": "small",
        "dataset": "digits",
        "protocol": {"name": "quick", "epochs": 3, "batch": 64, "precision": "fp32"},
        "seeds": [0, 1],
        "experiments": {
            "losses": {
                "teacher": "resnet14",
                "student": "resnet8",
                "loss": ["ce", {"kl": {"tau": 3}}],
                "figure": "dots",
            }
        },
    }
    return {**said, **changes}


# -- the stages, as the verbs call them -------------------------------------------------------------------------------


def recipe(what: str | Cell | DatasetChoice, made: Study | None = None) -> Recipe:
    """Return the recipe of a cell or dataset in a study, by default the small one."""
    if isinstance(what, DatasetChoice):
        return Recipe.parse(expansion.data_recipe(made or study(), what))
    return Recipe.parse(expansion.recipe(made or study(), parse_cell(str(what))))


def prepare(*names: str, made: Study | None = None) -> None:
    """Prepare datasets, by default digits, and the noisy labels of names such as digits+sym0.4."""
    for dataset in map(parse_dataset, names or ("digits",)):
        given = recipe(dataset, made)
        jobs_data.data(Judge.of_recipe(given), dataset, given)
        if dataset.noise:
            jobs_data.labels(Judge.of_recipe(given), dataset, given)


def train(cell: str | Cell, made: Study | None = None, resources: Resources | None = None, **options: object) -> dict:
    """Train a cell of a study, by default the small one; return its manifest."""
    cell, given = parse_cell(str(cell)), recipe(cell, made)
    jobs_train.train(Judge.of_recipe(given), cell, given, resources or Resources(), **options)
    return manifest(products.network(cell))


def fill(cell: str | Cell, needs: list[tuple[int, int]], made: Study | None = None) -> dict:
    """Fill the bank of a teacher with the views of these (seed, epochs); return its manifest."""
    cell, given = parse_cell(str(cell)), recipe(cell, made)
    bank, needs = products.bank(cell), [Need(*need) for need in needs]
    jobs_bank.bank(Judge.of_recipe(given).asked({bank: set(needs)}), cell, given, needs, Resources())
    return manifest(bank)


def answer(cell: str | Cell, made: Study | None = None) -> dict:
    """Publish the answers of a network; return the manifest."""
    cell, given = parse_cell(str(cell)), recipe(cell, made)
    jobs_answers.answers(Judge.of_recipe(given), cell, given, Resources())
    return manifest(products.answers(cell))


def relate(student: str | Cell, made: Study | None = None) -> dict:
    """Publish the relation between classes that a student reads; return its manifest."""
    student, given = parse_cell(str(student)), recipe(student, made)
    jobs_relation.relation(Judge.of_recipe(given), student.teacher, student.related, given, Resources())
    return manifest(products.relation(student.teacher, student.related))


def manifest(product: Product) -> dict:
    """Return the manifest of a published product."""
    return files.read_manifest(product.folder, product.manifest)


def resigned(folder: str | Path, **changes: object) -> None:
    """Forge a published folder: change its manifest, and write valid digests of the files as they are now."""
    said = files.read_manifest(Path(folder)) | changes
    for name in said["files"]:
        path = Path(folder, name)
        said["files"][name], said["sizes"][name] = files.file_digest(path), path.stat().st_size
    files.write_manifest(Path(folder, files.MANIFEST), unsigned(said))


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def is_waited_for(lock: Path) -> bool:
    """Say whether some process waits for a lock: the kernel lists such processes in /proc/locks."""
    inode = f":{lock.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def verb(name: str, *arguments: object, **changes: object) -> int:
    """Run a verb of kd on the small study with some keys changed; return its exit code."""
    return main([name, *map(str, arguments), "--study-json", json.dumps(values(**changes))])


def unsigned(said: dict) -> dict:
    """Return a manifest without the keys that `write_manifest` adds."""
    return {key: value for key, value in said.items() if key not in ("format", "manifest_sha256")}


def written(artefacts: dict, folder: Path) -> Path:
    """Write artefacts to a folder, as a verb without a study does; return the folder."""
    for name, content in artefacts.items():
        files.write_atomic(folder / name, content)
    return folder


# -- damaged inputs ---------------------------------------------------------------------------------------------------


@st.composite
def mutated_text(draw: st.DrawFn, whole: st.SearchStrategy[str], tokens: list[str]) -> str:
    """A text with a few places cut out, doubled, or replaced by any characters or by a token."""
    text = draw(whole)
    for _ in range(draw(st.integers(1, 3))):
        begin, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        put = draw(st.sampled_from(["", text[begin:end] * 2, *tokens]) | st.text(max_size=3))
        text = text[:begin] + put + text[min(end, begin + 6) :]
    return text


@st.composite
def mutated_tree(draw: st.DrawFn, tree: object, values: st.SearchStrategy, keys: list[str]) -> object:
    """A tree of lists and dicts with a few values dropped, replaced or inserted."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(_places(tree))))
        tree = _with(tree, place, draw(st.sampled_from(["drop", "replace", "insert"])), draw(values), draw(_key(keys)))
    return tree


def _key(keys: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(keys) | st.text(max_size=5)


def _places(tree: object, place: tuple = ()) -> Iterator[tuple]:
    yield place
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from _places(tree[key], (*place, key))


def _with(tree: object, place: tuple, how: str, value: object, key: str) -> object:
    """Return a copy of `tree` that differs at `place`."""
    if len(place) > 1:
        changed = copy.copy(tree)
        changed[place[0]] = _with(tree[place[0]], place[1:], how, value, key)
        return changed
    if not place:
        return {**tree, key: value} if isinstance(tree, dict) else value
    items = dict(tree) if isinstance(tree, dict) else dict(enumerate(tree))
    if how == "drop":
        del items[place[0]]
    else:
        items[place[0] if how == "replace" else key] = value
    return items if isinstance(tree, dict) else list(items.values())


def read_until(run: subprocess.Popen, pattern: str) -> str:
    """Read what a process prints until it matches a pattern; return what was read."""
    output = ""
    while not re.search(pattern, output):
        line = run.stdout.readline()
        assert line, output
        output += line
    return output
