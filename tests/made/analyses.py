"""Invented answers for the networks of an invented table, and their analyses, to test the figures that show them.

No network gave these answers; they are measured as real ones are.
"""

from __future__ import annotations

import pandas as pd
import torch

from kd.measure import analyses
from kd.measure.analyses import Subject
from kd.measure.answers import Answers, Split
from kd.measure.frames import with_hyperparameters
from kd.report.statistics import settings
from kd.study.cells import Cell
from kd.study.paths import parse_cell
from made.table import renamed

CLASSES, WIDTH, EXAMPLES = 10, 16, 150


def on_digits(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a made table as if it were of digits, because digits have as many classes as made answers."""
    return renamed(rows, "cifar100", "digits")


def of_ensembles(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows as if two seeds of each teacher taught together."""
    return renamed(rows, ".ce.s0/", ".ce.s0+1/")


def analysis(name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return an analysis of the networks in `rows` that did not diverge, and of their teachers."""
    ok = rows[rows["status"] == "ok"]
    pairs: dict[tuple[Cell, Cell | None], None] = {}
    for _, group in settings(ok) if len(ok) else ():
        taught = {cell.teacher: None for cell in map(parse_cell, group["cell"]) if cell.teacher}
        for cell in map(parse_cell, group["cell"]):
            others = [cell.teacher] if cell.teacher else [other for other in taught if other != cell]
            pairs |= dict.fromkeys([(cell, other) for other in others] or [(cell, None)])
        pairs |= {(teacher, None): None for teacher in taught}
    subjects = [Subject(cell, answers(cell), about(cell), other, other and answers(other)) for cell, other in pairs]
    frame = analyses.ANALYSES[name](subjects).assign(experiment=rows["experiment"].iloc[0])
    return with_hyperparameters(frame, [cell for pair in pairs for cell in pair if cell])


def answers(cell: Cell) -> Answers:
    """Invent the answers of a network; they depend only on its path."""
    generator = torch.Generator().manual_seed(sum(cell.path.encode()) + len(cell.path))
    near = torch.Generator().manual_seed(0)  # all networks share this part
    weight = torch.randn(CLASSES, WIDTH, generator=near) + 0.3 * torch.randn(CLASSES, WIDTH, generator=generator)
    bias = 0.1 * torch.randn(CLASSES, generator=generator)
    splits = [_split(weight, bias, loose, generator) for loose in (2.0, 1.4)]
    ensemble = {"weight": None, "bias": None} if cell.is_ensemble else {"weight": weight, "bias": bias}
    if cell.is_ensemble:
        splits = [Split(s.index, s.labels, s.clean, s.logits, None) for s in splits]
    return Answers(*splits, **ensemble)


def about(cell: Cell) -> dict:
    """Return what the manifest of a network's answers says of its data and the machine."""
    noise = cell.dataset.noise
    return {
        "realised_rate": float(noise.amount) if noise else 0.0,
        "class_names": list("0123456789"),
        "device": "one GPU",
        "threads": 4,
    }


def _split(weight: torch.Tensor, bias: torch.Tensor, loose: float, generator: torch.Generator) -> Split:
    labels = torch.arange(EXAMPLES) % CLASSES
    prelogits = (weight[labels] + loose * torch.randn(EXAMPLES, WIDTH, generator=generator)).relu().half()
    logits = prelogits.float() @ weight.T + bias
    return Split(torch.arange(EXAMPLES), labels, labels, logits, prelogits)
