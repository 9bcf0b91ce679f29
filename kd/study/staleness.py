"""The code behind each product: a digest of the modules that decide its numbers."""

from __future__ import annotations

from collections.abc import Mapping

from kd import data, losses, models
from kd.core.code import code_digest
from kd.report import figures
from kd.study.cells import Cell
from kd.study.config import Protocol
from kd.study.values import Noise, Selected


def code_behind(cell: Cell, protocol: Protocol) -> str:
    """Return the digest of the code that decides the numbers of `cell`, apart from its data and its teacher."""
    modules = list(map(models.module_of, cell.stage.networks))
    if cell.is_ensemble or cell.stage.weights:
        modules.append("kd.train.weights")
    else:
        opened = data.module_of(data.CROPS[protocol.crop])
        modules += ["kd.train.fit", "kd.train.lesson", "kd.train.device"]
        modules += [opened, losses.module_of(cell.stage.objective.loss)]
        if not cell.epochs(protocol):
            modules.append("kd.train.untrained")
    if cell.teacher:
        modules.append("kd.train.teachers")
    return code_digest(*modules)


def code_behind_bank(teacher: Cell, protocol: Protocol) -> str:
    """Return the digest of the code that computes a bank of `teacher`."""
    chosen = ["kd.data.splits"] if teacher.dataset.fraction < 1 or protocol.heldout else []
    return code_digest("kd.train.teachers", "kd.train.arithmetic", models.module_of(teacher.stage.network), *chosen)


def code_behind_selection(teacher: Cell, by: Selected) -> str:
    """Return the digest of the code with which `teacher` selects."""
    return code_digest(data.SELECTIONS[by.name].module, "kd.train.selecting", models.module_of(teacher.stage.network))


def code_behind_relation(teacher: Cell) -> str:
    """Return the digest of the code that finds how `teacher` relates classes."""
    return code_digest("kd.train.relating", *map(models.module_of, teacher.stage.networks))


def code_behind_answers(cell: Cell) -> str:
    """Return the digest of the code that decides what the network of `cell` answers."""
    return code_digest("kd.measure.answers", *map(models.module_of, cell.stage.networks))


def code_behind_scores(cell: Cell) -> str:
    """Return the digest of the code that decides how the network of `cell` scores on further test sets."""
    return code_digest("kd.measure.tested", *map(models.module_of, cell.stage.networks))


def code_behind_data(name: str, declared: Mapping | None) -> str:
    """Return the digest of the code that prepares the images of a dataset, built in or `declared` by a study."""
    return code_digest(data.source_of(name, declared).module)


def code_behind_labels(noise: Noise) -> str:
    """Return the digest of the code that makes this label noise."""
    return code_digest("kd.data.noise", data.NOISES[noise.kind].module)


def code_behind_figure(name: str) -> str:
    """Return the digest of the code that draws a figure."""
    return code_digest("kd.report.figures.style", figures.FIGURES[name].module)
