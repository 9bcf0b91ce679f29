"""A search over settings: its space, which trials are where, and the samplers that need no library.

A setting gives each axis of the space a value: `{"loss": "kl", "tau": 3.2, "alpha": 0.7, "lr": 0.05}`. What the chosen
loss does not take is left out, so that one setting is one cell. A round proposes a batch of settings from the scores of
all rounds before it, and depends on nothing else: whoever proposes it again proposes the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kd.core import files

SCORE = "heldout_top1"  # of the last epoch: what a trial is worth
LOSS = "loss"  # the axis that decides which of the others play a part
_DIGITS = 2  # that a value on a logarithmic axis keeps
_STEPS = 100  # least number of values on another axis, but for whole numbers
ASKED = 3  # times that a model is asked for each setting of a round, before chance draws those that are not new
_DRAWS = 1000  # after so many that were proposed before, the rest of the space counts as nothing

Value = float | int | str | bool
Setting = dict[str, Value]


class Trial(NamedTuple):
    """A setting that was tried, and its score, higher is better: None where it diverged."""

    setting: Setting
    score: float | None


class Choice(NamedTuple):
    """An axis of values without an order."""

    values: tuple[Value, ...]

    @property
    def count(self) -> float:
        """How many values it has."""
        return len(self.values)

    @property
    def middle(self) -> Value:
        """What stands for its value where it plays no part."""
        return self.values[0]

    @property
    def ends(self) -> tuple[Value, ...]:
        """Its first value and its last."""
        return self.values[0], self.values[-1]

    def drawn(self, chance: random.Random) -> Value:
        """Return one of its values by chance, each alike."""
        return chance.choice(self.values)


class Range(NamedTuple):
    """An axis of numbers from `low` to `high`, even in their logarithm if `log`; rounded, and whole if `whole`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def count(self) -> float:
        """How many values it has; infinite where they are more than whole numbers."""
        return self.high - self.low + 1 if self.whole else math.inf

    @property
    def middle(self) -> Value:
        """What stands for its value where it plays no part."""
        return self.at(0.5)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Its lowest value and its highest."""
        return self.low, self.high

    def at(self, share: float) -> float | int:
        """Return the value at a share of the axis in [0, 1], rounded: nearby values are one cell."""
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
            value = float(f"{value:.{_DIGITS - 1}e}")
        else:
            value = self.low + share * (self.high - self.low)
            value = round(value, math.ceil(math.log10(_STEPS / (self.high - self.low))))
        value = min(max(round(value) if self.whole else value, self.low), self.high)
        return int(value) if self.whole else float(value)

    def share(self, value: float) -> float:
        """Return where on the axis a value lies, in [0, 1]."""
        low, high, at = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return (at - low) / (high - low)

    def drawn(self, chance: random.Random) -> float | int:
        """Return one of its values by chance."""
        return self.at(chance.random())


Axis = Choice | Range


@dataclass(frozen=True)
class Space:
    """The axes of a search; `takes` names, for each loss, those of the others that play a part beside it.

    An axis that no loss is named with always does.
    """

    axes: Mapping[str, Axis]
    takes: Mapping[Value, frozenset[str]]

    def active(self, setting: Mapping[str, Value]) -> Setting:
        """Return a setting without what plays no part, in the order of the axes."""
        conditional = frozenset().union(*self.takes.values())
        own = self.takes.get(setting.get(LOSS), frozenset())
        return {key: setting[key] for key in self.axes if key in own or key not in conditional}

    def filled(self, setting: Mapping[str, Value]) -> Setting:
        """Return a setting with the middle of each axis that plays no part: samplers see every axis."""
        return {key: setting.get(key, axis.middle) for key, axis in self.axes.items()}

    def drawn(self, chance: random.Random) -> Setting:
        """Return a setting by chance."""
        return self.active({key: axis.drawn(chance) for key, axis in self.axes.items()})

    def corner(self, end: int) -> Setting:
        """Return the first value of every axis, or at -1 the last, whether they play a part or not."""
        return {key: axis.ends[end] for key, axis in self.axes.items()}

    @property
    def ranges(self) -> dict[str, Range]:
        """The axes of numbers."""
        return {key: axis for key, axis in self.axes.items() if isinstance(axis, Range)}

    @property
    def choices(self) -> dict[str, Choice]:
        """The axes without an order."""
        return {key: axis for key, axis in self.axes.items() if isinstance(axis, Choice)}

    @property
    def size(self) -> float:
        """How many settings there are; infinite where an axis has more than whole numbers."""
        losses = self.axes[LOSS].values if LOSS in self.axes else [None]
        return sum(
            math.prod(axis.count for key, axis in self.axes.items() if key != LOSS and key in self._beside(loss))
            for loss in losses
        )

    def _beside(self, loss: Value | None) -> Setting:
        return self.active(dict.fromkeys(self.axes) | {LOSS: loss})

    def __iter__(self) -> Iterator[Setting]:
        """Yield every setting of a space of choices, each once; the last axis changes fastest."""
        seen = set()
        for values in itertools.product(*(axis.values for axis in self.choices.values())):
            setting = self.active(dict(zip(self.choices, values, strict=True)))
            if spelled(setting) not in seen:
                seen.add(spelled(setting))
                yield setting


def spelled(setting: Mapping[str, Value]) -> str:
    """Return the one spelling of a setting."""
    return files.canonical_json(dict(setting))


# -- samplers ---------------------------------------------------------------------------------------------------------


Rounds = Sequence[Sequence[Trial]]
Propose = Callable[[Space, Rounds, int, int], list[Setting]]  # space, earlier rounds, how many, seed


@dataclass(frozen=True)
class Sampler:
    """What proposes settings: `module` has `propose_NAME`; `needs` is the package of the extra `search`."""

    module: str
    description: str
    needs: str | None = None

    @property
    def installed(self) -> bool:
        """Whether the package that it needs is there. It is not imported."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


SAMPLERS = {
    "random": Sampler("kd.study.search", "every setting alike"),
    "grid": Sampler("kd.study.search", "every combination of the listed values, once"),
    "tpe": Sampler("kd.jobs.samplers", "tree of Parzen estimators (Optuna)", "optuna"),
    "gp": Sampler("kd.jobs.samplers", "Gaussian process over the whole space (Optuna)", "optuna"),
    "local": Sampler("kd.jobs.region", "Gaussian process in a trust region, a bandit for what has no order", "botorch"),
}


def proposed(sampler: str, space: Space, rounds: Rounds, count: int, seed: int) -> list[Setting]:
    """Return the settings of the next round: a function of the space, the rounds before it and the seed alone."""
    propose = getattr(importlib.import_module(SAMPLERS[sampler].module), f"propose_{sampler}")
    return propose(space, rounds, count, _seed_of(seed, len(rounds)))


def _seed_of(seed: int, number: int) -> int:
    return int(files.sha256(f"{seed}:{number}".encode())[:8], 16) >> 1  # 31 bits: what every library accepts


class Fresh:
    """Settings that were not proposed yet, in this round or in an earlier one: the same cell has the same score."""

    def __init__(self, space: Space, rounds: Rounds) -> None:
        self.space, self.found = space, []
        self._seen = {spelled(trial.setting) for trial in itertools.chain(*rounds)}

    def take(self, setting: Mapping[str, Value]) -> bool:
        """Add a setting to those that are found; say whether it was new."""
        active = self.space.active(setting)
        if is_new := spelled(active) not in self._seen:
            self._seen.add(spelled(active))
            self.found.append(active)
        return is_new

    def filled(self, count: int, chance: random.Random) -> list[Setting]:
        """Return `count` settings: those that are found, and others by chance."""
        while len(self.found) < count:
            self._draw(chance)
        return self.found

    def _draw(self, chance: random.Random) -> None:
        """Add a setting by chance; one that was proposed before only where no other is found."""
        for _ in range(_DRAWS):
            if self.take(self.space.drawn(chance)):
                return
        self.found.append(self.space.drawn(chance))


def worths(trials: Sequence[Trial]) -> list[float]:
    """Return what each trial is worth to a model: its score, and where it diverged the worst of all scores."""
    worst = min((trial.score for trial in trials if trial.score is not None), default=0.0)
    return [worst if trial.score is None else trial.score for trial in trials]


def propose_random(space: Space, rounds: Rounds, count: int, seed: int) -> list[Setting]:
    """Propose settings by chance."""
    return Fresh(space, rounds).filled(count, random.Random(seed))


def propose_grid(space: Space, rounds: Rounds, count: int, seed: int) -> list[Setting]:
    """Propose the next settings of all that there are."""
    first = sum(map(len, rounds))
    return list(itertools.islice(space, first, first + count))


# -- the winner -------------------------------------------------------------------------------------------------------


def best(trials: Sequence[Trial]) -> int | None:
    """Return which trial won: the highest score, the first of several; None where all diverged."""
    scored = [(trial.score, -n) for n, trial in enumerate(trials) if trial.score is not None]
    return -max(scored)[1] if scored else None
