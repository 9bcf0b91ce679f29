"""From a study to its cells: the product of each experiment's axes, which cell teaches which, and their recipes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from kd import data
from kd.core.errors import ConfigError
from kd.report import figures
from kd.study.cells import MEAN_LOGIT, TEACHERS, Cell, DatasetChoice, Stage, canonical, stage
from kd.study.config import Experiment, Protocol, Study, Weights, with_own
from kd.study.search import LOSS
from kd.study.values import WEIGHTS, Own, imported


def cells_of(study: Study, name: str) -> list[Cell]:
    """Return the cells that experiment `name` compares, each once, in the order of its axes."""
    experiment = study.experiments[name]
    return list(dict.fromkeys(_expand(study, experiment)))


def _expand(study: Study, experiment: Experiment) -> Iterator[Cell]:
    for dataset, networks in itertools.product(_datasets(study, experiment), experiment.networks):
        for stages in _lineages(study, experiment, networks):
            yield canonical(dataset, study.protocol.name, stages)


def _datasets(study: Study, experiment: Experiment) -> Iterator[DatasetChoice]:
    name = experiment.dataset or study.dataset
    for noise, fraction in itertools.product(experiment.label_noise, experiment.fraction):
        yield DatasetChoice(name, noise, study.noise_seed if noise else 0, fraction)


def _lineages(study: Study, experiment: Experiment, networks: tuple[str, ...]) -> Iterator[tuple[Stage, ...]]:
    firsts = (imported(experiment.teacher_weights),) if experiment.teacher_weights else experiment.teacher_loss
    stops = experiment.teacher_epochs or (None,)
    # The first network of a path learns from labels, or is imported. Each later one takes each loss of the experiment.
    taught = itertools.product(experiment.loss, repeat=len(networks) - 1) if len(networks) > 1 else [()]
    mixes = itertools.product(firsts, taught) if len(networks) > 1 else [(o, ()) for o in experiment.loss]
    teacher_seeds = experiment.teacher_seeds or study.teacher_seeds
    combinations = experiment.ensemble or (MEAN_LOGIT,)
    fractions, seeds = experiment.student_fraction, experiment.seeds or study.seeds
    trainings = [_beside(own, study.protocol) for own in experiment.student_training]
    for (first, mix), early, from_seeds, ensemble, part, own, by, seed in itertools.product(
        mixes, stops, teacher_seeds, combinations, fractions, trainings, experiment.student_selection, seeds
    ):
        *teach, last = zip(networks, (first, *mix), strict=True)
        stages = []
        for n, (network, chosen) in enumerate(teach):
            stop, share, its_own, its_by = (None, part, own, by) if n else (early, 1.0, (), None)
            # Matched seeds are (): student s learns from teacher s.
            given = stop, ensemble, share, its_own, its_by
            stages.append(stage(network.split("+"), chosen, from_seeds or (seed,), *given))
        yield (*stages, Stage(*last, seed, fraction=part, own=own, selection=by if teach else None))


def _beside(own: Own, protocol: Protocol) -> Own:
    """Drop own values that equal the protocol's, or that a cosine schedule ignores, so that one recipe has one path."""
    idle = ("milestones", "gamma") if with_own(protocol, own).schedule == "cosine" else ()
    return tuple((key, value) for key, value in own if value != getattr(protocol, key) and key not in idle)


def with_teachers(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells and all their teachers, each once, teachers first."""
    return list(dict.fromkeys(ancestor for cell in cells for ancestor in cell.lineage))


def all_cells(study: Study) -> list[Cell]:
    """Return every cell of a study, each once, teachers before their students; of searches only the teachers."""
    compared = itertools.chain.from_iterable(cells_of(study, name) for name in study.experiments)
    return with_teachers([*compared, *filter(None, (searching(study, name) for name in study.searches))])


def tried(study: Study, name: str, setting: Mapping) -> Cell:
    """Return the cell that is the trial of a setting in search `name`."""
    return next(_expand(study, study.searches[name].experiment(setting, study.teacher_seeds[0])))


def first_trial(study: Study, name: str) -> Cell:
    """Return the cell of the setting that the space of search `name` begins with: one that its trials are like."""
    space = study.searches[name].axes
    return tried(study, name, space.active(space.corner(0)))


def searching(study: Study, name: str) -> Cell | None:
    """Return the cell that teaches in search `name`; None where no loss of its space needs a teacher."""
    space = study.searches[name].axes
    found = (tried(study, name, space.active(space.corner(0) | {LOSS: loss})) for loss in space.axes[LOSS].values)
    return next(filter(None, (cell.teacher for cell in found)), None)


def data_recipe(study: Study, dataset: DatasetChoice) -> dict:
    """Return what decides the images and labels of a dataset, beside its name."""
    name = dataset.noise.amount if dataset.noise and dataset.noise.kind == "labels" else None
    if name not in {None, *study.label_files}:
        raise ConfigError(f"{dataset}: {name!r} is not under label_files; name the study that has it with --configfile")
    return {"dataset": _declared(study, dataset.name), "label_file": name and study.label_files[name]}


def _declared(study: Study, name: str) -> dict | None:
    return study.datasets[name].model_dump() if name in study.datasets else None


def augmentation(source: data.Source, protocol: Protocol) -> tuple[int, bool]:
    """Return (pixels of padding for random crops, whether images are flipped) for images of `source`."""
    return (
        source.pad if protocol.pad is None else protocol.pad,
        source.mirrorable if protocol.flip is None else protocol.flip,
    )


def recipe(study: Study, cell: Cell) -> dict:
    """Return what decides the numbers of a cell and its lineage, beside its path.

    That is the protocol's values, the dataset, and imported weights, which only the first stage can have.
    """
    for one in cell.stages:
        if one.own != _beside(one.own, study.protocol):
            raise ConfigError(f"{cell}: {one} has a value of its own that is the protocol's already, or idle")
    return data_recipe(study, cell.dataset) | training_recipe(study, cell.stages[0].weights)


def training_recipe(study: Study, weights: str | None) -> dict:
    """Return the protocol's values and, if a lineage begins with imported weights, what the study says of them."""
    imports = {"weights": _weights(study, weights).model_dump()} if weights else {}
    return {"protocol": study.protocol.model_dump(mode="json"), **imports}


def _weights(study: Study, name: str) -> Weights:
    if name not in study.weights:
        raise ConfigError(
            f"{WEIGHTS}-{name}: {name!r} is not under weights; name the study that has it with --configfile"
        )
    return study.weights[name]


def taught_by(cells: Iterable[Cell]) -> Mapping[Cell, list[Cell]]:
    """Map each teacher to its students. Students of an ensemble count as students of each member, too."""
    students: dict[Cell, list[Cell]] = {}
    for cell in cells:
        if cell.teacher:
            for teacher in dict.fromkeys((cell.teacher, *cell.teacher.members)):
                students.setdefault(teacher, []).append(cell)
    return students


def memberships(study: Study, teachers: Iterable[Cell]) -> list[tuple[str, Cell]]:
    """Return (experiment, cell) for every row of the table; the teachers form an experiment of their own."""
    pairs = [(name, cell) for name in study.experiments for cell in cells_of(study, name)]
    return pairs + [(TEACHERS, cell) for cell in teachers]


# -- analyses ---------------------------------------------------------------------------------------------------------


def measured(study: Study, name: str) -> list[tuple[Cell, Cell | None]]:
    """Return (cell, other) for the cells that experiment `name` compares and their teachers: measure one by the other.

    The other is the cell's teacher. For a cell without a teacher it is each teacher in the experiment that teaches the
    same network on the same data, but not the cell itself; if there is none, it is None.
    """
    cells = cells_of(study, name)
    taught = [cell for cell in cells if cell.teacher]
    teachers: dict[tuple, dict[Cell, None]] = {}
    for cell in taught:
        teachers.setdefault(_seen_alike(cell), {})[cell.teacher] = None
    pairs = []
    for cell in cells:
        against = [cell.teacher] if cell.teacher else teachers.get(_seen_alike(cell), ())
        pairs += [(cell, other) for other in against if other != cell] or [(cell, None)]
    return list(dict.fromkeys([*pairs, *((cell.teacher, None) for cell in taught)]))


def _seen_alike(cell: Cell) -> tuple:
    return cell.dataset.labelled, cell.fraction, cell.protocol, cell.stage.title


def analysed(study: Study) -> list[Cell]:
    """Return the cells whose answers the figures of `study` need, each once."""
    names = dict.fromkeys(name for name, figure in study.drawn if figure in figures.ANALYSES)
    found = (cell for name in names for pair in measured(study, name) for cell in pair if cell)
    return list(dict.fromkeys(found))
