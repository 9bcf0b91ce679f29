"""Stages, cells and their paths. Only this module spells a path; only kd/study/paths.py reads one.

A directory is a trained network; the directories inside it are the networks that it taught::

    results/cifar100+sym0.4/paper/wrn-28-4.ce.s0/wrn-16-2.kl-tau3.s1
            dataset         protocol teacher     student: network . objective . seed

One recipe has one path, and one path one recipe: a number has one spelling, so 0.10 and 0.1 are one cell, and a loss
that needs no teacher starts a new lineage. A network whose weights come from a file is `wrn-28-4.weights-NAME.s0`.

Several networks can teach as one: `wrn-28-4.ce.s0+1+2` is an ensemble of three seeds, `wrn-16-4+wrn-28-4.ce.s0` of two
networks. It answers with the mean of the logits, unless `-meanprob` or `-sumlogit` follows.
A stage that ends with `-frac0.1` learns from a tenth of the examples of its first teacher; if the first teacher, too,
sees only a tenth, the dataset says so instead. A stage that ends with `-fine` learns from the examples that FINE
selects by its teacher's pre-logits.

A stage's own values of the protocol stand behind its seed: `wrn-16-2.mse.s0-lr0.02-total40` has its own learning rate,
and is trained for 40 epochs with a schedule of 40. `-epochs10` is different: training stops after ten epochs of the
protocol's schedule.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property

from kd import data, losses
from kd.losses.ensembles import AT_TAU
from kd.losses.spec import STORED
from kd.study.config import OwnTraining, Protocol, with_own
from kd.study.needs import Need
from kd.study.values import LossChoice, Noise, Own, Related, Selected

RESULTS, STATE, BANKS, ANSWERS, DATA, REPORTS, LOGS = "results", "state", "banks", "answers", "data", "reports", "logs"
SELECTIONS, RELATIONS, SCORES, SEARCH = "selections", "relations", "scores", "search"
TEACHERS = "teachers"  # the table lists the networks that teach under this experiment


def _word(name: str) -> str:
    """Return a name as paths spell it."""
    return name.replace("_", "")


COMBINATIONS = {_word(name): name for name in losses.ENSEMBLES}
MEAN_LOGIT = next(iter(losses.ENSEMBLES))
OWN = {_word(key): key for key in OwnTraining.model_fields}
OWN["total"] = OWN.pop("epochs")  # because -epochs10 already means an early stop
_OWN_WORDS = {key: word for word, key in OWN.items()}
SELECTED = {_word(name): name for name in data.SELECTIONS}


def spell(number: float | str | tuple) -> str:
    """Spell a number as paths do: no exponent, no trailing zeros, `inf`. A word stays; a tuple is joined by +."""
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
    """One network of a lineage: network, objective, seed; `epochs` is given only if it stops early, 0: untrained.

    Or an ensemble: it has a member for each pair of a name in `network` (joined by +) and a seed (`seed` and
    `more_seeds`); `ensemble` says how the logits of the members are combined. Make one with `stage`.
    """

    network: str
    objective: LossChoice
    seed: int
    epochs: int | None = None
    more_seeds: tuple[int, ...] = ()
    ensemble: str = MEAN_LOGIT
    fraction: float = 1.0  # of the training set, class-balanced
    own: Own = ()  # this stage's own values of protocol keys
    selection: Selected | None = None  # how its teacher chooses the examples that it learns from

    @property
    def needs_teacher(self) -> bool:
        """Whether this stage needs a teacher: its loss reads one, or the teacher selects examples for it."""
        return self.objective.needs_teacher or self.selection is not None

    @property
    def weights(self) -> str | None:
        """Name of the weights that this stage imports, None if it is trained."""
        return self.objective.weights

    @property
    def networks(self) -> list[str]:
        """Names of the networks: several if this is an ensemble of networks."""
        return self.network.split("+")

    @property
    def is_ensemble(self) -> bool:
        """Whether this is several networks that teach as one."""
        return bool(self.more_seeds) or "+" in self.network

    @property
    def members(self) -> tuple[Stage, ...]:
        """Stages of the members of an ensemble; this stage alone if it is none."""
        if not self.is_ensemble:
            return (self,)
        each = itertools.product(self.networks, (self.seed, *self.more_seeds))
        return tuple(replace(self, network=n, seed=s, more_seeds=(), ensemble=MEAN_LOGIT) for n, s in each)

    @property
    def title(self) -> str:
        """Its name in tables: the network with its own values; for an ensemble of three seeds 3*wrn-28-4."""
        times = f"{1 + len(self.more_seeds)}*" if self.more_seeds else ""
        chosen = f"-{spell_selection(self.selection)}" if self.selection else ""
        return "+".join(times + network for network in self.networks) + self._combined + self._own + chosen

    @property
    def seedless(self) -> str:
        """The stage without its seeds, such as wrn-28-4.ce-epochs10 or 3*wrn-28-4.ce."""
        return f"{self.title}.{spell_objective(self.objective)}{self._ending}"

    @property
    def _combined(self) -> str:
        return "" if self.ensemble == MEAN_LOGIT else f"-{_word(self.ensemble)}"

    @property
    def _own(self) -> str:
        return "".join(f"-{_OWN_WORDS[key]}{spell(value)}" for key, value in self.own)

    @property
    def _ending(self) -> str:
        early = "" if self.epochs is None else f"-epochs{self.epochs}"
        return early + (f"-frac{spell(self.fraction)}" if self.fraction < 1 else "")

    def __str__(self) -> str:
        seeds = "+".join(map(str, (self.seed, *self.more_seeds)))
        chosen = f"-{spell_selection(self.selection)}" if self.selection else ""
        stands = f"{self.network}.{spell_objective(self.objective)}.s{seeds}"
        return f"{stands}{self._combined}{self._own}{self._ending}{chosen}"


def stage(
    networks: Iterable[str],
    chosen: LossChoice,
    seeds: Iterable[int],
    epochs: int | None = None,
    ensemble: str = MEAN_LOGIT,
    fraction: float = 1.0,
    own: Own = (),
    selection: Selected | None = None,
) -> Stage:
    """Return the canonical stage: members sorted, each once; with a single member `ensemble` is the default."""
    networks, (seed, *more) = sorted(set(networks)), sorted(set(seeds))
    combined = ensemble if len(networks) > 1 or more else MEAN_LOGIT
    return Stage("+".join(networks), chosen, seed, epochs, tuple(more), combined, fraction, own, selection)


def spell_objective(chosen: LossChoice) -> str:
    """Return the spelling of an objective, such as `kl-tau3-alpha0.5`."""
    return "-".join([chosen.loss, *(f"{key}{spell(value)}" for key, value in chosen.parameters)])


def spell_selection(chosen: Selected) -> str:
    """Return the spelling of a selection, such as `fine` or `smallloss0.6`."""
    default = data.SELECTIONS[chosen.name].default
    return _word(chosen.name) + ("" if chosen.amount == default else spell(chosen.amount))


def spell_related(by: Related) -> str:
    """Return the spelling of a relation between classes, such as `maps` or `logits-tau8-frac0.1-fine`."""
    tau = [f"tau{spell(by.tau)}"] if by.tau is not None else []
    share = [f"frac{spell(by.fraction)}"] if by.fraction < 1 else []
    return "-".join([by.output, *tau, *share, *([spell_selection(by.selection)] if by.selection else [])])


@dataclass(frozen=True)
class Cell:
    """A network to train: its dataset, protocol and lineage. The cell trains the last stage of its lineage.

    A cell whose last stage is an ensemble trains nothing: each member is a cell of its own.
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
        """Cell that teaches this one, or None. An ensemble has members and no teacher."""
        if len(self.stages) == 1 or self.is_ensemble:
            return None
        return Cell(self.dataset, self.protocol, self.stages[:-1])

    @property
    def is_ensemble(self) -> bool:
        """Whether this is an ensemble: several networks that teach as one."""
        return self.stage.is_ensemble

    @cached_property
    def members(self) -> tuple[Cell, ...]:
        """The cells of the members of an ensemble; this cell alone if it is none."""
        if not self.is_ensemble:
            return (self,)
        return tuple(Cell(self.dataset, self.protocol, (*self.stages[:-1], stage)) for stage in self.stage.members)

    @property
    def stage(self) -> Stage:
        """Stage that this cell trains."""
        return self.stages[-1]

    @property
    def related(self) -> Related | None:
        """The relation between classes that it reads, None if its loss reads none, or if it is an ensemble."""
        by = self.stage.objective.relation
        if by is None or self.teacher is None:
            return None
        tau = self.stage.objective.tau if self.teacher.stage.ensemble in AT_TAU else None
        return Related(by, tau, self.stage.fraction, self.stage.selection)

    def reads_banks(self, protocol: Protocol) -> bool:
        """Whether it reads its teacher's answers from banks. If not, it has no teacher, or runs it in each step."""
        needs, protocol = self.stage.objective.needs, self.protocol_of(protocol)
        stored = protocol.teacher == "bank" and protocol.views_are_finite
        return self.teacher is not None and stored and bool(needs.teacher) and needs.from_bank

    def needs_of_bank(self, protocol: Protocol) -> list[Need]:
        """Return what it reads from the bank of each teacher: the logits, and the other outputs that its loss needs."""
        read = [one for one in STORED if one == "logits" or one in self.stage.objective.needs.teacher]
        return [Need(self.stage.seed, self.epochs(protocol), one) for one in read]

    def protocol_of(self, protocol: Protocol) -> Protocol:
        """Return the protocol with this cell's own values."""
        return with_own(protocol, self.stage.own)

    def epochs(self, protocol: Protocol) -> int:
        """Return for how many epochs this cell is trained: the protocol's or its own, unless it stops early.

        Imported weights, ensembles and teachers that are not trained have 0 epochs.
        """
        if self.stage.weights or self.is_ensemble:
            return 0
        return self.protocol_of(protocol).epochs if self.stage.epochs is None else self.stage.epochs

    @property
    def fraction(self) -> float:
        """Class-balanced share of the training set that this cell learns from."""
        return min(self.dataset.fraction, self.stage.fraction)

    @property
    def lineage(self) -> Iterator[Cell]:
        """The cells from the first teacher to this one. The members of an ensemble come before it."""
        for n in range(1, len(self.stages) + 1):
            cell = Cell(self.dataset, self.protocol, self.stages[:n])
            if cell.is_ensemble:
                yield from cell.members
            yield cell

    @property
    def seedless(self) -> str:
        """The lineage without seeds: wrn-28-4.ce > wrn-16-2.kl-tau3. Each stage names its share of the data."""
        shares = (replace(stage, fraction=min(self.dataset.fraction, stage.fraction)) for stage in self.stages)
        return " > ".join(stage.seedless for stage in shares)

    def __str__(self) -> str:
        return self.path


def canonical(dataset: DatasetChoice, protocol: str, stages: tuple[Stage, ...]) -> Cell:
    """Return the canonical cell. A stage without a teacher starts a new lineage: drop all stages before the last such.

    If all stages see the same fraction of the data, the dataset names it instead of the stages.
    """
    n = max((n for n, stage in enumerate(stages) if not stage.needs_teacher), default=0)
    first, *taught = stages[n:]
    if first.weights:  # a file has no seed and no epochs
        first = Stage(first.network, first.objective, seed=0)
    stages = (first, *taught)
    if first.fraction < 1 and len({stage.fraction for stage in stages}) == 1:
        dataset = replace(dataset, fraction=first.fraction)
        stages = tuple(replace(stage, fraction=1.0) for stage in stages)
    return Cell(dataset, protocol, stages)
