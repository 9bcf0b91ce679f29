"""The smallest study that needs every verb, for sweeps that damage each byte, or fail the disk in each call."""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

PROTOCOL = {"name": "quick", "epochs": 1, "batch": 64, "precision": "fp32", "compile": "never", "heldout": 0.1}
STUDY = {
    "study": "tiny",
    "dataset": "digits",
    "protocol": PROTOCOL,
    "tests": {"grey": "grey"},
    "seeds": [0],
    "keep_banks": False,
    "experiments": {
        "noisy": {
            "teacher": "resnet8",
            "student": "resnet8",
            "fraction": 0.1,
            "label_noise": {"symmetric": 0.4},
            "student_selection": {"small_loss": 0.97},
            "loss": ["wkd_l"],
            "figure": ["dots", "fidelity"],
        }
    },
    "searches": {
        "best": {"student": "resnet8", "space": {"loss": ["ce"], "weight_decay": [0.001]}, "rounds": 1, "batch": 1},
    },
}
ONLINE = {**STUDY, "study": "online", "protocol": {**PROTOCOL, "name": "online", "teacher": "online"}}


def _image(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), brightness).save(file, "PNG")
    return file.getvalue()


FILES = {"config.yaml": json.dumps(STUDY).encode(), "online.yaml": json.dumps(ONLINE).encode()}
FILES |= {f"grey/{digit}/0.png": _image(20 * digit) for digit in range(10)}
TEACHER = "results/digits+sym0.4+frac0.1/quick/resnet8.ce.s0"
STUDENT = f"{TEACHER}/resnet8.wkd_l.s0-smallloss0.97"
BY_ONLINE = ("--configfile", "online.yaml")
PUBLISHED = ("data", "results", "selections", "relations", "search", "banks", "answers", "scores", "reports")
_STAMPS = "state/stamps/q-0123456789abcdef"


@dataclass(frozen=True)
class Verb:
    """One call of kd."""

    name: str
    arguments: tuple[str, ...]
    reads_only: bool = False

    @property
    def draws(self) -> bool:
        """Whether it draws, or needs drawn figures, which takes seconds."""
        return self.arguments[0] in ("figure", "verdict", "report")


def _stamped(name: str, *arguments: str) -> Verb:
    return Verb(name, (*arguments, "--stamp", f"{_STAMPS}/{name.replace(' ', '-')}.stamp"))


def _online(path: str) -> str:
    return path.replace("/quick/", "/online/")


# Each verb stands after the verbs that make its inputs.
VERBS = (
    _stamped("data", "data", "digits"),
    _stamped("labels", "labels", "digits+sym0.4"),
    _stamped("testset", "testset", "digits@grey"),
    _stamped("train a teacher", "train", TEACHER),
    _stamped("select", "select", TEACHER, "smallloss0.97"),
    _stamped("relate", "relation", TEACHER, "maps-smallloss0.97"),
    _stamped("fill a bank", "bank", TEACHER, "--needs", "0:1"),
    _stamped("grow a bank", "bank", TEACHER, "--needs", "1:1", "1:1:prelogits"),
    _stamped("train a student", "train", STUDENT),
    _stamped("propose", "propose", "best", "1"),
    _stamped("trial", "trial", "best", "1", "1"),
    Verb("train the teacher of online", ("train", _online(TEACHER), *BY_ONLINE)),
    Verb("select for online", ("select", _online(TEACHER), "smallloss0.97", *BY_ONLINE)),
    Verb("relate for online", ("relation", _online(TEACHER), "maps-smallloss0.97", *BY_ONLINE)),
    Verb("train by a teacher online", ("train", _online(STUDENT), *BY_ONLINE)),
    _stamped("answers of the teacher", "answers", TEACHER),
    _stamped("answers of the student", "answers", STUDENT),
    _stamped("measure", "measure", "noisy", "measures"),
    _stamped("score the teacher", "score", TEACHER),
    _stamped("score the student", "score", STUDENT),
    _stamped("collect", "collect"),
    _stamped("dots", "figure", "reports/tiny/table.parquet", "noisy", "dots", "--configfile", "config.yaml"),
    _stamped("fidelity", "figure", "reports/tiny/table.parquet", "noisy", "fidelity", "--configfile", "config.yaml"),
    _stamped("tables", "tables", "reports/tiny/table.parquet", "--configfile", "config.yaml"),
    _stamped("verdict", "verdict", "reports/tiny/table.parquet", "--configfile", "config.yaml"),
    _stamped("report", "report"),
    Verb("plan", ("plan",), reads_only=True),
    Verb("status", ("status",), reads_only=True),
    Verb("verify", ("verify",), reads_only=True),
    Verb("winner", ("winner", "best"), reads_only=True),
    Verb("dots by hand", ("figure", "reports/tiny/table.parquet", "noisy", "dots")),
    Verb("fidelity by hand", ("figure", "reports/tiny/table.parquet", "noisy", "fidelity")),
    Verb("tables by hand", ("tables", "reports/tiny/table.parquet")),
    Verb("verdict by hand", ("verdict", "reports/tiny/table.parquet")),
    _stamped("release", "release", TEACHER),
    Verb("discard", ("verify", "--discard")),
    Verb("delete a cell", ("delete", STUDENT, "--yes")),
    Verb("delete a search", ("delete", "search/best", "--yes")),
    Verb("delete a study", ("delete", "reports/tiny", "--yes")),
)

Tree = dict[str, bytes]


def tree(folder: Path) -> Tree:
    """Return {path in `folder`: content} of all files below it."""
    found = {}
    for top, _, names in os.walk(folder):
        for name in names:
            path = Path(top, name)
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


class Folder:
    """A project's folder that can be put back into the state of a tree."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._written: dict[str, tuple[bytes, tuple]] = {}

    def put(self, content: Tree) -> None:
        """Make the folder hold exactly these files; files that are still as written are not written again."""
        found = set()
        for top, folders, names in os.walk(self.path, topdown=False):
            for name in names:
                path = os.path.join(top, name)
                inside = os.path.relpath(path, self.path)
                if inside in content and self._is_as_written(inside, path, content[inside]):
                    found.add(inside)
                else:
                    os.unlink(path)
            for name in folders:
                if os.path.islink(os.path.join(top, name)):
                    os.unlink(os.path.join(top, name))
        for inside, wanted in content.items():
            if inside not in found:
                self.write(inside, wanted)
        folders = {str(parent) for inside in content for parent in Path(inside).parents}
        for top, names, _ in os.walk(self.path, topdown=False):
            for name in names:
                path = os.path.join(top, name)
                if os.path.relpath(path, self.path) not in folders:
                    shutil.rmtree(path)

    def write(self, inside: str, content: bytes) -> None:
        """Write one file."""
        path = self.path / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._written[inside] = content, _signature(str(path))

    def _is_as_written(self, inside: str, path: str, wanted: bytes) -> bool:
        content, signature = self._written.get(inside, (None, ()))
        return content is wanted and signature == _signature(path)


def _signature(path: str) -> tuple:
    found = os.lstat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


_VARY = (
    "seconds",
    "memory",
    "manifest_sha256",
    "computed",
    "milliseconds",
    "published",
)  # these differ each time that a product is made
_TIMES = "timings.csv"


def published(content: Tree) -> dict[str, object]:
    """Return the part of a tree that is the same each time it is made: published files, and manifests without times."""
    found: dict[str, object] = {}
    for path, written in content.items():
        if path.split("/")[0] not in PUBLISHED or path.endswith(_TIMES):
            continue
        if path.endswith(".json"):
            manifest = json.loads(written)
            for key in _VARY:
                manifest.pop(key, None)
            for key in ("files", "sizes"):
                manifest.get(key, {}).pop(_TIMES, None)
            if manifest.get("kind") == "table":  # its inputs are digests of manifests, which have times
                manifest.pop("inputs")
            written = manifest
        found[path] = written
    return found
