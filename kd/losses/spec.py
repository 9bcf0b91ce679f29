"""What a loss and its hyperparameters are, and what values they may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kd.core.errors import nearest


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
class Choice:
    """Describe a hyperparameter that is one of the words `options`; `since` as for a Number."""

    default: str
    options: tuple[str, ...]
    since: str | None = None

    @property
    def allowed(self) -> str:
        """Say in words what `check` accepts."""
        return "one of " + ", ".join(self.options)

    def check(self, value: object) -> str:
        """Return `value`, one of the options. Raises ValueError that says what was got and what is allowed."""
        if value not in self.options:
            raise ValueError(f"got {value!r}; allowed: {self.allowed}")
        return str(value)


@dataclass(frozen=True)
class Loss:
    """A loss as the registry knows it.

    `function(student [B, K], teacher [B, K] or None, labels [B] int64, **hyperparameters)` returns one value per
    example, [B], in the student's dtype: the trainer averages, the evaluator reports. `parameters` stand in the
    order in which paths spell them. `check` refuses values that do not go together. A hyperparameter that is removed
    leaves the value that the code goes by from then on in `removed`.
    """

    function: Callable
    description: str
    parameters: Mapping[str, Number | Choice] = field(default_factory=dict)
    needs_teacher: bool = True
    check: Callable[[Mapping], None] | None = None
    removed: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def since(self) -> dict[str, float | str]:
        """The value with which each hyperparameter was introduced: what one that a recipe lacks counts as."""
        first = {name: p.default if p.since is None else p.since for name, p in self.parameters.items()}
        return {**self.removed, **{name: value for name, value in first.items() if value is not None}}

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


def _resolved(name: str, parameter: Number | Choice, given: Mapping[str, object]) -> float | str:
    value = given.get(name, parameter.default)
    if value is None:
        raise ValueError(f"{name}: required; allowed: {parameter.allowed}")
    try:
        return parameter.check(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _known(name: str, parameters: Mapping) -> str:
    return nearest(name, parameters) if parameters else "; this loss has no hyperparameters"
