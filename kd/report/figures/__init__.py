"""FIGURES: the table of contents. A figure is one file here, `kd/report/figures/NAME.py`, and one line below.

A file defines `draw(rows, curves) -> Figure` and `caption(rows, curves) -> str`; both get the rows of one experiment,
with a `look` for each (kd.report.figures.style). They take axes and names from the table's columns.
One that shows what networks answer gets an analysis (kd.measure.analyses) in the place of the curves.
Reading this list imports neither pandas nor matplotlib, so that a study can be checked in no time.
A study whose experiment cannot fill a figure (`needs`) is refused before anything is trained.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from kd.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd


# A notebook exports a backend that only its own Python has to all that it starts. Here, because whoever draws comes by
# before matplotlib is imported, which reads it then.
os.environ["MPLBACKEND"] = "agg"


class Need(NamedTuple):
    """What an experiment must have, in words, and what says of an experiment and its study whether they have it."""

    words: str
    met: Callable[[Any, Any], bool]  # of kd.study.config's Experiment and Study


@dataclass(frozen=True)
class Figure:
    """Describe a figure: `draw` and `caption` are functions of `module`, `analysis` what it gets in place of curves.

    An experiment that does not meet `needs` leaves it empty.
    """

    description: str
    module: str
    draw: str = "draw"
    caption: str = "caption"
    analysis: str = ""
    needs: Need | None = None


def _several(*axes: str) -> Callable[[Any, Any], bool]:
    """Return what says whether an experiment has losses that differ in the hyperparameters `axes` alone."""

    def met(experiment: Any, study: Any) -> bool:
        fixed = (
            (chosen.loss, *(pair for pair in chosen.resolved.items() if pair[0] not in axes))
            for chosen in experiment.loss
        )
        return max(Counter(fixed).values()) > 1

    return met


_TESTS = Need(
    "further test sets of its dataset: tests",
    lambda experiment, study: bool(study.tests) and experiment.dataset in (None, study.dataset),
)
_STUDENTS = Need(
    "students: a loss that learns from a teacher",
    lambda experiment, study: any(one.needs_teacher for one in experiment.loss),
)
_WRONG_LABELS = Need("wrong labels: label_noise above 0", lambda experiment, study: any(experiment.label_noise))
_SEVERAL_TAU = Need("a loss at several tau, as {kl: {tau: [1, 3]}}", _several("tau"))
_GRID = Need("a loss at several tau or alpha, as {kl: {tau: [1, 3], alpha: [0.5, 1]}}", _several("tau", "alpha"))
_GAPS = Need(
    "a loss that logs the gaps, as akl",
    lambda experiment, study: any("head_gap" in one.logs for one in experiment.loss),
)
_SELECTED = Need(
    "students with student_selection, under label noise",
    lambda experiment, study: any(experiment.student_selection) and any(experiment.label_noise),
)
_EVALUATED = Need(
    "accuracies of several epochs: protocol.evaluate below its epochs",
    lambda experiment, study: (
        study.protocol.evaluate != "last" and study.protocol.evaluate < max(2, study.protocol.epochs)
    ),
)


def _teaches_beside_ce(experiment: Any) -> bool:
    return any(one.loss == "ce" for one in experiment.loss) and any(one.needs_teacher for one in experiment.loss)


def _has_fractions(experiment: Any, study: Any) -> bool:
    found = experiment.student_fraction
    return _teaches_beside_ce(experiment) and 1 in found and len(found) > 1


def _has_own_ensembles(experiment: Any, study: Any) -> bool:
    together = any(len(seeds) > 1 for seeds in experiment.teacher_seeds or study.teacher_seeds)
    own = any(path[-2:-1] == path[-1:] for path in experiment.networks)
    return _teaches_beside_ce(experiment) and together and own


_BLOCKS = Need(
    "several pairs of networks or seeds, and three losses",
    lambda experiment, study: (
        len(experiment.loss) > 2 and (len(experiment.networks) > 1 or len(experiment.seeds or study.seeds) > 1)
    ),
)
_FRACTIONS = Need("ce and a loss that learns from a teacher, with student_fraction 1 and others", _has_fractions)
_OWN_ENSEMBLES = Need(
    "ce and a loss that learns from a teacher, of an ensemble of seeds of the student's own network",
    _has_own_ensembles,
)

FIGURES: dict[str, Figure] = {
    "heatmap": Figure(
        "alpha x tau grid of one student: the difference to CE, test beside train",
        "kd.report.figures.heatmap",
        needs=_GRID,
    ),
    "dots": Figure("objectives compared, one row each: seeds, mean, paired difference to CE", "kd.report.figures.dots"),
    "tests": Figure(
        "accuracy on each further test set, one row an objective, and the paired difference to CE",
        "kd.report.figures.tests",
        needs=_TESTS,
    ),
    "tau": Figure(
        "test top-1 against tau under label noise, and the difference to CE",
        "kd.report.figures.tau",
        needs=_SEVERAL_TAU,
    ),
    "chains": Figure(
        "sequential distillation: every path and mix of objectives, beside CE and the teacher",
        "kd.report.figures.chains",
        needs=_STUDENTS,
    ),
    "fractions": Figure(
        "students of a part of the data whose teacher saw all: test top-1, overfitting, what is recovered",
        "kd.report.figures.fractions",
        needs=_FRACTIONS,
    ),
    "kept": Figure(
        "students of an ensemble of their own network: how much of its gain they keep",
        "kd.report.figures.kept",
        needs=_OWN_ENSEMBLES,
    ),
    "ranks": Figure(
        "objectives over pairs of networks, or seeds: mean ranks with the critical difference, and differences",
        "kd.report.figures.ranks",
        needs=_BLOCKS,
    ),
    "curves": Figure(
        "learning curves by objective: test and train top-1 per epoch", "kd.report.figures.curves", needs=_EVALUATED
    ),
    "memorised": Figure(
        "label noise: wrong labels memorised and true ones recovered, per epoch",
        "kd.report.figures.memorised",
        needs=_WRONG_LABELS,
    ),
    "gaps": Figure(
        "adaptive KL: how far the student is from the head and the tail of its teacher's classes, per epoch",
        "kd.report.figures.gaps",
        needs=_GAPS,
    ),
    "cost": Figure(
        "test top-1 against the seconds of training, the teachers' included: one phase and two",
        "kd.report.figures.cost",
    ),
    "selection": Figure(
        "best epoch on the test set against the last: what selecting on the test set adds",
        "kd.report.figures.selection",
        needs=_EVALUATED,
    ),
    "detector": Figure(
        "selections under label noise: precision, recall and F1 of what is kept",
        "kd.report.figures.detector",
        needs=_SELECTED,
    ),
    "inference": Figure(
        "test top-1 against parameters, multiply-accumulates and the time of one image",
        "kd.report.figures.inference",
    ),
    "fidelity": Figure(
        "how near students are to their teacher: agreement, KL, CKA, mean logit",
        "kd.report.figures.fidelity",
        analysis="measures",
        needs=_STUDENTS,
    ),
    "calibration": Figure(
        "calibration error, NLL, entropy, and the gap between train and test",
        "kd.report.figures.calibration",
        analysis="measures",
        needs=_STUDENTS,
    ),
    "classes": Figure(
        "top-1 of each class and of the worst, and how often students answer otherwise than their teacher",
        "kd.report.figures.classes",
        analysis="classes",
        needs=_STUDENTS,
    ),
    "densities": Figure(
        "densities of the distance to the teacher's logits, pre-logit norm, true-class margin",
        "kd.report.figures.densities",
        analysis="densities",
        needs=_STUDENTS,
    ),
    "planes": Figure(
        "pre-logits of three classes on the plane of their templates",
        "kd.report.figures.planes",
        analysis="planes",
        needs=_STUDENTS,
    ),
    "limits": Figure(
        "the gradient of KL against its limits, label matching and logit matching, over tau",
        "kd.report.figures.limits",
        analysis="limits",
        needs=_STUDENTS,
    ),
}
ANALYSES: dict[str, str] = {name: figure.analysis for name, figure in FIGURES.items() if figure.analysis}


def draw(
    name: str, rows: pd.DataFrame, more: pd.DataFrame, width: str = "page"
) -> tuple[matplotlib.figure.Figure, str]:
    """Return the figure `name` of one experiment's `rows`, with its caption; `more` are the curves, or its analysis.

    Its `width` is that of a page, or of one column of a paper, with its panels one below another.
    Raises ConfigError for an unknown name, or rows that hold nothing for this figure to show.
    """
    if name not in FIGURES:
        raise ConfigError(f"figure: no figure '{name}'{nearest(name, FIGURES)}")
    if not len(rows):
        raise ConfigError(f"figure {name}: needs the rows of an experiment, got none; collect the table again")
    figure = FIGURES[name]
    module = importlib.import_module(figure.module)
    style = importlib.import_module("kd.report.figures.style")
    rows = rows.assign(look=style.looks(rows))
    with style.paper(width):
        drawn, caption = getattr(module, figure.draw)(rows, more), getattr(module, figure.caption)(rows, more)
        return drawn, caption + style.boxes(drawn)
