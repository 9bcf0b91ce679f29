"""Stages, cells and their paths: the only place that spells a path or reads one.

A directory is a trained network; the directories inside it are the networks that it taught::

    results/cifar100+sym0.4/paper/wrn-28-4.ce.s0/wrn-16-2.kl-tau3.s1
            dataset         protocol teacher     student: network . objective . seed

Numbers have one canonical spelling, so 0.10 and 0.1 are one cell, and a loss that needs no teacher starts a
lineage anew, so that one recipe has one path and one path one recipe. A network whose weights come from a file is
`wrn-28-4.weights-NAME.s0`.

Several networks can teach as one: `wrn-28-4.ce.s0+1+2` is an ensemble of three seeds, `wrn-16-4+wrn-28-4.ce.s0` of two
networks, and `-meanprob` or `-sumlogit` at the end says what it answers where that is not the mean of the logits.
`-frac0.1` ends a stage that learns from a tenth of what its first teacher saw; where all do, it stands in the dataset.

What of the protocol is a stage's own stands behind its seed: `wrn-16-2.mse.s0-lr0.02-total40` has its own learning
rate and is trained for 40 epochs in all, by a schedule of that length. `-epochs10` is another thing: training stops
after ten epochs of a schedule that is made for all.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path

from kd import data, losses, models
from kd.core.code import code_digest
from kd.core.errors import ConfigError, nearest
from kd.losses.spec import STORED
from kd.report import figures
from kd.study.config import Experiment, OwnTraining, Protocol, Study, Weights, own_training, with_own
from kd.study.needs import Need
from kd.study.values import NAME, WEIGHTS, LossChoice, Noise, Own, imported, loss_choice

RESULTS, STATE, BANKS, ANSWERS, DATA, REPORTS, LOGS = "results", "state", "banks", "answers", "data", "reports", "logs"
TEACHERS = "teachers"  # the experiment of the networks that teach, so that they are in the table too


def _word(name: str) -> str:
    """Return a name as paths spell it."""
    return name.replace("_", "")


COMBINATIONS = {_word(name): name for name in losses.ENSEMBLES}
MEAN_LOGIT = next(iter(losses.ENSEMBLES))
OWN = {_word(key): key for key in OwnTraining.model_fields}
OWN["total"] = OWN.pop("epochs")  # -epochs10 is a stop after ten of them
_OWN_WORDS = {key: word for word, key in OWN.items()}

_STAGE = re.compile(
    r"(?P<networks>[a-z0-9+-]+)\.(?P<objective>.+)\.s(?P<seeds>[0-9]{1,9}(?:\+[0-9]{1,9})*)"
    rf"(?:-(?!schedule)(?P<ensemble>[a-z]+))?(?P<own>(?:-(?:{'|'.join(OWN)})[a-z0-9.+]+)*)"
    r"(?:-epochs(?P<epochs>[0-9]{1,9}))?(?:-frac(?P<fraction>[0-9.]+))?"
)
_TOKENS = re.compile("-(?=[a-z])")  # a dash before a digit is a minus
_DATASET = re.compile(
    rf"(?P<name>{NAME})"
    rf"(?:\+(?:(?!frac)(?P<kind>[a-z]+?)(?P<rate>[0-9.]+)|labels-(?P<file>{NAME}))(?:-s(?P<seed>[0-9]{{1,9}}))?)?"
    r"(?:\+frac(?P<fraction>[0-9.]+))?"
)


def spell(number: float | str | tuple) -> str:
    """Return the one spelling of a number that paths use: no exponent, no trailing zeros, `inf`; a word as it is.

    Several numbers are joined by +.
    """
    if isinstance(number, tuple):
        return "+".join(map(spell, number))
    if isinstance(number, str | int):
        return str(number)
    if number == float("inf"):
        return "inf"
    text = format(Decimal(repr(float(number))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True)
class DatasetChoice:
    """A dataset with its label noise and the class-balanced fraction of its training set."""

    name: str
    noise: Noise | None = None
    noise_seed: int = 0
    fraction: float = 1.0

    @cached_property
    def labelled(self) -> str:
        """Name of the dataset with its label noise, such as `cifar100+sym0.4`."""
        if self.noise is None:
            return self.name
        amount = f"-{self.noise.amount}" if self.noise.kind == "labels" else spell(self.noise.amount)
        seed = f"-s{self.noise_seed}" if self.noise_seed else ""
        return f"{self.name}+{self.noise.kind}{amount}{seed}"

    def __str__(self) -> str:
        return self.labelled + (f"+frac{spell(self.fraction)}" if self.fraction < 1 else "")


@dataclass(frozen=True)
class Stage:
    """One trained network of a lineage: network, objective, seed; `epochs` only where it stops early.

    Or an ensemble, one network for each name in `network` (joined by +) and each seed (`more_seeds` are those after the
    first), which teach as one: `ensemble` says how their logits become one. Make one with `stage`.
    """

    network: str
    objective: LossChoice
    seed: int
    epochs: int | None = None
    more_seeds: tuple[int, ...] = ()
    ensemble: str = MEAN_LOGIT
    fraction: float = 1.0  # of the training set, class-balanced
    own: Own = ()  # values of the protocol that are this stage's own

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss of this stage reads a teacher's logits."""
        return self.objective.needs_teacher

    @property
    def weights(self) -> str | None:
        """Name of the weights that this stage imports, None where it is trained."""
        return self.objective.weights

    @property
    def networks(self) -> list[str]:
        """Names of the networks, more than one where this is an ensemble of networks."""
        return self.network.split("+")

    @property
    def is_ensemble(self) -> bool:
        """Whether this is not one network but several."""
        return bool(self.more_seeds) or "+" in self.network

    @property
    def members(self) -> tuple[Stage, ...]:
        """Stages of the networks that teach as one: this one alone where it is no ensemble."""
        if not self.is_ensemble:
            return (self,)
        each = itertools.product(self.networks, (self.seed, *self.more_seeds))
        return tuple(replace(self, network=n, seed=s, more_seeds=(), ensemble=MEAN_LOGIT) for n, s in each)

    @property
    def title(self) -> str:
        """What tables call it: the network, and what is its own; of an ensemble how many of which: 3*wrn-28-4."""
        times = f"{1 + len(self.more_seeds)}*" if self.more_seeds else ""
        return "+".join(times + network for network in self.networks) + self._combined + self._own

    @property
    def seedless(self) -> str:
        """All that it is but for its seeds, such as wrn-28-4.ce-epochs10 or 3*wrn-28-4.ce."""
        return f"{self.title}.{spell_objective(self.objective)}{self._ending}"

    @property
    def _combined(self) -> str:
        return "" if self.ensemble == MEAN_LOGIT else f"-{_word(self.ensemble)}"

    @property
    def _own(self) -> str:
        return "".join(f"-{_OWN_WORDS[key]}{spell(value)}" for key, value in self.own)

    @property
    def _ending(self) -> str:
        early = f"-epochs{self.epochs}" if self.epochs else ""
        return early + (f"-frac{spell(self.fraction)}" if self.fraction < 1 else "")

    def __str__(self) -> str:
        seeds = "+".join(map(str, (self.seed, *self.more_seeds)))
        return f"{self.network}.{spell_objective(self.objective)}.s{seeds}{self._combined}{self._own}{self._ending}"


def stage(
    networks: Iterable[str],
    chosen: LossChoice,
    seeds: Iterable[int],
    epochs: int | None = None,
    ensemble: str = MEAN_LOGIT,
    fraction: float = 1.0,
    own: Own = (),
) -> Stage:
    """Return the canonical stage of these: members in order, each once, and nothing to combine where there is one."""
    networks, (seed, *more) = sorted(set(networks)), sorted(set(seeds))
    combined = ensemble if len(networks) > 1 or more else MEAN_LOGIT
    return Stage("+".join(networks), chosen, seed, epochs, tuple(more), combined, fraction, own)


def spell_objective(chosen: LossChoice) -> str:
    """Return the spelling of an objective, such as `kl-tau3-alpha0.5`."""
    return "-".join([chosen.loss, *(f"{key}{spell(value)}" for key, value in chosen.parameters)])


@dataclass(frozen=True)
class Cell:
    """A network to train: its dataset, protocol and lineage. The last stage is the one that is trained.

    Where that is an ensemble nothing is trained: its members are, each a cell of its own.
    """

    dataset: DatasetChoice
    protocol: str
    stages: tuple[Stage, ...]

    @cached_property
    def name(self) -> str:
        """Path below results/, state/, banks/ and logs/."""
        return "/".join([str(self.dataset), self.protocol, *map(str, self.stages)])

    @cached_property
    def path(self) -> str:
        """Directory of the trained network, relative to the project's root."""
        return f"{RESULTS}/{self.name}"

    @cached_property
    def teacher(self) -> Cell | None:
        """Cell that teaches this one, or None; an ensemble has members instead."""
        if len(self.stages) == 1 or self.is_ensemble:
            return None
        return Cell(self.dataset, self.protocol, self.stages[:-1])

    @property
    def is_ensemble(self) -> bool:
        """Whether this is not one network but several that teach as one."""
        return self.stage.is_ensemble

    @cached_property
    def members(self) -> tuple[Cell, ...]:
        """The cells whose logits are those of this one: itself alone where it is no ensemble."""
        if not self.is_ensemble:
            return (self,)
        return tuple(Cell(self.dataset, self.protocol, (*self.stages[:-1], stage)) for stage in self.stage.members)

    @property
    def stage(self) -> Stage:
        """Stage that this cell trains."""
        return self.stages[-1]

    def reads_banks(self, protocol: Protocol) -> bool:
        """Whether it learns from what its teachers said before; else they are run in each step, or there are none."""
        return self.teacher is not None and protocol.teacher == "bank" and self.stage.objective.needs.from_bank

    def needs_of_bank(self, protocol: Protocol) -> list[Need]:
        """Return what it reads of the bank of each of its teachers: the logits, and what else its loss looks at."""
        read = [one for one in STORED if one == "logits" or one in self.stage.objective.needs.teacher]
        return [Need(self.stage.seed, self.epochs(protocol), one) for one in read]

    def protocol_of(self, protocol: Protocol) -> Protocol:
        """Return the values by which this cell is trained: the protocol's, and those that are its own."""
        return with_own(protocol, self.stage.own)

    def epochs(self, protocol: Protocol) -> int:
        """Return for how many epochs this cell is trained: the protocol's or its own, unless it stops early.

        None where it is imported, or an ensemble.
        """
        if self.stage.weights or self.is_ensemble:
            return 0
        return self.stage.epochs or self.protocol_of(protocol).epochs

    @property
    def fraction(self) -> float:
        """Class-balanced share of the training set that this cell learns from."""
        return min(self.dataset.fraction, self.stage.fraction)

    @property
    def lineage(self) -> Iterator[Cell]:
        """The cells from the first teacher to this one, the members of an ensemble before it."""
        for n in range(1, len(self.stages) + 1):
            cell = Cell(self.dataset, self.protocol, self.stages[:n])
            if cell.is_ensemble:
                yield from cell.members
            yield cell

    @property
    def seedless(self) -> str:
        """The lineage, without seeds: wrn-28-4.ce > wrn-16-2.kl-tau3; a stage names its share of the data."""
        shares = (replace(stage, fraction=min(self.dataset.fraction, stage.fraction)) for stage in self.stages)
        return " > ".join(stage.seedless for stage in shares)

    def __str__(self) -> str:
        return self.path


# -- reading a path ---------------------------------------------------------------------------------------------------


def demand_cell(path: str | Path) -> tuple[str, ...]:
    """Return the parts of a path that is built as that of a cell is, whoever defines its network and objective.

    Raises ConfigError for any other path.
    """
    parts = Path(path).parts
    if parts[:1] != (RESULTS,) or len(parts) < 4:
        raise ConfigError(f"{path}: not a cell; expected {RESULTS}/DATASET/PROTOCOL/NETWORK.OBJECTIVE.sSEED[/...]")
    if not re.fullmatch(NAME, parts[2]):
        raise ConfigError(f"{path}: {parts[2]!r} is not a protocol's name")
    _matched_dataset(parts[1])
    for part in parts[3:]:
        _matched_stage(part)
    return parts


def parse_cell(path: str | Path) -> Cell:
    """Read the path of a cell. Raises ConfigError unless it is the canonical path of a recipe."""
    parts = demand_cell(path)
    cell = Cell(parse_dataset(parts[1]), parts[2], tuple(map(_parse_stage, parts[3:])))
    if cell.dataset.fraction < 1 and any(stage.fraction < 1 for stage in cell.stages):
        raise ConfigError(f"{path}: a fraction of a fraction; give the dataset's or the stages'")
    canonical = _cell(cell.dataset, cell.protocol, cell.stages)
    if Path(canonical.path) != Path(path):
        raise ConfigError(f"{path}: this recipe's path is {canonical.path}")
    if cell.stages[0].needs_teacher:
        raise ConfigError(f"{path}: {cell.stages[0]} needs a teacher: put its directory inside the teacher's")
    return cell


def parse_dataset(text: str) -> DatasetChoice:
    """Read `cifar100+sym0.4+frac0.1`. Raises ConfigError that names what is wrong."""
    match = _matched_dataset(text)
    noise = None
    if match["file"]:
        noise = Noise("labels", match["file"])
    elif match["kind"]:
        kinds = [kind for kind in data.NOISES if kind != "labels"]
        if match["kind"] not in kinds:
            raise ConfigError(f"{text!r}: {match['kind']}: no such label noise{nearest(match['kind'], kinds)}")
        noise = Noise(match["kind"], _share(match["rate"], text))
    fraction = _share(match["fraction"], text) if match["fraction"] else 1.0
    return DatasetChoice(match["name"], noise, int(match["seed"] or 0), fraction)


def _matched_dataset(text: str) -> re.Match[str]:
    match = _DATASET.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r}: not a dataset; expected NAME, NAME+sym0.4, NAME+frac0.1 or NAME+sym0.4+frac0.1")
    return match


def _share(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise ConfigError(f"{where!r}: {text} is not a rate above 0 and up to 1")
    return value


def _matched_stage(text: str) -> re.Match[str]:
    match = _STAGE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r}: not a stage; expected NETWORK.OBJECTIVE.sSEED, such as wrn-16-2.kl-tau3.s0")
    return match


def _parse_stage(text: str) -> Stage:
    match = _matched_stage(text)
    networks, seeds = match["networks"].split("+"), map(int, match["seeds"].split("+"))
    for network in networks:
        models.module_of(network)
    chosen = _parse_objective(match["objective"])
    if chosen.weights and len(networks) > 1:
        raise ConfigError(f"{text!r}: the weights {chosen.weights!r} are of one network, not of several")
    epochs = int(match["epochs"]) if match["epochs"] else None
    fraction = _share(match["fraction"], text) if match["fraction"] else 1.0
    own = _parse_own(match["own"], text)
    return stage(networks, chosen, seeds, epochs, _parse_ensemble(match["ensemble"], text), fraction, own)


def _parse_own(text: str, where: str) -> Own:
    values: dict[str, object] = {}
    for word, value in re.findall(f"-({'|'.join(OWN)})([^-]+)", text):
        values[OWN[word]] = value.split("+") if OWN[word] == "milestones" else value
    try:
        return own_training(values)
    except ValueError as error:
        raise ConfigError(f"{where!r}: {error}") from None


def _parse_ensemble(found: str | None, where: str) -> str:
    if found is None:
        return MEAN_LOGIT
    if found not in COMBINATIONS:
        raise ConfigError(f"{where!r}: {found}: no such ensemble{nearest(found, COMBINATIONS)}")
    return COMBINATIONS[found]


def _parse_objective(text: str) -> LossChoice:
    first, _, name = text.partition("-")
    if first == WEIGHTS:
        if not re.fullmatch(NAME, name):
            raise ConfigError(f"{text!r}: expected {WEIGHTS}-NAME")
        return imported(name)
    loss, *tokens = _TOKENS.split(text)
    if loss not in losses.LOSSES:
        raise ConfigError(f"{text!r}: {loss}: no such loss{nearest(loss, losses.LOSSES)}")
    values = {}
    for token in tokens:
        found = losses.LOSSES[loss].read(token)
        if found is None:
            known = losses.LOSSES[loss].parameters
            raise ConfigError(f"{text!r}: {token}: no such hyperparameter of {loss}{nearest(token, known)}")
        values |= [found]
    try:
        return loss_choice(loss, values)
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}") from None


# -- from a study to its cells ----------------------------------------------------------------------------------------


def _cell(dataset: DatasetChoice, protocol: str, stages: tuple[Stage, ...]) -> Cell:
    """Return the canonical cell: what comes before the last stage that learns from labels alone plays no part."""
    n = max((n for n, stage in enumerate(stages) if not stage.needs_teacher), default=0)
    first, *taught = stages[n:]
    if first.weights:  # a file has no seed, and nothing to stop or to train otherwise
        first = Stage(first.network, first.objective, seed=0)
    stages = (first, *taught)
    if first.fraction < 1 and len({stage.fraction for stage in stages}) == 1:
        dataset = replace(dataset, fraction=first.fraction)
        stages = tuple(replace(stage, fraction=1.0) for stage in stages)
    return Cell(dataset, protocol, stages)


def cells_of(study: Study, name: str) -> list[Cell]:
    """Return the cells that experiment `name` compares, each once, in the order of its axes."""
    experiment = study.experiments[name]
    return list(dict.fromkeys(_expand(study, experiment)))


def _expand(study: Study, experiment: Experiment) -> Iterator[Cell]:
    for dataset, networks in itertools.product(_datasets(study, experiment), experiment.networks):
        for stages in _lineages(study, experiment, networks):
            yield _cell(dataset, study.protocol.name, stages)


def _datasets(study: Study, experiment: Experiment) -> Iterator[DatasetChoice]:
    name = experiment.dataset or study.dataset
    for noise, fraction in itertools.product(experiment.label_noise, experiment.fraction):
        yield DatasetChoice(name, noise, study.noise_seed if noise else 0, fraction)


def _lineages(study: Study, experiment: Experiment, networks: tuple[str, ...]) -> Iterator[tuple[Stage, ...]]:
    firsts = (imported(experiment.teacher_weights),) if experiment.teacher_weights else experiment.teacher_loss
    early = experiment.teacher_epochs
    # The first network of a path learns from labels, or is imported; every later one takes each loss of the experiment.
    taught = itertools.product(experiment.loss, repeat=len(networks) - 1) if len(networks) > 1 else [()]
    mixes = itertools.product(firsts, taught) if len(networks) > 1 else [(o, ()) for o in experiment.loss]
    teacher_seeds = experiment.teacher_seeds or study.teacher_seeds
    combinations = experiment.ensemble or (MEAN_LOGIT,)
    fractions, seeds = experiment.student_fraction, experiment.seeds or study.seeds
    trainings = [_beside(own, study.protocol) for own in experiment.student_training]
    for (first, mix), from_seeds, ensemble, part, own, seed in itertools.product(
        mixes, teacher_seeds, combinations, fractions, trainings, seeds
    ):
        *teach, last = zip(networks, (first, *mix), strict=True)
        stages = []
        for n, (network, chosen) in enumerate(teach):
            stop, share, its_own = (None, part, own) if n else (early, 1.0, ())
            # Seeds that are matched have none of their own: student s learns from teacher s.
            stages.append(stage(network.split("+"), chosen, from_seeds or (seed,), stop, ensemble, share, its_own))
        yield (*stages, Stage(*last, seed, fraction=part, own=own))


def _beside(own: Own, protocol: Protocol) -> Own:
    """Return the values that are not the protocol's already, nor idle beside a cosine: one recipe has one path."""
    idle = ("milestones", "gamma") if with_own(protocol, own).schedule == "cosine" else ()
    return tuple((key, value) for key, value in own if value != getattr(protocol, key) and key not in idle)


def with_teachers(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells and every cell that teaches them, each once, teachers first."""
    return list(dict.fromkeys(ancestor for cell in cells for ancestor in cell.lineage))


def all_cells(study: Study) -> list[Cell]:
    """Return every cell of a study, each once, teachers before what they teach."""
    return with_teachers(itertools.chain.from_iterable(cells_of(study, name) for name in study.experiments))


def data_recipe(study: Study, dataset: DatasetChoice) -> dict:
    """Return what, beside its name, decides the images and labels of a dataset."""
    name = dataset.noise.amount if dataset.noise and dataset.noise.kind == "labels" else None
    if name not in {None, *study.label_files}:
        raise ConfigError(f"{dataset}: {name!r} is not under label_files; name the study that has it with --configfile")
    return {"dataset": _declared(study, dataset.name), "label_file": name and study.label_files[name]}


def _declared(study: Study, name: str) -> dict | None:
    return study.datasets[name].model_dump() if name in study.datasets else None


def augmentation(source: data.Source, protocol: Protocol) -> tuple[int, bool]:
    """Return by how many pixels images of `source` are padded for random crops, and whether they are flipped."""
    return (
        source.pad if protocol.pad is None else protocol.pad,
        source.mirrorable if protocol.flip is None else protocol.flip,
    )


def recipe(study: Study, cell: Cell) -> dict:
    """Return what, beside its path, decides the numbers of a cell and of those that led to it.

    That is the protocol's values, the dataset, and imported weights, which only the first of a lineage can have.
    """
    for stage in cell.stages:
        if stage.own != _beside(stage.own, study.protocol):
            raise ConfigError(f"{cell}: {stage} has a value of its own that is the protocol's already, or idle")
    return data_recipe(study, cell.dataset) | training_recipe(study, cell.stages[0].weights)


def training_recipe(study: Study, weights: str | None) -> dict:
    """Return the protocol's values and, where a lineage begins with imported weights, what these are."""
    imports = {"weights": _weights(study, weights).model_dump()} if weights else {}
    return {"protocol": study.protocol.model_dump(mode="json"), **imports}


def _weights(study: Study, name: str) -> Weights:
    if name not in study.weights:
        raise ConfigError(
            f"{WEIGHTS}-{name}: {name!r} is not under weights; name the study that has it with --configfile"
        )
    return study.weights[name]


def taught_by(cells: Iterable[Cell]) -> Mapping[Cell, list[Cell]]:
    """Return, for each cell that teaches, the cells it teaches: an ensemble's are those of its members too."""
    students: dict[Cell, list[Cell]] = {}
    for cell in cells:
        if cell.teacher:
            for teacher in dict.fromkeys((cell.teacher, *cell.teacher.members)):
                students.setdefault(teacher, []).append(cell)
    return students


def memberships(study: Study, teachers: Iterable[Cell]) -> list[tuple[str, Cell]]:
    """Return (experiment, cell) for every row of the table; `teachers`, which teach, are an experiment of their own."""
    pairs = [(name, cell) for name in study.experiments for cell in cells_of(study, name)]
    return pairs + [(TEACHERS, cell) for cell in teachers]


# -- analyses ---------------------------------------------------------------------------------------------------------


def measured(study: Study, name: str) -> list[tuple[Cell, Cell | None]]:
    """Return the cells that experiment `name` compares and those that teach them, each with whom it is measured by.

    That is its teacher; where it has none, each teacher of the same network on the same data, but never itself.
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


# -- code behind a cell -----------------------------------------------------------------------------------------------


def code_behind(cell: Cell, protocol: Protocol) -> str:
    """Return the digest of the code that decides what training `cell` gives, its data and its teacher aside."""
    modules = list(map(models.module_of, cell.stage.networks))
    if cell.is_ensemble or cell.stage.weights:
        modules.append("kd.train.weights")
    else:
        opened = data.module_of(data.CROPS[protocol.crop])
        modules += ["kd.train.lesson", "kd.train.device", opened, losses.module_of(cell.stage.objective.loss)]
    if cell.teacher:
        modules.append("kd.train.teachers")
    return code_digest(*modules)


def code_behind_bank(teacher: Cell, protocol: Protocol) -> str:
    """Return the digest of the code that computes a bank of `teacher`."""
    chosen = ["kd.data.splits"] if teacher.dataset.fraction < 1 or protocol.heldout else []
    return code_digest("kd.train.teachers", "kd.train.arithmetic", models.module_of(teacher.stage.network), *chosen)


def code_behind_answers(cell: Cell) -> str:
    """Return the digest of the code that decides what the network of `cell` answers."""
    return code_digest("kd.measure.answers", *map(models.module_of, cell.stage.networks))


def code_behind_data(name: str, declared: Mapping | None) -> str:
    """Return the digest of the code that prepares the images of dataset `name`, declared so by a study."""
    return code_digest(data.source_of(name, declared).module)


def code_behind_labels(noise: Noise) -> str:
    """Return the digest of the code that makes this label noise."""
    return code_digest("kd.data.noise", data.NOISES[noise.kind].module)


def code_behind_figure(name: str) -> str:
    """Return the digest of the code that draws a figure."""
    return code_digest("kd.report.figures.style", figures.FIGURES[name].module)
