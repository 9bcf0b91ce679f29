"""What a loss and its hyperparameters are, what values they may take, and which of them a path can spell.

A path spells a loss and its hyperparameters as `kl-tau3-scaleone`, a name and a value after each dash. It can be read
because names and words begin with a small letter and hold no dash (a dash before a digit is a minus), no name ends in a
digit, and no word makes one hyperparameter read like another: `Loss` refuses those.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from kd.core.errors import nearest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Number:
    """Describe a hyperparameter that lies in [low, high], or is inf where `infinite`.

    One without a default must be given. The bounds are what float32 arithmetic can carry at logits up to 1e4. A default
    that changes leaves the first one, with which the hyperparameter was introduced, in `since`.
    """

    default: float | None = None
    low: float = 1e-6
    high: float = 1e6
    infinite: bool = False
    since: float | None = None
    optional: bool = False  # may be left out without a default: the loss itself says what it does then

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("low and high must be finite; `infinite` allows inf")

    @property
    def schema(self) -> dict:
        """JSON schema of its values, as far as editors can tell."""
        return {"type": ["number", "string"]}

    @property
    def words(self) -> tuple[str, ...]:
        """Values that are spelled with letters."""
        return ("inf",) if self.infinite else ()

    def spells(self, text: str) -> bool:
        """Say whether `text` looks like one of its values."""
        return text in self.words or bool(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text))

    @property
    def allowed(self) -> str:
        """Say in words what `check` accepts."""
        return f"a number from {self.low:g} to {self.high:g}" + (", or inf" if self.infinite else "")

    def check(self, value: object) -> float:
        """Return `value` as a float. Raises ValueError that says what was got and what is allowed."""
        number = _number(value)
        if not (self.low <= number <= self.high or (self.infinite and number == math.inf)):  # NaN fails both
            raise ValueError(f"got {value!r}; allowed: {self.allowed}")
        return number


@dataclass(frozen=True)
class Whole:
    """Describe a hyperparameter that is a whole number in [low, high]. One without a default must be given."""

    default: int | None = None
    low: int = 1
    high: int = 1_000_000
    since: int | None = None
    optional: ClassVar[bool] = False
    words: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[dict] = {"type": "integer"}

    def __post_init__(self) -> None:
        if max(abs(self.low), abs(self.high)) > 2**53:
            raise ValueError("low and high must not exceed 2**53, up to which floats tell whole numbers apart")

    @property
    def allowed(self) -> str:
        """Say in words what `check` accepts."""
        return f"a whole number from {self.low} to {self.high}"

    def spells(self, text: str) -> bool:
        """Say whether `text` looks like one of its values."""
        return bool(re.fullmatch("-?[0-9]+", text))

    def check(self, value: object) -> int:
        """Return `value` as an int. Raises ValueError that says what was got and what is allowed."""
        number = _number(value)
        if not self.low <= number <= self.high or number % 1:  # NaN fails the first
            raise ValueError(f"got {value!r}; allowed: {self.allowed}")
        return int(number)


@dataclass(frozen=True)
class Choice:
    """Describe a hyperparameter that is one of the words `options`; `since` as for a Number."""

    default: str
    options: tuple[str, ...]
    since: str | None = None
    optional: ClassVar[bool] = False

    @property
    def schema(self) -> dict:
        """JSON schema of its values."""
        return {"enum": list(self.options)}

    @property
    def words(self) -> tuple[str, ...]:
        """Values that are spelled with letters: all."""
        return self.options

    def spells(self, text: str) -> bool:
        """Say whether `text` is one of its values."""
        return text in self.options

    @property
    def allowed(self) -> str:
        """Say in words what `check` accepts."""
        return "one of " + ", ".join(self.options)

    def check(self, value: object) -> str:
        """Return `value`, one of the options. Raises ValueError that says what was got and what is allowed."""
        if value not in self.options:
            raise ValueError(f"got {value!r}; allowed: {self.allowed}")
        return str(value)


OUTPUTS = ("logits", "prelogits", "maps", "edges", "cams")  # what a network can say; kd.models.output has the shapes
STORED = OUTPUTS[:2]  # of these a bank can hold those of a teacher
RELATED = ("maps", "logits")  # by one of these a teacher relates classes: kd.train.relating


@dataclass(frozen=True)
class Needs:
    """What a loss looks at: outputs of the student and of the teacher, and in how many views of each image.

    Views after the first are `strong` where the loss compares weak and strong ones: see kd.data.randaugment. The
    teacher answers for `another` image of the same class, if so: see kd.data.classmates. `relation` is the
    hyperparameter that says by which of RELATED the teacher relates classes, where the loss reads that.
    """

    student: frozenset[str] = frozenset({"logits"})
    teacher: frozenset[str] = frozenset({"logits"})
    views: int = 1
    strong: bool = False
    another: bool = False
    relation: str | None = None

    @property
    def from_bank(self) -> bool:
        """Whether a bank can hold all that is looked at of the teacher."""
        return self.teacher <= {*STORED} and self.views == 1


LABELS_ALONE = Needs(teacher=frozenset())


Parameter = Number | Whole | Choice
_NAME = "[a-z]([a-z0-9_]*[a-z_])?"  # not ending in a digit: tau3 is tau, and 3
_WORD = "[a-z][a-z0-9_]*"


@dataclass(frozen=True)
class Loss:
    """A loss as the registry knows it, in one of two forms.

    `function(student [B, K], teacher [B, K] or None, labels [B] int64, **hyperparameters)` returns one value per
    example, [B], in the student's dtype: the trainer averages, the evaluator reports. What follows the epoch, holds
    state, learns parameters or looks at more than logits is `build(course, **hyperparameters) -> Objective` instead
    (kd.losses.objective); `Epochwise` builds that of a function that follows epochs. `parameters` stand in the order
    in which paths spell them. `check` refuses values that do not go together. Raises ValueError for what no path can
    spell. A hyperparameter that is removed leaves the value that the code goes by from then on in `removed`.

    Traits: `batchwise`, an example's value depends on the others of its batch, or on what is remembered of examples;
    `zero_at_teacher`, it is 0, CE apart, where the student says what the teacher says; `recordable`, a step of it can
    be recorded and replayed on a GPU. `logs` names the columns that it adds to metrics.csv.
    """

    function: Callable | None
    description: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    needs: Needs = Needs()
    check: Callable[[Mapping], None] | None = None
    build: Callable | None = None
    batchwise: bool = False
    zero_at_teacher: bool = False
    recordable: bool = True
    logs: frozenset[str] = frozenset()
    removed: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss looks at a teacher."""
        return bool(self.needs.teacher)

    @property
    def since(self) -> dict[str, float | str]:
        """The value with which each hyperparameter was introduced: what one that a recipe lacks counts as."""
        first = {name: p.default if p.since is None else p.since for name, p in self.parameters.items()}
        known = {name: v for name, v in first.items() if v is not None or self.parameters[name].optional}
        return {**self.removed, **known}

    @property
    def module(self) -> str:
        """Name of the module that defines it."""
        return (self.function or self.build).__module__

    def __post_init__(self) -> None:
        if (self.function is None) == (self.build is None):
            raise ValueError("a loss is a function or is built: give one of the two")
        chosen = self.parameters.get(self.needs.relation)
        if self.needs.relation and not (isinstance(chosen, Choice) and {*chosen.options} <= {*RELATED}):
            raise ValueError(f"needs.relation: {self.needs.relation} is no choice of {' or '.join(RELATED)}")
        for name, parameter in self.parameters.items():
            if not re.fullmatch(_NAME, name):
                raise ValueError(
                    f"{name}: the name of a hyperparameter is small letters, digits and underscores; it begins with a "
                    "letter and does not end in a digit"
                )
            for word in parameter.words:
                if not re.fullmatch(_WORD, word):
                    raise ValueError(f"{name}: {word!r}: a word is small letters, digits and underscores, letter first")
            if parameter.default is not None and parameter.check(parameter.default) != parameter.default:
                raise ValueError(f"{name}: its default {parameter.default!r} is none of its values")
        for name, longer in itertools.permutations(self.parameters, 2):
            rest = longer.removeprefix(name)
            for word in self.parameters[name].words if longer.startswith(name) else ():
                if word.startswith(rest) and self.parameters[longer].spells(word.removeprefix(rest)):
                    raise ValueError(f"{name}: {name}{word} could also be a value of {longer}; rename one of the two")

    def __call__(
        self, student: Tensor, teacher: Tensor | None = None, labels: Tensor | None = None, **hyperparameters: object
    ) -> Tensor:
        """Return the loss of each example, [B], of logits [B, K] and labels [B] int64, as training computes it.

        Raises ValueError that names a wrong hyperparameter or what is missing; TypeError for a loss that learns,
        remembers, follows the epoch or looks at more than logits: only training has that.
        """
        if self.function is None:
            raise TypeError(f"this loss ({self.description}) is no function of logits alone; a study trains with it")
        if teacher is None and self.needs_teacher:
            raise ValueError("teacher: missing; this loss looks at its logits")
        try:
            return self.function(student, teacher, labels, **self.resolve(hyperparameters))
        except TypeError as error:
            if labels is None:
                raise ValueError("labels: missing; with these hyperparameters the loss looks at them") from error
            raise

    def read(self, token: str) -> tuple[str, str] | None:
        """Return the hyperparameter and the value that `token` spells, such as tau and 3; None if it begins with none.

        Where nothing fits as a whole, the longest name that the token begins with takes the blame.
        """
        found = [(name, token.removeprefix(name)) for name in self.parameters if token.startswith(name)]
        return max(found, key=lambda pair: (self.parameters[pair[0]].spells(pair[1]), len(pair[0])), default=None)

    def resolve(self, given: Mapping[str, object]) -> dict[str, float | str]:
        """Return every hyperparameter, checked, with defaults for those not given, in spelling order.

        Raises ValueError that names the hyperparameter, what was got and what is allowed.
        """
        for name in given:
            if name not in self.parameters:
                raise ValueError(f"{name}: unknown" + _known(name, self.parameters))
        params = {name: _resolved(name, parameter, given) for name, parameter in self.parameters.items()}
        if self.check:
            self.check(params)
        return params


def _number(value: object) -> float:
    # bool is an int to Python and `true` is 1.0 to lax parsers; YAML reads 1e-3 as a string
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value) + 0.0  # -0.0 becomes 0.0: one value, one spelling
    except (ValueError, OverflowError):
        return math.nan


def _resolved(name: str, parameter: Parameter, given: Mapping[str, object]) -> float | str:
    value = given.get(name, parameter.default)
    if value is None and parameter.optional:
        return None
    if value is None:
        raise ValueError(f"{name}: required; allowed: {parameter.allowed}")
    try:
        return parameter.check(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _known(name: str, parameters: Mapping) -> str:
    return nearest(name, parameters) if parameters else "; this loss has no hyperparameters"


class Later:
    """What builds an objective, imported when it is first called: its module imports torch."""

    def __init__(self, module: str, name: str) -> None:
        self.__module__, self._name = module, name

    @property
    def imported(self) -> Callable:
        """What builds it."""
        return getattr(importlib.import_module(self.__module__), self._name)

    def __call__(self, course: object, **hyperparameters: object) -> object:
        """Return the objective of a course."""
        return self.imported(course, **hyperparameters)


class Epochwise:
    """What builds the objective of a function of logits that follows the epoch, as a warm-up does.

    `function(student, teacher, labels, epoch=..., epochs=..., **hyperparameters)` returns values [B]; `epoch` is a
    tensor, the first is 1, and `epochs` is how many are trained. The objective's module imports torch.
    """

    def __init__(self, function: Callable) -> None:
        self.__module__, self.function = function.__module__, function

    def __call__(self, course: object, **hyperparameters: object) -> object:
        """Return the objective of a course."""
        following = importlib.import_module("kd.losses.objective").Following
        return following(self.function, epochs=course.epochs, **hyperparameters)
