"""Promise 8: an upgrade retrains nothing whose numbers it does not change. Copies of kd are upgraded here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
from conftest import unsigned
from made.project import Project, shared_folder
from made.study import images

from kd.core import files
from kd.jobs.adopt import difference
from kd.study.adopted import Adopted, described, kind_of
from kd.study.config import Protocol
from kd.study.paths import parse_cell

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
    """A project whose study is finished, two networks, once for all the processes that run these tests."""
    folder = shared_folder(tmp_path_factory) / "trained"
    with files.lock(folder.with_suffix(".lock")):
        if not folder.exists():
            project = Upgraded(folder)
            project.study(STUDY)
            images(folder / "images")
            project.verb("data", "mine")
            for cell in (TEACHER, STUDENT):
                project.verb("train", cell)
            table = "reports/small/table.parquet"
            for verb in (["collect"], ["tables", table], ["verdict", table], ["report"]):
                project.verb(*verb)
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
    "loss": ("kd/losses/__init__.py", "\n\ndef module_of", '\nLOSSES["kl"].parameters["warmth"] = {}\n'),
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


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_promise_8_a_new_key_makes_nothing_stale_and_a_changed_default_does(project: Upgraded, key: str) -> None:
    assert project.standing() == CURRENT
    upgrade(project, key, INTRODUCED)
    assert project.standing() == CURRENT
    upgrade(project, key, CHANGED, INTRODUCED)
    assert project.standing() == STALE[key]


@pytest.mark.slow
def test_promise_8_what_is_gone_counts_by_the_keys_of_its_recipe_too(project: Upgraded) -> None:
    shutil.rmtree(project.folder / "data")
    upgrade(project, "dataset", INTRODUCED)
    assert project.standing() == CURRENT
    upgrade(project, "dataset", CHANGED, INTRODUCED)
    assert project.standing() == dict.fromkeys(CURRENT, "stale its data: warmth 1.0 -> 2.0")


@pytest.mark.slow
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


@pytest.mark.slow
def test_promise_8_a_state_from_before_a_new_key_lasts_until_its_default_changes(
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


# -- code that is rewritten -------------------------------------------------------------------------------------------

ADOPTED = "results/adopted.json"
FIT = "kd/train/fit.py"
KINDS = {TEACHER: "resnet_cifar, ce, teacher none; fp32", STUDENT: "resnet_cifar, kl-tau, teacher bank; fp32"}
OTHER_CODE = "stale made by other code"


def renamed(project: Upgraded, old: str, new: str) -> None:
    """Rename a variable of the training loop: other code, the same numbers."""
    text = (project.folder / FIT).read_text()
    assert old in text
    (project.folder / FIT).write_text(text.replace(old, new))


@pytest.fixture
def rewritten(project: Upgraded) -> Upgraded:
    """A project whose networks other code has trained, to the same numbers."""
    renamed(project, "speed", "images_a_second")
    assert project.standing() == dict.fromkeys(CURRENT, OTHER_CODE)
    return project


@pytest.mark.slow
def test_promise_8_a_rewrite_that_gives_the_same_bits_is_proved_and_adopted(rewritten: Upgraded) -> None:
    before = rewritten.published()
    said = rewritten.kd("adopt")
    for cell, kind in KINDS.items():
        assert re.search(rf"\d/2  {kind}; .*: 1 network\n  the same to the bit: {cell}\n", said)
    assert f"{ADOPTED}: proved 2, taken without a proof 0" in said
    assert "nothing is to do" in rewritten.kd("plan", "study.yaml")
    assert rewritten.published() == before
    assert not list((rewritten.folder / "state").glob("*scratch*"))
    assert "nothing to adopt" in rewritten.kd("adopt")
    assert "0 damaged" in rewritten.kd("verify")


@pytest.mark.slow
def test_promise_8_what_is_proved_step_by_step_counts_from_first_to_last(rewritten: Upgraded) -> None:
    rewritten.kd("adopt")
    renamed(rewritten, "images_a_second", "swiftness")
    assert rewritten.standing() == dict.fromkeys(CURRENT, OTHER_CODE)
    rewritten.kd("adopt")
    assert rewritten.standing() == CURRENT
    renamed(rewritten, "swiftness", "speed")
    assert rewritten.standing() == CURRENT
    assert "is there already" not in rewritten.verb("train", STUDENT)


@pytest.fixture
def miswritten(project: Upgraded) -> Upgraded:
    """A project whose code is rewritten so that bits change from the second epoch on, in which lr is 0.01."""
    other = "_add(self, direction, -lr if lr > 0.05 else -lr * (1 + 1e-6))"
    project.edit(FIT, "torch._foreach_add_(self._parameters, direction, alpha=-lr)", other)
    with open(project.folder / FIT, "a") as file:
        file.write("\n\ndef _add(self, direction, alpha):\n")
        file.write("    torch._foreach_add_(self._parameters, direction, alpha=alpha)\n")
    return project


REFUSED = rf"kd: {TEACHER}: trained again by the code of now, it differs from epoch 2 on \(train_loss \S+ -> \S+\)"


@pytest.mark.slow
def test_promise_8_a_rewrite_that_changes_a_bit_is_refused_with_cell_and_epoch(miswritten: Upgraded) -> None:
    before = miswritten.published()
    assert re.search(REFUSED, miswritten.kd("adopt", "--unproved", code=1))
    assert not (miswritten.folder / ADOPTED).exists()
    assert not list((miswritten.folder / "state").glob("*scratch*"))
    assert miswritten.published() == before
    assert miswritten.standing() == dict.fromkeys(CURRENT, OTHER_CODE)


@pytest.mark.slow
def test_promise_8_what_counted_unproved_counts_no_more_once_it_differs(miswritten: Upgraded) -> None:
    torch = miswritten.manifest(TEACHER)["torch"]
    for cell in CURRENT:
        miswritten.resign(cell, torch="1.0")
    assert "proved 0, taken without a proof 2" in miswritten.kd("adopt", "--unproved")
    assert miswritten.standing() == CURRENT
    miswritten.resign(TEACHER, torch=torch)
    assert re.search(REFUSED, miswritten.kd("adopt", code=1))
    assert miswritten.standing()[TEACHER] == OTHER_CODE


@pytest.mark.slow
def test_promise_8_a_kind_without_proof_is_named_and_counts_by_an_option_alone(
    rewritten: Upgraded,
) -> None:
    torch = rewritten.manifest(STUDENT)["torch"]
    rewritten.resign(STUDENT, torch="1.0")
    said = rewritten.kd("adopt")
    assert f"stays unproved: {STUDENT}: it was trained with torch 1.0, here is {torch}" in said
    assert f"{ADOPTED}: proved 1, taken without a proof 0" in said
    assert rewritten.standing() == {TEACHER: "done", STUDENT: OTHER_CODE}
    assert "proved 0, taken without a proof 1" in rewritten.kd("adopt", "--unproved")
    assert rewritten.standing() == CURRENT
    assert unproved_in_table(rewritten) == {TEACHER: False, STUDENT: True}
    rewritten.resign(STUDENT, torch=torch)
    assert "proved 1, taken without a proof 0" in rewritten.kd("adopt")
    assert "1 table: other unproved" in rewritten.kd("plan", "study.yaml")
    assert unproved_in_table(rewritten) == {TEACHER: False, STUDENT: False}


def unproved_in_table(project: Upgraded) -> dict[str, bool]:
    project.verb("collect")
    table = pd.read_csv(project.folder / "reports/small/table.csv")
    return dict(zip(table["cell"], table["unproved"], strict=True))


@pytest.mark.slow
def test_a_kind_whose_data_are_gone_stays_unproved_a_damaged_record_stops_all(rewritten: Upgraded) -> None:
    (rewritten.folder / "data").rename(rewritten.folder / "elsewhere")
    said = rewritten.kd("adopt")
    for cell in CURRENT:
        assert f"stays unproved: {cell}: data/mine: not made yet" in said
    assert not (rewritten.folder / ADOPTED).exists()
    (rewritten.folder / "elsewhere").rename(rewritten.folder / "data")
    rewritten.kd("adopt")
    content = (rewritten.folder / ADOPTED).read_text()
    (rewritten.folder / ADOPTED).write_text(content.replace('"equal"', '"Equal"', 1))
    for verb in (["plan", "study.yaml"], ["train", STUDENT, "--configfile", "study.yaml"], ["verify"]):
        assert f"kd: {ADOPTED}: not a manifest of this version of kd, or damaged" in rewritten.kd(*verb, code=74)


@pytest.mark.slow
def test_a_bit_of_a_weight_is_a_difference_and_a_gpu_has_a_tolerance(trained: Path, tmp_path: Path) -> None:
    published, again = trained / STUDENT, tmp_path / "again"
    shutil.copytree(published, again)
    assert difference(published, again, exact=True) is None
    weights = bytearray((again / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (again / "model.safetensors").write_bytes(weights)
    assert difference(published, again, exact=True) == "in the weights after epoch 2, and in no metric"
    assert difference(published, again, exact=False) is None
    rows = pd.read_csv(published / "metrics.csv")
    for column, by, near in (("test_loss", 1.09, True), ("test_loss", 1.11, False), ("lr", 1.0001, False)):
        other = rows.assign(**{column: rows[column] * [1, by]})
        other.to_csv(again / "metrics.csv", index=False)
        assert difference(published, again, exact=True).startswith(f"from epoch 2 on ({column} ")
        assert (difference(published, again, exact=False) is None) == near
    rows[:1].to_csv(again / "metrics.csv", index=False)
    assert difference(published, again, exact=False).startswith("from epoch 2 on (epoch 2 -> None")


# -- kinds and pairs --------------------------------------------------------------------------------------------------

PROTOCOL = Protocol(name="quick").model_dump(mode="json")
MADE = {"precision": "fp32", "compiled": False, "device": "here"}
PATH = "results/digits/quick/wrn-10-1.ce.s0/resnet8.kl-tau3.s0"


def kind(path: str = PATH, protocol: Mapping = {}, **made: object) -> str:
    return described(kind_of(parse_cell(path), {**MADE, **made, "recipe": {"protocol": {**PROTOCOL, **protocol}}}))


def test_numbers_make_no_kind_and_what_runs_other_lines_or_another_arithmetic_does() -> None:
    assert kind() == "resnet_cifar, kl-tau, teacher bank; fp32; here"
    alike = [kind(PATH.replace("tau3", "tau1")), kind(PATH.replace("resnet8", "resnet14")), kind(protocol={"lr": 0.5})]
    assert set(alike) == {kind()}
    others = [
        *(kind(PATH.replace("tau3", word)) for word in ("tauinf", "tau3-alpha0.5", "tau3-scaletau")),
        kind(PATH.replace("kl-tau3", "mse")),
        kind(PATH.replace("resnet8", "wrn-10-1")),
        kind(PATH.replace("ce.s0", "ce.s0+1")),
        kind(PATH.replace("ce.s0", "ce.s0+1-meanprob")),
        kind(f"{PATH}-frac0.1"),
        kind(f"{PATH}-optimizeradamw"),
        *(kind(protocol={key: 0.1}) for key in ("warmup", "ema", "swa", "mixup", "cutmix")),
        kind(protocol={"randaugment": 0}),
        *(kind(PATH.replace("digits", f"digits+{word}")) for word in ("sym0.4", "frac0.1")),
        *(
            kind(protocol={key: value})
            for key, value in (("teacher", "online"), ("heldout", 0.1), ("schedule", "cosine"))
        ),
        *(kind(**{key: value}) for key, value in (("precision", "bf16"), ("compiled", True), ("processes", 2))),
        kind(device="there"),
    ]
    assert len({kind(), *others}) == 1 + len(others)


def test_a_new_key_of_a_protocol_makes_no_other_kind_of_what_was_made_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "since", lambda: {**Protocol.model_construct().model_dump(), "warmth": "none"})
    assert kind(protocol={"warmth": "none"}) == kind()
    assert kind(protocol={"warmth": "some"}) == kind().replace("; here", "; warmth some; here")


def test_the_weakest_link_says_what_a_chain_of_pairs_rests_on() -> None:
    cell, made = parse_cell(PATH), {**MADE, "recipe": {"protocol": PROTOCOL}}
    own, other = kind_of(cell, made), kind_of(cell, {**made, "device": "there"})
    pairs = [("a", "b", own, "equal"), ("b", "c", own, "close"), ("c", "d", own, "none"), ("a", "e", other, "equal")]
    pairs += [("a", "f", None, "none"), ("d", "g", own, "equal")]
    adopted = Adopted({"old": old, "new": new, "kind": of, "proof": proof} for old, new, of, proof in pairs)

    def proof(old: str, new: str) -> str | None:
        return adopted.proof(cell, {**made, "code": old}, new)

    assert [proof("a", code) for code in "abcdefg"] == ["equal", "equal", "close", "none", None, "none", "none"]
    assert [proof(code, "a") for code in "abcdefg"] == ["equal", "equal", "close", "none", None, "none", "none"]
    assert adopted.proof(None, {"code": "a"}, "b") is None  # of no network
    assert adopted.proof(None, {"code": "a"}, "f") == "none"
    assert proof("z", "a") is None
