"""Products: everything that kd publishes, each with its manifest, its lock and its stamp.

| kind     | what it is                          | where                                         | made by  |
|----------|-------------------------------------|-----------------------------------------------|----------|
| data     | a dataset                           | data/NAME/                                    | data     |
| labels   | its training labels made wrong      | data/NAME+NOISE/                              | labels   |
| testset  | other images of its classes         | data/NAME@TEST/                               | testset  |
| network  | a trained network, or an ensemble   | results/CELL/                                 | train    |
| selection| what a teacher selects to learn from| selections/CELL/SELECTION/                    | select   |
| relation | how a teacher relates classes       | relations/CELL/RELATION/                      | relation |
| proposal | the settings of a round             | search/NAME/round-2.json                      | propose  |
| trial    | the score of one of them            | search/NAME/round-2.3.json                    | trial    |
| bank     | a teacher's logits, pre-logits      | banks/CELL/                                   | bank     |
| release  | the absence of that bank            |                                               | release  |
| answers  | what a network answers              | answers/CELL/                                 | answers  |
| scores   | its accuracy on further test sets   | scores/CELL/                                  | score    |
| analysis | what is measured of answers         | reports/STUDY/analyses/EXPERIMENT.ANALYSIS.*  | measure  |
| table    | the tidy table and the curves       | reports/STUDY/table.*, curves.*               | collect  |
| figure   | a figure and its caption            | reports/STUDY/figures/EXPERIMENT.FIGURE.*     | figure   |
| tables   | means, comparisons, originals       | reports/STUDY/means.csv, comparisons.csv, ... | tables   |
| verdict  | claims judged                       | reports/STUDY/verdict.*, figures/verdict.*    | verdict  |
| page     | the page                            | reports/STUDY/report.html                     | report   |

The kinds above `analysis` are folders with a manifest.json, but for proposals and trials. These and the others lie in
search/NAME and reports/STUDY, with their manifests in the folder manifests/ there.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kd.core.files import MANIFEST
from kd.study.cells import (
    ANSWERS,
    BANKS,
    DATA,
    RELATIONS,
    REPORTS,
    RESULTS,
    SCORES,
    SEARCH,
    SELECTIONS,
    STATE,
    Cell,
    spell_related,
    spell_selection,
)
from kd.study.values import Related, Selected

RELEASED = "released"  # the first part of a release's name, which only stamps use
MANIFESTS = "manifests"

RULES = {  # the rule, and verb, that makes each kind
    "data": "data",
    "labels": "labels",
    "testset": "testset",
    "network": "train",
    "selection": "select",
    "relation": "relation",
    "proposal": "propose",
    "trial": "trial",
    "bank": "bank",
    "release": "release",
    "answers": "answers",
    "scores": "score",
    "analysis": "measure",
    "table": "collect",
    "figure": "figure",
    "tables": "tables",
    "verdict": "verdict",
    "page": "report",
}
KINDS = tuple(RULES)  # in the order in which they are made
# May be deleted at any time: kd makes it again when something that reads it is to do.
SPARED = frozenset({"data", "labels", "testset", "selection", "relation", "bank", "answers", "scores"})
# Small, and read by people: the judge checks every byte, not only the sizes.
READ_BY_PEOPLE = frozenset({"proposal", "trial", "analysis", "table", "figure", "tables", "verdict", "page"})

_FILES = {
    "table": ("table.*", "curves.*"),
    "tables": ("means.*", "comparisons.*", "originals.*"),
    # no wildcard: figures/verdict.dots.png is the figure `dots` of an experiment named `verdict`
    "verdict": ("verdict.*", *(f"figures/verdict.{kind}" for kind in ("pdf", "png", "svg", "txt"))),
    "page": ("report.html",),
}


class Product(NamedTuple):
    """Something that kd publishes: its kind, and the common part of the paths of its files."""

    kind: str
    name: str

    @property
    def folder(self) -> Path:
        """Folder to which the names of its files are relative."""
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
        """Lock file that a process holds while it makes the product."""
        top, _, rest = self.name.partition("/")
        match self.kind:
            case "network":
                return Path(STATE, rest, "lock")
            case "bank" | "release":
                return Path(STATE, rest, "bank.lock")
            case "answers" | "scores":
                return Path(STATE, rest, f"{self.kind}.lock")
            case "selection" | "relation":
                return Path(STATE, f"{rest}.lock")
        return Path(STATE, top, f"{rest}.lock")

    def stamp(self, folder: str) -> str:
        """Path of its stamp in the folder of a question (kd.study.stamps)."""
        return f"{folder}/{self.name}.stamp"

    @property
    def slot(self) -> tuple[str, int, int]:
        """The search, round and number in it, from 1 each, of a trial; 0 is the proposal of the round."""
        _, search, last = self.name.split("/")
        number, _, trial = last.removeprefix("round-").partition(".")
        return search, int(number), int(trial or 0)

    @property
    def cell(self) -> str:
        """Path of the network that it is, or belongs to."""
        below = self.name.partition("/")[2]
        return f"{RESULTS}/{below.rpartition('/')[0] if self.kind in ('selection', 'relation') else below}"

    def __str__(self) -> str:
        return self.name


def data(name: str) -> Product:
    """A dataset."""
    return Product("data", f"{DATA}/{name}")


def labels(labelled: str) -> Product:
    """The noisy labels of a dataset, such as cifar100+sym0.4."""
    return Product("labels", f"{DATA}/{labelled}")


def testset(dataset: str, name: str) -> Product:
    """The images of a further test set of a dataset, such as cifar10@fog."""
    return Product("testset", f"{DATA}/{dataset}@{name}")


def network(cell: Cell) -> Product:
    """A trained network, or an ensemble."""
    return Product("network", cell.path)


def bank(teacher: Cell) -> Product:
    """The stored outputs of a teacher."""
    return Product("bank", f"{BANKS}/{teacher.name}")


def selection(teacher: Cell, by: Selected) -> Product:
    """The examples that a teacher selects for its students."""
    return Product("selection", f"{SELECTIONS}/{teacher.name}/{spell_selection(by)}")


def relation(teacher: Cell, by: Related) -> Product:
    """The relation between classes that students of a teacher read."""
    return Product("relation", f"{RELATIONS}/{teacher.name}/{spell_related(by)}")


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
    """The answers of a network."""
    return Product("answers", f"{ANSWERS}/{cell.name}")


def scores(cell: Cell) -> Product:
    """The accuracies of a network on further test sets."""
    return Product("scores", f"{SCORES}/{cell.name}")


def analysis(study: str, experiment: str, name: str) -> Product:
    """What is measured on the answers of an experiment."""
    return Product("analysis", f"{REPORTS}/{study}/analyses/{experiment}.{name}")


def figure(study: str, experiment: str, name: str) -> Product:
    """A figure of an experiment."""
    return Product("figure", f"{REPORTS}/{study}/figures/{experiment}.{name}")


def table(study: str) -> Product:
    """The table of a study, with its curves."""
    return Product("table", f"{REPORTS}/{study}/table")


def tables(study: str) -> Product:
    """The means and comparisons of a study, and what was published of its networks."""
    return Product("tables", f"{REPORTS}/{study}/tables")


def verdict(study: str) -> Product:
    """The claims, judged by the results of a study."""
    return Product("verdict", f"{REPORTS}/{study}/verdict")


def page(study: str) -> Product:
    """The page of a study."""
    return Product("page", f"{REPORTS}/{study}/page")


def registration(study: str, claims: str | None = None) -> Path:
    """Path of the preregistration of a study, and of a file of claims; it is no product: git keeps it."""
    return Path("preregistrations", ".".join(filter(None, [study, claims, "json"])))


# -- from a published file to its product -----------------------------------------------------------------------------

_KINDS = ("csv", "md", "parquet", "pdf", "png", "svg", "tex", "txt")
_ENDING = rf"\.(?:{'|'.join(_KINDS)})"
_IN_REPORTS = (
    (rf"(?:table|curves){_ENDING}", "table"),
    (rf"(?:means|comparisons|originals){_ENDING}", "tables"),
    (rf"(?:figures/)?verdict{_ENDING}", "verdict"),
    (r"report\.html", "page"),
    (rf"((?:figures|analyses)/\w+\.\w+?)(?:\.column)?{_ENDING}", r"\1"),
    (rf"{MANIFESTS}/(.+)\.json", r"\1"),
)


@cache
def owner(path: str) -> str | None:
    """Return the name of the product that a published file or folder belongs to; None for any other path.

    Only the path is read: the product need not exist in any study.
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
    if top in (SELECTIONS, RELATIONS) and len(parts) > 3:
        word = r"[a-z]+[0-9.]*"
        return "/".join([top, *(parts if re.fullmatch(f"{word}(-{word})*", parts[-1]) else parts[:-1])])
    if top in (RESULTS, BANKS, ANSWERS, SCORES) and len(parts) > 2:
        if not re.search(r"\.s\d[\d+]*(?:-\w[\w.]*)*$", parts[-1]):  # a file of the cell
            parts = parts[:-1]
        return "/".join([top, *parts]) if len(parts) > 2 else None
    return None
