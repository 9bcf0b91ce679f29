"""Promise 8: an upgrade retrains nothing whose numbers it does not change. The upgrades are made to copies of kd."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import unsigned
from made_study import images
from test_workflow import Project, shared_folder

from kd.core import files

STUDY = {
    "study": "small",
    "dataset": "mine",
    "datasets": {"mine": {"folder": "images", "size": 8}},
    "protocol": {"name": "quick", "epochs": 2, "batch": 16, "precision": "fp32"},
    "seeds": [0],
    "experiments": {"one": {"teacher": "resnet8", "student": "resnet8", "loss": {"kl": {"tau": 3}}}},
}
TEACHER = "results/mine/quick/resnet8.ce.s0"
STUDENT = f"{TEACHER}/resnet8.kl-tau3.s0"


class Upgraded(Project):
    """A project whose copy of kd is changed, and whose verbs meet faults."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "KD_FAULTS": str(self.folder / "faults")}

    def verb(self, *arguments: str, code: int = 0) -> str:
        return self.kd(*arguments, "--configfile", "study.yaml", code=code)

    def standing(self) -> dict[str, str]:
        """Return the status of each network, and why it is stale."""
        lines = [line.split(maxsplit=2) for line in self.kd("status", "study.yaml", "--cells").splitlines()]
        return {name: " ".join([status, *why]) for status, name, *why in lines}

    def manifest(self, name: str) -> dict:
        return files.read_manifest(self.folder / name)

    def resign(self, name: str, **changes: object) -> None:
        """Change what a manifest says, and sign it anew."""
        said = unsigned(self.manifest(name))
        files.write_manifest(self.folder / name / files.MANIFEST, {**said, **changes})


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose two networks are trained, once for all the processes that run these tests."""
    folder = shared_folder(tmp_path_factory) / "trained"
    with files.lock(folder.with_suffix(".lock")):
        if not folder.exists():
            project = Upgraded(folder)
            project.study(STUDY)
            images(folder / "images")
            project.verb("data", "mine")
            for cell in (TEACHER, STUDENT):
                project.verb("train", cell)
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Upgraded:
    """A copy of it that a test may change."""
    shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    return Upgraded(tmp_path / "copy", copy=False)


# -- keys that come, change and go ------------------------------------------------------------------------------------

CONFIG = "kd/study/config.py"
KEYS = {  # of each kind: the file, what stands there, and what an upgrade writes before it
    "protocol": (CONFIG, "    momentum: Share = 0.9", "    warmth: Number = {}\n"),
    "dataset": (CONFIG, '    convert: Literal["rgb"]', "    warmth: Number = {}\n"),
    "loss": ("kd/losses/__init__.py", "\n\ndef family", '\nLOSSES["kl"].parameters["warmth"] = {}\n'),
}
INTRODUCED = {"protocol": "1.0", "dataset": "1.0", "loss": "Number(1.0)"}
_CHANGED = 'Field(2.0, json_schema_extra={"since": 1.0})'
CHANGED = {"protocol": _CHANGED, "dataset": _CHANGED, "loss": "Number(2.0, since=1.0)"}
STALE = {
    "protocol": {TEACHER: "stale warmth 1.0 -> 2.0", STUDENT: "stale warmth 1.0 -> 2.0"},
    "dataset": dict.fromkeys((TEACHER, STUDENT), "stale looked at again after its data"),
    "loss": {TEACHER: "done", STUDENT: "stale warmth 1.0 -> 2.0"},
}
CURRENT = {TEACHER: "done", STUDENT: "done"}


def upgrade(project: Project, key: str, value: dict[str, str], before: dict[str, str] | None = None) -> None:
    """Have a key be there with this default, instead of the one before."""
    path, anchor, line = KEYS[key]
    if before:
        project.edit(path, line.format(before[key]), line.format(value[key]))
    else:
        project.edit(path, anchor, line.format(value[key]) + anchor)


@pytest.mark.parametrize("key", KEYS)
def test_promise_8_a_new_key_makes_nothing_stale_and_a_default_that_changes_later_does(
    project: Upgraded, key: str
) -> None:
    assert project.standing() == CURRENT
    upgrade(project, key, INTRODUCED)
    assert project.standing() == CURRENT
    upgrade(project, key, CHANGED, INTRODUCED)
    assert project.standing() == STALE[key]


def test_promise_8_what_is_gone_counts_by_the_keys_of_its_recipe_too(project: Upgraded) -> None:
    shutil.rmtree(project.folder / "data")
    upgrade(project, "dataset", INTRODUCED)
    assert project.standing() == CURRENT
    upgrade(project, "dataset", CHANGED, INTRODUCED)
    assert project.standing() == dict.fromkeys(CURRENT, "stale its data: warmth 1.0 -> 2.0")


@pytest.mark.parametrize(
    ("goes_by", "standing"),
    [(None, "stale warmth 1.0 -> none"), (1.0, "done"), (2.0, "stale warmth 1.0 -> 2.0")],
)
def test_promise_8_a_key_that_is_removed_makes_stale_what_the_code_goes_by_no_more(
    project: Upgraded, goes_by: float | None, standing: str
) -> None:
    for name in CURRENT:
        recipe = project.manifest(name)["recipe"]
        project.resign(name, recipe={**recipe, "protocol": {**recipe["protocol"], "warmth": 1.0}})
    if goes_by is not None:
        removed = f'    REMOVED: ClassVar = {{"warmth": {goes_by}}}\n\n'
        project.edit(CONFIG, "    name: Name = Field(desc", f"{removed}    name: Name = Field(desc")
    assert project.standing() == dict.fromkeys(CURRENT, standing)


def test_promise_8_a_state_from_before_a_new_key_is_gone_on_with_and_not_after_its_default_changes(
    project: Upgraded,
) -> None:
    whole = project.manifest(STUDENT)
    stop_before_publishing(project, STUDENT)
    for key in ("protocol", "loss"):
        upgrade(project, key, INTRODUCED)
    assert "going on from epoch 3, step 1" in project.verb("train", STUDENT)
    assert project.manifest(STUDENT)["files"]["model.safetensors"] == whole["files"]["model.safetensors"]
    assert not list((project.folder / "state").rglob("run-*"))
    stop_before_publishing(project, TEACHER)
    upgrade(project, "protocol", CHANGED, INTRODUCED)
    assert "going on" not in project.verb("train", TEACHER)


def stop_before_publishing(project: Upgraded, cell: str) -> None:
    """Train a cell to its end, and leave its state alone of it."""
    (project.folder / cell / files.MANIFEST).unlink()
    fault = project.folder / "faults" / cell.replace("/", "%")
    fault.parent.mkdir(exist_ok=True)
    fault.write_text("publish:0 kill")
    project.verb("train", cell, code=-9)
