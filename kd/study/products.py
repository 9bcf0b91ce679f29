"""Products: everything that kd publishes, each with its manifest, its lock and its stamp.

| kind     | what it is                          | where                                         | made by  |
|----------|-------------------------------------|-----------------------------------------------|----------|
| data     | a dataset                           | data/NAME/                                    | data     |
| labels   | its training labels made wrong      | data/NAME+NOISE/                              | labels   |
| network  | a trained network, or an ensemble   | results/CELL/                                 | train    |
| selection| what a teacher selects to learn from| selections/CELL/SELECTION/                    | select   |
| proposal | the settings of a round            | search/NAME/round-2.json                      | propose  |
| trial    | the score of one of them            | search/NAME/round-2.3.json                    | trial    |
| bank     | a teacher's logits, pre-logits      | banks/CELL/                                   | bank     |
| release  | the absence of that bank            |                                               | release  |
| answers  | what a network answers              | answers/CELL/                                 | answers  |
| analysis | what is measured of answers         | reports/STUDY/analyses/EXPERIMENT.ANALYSIS.*  | measure  |
| table    | the tidy table and the curves       | reports/STUDY/table.*, curves.*               | collect  |
| figure   | a figure and its caption            | reports/STUDY/figures/EXPERIMENT.FIGURE.*     | figure   |
| tables   | means and comparisons               | reports/STUDY/means.csv, comparisons.csv      | tables   |
| verdict  | claims judged                       | reports/STUDY/verdict.*, figures/verdict.*    | verdict  |
| page     | the page                            | reports/STUDY/report.html                     | report   |

What comes before analyses is a folder with a manifest.json; what lies in reports/STUDY or search/NAME has its manifests
together in the folder manifests/ there.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kd.core.files import MANIFEST
from kd.study.cells import ANSWERS, BANKS, DATA, REPORTS, RESULTS, SEARCH, SELECTIONS, STATE, Cell, spell_selection
from kd.study.values import Selected

RELEASED = "released"  # names the absence of a bank, among stamps alone
MANIFESTS = "manifests"

RULES = {  # the rule, and verb, that makes each kind
    "data": "data",
    "labels": "labels",
    "network": "train",
    "selection": "select",
    "proposal": "propose",
    "trial": "trial",
    "bank": "bank",
    "release": "release",
    "answers": "answers",
    "analysis": "measure",
    "table": "collect",
    "figure": "figure",
    "tables": "tables",
    "verdict": "verdict",
    "page": "report",
}
KINDS = tuple(RULES)  # in the order in which they are made
# What may be deleted at any time: it is made again when something that is made from it must be.
SPARED = frozenset({"data", "labels", "selection", "bank", "answers"})
# Small, and read by people: every byte is checked, not the size alone.
READ_BY_PEOPLE = frozenset({"proposal", "trial", "analysis", "table", "figure", "tables", "verdict", "page"})

_FILES = {
    "table": ("table.*", "curves.*"),
    "tables": ("means.*", "comparisons.*"),
    # each by its name: figures/verdict.dots.png is a figure of an experiment that is called verdict
    "verdict": ("verdict.*", *(f"figures/verdict.{kind}" for kind in ("pdf", "png", "svg", "txt"))),
    "page": ("report.html",),
}


class Product(NamedTuple):
    """Something that is published: its kind, and its path without what tells its files apart."""

    kind: str
    name: str

    @property
    def folder(self) -> Path:
        """Folder that its files are named in."""
        if self.kind in READ_BY_PEOPLE:
            return Path(*Path(self.name).parts[:2])
        return Path(self.name)

    @property
    def files(self) -> tuple[str, ...]:
        """Patterns of its files in its folder."""
        if self.kind in ("proposal", "trial"):
            return (f"{Path(self.name).name}.json",)  # round-2.* are the trials of round-2
        return _FILES.get(self.kind) or (f"{Path(self.name).relative_to(self.folder)}.*",)

    @property
    def manifest(self) -> Path:
        """Path of its manifest."""
        if self.kind in READ_BY_PEOPLE:
            return self.folder / MANIFESTS / f"{Path(self.name).relative_to(self.folder)}.json"
        return self.folder / MANIFEST

    @property
    def lock(self) -> Path:
        """File that whoever makes it holds locked."""
        top, _, rest = self.name.partition("/")
        match self.kind:
            case "network":
                return Path(STATE, rest, "lock")
            case "bank" | "release":
                return Path(STATE, rest, "bank.lock")
            case "answers":
                return Path(STATE, rest, "answers.lock")
            case "selection":
                return Path(STATE, f"{rest}.lock")
        return Path(STATE, top, f"{rest}.lock")

    def stamp(self, folder: str) -> str:
        """Path of its stamp in the folder of a question."""
        return f"{folder}/{self.name}.stamp"

    @property
    def slot(self) -> tuple[str, int, int]:
        """The search, round and number in it, from 1 each, of a trial; 0 is the proposal of the round."""
        _, search, last = self.name.split("/")
        number, _, trial = last.removeprefix("round-").partition(".")
        return search, int(number), int(trial or 0)

    @property
    def cell(self) -> str:
        """Path of the network that it is, or is of."""
        below = self.name.partition("/")[2]
        return f"{RESULTS}/{below.rpartition('/')[0] if self.kind == 'selection' else below}"

    def __str__(self) -> str:
        return self.name


def data(name: str) -> Product:
    """A dataset."""
    return Product("data", f"{DATA}/{name}")


def labels(labelled: str) -> Product:
    """The noisy labels of a dataset, by their name, such as cifar100+sym0.4."""
    return Product("labels", f"{DATA}/{labelled}")


def network(cell: Cell) -> Product:
    """A trained network, or an ensemble of some."""
    return Product("network", cell.path)


def bank(teacher: Cell) -> Product:
    """The stored outputs of a teacher."""
    return Product("bank", f"{BANKS}/{teacher.name}")


def selection(teacher: Cell, by: Selected) -> Product:
    """What a teacher selects for those who learn from it."""
    return Product("selection", f"{SELECTIONS}/{teacher.name}/{spell_selection(by)}")


def proposal(search: str, number: int) -> Product:
    """The settings that a round of a search tries; the first round is 1."""
    return Product("proposal", f"{SEARCH}/{search}/round-{number}")


def trial(search: str, number: int, slot: int) -> Product:
    """The score of one setting of a round; the first is 1."""
    return Product("trial", f"{SEARCH}/{search}/round-{number}.{slot}")


def release(teacher: Cell) -> Product:
    """The absence of a bank whose students are all trained."""
    return Product("release", f"{RELEASED}/{teacher.name}")


def answers(cell: Cell) -> Product:
    """What a network answers."""
    return Product("answers", f"{ANSWERS}/{cell.name}")


def analysis(study: str, experiment: str, name: str) -> Product:
    """What is measured of the answers of an experiment."""
    return Product("analysis", f"{REPORTS}/{study}/analyses/{experiment}.{name}")


def figure(study: str, experiment: str, name: str) -> Product:
    """A figure of an experiment."""
    return Product("figure", f"{REPORTS}/{study}/figures/{experiment}.{name}")


def table(study: str) -> Product:
    """The table of a study, with its curves."""
    return Product("table", f"{REPORTS}/{study}/table")


def tables(study: str) -> Product:
    """Means and comparisons."""
    return Product("tables", f"{REPORTS}/{study}/tables")


def verdict(study: str) -> Product:
    """The claims judged by a study."""
    return Product("verdict", f"{REPORTS}/{study}/verdict")


def page(study: str) -> Product:
    """The page of a study."""
    return Product("page", f"{REPORTS}/{study}/page")


# -- from a published file to its product -----------------------------------------------------------------------------

_KINDS = ("csv", "md", "parquet", "pdf", "png", "svg", "tex", "txt")
_ENDING = rf"\.(?:{'|'.join(_KINDS)})"
_IN_REPORTS = (
    (rf"(?:table|curves){_ENDING}", "table"),
    (rf"(?:means|comparisons){_ENDING}", "tables"),
    (rf"(?:figures/)?verdict{_ENDING}", "verdict"),
    (r"report\.html", "page"),
    (rf"((?:figures|analyses)/\w+\.\w+){_ENDING}", r"\1"),
    (rf"{MANIFESTS}/(.+)\.json", r"\1"),
)


@cache
def owner(path: str) -> str | None:
    """Return the name of the product that a published file or folder belongs to; None for any other path.

    The name is read from the path alone: whether a study has such a product is not asked.
    """
    path = path.rstrip("/")
    top, _, rest = path.partition("/")
    parts = rest.split("/")
    if top == REPORTS and len(parts) > 1:
        inside = "/".join(parts[1:])
        for pattern, name in _IN_REPORTS:
            if match := re.fullmatch(pattern, inside):
                return f"{REPORTS}/{parts[0]}/{match.expand(name)}"
        return None
    if top == SEARCH and (found := re.fullmatch(rf"(\w+/)(?:{MANIFESTS}/)?(round-\d+(?:\.\d+)?)(?:\.json)?", rest)):
        return f"{SEARCH}/{found[1]}{found[2]}"
    if top == DATA and rest:
        return f"{DATA}/{parts[0]}"
    if top == SELECTIONS and len(parts) > 3:
        return "/".join([top, *(parts if re.fullmatch(r"[a-z]+[0-9.]*", parts[-1]) else parts[:-1])])
    if top in (RESULTS, BANKS, ANSWERS) and len(parts) > 2:
        if not re.search(r"\.s\d[\d+]*(?:-\w[\w.]*)*$", parts[-1]):  # a file of the cell
            parts = parts[:-1]
        return "/".join([top, *parts]) if len(parts) > 2 else None
    return None
