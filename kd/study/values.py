"""The values that a study may have: how each is read, and its JSON schema for editors.

A boolean is never a number. `1e-3`, which YAML reads as text, is a number.
"""

from __future__ import annotations

import itertools
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, WithJsonSchema

from kd import data, losses, models
from kd.core.errors import ConfigError, nearest
from kd.report import figures
from kd.study import plugins
from kd.study.search import Axis, Choice, Range

NAME = r"[A-Za-z0-9][A-Za-z0-9_]*"  # no dot, dash, plus or slash: those separate the parts of a path
SHA256 = r"[0-9a-f]{64}"
WEIGHTS = "weights"  # replaces the loss in the path of a network whose weights come from a file
MATCHED = "matched"  # teacher seeds: each student learns from the teacher of its own seed


class LossChoice(NamedTuple):
    """A loss with the hyperparameters that differ from their defaults, in the order in which they are spelled.

    Or the name of weights that come from a file (`imported`).
    """

    loss: str
    parameters: tuple[tuple[str, float | str], ...] = ()

    @property
    def weights(self) -> str | None:
        """Name of the imported weights, None if the network is trained."""
        return str(self.parameters[0][1]) if self.loss == WEIGHTS else None

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss reads a teacher's logits."""
        return bool(self.needs.teacher)

    @property
    def needs(self) -> losses.Needs:
        """The outputs that the loss looks at."""
        return losses.Needs(teacher=frozenset()) if self.weights else losses.LOSSES[self.loss].needs

    @property
    def tau(self) -> float:
        """The temperature at which it asks several networks that teach as one; 1 where it has none."""
        return self.resolved.get("tau", 1.0)

    @property
    def relation(self) -> str | None:
        """By which output of the teacher it relates classes, None if it does not."""
        return self.resolved[self.needs.relation] if self.needs.relation else None

    @property
    def looks_at(self) -> frozenset[str]:
        """The outputs of the teacher that it looks at, or by which it relates classes."""
        return self.needs.teacher | {*filter(None, [self.relation])}

    @property
    def logs(self) -> frozenset[str]:
        """Names of the metrics that the loss adds to each epoch."""
        return frozenset() if self.weights else losses.LOSSES[self.loss].logs

    @property
    def resolved(self) -> dict[str, float | str]:
        """Every hyperparameter of the loss, defaults too; imported weights have none."""
        return {} if self.weights else losses.LOSSES[self.loss].resolve(dict(self.parameters))


def imported(name: str) -> LossChoice:
    """Return the objective of a network with imported weights, spelled `weights-NAME`."""
    return LossChoice(WEIGHTS, (("", name),))


class Noise(NamedTuple):
    """Wrong labels: `kind` is a key of NOISES; `amount` is the rate, or the name of a label file."""

    kind: str
    amount: float | str


class Selected(NamedTuple):
    """How a teacher selects examples: `name` is a key of SELECTIONS, `amount` is the number that this one takes."""

    name: str
    amount: float


class Related(NamedTuple):
    """Which relation between classes is read: by which output of a teacher, on which of the examples.

    `tau` is the temperature of who asks, where a teacher's logits depend on it. `fraction` is class-balanced.
    """

    output: str
    tau: float | None = None
    fraction: float = 1.0
    selection: Selected | None = None


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxtuple, _REPR.maxset = 3, 8, 8, 8, 8
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 200


def shown(value: object) -> str:
    """Spell a value for a message, and shorten it if it is large or deep."""
    return _REPR.repr(value)


# -- values -----------------------------------------------------------------------------------------------------------


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"got {shown(value)}, expected a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        several = "; several are a list: [0, 1, 2]" if isinstance(value, str) and "," in value else ""
        raise ValueError(f"got {shown(value)}, expected a number{several}") from None
    if not math.isfinite(number):
        raise ValueError(f"got {shown(value)}, expected a finite number")
    return number


def _whole(value: object) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError(f"got {shown(value)}, expected a whole number")
    return int(number)


def _cells_per_gpu(value: object) -> int:
    """Read a number of cells; 0 stands for auto."""
    if value == "auto":
        return 0
    number = _whole(value)
    if not 1 <= number <= 48:
        raise ValueError(f"got {shown(value)}, expected 1 to 48, or auto")
    return number


def _channels(value: object) -> tuple[float, ...]:
    """Read a number for each channel."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"got {shown(value)}, expected a number for each channel: [0.5071, 0.4867, 0.4408]")
    return tuple(map(_number, value))


def _evaluate(value: object) -> int | str:
    """Read after how many epochs networks are evaluated: a number, or `last`."""
    if value == "last":
        return "last"
    if (epochs := _whole(value)) < 1:
        raise ValueError(f"got {shown(value)}, expected a number of epochs, or last")
    return epochs


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(NAME, value):
        raise ValueError(f"got {shown(value)}; a name is letters, digits and underscores")
    return value


def several(value: object) -> tuple:
    """Let `x` stand for `[x]`, and drop repetitions."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError("an empty list; give at least one value, or leave the key out")
    # Booleans keep their repetitions: dict.fromkeys would drop `true` after 1, so that it would not be refused later.
    plain = all(isinstance(v, int | float | str) and not isinstance(v, bool) for v in values)
    return tuple(dict.fromkeys(values)) if plain else tuple(values)


def _sha256(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(SHA256, value):
        raise ValueError(
            f"got {shown(value)}, expected 64 hexadecimal digits in lower case, as `sha256sum FILE` prints"
        )
    return value


def _network(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"got {shown(value)}, expected the name of a network, such as wrn-16-2")
    value = models.canonical(value)
    try:
        models.module_of(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return value


def _teacher(value: object) -> str:
    """Read a network, or several that teach as one, `wrn-28-4+wrn-16-4`; return their names sorted."""
    if not isinstance(value, str):
        return _network(value)
    names = [_network(name) for name in value.split("+")]
    if len(set(names)) < len(names):
        raise ValueError(f"{value}: a network twice; several seeds of one are an ensemble by teacher_seeds: 0+1")
    return "+".join(sorted(names))


def _seeds_of_one(value: object) -> tuple[object, ...]:
    """Read the seed of a teacher, 0, or the seeds of an ensemble, `0+1+2`; `matched` gives none."""
    if value == MATCHED:
        return ()
    texts = value.split("+") if isinstance(value, str) else [value]
    seeds = sorted(map(_whole, texts))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{value}: a seed twice in one ensemble")
    return tuple(seeds)


def _combination(value: object) -> str:
    if not isinstance(value, str) or value not in losses.ENSEMBLES:
        raise ValueError(f"{shown(value)}: no such ensemble{nearest(str(value), losses.ENSEMBLES)}")
    return value


def _figure(value: object) -> str:
    if not isinstance(value, str) or value not in figures.FIGURES:
        raise ValueError(f"{shown(value)}: no such figure{nearest(str(value), figures.FIGURES)}")
    return str(value)


def _plugins(value: object) -> Sequence[str]:
    """Load these plug-ins in place of all loaded before."""
    paths = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(path, str) for path in paths):
        raise ValueError(f"got {shown(value)}, expected a list of Python files")
    return plugins.load(tuple(dict.fromkeys(paths)))


def _paths(value: object) -> tuple[tuple[str, ...], ...]:
    """Read one path of networks, or a list of such paths."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(
            f"got {shown(value)}, expected networks from teacher to student: [wrn-28-4, wrn-16-4, wrn-16-2]"
        )
    paths = [value] if isinstance(value[0], str) else value
    if not all(isinstance(path, list | tuple) and path for path in paths):
        raise ValueError(f"got {shown(value)}, expected a list of networks, or a list of such lists")
    return tuple((*map(_teacher, path[:-1]), _network(path[-1])) for path in paths)


def _objectives(value: object) -> tuple[LossChoice, ...]:
    """Expand `[ce, {kl: {tau: [1, 3], alpha: 0.5}}]` into one LossChoice for each combination of values."""
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries:
        raise ValueError("an empty list of losses")
    return tuple(dict.fromkeys(objective for entry in entries for objective in _expand_loss(entry)))


def _expand_loss(entry: object) -> Iterator[LossChoice]:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict):
        raise ValueError(f"got {shown(entry)}, expected a loss: ce, mse, or {{kl: {{tau: [1, 3], alpha: 0.5}}}}")
    for loss, axes in entry.items():
        if loss not in losses.LOSSES:
            raise ValueError(f"{loss}: no such loss{nearest(str(loss), losses.LOSSES)}")
        axes = {} if axes is None else axes
        if not isinstance(axes, dict):
            raise ValueError(f"{loss}: got {shown(axes)}, expected its hyperparameters: {{tau: 3}}")
        for values in itertools.product(*(several(values) for values in axes.values())):
            yield loss_choice(loss, dict(zip(axes, values, strict=True)))


def loss_choice(loss: str, values: Mapping[str, object]) -> LossChoice:
    """Return the canonical LossChoice of `loss` with these hyperparameters. Raises ValueError that names the key."""
    spec = losses.LOSSES[loss]
    try:
        resolved = spec.resolve(values)
    except ValueError as error:
        raise ValueError(f"{loss}.{error}") from None
    return LossChoice(loss, tuple((key, v) for key, v in resolved.items() if v != spec.parameters[key].default))


def _noises(value: object) -> tuple[Noise, ...]:
    """Read `{symmetric: [0.2, 0.4], file: human}`; a rate of 0 becomes None, no noise."""
    kinds = {kind.name: key for key, kind in data.NOISES.items()}
    if not isinstance(value, dict):
        raise ValueError(f"got {shown(value)}, expected {{symmetric: [0.2, 0.4]}}; kinds: {', '.join(kinds)}")
    noises = []
    for name, amounts in value.items():
        if name not in kinds:
            raise ValueError(f"{name}: unknown key{nearest(str(name), kinds)}")
        noises += [Noise(kinds[name], _amount(name, amount)) for amount in several(amounts)]
    return tuple(dict.fromkeys(noise if noise.amount else None for noise in noises))


def spelled_noise(noise: Noise | None) -> dict | None:
    """Return wrong labels as a study spells them."""
    if noise is None:
        return None
    return {data.NOISES[noise.kind].name: noise.amount}


def _selections(value: object) -> tuple[Selected | None, ...]:
    """Read `[none, fine, {fine: [0.7, 0.9]}, {small_loss: 0.6}]`."""
    found: list[Selected | None] = []
    for entry in several(value):
        if not isinstance(entry, str | dict):
            raise ValueError(f"got {shown(entry)}, expected a selection: fine, or {{fine: 0.7}}")
        given = entry if isinstance(entry, dict) else {entry: None}
        for name, amounts in given.items():
            if name == "none":
                found.append(None)
            elif name not in data.SELECTIONS:
                raise ValueError(f"{shown(name)}: no such selection{nearest(str(name), ['none', *data.SELECTIONS])}")
            else:
                found += [selected(name, amount) for amount in several(amounts)]
    if not found:
        raise ValueError("no selection; leave the key out, or write none")
    return tuple(dict.fromkeys(found))


def selected(name: str, amount: object) -> Selected:
    """Return a selection; an amount of None means the default. Raises ValueError that says what is allowed."""
    allowed = "allowed is a number above 0 and below 1"
    if amount is None and data.SELECTIONS[name].default is None:
        raise ValueError(f"{name}: got no share of examples to keep; {allowed}: {{{name}: 0.6}}")
    number = data.SELECTIONS[name].default if amount is None else _number(amount)
    if not 0 < number < 1:
        raise ValueError(f"{name}: got {shown(amount)}; {allowed}")
    return Selected(name, number)


def _axes(value: object) -> dict[str, Axis]:
    """Read `{loss: [ce, kl], tau: {from: 0.25, to: 20, log: true}, batch: [32, 64]}`."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f"got {shown(value)}, expected {{loss: [ce, kl], tau: {{from: 0.25, to: 20, log: true}}}}")
    return {str(key): _axis(str(key), given) for key, given in value.items()}


def _axis(key: str, given: object) -> Axis:
    if isinstance(given, Choice | Range):
        return given
    if not isinstance(given, dict):
        try:
            found = several(given)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        if not all(isinstance(one, str | int | float) for one in found):
            raise ValueError(f"{key}: got {shown(given)}, expected a list of numbers or words")
        return Choice(found)
    for word in given:
        if word not in _ENDS:
            raise ValueError(f"{key}: {shown(word)}: unknown key{nearest(str(word), _ENDS)}")
    if not {"from", "to"} <= given.keys():
        raise ValueError(f"{key}: got {shown(given)}, expected {{from: 0.25, to: 20}}")
    try:
        low, high = _number(given["from"]), _number(given["to"])
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"{key}.log: got {shown(log)}, expected true or false")
    if not low < high:
        raise ValueError(f"{key}: got from {low:g} to {high:g}, which holds nothing; from must be less than to")
    if log and low <= 0:
        raise ValueError(f"{key}.from: got {low:g}; allowed with log: true is a number above 0")
    return Range(low, high, log)


def _amount(name: str, amount: object) -> float | str:
    if name == "file":
        return _name(amount)
    rate = _number(amount)
    if not 0 <= rate <= 1:
        raise ValueError(f"{name}: got a rate of {shown(amount)}, expected 0 to 1")
    return rate


@dataclass(frozen=True)
class Schema:
    """A JSON schema that is built when it is asked for, because plug-ins add to the tables that it lists."""

    now: Callable[[], dict]

    def __get_pydantic_json_schema__(self, core: object, handler: object) -> dict:
        return self.now()


def loss_schema() -> dict:
    def parameter(value: dict) -> dict:
        return {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}

    properties = {
        name: {
            "type": ["object", "null"],
            "description": spec.description,
            "properties": {key: parameter(p.schema) for key, p in spec.parameters.items()},
            "required": [key for key, p in spec.parameters.items() if p.default is None and not p.optional],
            "additionalProperties": False,
        }
        for name, spec in losses.LOSSES.items()
    }
    return {
        "anyOf": [
            {"enum": list(losses.LOSSES)},
            {"type": "object", "properties": properties, "additionalProperties": False},
        ]
    }


def _losses_schema() -> dict:
    return {"anyOf": [loss_schema(), {"type": "array", "items": loss_schema(), "minItems": 1}]}


def _figure_schema() -> dict:
    one = {"enum": list(figures.FIGURES)}
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _noise_schema() -> dict:
    kinds = {kind.name: {"description": kind.description} for kind in data.NOISES.values()}
    return {"type": "object", "properties": kinds, "additionalProperties": False}


def _selection_schema() -> dict:
    amount = {"anyOf": [_NUMERIC, {"type": "array", "items": _NUMERIC, "minItems": 1}]}
    kinds = {name: {**amount, "description": known.description} for name, known in data.SELECTIONS.items()}
    one = {
        "anyOf": [
            {"enum": ["none", *kinds]},
            {"type": "object", "properties": kinds, "additionalProperties": False},
        ]
    }
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _one_or_more(schema: dict, *or_else: dict) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}, *or_else]})


Own = tuple[tuple[str, Any], ...]  # a stage's own values of protocol keys, such as (("lr", 0.02),)
_PATH = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_NUMERIC = {"type": ["number", "string"]}
Number = Annotated[float, BeforeValidator(_number), WithJsonSchema(_NUMERIC)]
Whole = Annotated[int, BeforeValidator(_whole), WithJsonSchema({"type": "integer"})]
Share = Annotated[Number, Field(ge=0, lt=1)]
LearningRate = Annotated[Number, Field(gt=0)]
BatchSize = Annotated[Whole, Field(ge=1)]
WeightDecay = Annotated[Number, Field(ge=0)]
Epochs = Annotated[Whole, Field(ge=1)]
Stops = Annotated[
    tuple[Annotated[Whole, Field(ge=0, lt=10**9)], ...],
    BeforeValidator(several),
    _one_or_more({"type": "integer", "minimum": 0, "exclusiveMaximum": 10**9}),
]
Magnitude = Annotated[Whole, Field(ge=0, le=30)]
Mixing = Annotated[Number, Field(ge=0, le=100)]
Optimizer = Literal["sgd", "adamw"]
Betas = Annotated[
    tuple[Share, Share],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    WithJsonSchema({"type": "array", "items": _NUMERIC, "minItems": 2, "maxItems": 2}),
]
Schedule = Literal["multistep", "cosine"]
Milestones = Annotated[tuple[Whole, ...], BeforeValidator(several)]
Gamma = Annotated[Number, Field(gt=0, le=1)]
CellsPerGpu = Annotated[
    int,
    BeforeValidator(_cells_per_gpu),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 48}]}),
]
Channels = Annotated[
    tuple[Annotated[float, Field(ge=0)], ...],
    BeforeValidator(_channels),
    WithJsonSchema({"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1}),
]
Evaluate = Annotated[
    int | Literal["last"],
    BeforeValidator(_evaluate),
    WithJsonSchema({"anyOf": [{"const": "last"}, {"type": "integer", "minimum": 1}]}),
]
Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]
Sha256 = Annotated[str, BeforeValidator(_sha256), WithJsonSchema({"type": "string", "pattern": f"^{SHA256}$"})]
Network = Annotated[str, BeforeValidator(_network), WithJsonSchema({"type": "string"})]
Networks = Annotated[tuple[Network, ...], BeforeValidator(several), _one_or_more({"type": "string"})]
Teachers = Annotated[
    tuple[Annotated[str, BeforeValidator(_teacher)], ...], BeforeValidator(several), _one_or_more({"type": "string"})
]
Seed = Annotated[Whole, Field(ge=0, lt=10**9)]  # at most nine digits in a path, and exact in any arithmetic
_SEED = {"type": "integer", "minimum": 0, "exclusiveMaximum": 10**9}
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(several), _one_or_more(_SEED)]
# `auto` is for editors alone: kd.report.seeding replaces it by a list before a study is validated.
SeedsOrAuto = Annotated[tuple[Seed, ...], BeforeValidator(several), _one_or_more(_SEED, {"const": "auto"})]
TEACHER_SEEDS = f"0+1+2 is an ensemble of three seeds; with {MATCHED}, student s learns from teacher s"
TeacherSeeds = Annotated[
    tuple[Annotated[tuple[Seed, ...], BeforeValidator(_seeds_of_one)], ...],
    BeforeValidator(several),
    _one_or_more(
        {
            "type": ["integer", "string"],
            "minimum": 0,
            "exclusiveMaximum": 10**9,
            "pattern": rf"^(\d+(\+\d+)*|{MATCHED})$",
        }
    ),
]
Combinations = Annotated[
    tuple[Annotated[str, BeforeValidator(_combination)], ...],
    BeforeValidator(several),
    _one_or_more({"enum": list(losses.ENSEMBLES)}),
]
Fractions = Annotated[
    tuple[Annotated[Number, Field(gt=0, le=1)], ...], BeforeValidator(several), _one_or_more(_NUMERIC)
]
Figures = Annotated[
    tuple[Annotated[str, BeforeValidator(_figure)], ...],
    BeforeValidator(several),
    Schema(_figure_schema),
]
Paths = Annotated[
    tuple[tuple[str, ...], ...],
    BeforeValidator(_paths),
    WithJsonSchema({"anyOf": [_PATH, {"type": "array", "items": _PATH, "minItems": 1}]}),
]
Selections = Annotated[tuple[Selected | None, ...], BeforeValidator(_selections), Schema(_selection_schema)]
_ENDS = {
    "from": _NUMERIC,
    "to": _NUMERIC,
    "log": {"type": "boolean", "description": "even in the logarithm, as learning rates and temperatures should be"},
}
_VALUE = {"type": ["number", "string"]}
_AXIS = {
    "anyOf": [
        {"type": "object", "properties": _ENDS, "required": ["from", "to"], "additionalProperties": False},
        {"type": "array", "items": _VALUE, "minItems": 1},
        _VALUE,
    ]
}
Axes = Annotated[
    dict[str, Any],
    BeforeValidator(_axes),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {  # with `tune` each loss may have axes of its own
                "loss": {"anyOf": [*_AXIS["anyOf"], {"type": "object", "additionalProperties": {"type": "object"}}]}
            },
            "additionalProperties": _AXIS,
            "required": ["loss"],
        }
    ),
]
Plugins = Annotated[tuple[str, ...], BeforeValidator(_plugins), _one_or_more({"type": "string"})]
Losses = Annotated[tuple[LossChoice, ...], BeforeValidator(_objectives), Schema(_losses_schema)]
LabelNoise = Annotated[
    tuple[Noise | None, ...],
    BeforeValidator(_noises),
    Schema(_noise_schema),
]
