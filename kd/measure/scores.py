"""The accuracies of a network on further test sets, as scores/<cell>/ holds them: one CSV, a line for each test set.

The study says which test sets it must have. What other studies asked of it stays as long as the network and its data
are the same. Reading it imports no torch.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from kd.core.files import content_of, verified
from kd.study.cells import SCORES, Cell

FILE = "scores.csv"
_COLUMNS = ["test", "n", "top1"]


class Score(NamedTuple):
    """The accuracy of a network on a test set: number of images, and the share of right answers in %."""

    n: int
    top1: float


def column_of(test: str) -> str:
    """Return the column of the table with the accuracy on a test set."""
    return f"tests_{test}_top1"


def tests_in(columns: Iterable[str]) -> dict[str, str]:
    """Return {test set: column} of the further test sets of a table."""
    found = map(re.compile(column_of("(.+)")).fullmatch, columns)
    return {match[1]: match[0] for match in found if match}


def spelled(scores: Mapping[str, Score]) -> bytes:
    """Return the scores on test sets, by name, as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *((name, *scores[name]) for name in sorted(scores))])
    return text.getvalue().encode()


def read(cell: Cell) -> dict[str, Score]:
    """Return the published scores of a cell, by test set; none if it diverged. Raises StorageError when damaged."""
    folder = Path(SCORES, cell.name)
    verified(folder)
    lines = csv.DictReader(io.StringIO(content_of(folder / FILE).decode()))
    return {line["test"]: Score(int(line["n"]), float(line["top1"])) for line in lines}
