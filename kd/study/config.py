"""config.yaml -> Study: what the user may write, checked before anything runs.

Unknown keys are refused with the nearest known one; a boolean is never a number; `1e-3`, which YAML reads
as text, is the number it looks like. The JSON schema in workflow/config.schema.json, for editors,
is generated from these models and a test holds it in step.
"""

from __future__ import annotations

import itertools
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticUndefined, to_jsonable_python

from kd import data, losses, models
from kd.core.errors import ConfigError, nearest
from kd.core.project import on_disk
from kd.report import figures
from kd.study import plugins

DEFAULT = Path("config.yaml")
NAME = r"[A-Za-z0-9][A-Za-z0-9_]*"  # no dot, dash, plus or slash: those separate the parts of a path
SHA256 = r"[0-9a-f]{64}"
WEIGHTS = "weights"  # stands where a loss does in the path of a network that comes from a file
MATCHED = "matched"  # teacher seeds: each student learns from the teacher of its own seed
PAPER_DROPS = (0.5, 0.75)  # the paper's 100 and 150 of 200 epochs, as shares of a protocol's epochs


class LossChoice(NamedTuple):
    """A loss with the hyperparameters that differ from their defaults, in the order in which they are spelled.

    Or where weights come from that no loss has trained: `imported`.
    """

    loss: str
    parameters: tuple[tuple[str, float | str], ...] = ()

    @property
    def weights(self) -> str | None:
        """Name of the weights that stand in the place of training, or None."""
        return str(self.parameters[0][1]) if self.loss == WEIGHTS else None

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss reads a teacher's logits."""
        return bool(self.needs.teacher)

    @property
    def needs(self) -> losses.Needs:
        """What the loss looks at."""
        return losses.Needs(teacher=frozenset()) if self.weights else losses.LOSSES[self.loss].needs

    @property
    def logs(self) -> frozenset[str]:
        """What the loss adds to the metrics of an epoch."""
        return frozenset() if self.weights else losses.LOSSES[self.loss].logs

    @property
    def resolved(self) -> dict[str, float | str]:
        """Every hyperparameter of the loss, defaults too; imported weights have none."""
        return {} if self.weights else losses.LOSSES[self.loss].resolve(dict(self.parameters))


def imported(name: str) -> LossChoice:
    """Return what a network with the weights `name` has in the place of a loss, spelled `weights-NAME`."""
    return LossChoice(WEIGHTS, (("", name),))


class Noise(NamedTuple):
    """Wrong labels: `kind` is a key of NOISES; `amount` is the rate, or the name of a label file."""

    kind: str
    amount: float | str


class Selected(NamedTuple):
    """How a teacher chooses what is learnt from: `name` is a key of SELECTIONS, `amount` what that asks for."""

    name: str
    amount: float


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxtuple, _REPR.maxset = 3, 8, 8, 8, 8
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 200


def _shown(value: object) -> str:
    """Spell a value for a message: what is large or deep in part."""
    return _REPR.repr(value)


# -- values -----------------------------------------------------------------------------------------------------------


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"got {_shown(value)}, expected a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        several = "; several are a list: [0, 1, 2]" if isinstance(value, str) and "," in value else ""
        raise ValueError(f"got {_shown(value)}, expected a number{several}") from None
    if not math.isfinite(number):
        raise ValueError(f"got {_shown(value)}, expected a finite number")
    return number


def _whole(value: object) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError(f"got {_shown(value)}, expected a whole number")
    return int(number)


def _cells_per_gpu(value: object) -> int:
    """Read a number of cells; 0 stands for auto."""
    if value == "auto":
        return 0
    number = _whole(value)
    if not 1 <= number <= 48:
        raise ValueError(f"got {_shown(value)}, expected 1 to 48, or auto")
    return number


def _channels(value: object) -> tuple[float, ...]:
    """Read a number for each channel."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"got {_shown(value)}, expected a number for each channel: [0.5071, 0.4867, 0.4408]")
    return tuple(map(_number, value))


def _evaluate(value: object) -> int | str:
    """Read after how many epochs networks are evaluated, or `last`."""
    if value == "last":
        return "last"
    if (epochs := _whole(value)) < 1:
        raise ValueError(f"got {_shown(value)}, expected a number of epochs, or last")
    return epochs


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(NAME, value):
        raise ValueError(f"got {_shown(value)}; a name is letters, digits and underscores")
    return value


def _several(value: object) -> tuple:
    """Let `x` stand for `[x]`, and drop repetitions."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError("an empty list; give at least one value, or leave the key out")
    # Not among booleans: `true`, equal to 1, would be dropped as a repetition instead of refused.
    plain = all(isinstance(v, int | float | str) and not isinstance(v, bool) for v in values)
    return tuple(dict.fromkeys(values)) if plain else tuple(values)


def _sha256(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(SHA256, value):
        raise ValueError(
            f"got {_shown(value)}, expected 64 hexadecimal digits in lower case, as `sha256sum FILE` prints"
        )
    return value


def _network(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"got {_shown(value)}, expected the name of a network, such as wrn-16-2")
    try:
        models.module_of(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return value


def _teacher(value: object) -> str:
    """Read a network, or several that teach as one: `wrn-28-4+wrn-16-4`, spelled in the one order of their names."""
    if not isinstance(value, str):
        return _network(value)
    names = [_network(name) for name in value.split("+")]
    if len(set(names)) < len(names):
        raise ValueError(f"{value}: a network twice; several seeds of one are an ensemble by teacher_seeds: 0+1")
    return "+".join(sorted(names))


def _seeds_of_one(value: object) -> tuple[object, ...]:
    """Read the seed of a teacher, or of several that teach as one: 0, or `0+1+2`; of `matched` none."""
    if value == MATCHED:
        return ()
    texts = value.split("+") if isinstance(value, str) else [value]
    seeds = sorted(map(_whole, texts))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{value}: a seed twice in one ensemble")
    return tuple(seeds)


def _combination(value: object) -> str:
    if not isinstance(value, str) or value not in losses.ENSEMBLES:
        raise ValueError(f"{_shown(value)}: no such ensemble{nearest(str(value), losses.ENSEMBLES)}")
    return value


def _figure(value: object) -> str:
    if not isinstance(value, str) or value not in figures.FIGURES:
        raise ValueError(f"{_shown(value)}: no such figure{nearest(str(value), figures.FIGURES)}")
    return str(value)


def _plugins(value: object) -> Sequence[str]:
    """Load plug-ins: what they add is known from here on, and what others have added is not."""
    paths = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(path, str) for path in paths):
        raise ValueError(f"got {_shown(value)}, expected a list of Python files")
    return plugins.load(tuple(dict.fromkeys(paths)))


def _paths(value: object) -> tuple[tuple[str, ...], ...]:
    """Read one path of networks, or a list of such paths."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(
            f"got {_shown(value)}, expected networks from teacher to student: [wrn-28-4, wrn-16-4, wrn-16-2]"
        )
    paths = [value] if isinstance(value[0], str) else value
    if not all(isinstance(path, list | tuple) and path for path in paths):
        raise ValueError(f"got {_shown(value)}, expected a list of networks, or a list of such lists")
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
        raise ValueError(f"got {_shown(entry)}, expected a loss: ce, mse, or {{kl: {{tau: [1, 3], alpha: 0.5}}}}")
    for loss, axes in entry.items():
        if loss not in losses.LOSSES:
            raise ValueError(f"{loss}: no such loss{nearest(str(loss), losses.LOSSES)}")
        axes = {} if axes is None else axes
        if not isinstance(axes, dict):
            raise ValueError(f"{loss}: got {_shown(axes)}, expected its hyperparameters: {{tau: 3}}")
        for values in itertools.product(*(_several(values) for values in axes.values())):
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
    """Read `{symmetric: [0.2, 0.4], file: human}`; a rate of 0 is no noise at all."""
    kinds = {kind.name: key for key, kind in data.NOISES.items()}
    if not isinstance(value, dict):
        raise ValueError(f"got {_shown(value)}, expected {{symmetric: [0.2, 0.4]}}; kinds: {', '.join(kinds)}")
    noises = []
    for name, amounts in value.items():
        if name not in kinds:
            raise ValueError(f"{name}: unknown key{nearest(str(name), kinds)}")
        noises += [Noise(kinds[name], _amount(name, amount)) for amount in _several(amounts)]
    return tuple(dict.fromkeys(noise if noise.amount else None for noise in noises))


def _selections(value: object) -> tuple[Selected | None, ...]:
    """Read `[none, fine, {fine: [0.7, 0.9]}, {small_loss: 0.6}]`."""
    found: list[Selected | None] = []
    for entry in _several(value):
        if not isinstance(entry, str | dict):
            raise ValueError(f"got {_shown(entry)}, expected a selection: fine, or {{fine: 0.7}}")
        given = entry if isinstance(entry, dict) else {entry: None}
        for name, amounts in given.items():
            if name == "none":
                found.append(None)
            elif name not in data.SELECTIONS:
                raise ValueError(f"{_shown(name)}: no such selection{nearest(str(name), ['none', *data.SELECTIONS])}")
            else:
                found += [selected(name, amount) for amount in _several(amounts)]
    if not found:
        raise ValueError("no selection; leave the key out, or write none")
    return tuple(dict.fromkeys(found))


def selected(name: str, amount: object) -> Selected:
    """Return a selection; an amount of None is the default. Raises ValueError that says what is allowed."""
    allowed = "allowed is a number above 0 and below 1"
    if amount is None and data.SELECTIONS[name].default is None:
        raise ValueError(f"{name}: got no share of examples to keep; {allowed}: {{{name}: 0.6}}")
    number = data.SELECTIONS[name].default if amount is None else _number(amount)
    if not 0 < number < 1:
        raise ValueError(f"{name}: got {_shown(amount)}; {allowed}")
    return Selected(name, number)


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


def _trainings(value: object) -> tuple[Own, ...]:
    """Read `{lr: [0.1, 0.02], batch: 64}`: every combination, each key in its order."""
    if not isinstance(value, dict):
        raise ValueError(f"got {_shown(value)}, expected {{lr: [0.1, 0.02]}}")
    each = itertools.product(*(_several(_listed(key, values)) for key, values in value.items()))
    return tuple(dict.fromkeys(own_training(dict(zip(value, values, strict=True))) for values in each))


def _listed(key: str, values: object) -> object:
    """Return what is given for a key as a list of its values: one value of milestones is a list itself."""
    if key == "milestones" and not (isinstance(values, list) and values and isinstance(values[0], list)):
        return [values]
    return values


def _training_schema() -> dict:
    properties = {
        key: {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
        for key, value in OwnTraining.model_json_schema()["properties"].items()
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _amount(name: str, amount: object) -> float | str:
    if name == "file":
        return _name(amount)
    rate = _number(amount)
    if not 0 <= rate <= 1:
        raise ValueError(f"{name}: got a rate of {_shown(amount)}, expected 0 to 1")
    return rate


@dataclass(frozen=True)
class _Schema:
    """A JSON schema of what the tables list when it is asked for: plug-ins add to them."""

    now: Callable[[], dict]

    def __get_pydantic_json_schema__(self, core: object, handler: object) -> dict:
        return self.now()


def _loss_schema() -> dict:
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
    return {"anyOf": [_loss_schema(), {"type": "array", "items": _loss_schema(), "minItems": 1}]}


def _figure_schema() -> dict:
    one = {"enum": list(figures.FIGURES)}
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _noise_schema() -> dict:
    kinds = {kind.name: {"description": kind.description} for kind in data.NOISES.values()}
    return {"type": "object", "properties": kinds, "additionalProperties": False}


def _one_or_more(schema: dict) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}]})


Own = tuple[tuple[str, Any], ...]  # values of the protocol that are a stage's own, such as (("lr", 0.02),)
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
    tuple[Annotated[Whole, Field(ge=1, lt=10**9)], ...],
    BeforeValidator(_several),
    _one_or_more({"type": "integer", "minimum": 1, "exclusiveMaximum": 10**9}),
]
Schedule = Literal["multistep", "cosine"]
Milestones = Annotated[tuple[Whole, ...], BeforeValidator(_several)]
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
Networks = Annotated[tuple[Network, ...], BeforeValidator(_several), _one_or_more({"type": "string"})]
Teachers = Annotated[
    tuple[Annotated[str, BeforeValidator(_teacher)], ...], BeforeValidator(_several), _one_or_more({"type": "string"})
]
Seed = Annotated[Whole, Field(ge=0, lt=10**9)]  # nine digits in a path, and exact in any arithmetic
Seeds = Annotated[
    tuple[Seed, ...],
    BeforeValidator(_several),
    _one_or_more({"type": "integer", "minimum": 0, "exclusiveMaximum": 10**9}),
]
_TEACHER_SEEDS = f"0+1+2 is an ensemble of three seeds; with {MATCHED}, student s learns from teacher s"
TeacherSeeds = Annotated[
    tuple[Annotated[tuple[Seed, ...], BeforeValidator(_seeds_of_one)], ...],
    BeforeValidator(_several),
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
    BeforeValidator(_several),
    _one_or_more({"enum": list(losses.ENSEMBLES)}),
]
Fractions = Annotated[
    tuple[Annotated[Number, Field(gt=0, le=1)], ...], BeforeValidator(_several), _one_or_more(_NUMERIC)
]
Figures = Annotated[
    tuple[Annotated[str, BeforeValidator(_figure)], ...],
    BeforeValidator(_several),
    _Schema(_figure_schema),
]
Paths = Annotated[
    tuple[tuple[str, ...], ...],
    BeforeValidator(_paths),
    WithJsonSchema({"anyOf": [_PATH, {"type": "array", "items": _PATH, "minItems": 1}]}),
]
Trainings = Annotated[tuple[Own, ...], BeforeValidator(_trainings), _Schema(lambda: _training_schema())]
Selections = Annotated[tuple[Selected | None, ...], BeforeValidator(_selections), _Schema(lambda: _selection_schema())]
Plugins = Annotated[tuple[str, ...], BeforeValidator(_plugins), _one_or_more({"type": "string"})]
Losses = Annotated[tuple[LossChoice, ...], BeforeValidator(_objectives), _Schema(_losses_schema)]
LabelNoise = Annotated[
    tuple[Noise | None, ...],
    BeforeValidator(_noises),
    _Schema(_noise_schema),
]


# -- models -----------------------------------------------------------------------------------------------------------


class Model(BaseModel):
    """Keys and values that a user may write; what is not known is refused with the nearest that is."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    REMOVED: ClassVar[Mapping[str, object]] = {}  # keys that are no more, each with the value that the code goes by

    @classmethod
    @cache
    def since(cls) -> Mapping[str, Any]:
        """Return, as JSON has it, the value with which each key was introduced: what one that a recipe lacks counts as.

        It is the default. One that changes leaves the first beside it: `Field(64, json_schema_extra={"since": 32})`. A
        key that must be given has none.
        """
        found = dict(cls.REMOVED)
        for name, field in cls.model_fields.items():
            first = (field.json_schema_extra or {}).get("since", field.default)
            if first is not PydanticUndefined:
                found[name] = first
        return to_jsonable_python(found)

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, values: object) -> object:
        if isinstance(values, Mapping):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in values:
                if key not in known:
                    raise ValueError(f"{key}: unknown key{_belongs(str(key), cls) or nearest(str(key), known)}")
        return values


def _belongs(key: str, model: type[Model]) -> str:
    """Say of a key that stands in the wrong place where it belongs, where that is known."""
    places = {
        Study: "the study itself, the top level",
        Protocol: "protocol",
        Experiment: "an experiment: experiments.NAME",
        DeclaredDataset: "a dataset: datasets.NAME",
        Weights: "weights.NAME",
    }
    for place, where in places.items():
        if key in place.model_fields and place is not model:
            return f"; {key} belongs to {where}"
    takes = [name for name, loss in losses.LOSSES.items() if key in loss.parameters]
    return f"; {key} belongs to a loss: loss: {{{takes[0]}: {{{key}: ...}}}}" if takes else ""


_M = TypeVar("_M", bound=Model)
_N = TypeVar("_N", int, float)


class Protocol(Model):
    """How every network of a study is trained. The defaults are the paper's, except the precision."""

    name: Name = Field(description="stands in the path of every cell trained this way")
    epochs: Epochs = 200
    batch: BatchSize = Field(128, description="examples a step; the last, partial batch is kept")
    lr: LearningRate = 0.1
    momentum: Share = 0.9
    nesterov: bool = True
    weight_decay: WeightDecay = Field(5e-4, description="not applied to 1-D parameters, unless decay_1d")
    decay_1d: bool = Field(False, description="decay biases and batch normalisation too, as mdistiller and others do")
    schedule: Schedule = "multistep"
    milestones: Milestones | None = Field(
        None, description="epochs at which lr is multiplied by gamma; by default at 1/2 and 3/4 of the epochs"
    )
    gamma: Gamma = 0.1
    crop: Literal["padded", "resized"] = Field(
        "padded",
        description="random crops of an image's own size after padding; or of any part, resized: streamed data",
    )
    pad: Annotated[Whole, Field(ge=0)] | None = Field(
        None, description="pixels on each side of padded crops; default: dataset's"
    )
    flip: bool | None = Field(None, description="random horizontal flip; by default where mirror images are the same")
    heldout: Share = Field(0.0, description="share of the training set kept for evaluation; the paper has none")
    evaluate: Evaluate = Field(
        1, description="after every so many epochs, and the last, or `last`: a small training set pays most for it"
    )
    teacher: Literal["bank", "online"] = Field("bank", description="read stored logits, or run the teacher each step")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="of training; auto: bf16 where it is native")
    teacher_precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32",
        description="of a teacher's logits; the others are faster and change a student's gradient by up to 10 %",
    )
    compile: Literal["auto", "always", "never"] = Field("auto", description="auto: where a cell is long enough to gain")
    deterministic: bool = Field(False, description="the same bits each time on a GPU too, by slower kernels")

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0; set nesterov: false")
        if self.milestones and list(self.milestones) != sorted(m for m in set(self.milestones) if 0 < m < self.epochs):
            raise ValueError(f"milestones {list(self.milestones)} must increase, between 1 and {self.epochs - 1}")
        if self.crop == "resized" and self.pad is not None:
            raise ValueError("pad: resized crops are not padded; leave it out")
        if self.crop == "resized" and self.teacher == "bank":
            raise ValueError("teacher: resized crops are without number, no bank holds them; set teacher: online")
        return self

    @property
    def drops(self) -> tuple[int, ...]:
        """Epochs after which the learning rate is multiplied by gamma."""
        if self.milestones is not None:
            return self.milestones
        first, second = (max(1, round(share * self.epochs)) for share in PAPER_DROPS)
        return min(first, max(1, second - 1)), second  # of three epochs too, one after the other


class OwnTraining(Model):
    """Values of the protocol that a stage may have of its own."""

    lr: LearningRate | None = None
    batch: BatchSize | None = None
    weight_decay: WeightDecay | None = None
    epochs: Epochs | None = None
    schedule: Schedule | None = None
    milestones: Milestones | None = None
    gamma: Gamma | None = None


@cache
def with_own(protocol: Protocol, own: Own) -> Protocol:
    """Return a protocol with the values that a stage has of its own. Raises ConfigError where they do not agree."""
    return checked(Protocol, {**protocol.model_dump(), **dict(own)}) if own else protocol


def own_training(values: Mapping[str, object]) -> Own:
    """Return the values that a stage has of its own, in their order. Raises ValueError that names what is wrong."""
    try:
        made = OwnTraining.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError(_explain(error.errors()[0])) from None
    return tuple((key, value) for key, value in made.model_dump().items() if value is not None)


class DeclaredDataset(Model):
    """A dataset of one's own: a folder of images, or a local copy of a built-in one."""

    folder: str | None = Field(None, description="holds train/CLASS/*.jpg and val|test/CLASS/*")
    size: Annotated[Whole, Field(ge=4, le=512)] | None = Field(None, description="images become size x size pixels")
    convert: Literal["rgb"] | None = Field(
        None, description="turn grey, palette and alpha images into RGB; streamed ones always are"
    )
    streamed: bool | None = Field(
        None, description="decode images when they are needed, each time, instead of once: for what fits into no memory"
    )
    source: str | None = Field(None, description="local folder or archive of a built-in dataset, instead of a download")

    @model_validator(mode="after")
    def _one_kind(self) -> DeclaredDataset:
        if (self.folder is None) == (self.source is None):
            raise ValueError("give either folder (images) or source (a local copy of a built-in dataset)")
        if self.folder is not None and self.size is None:
            raise ValueError("size: missing; an image folder needs the size to resize to, such as 32")
        if self.streamed and self.folder is None:
            raise ValueError("streamed: only a folder of images can be")
        return self


class Weights(Model):
    """A network that was trained elsewhere."""

    file: str = Field(description="safetensors, or a PyTorch checkpoint that holds tensors alone")
    sha256: Sha256 = Field(description="of the file, in hexadecimal; any other file is refused")
    top1: Annotated[Number, Field(ge=0, le=100)] | None = Field(
        None, description="expected test accuracy in %; more than half a point off is refused"
    )
    mean: Channels | None = Field(
        None, description="of each channel, in 0 to 1, with std: the images it was trained on; by default the dataset's"
    )
    std: Channels | None = None

    @model_validator(mode="after")
    def _in_its_units(self) -> Weights:
        if self.top1 is not None and 0 < self.top1 <= 1:
            raise ValueError(f"top1: got {self.top1:g}, expected %: did you mean {100 * self.top1:g}?")
        if (self.mean and len(self.mean)) != (self.std and len(self.std)):
            raise ValueError("mean and std: give one number of each for every channel, or neither")
        if any(value > 1 for value in self.mean or ()) or not all(self.std or (1,)):
            raise ValueError("mean and std are those of pixels from 0 to 1, and no std is 0")
        return self

    @property
    def claim(self) -> dict[str, Any]:
        """What is claimed of the weights, wherever their file lies."""
        return self.model_dump(mode="json", exclude={"file"})


class Experiment(Model):
    """A product over axes, and the figures that show it."""

    teacher: Teachers | None = Field(None, description="the networks that teach; A+B is an ensemble of networks")
    teacher_loss: Losses = Field(
        (LossChoice("ce"),), description="what the first network of each path is trained with, by default cross-entropy"
    )
    student: Networks | None = Field(None, description="the networks they teach")
    path: Paths | None = Field(None, description="a chain of networks, or a list of chains, instead of teacher/student")
    loss: Losses = Field(description="what each taught network of the path is trained with; chains take every mix")
    dataset: Name | None = Field(None, description="by default the study's")
    label_noise: LabelNoise = (None,)
    fraction: Fractions = Field((1.0,), description="class-balanced share of the training set")
    student_fraction: Fractions = Field((1.0,), description="the same for all but the first teacher, which sees all")
    student_training: Trainings = Field(
        ((),),
        description="values of the protocol that all but the first teacher have of their own, as lr or epochs",
    )
    student_selection: Selections = Field(
        (None,), description="how each teacher chooses what the next network learns from, where labels may be wrong"
    )
    seeds: Seeds | None = None
    teacher_seeds: TeacherSeeds | None = Field(None, description=_TEACHER_SEEDS)
    ensemble: Combinations | None = Field(None, description="what an ensemble answers; by default mean_logit")
    teacher_epochs: Stops | None = Field(None, description="stop the first teacher early")
    teacher_weights: Name | None = Field(
        None, description="the first network of each path is not trained but has these weights"
    )
    figure: Figures = ()

    @model_validator(mode="after")
    def _one_shape(self) -> Experiment:
        if self.path is not None and (self.teacher or self.student):
            raise ValueError("give either path, or teacher and student")
        if self.path is None and not self.student:
            raise ValueError("student: missing; say which network is trained (or give a path)")
        needing = [o.loss for o in self.loss if o.needs_teacher]
        if needing and any(len(path) < 2 for path in self.networks):
            raise ValueError(f"teacher: missing; {needing[0]} needs one")
        for chosen in self.teacher_loss:
            if chosen.needs_teacher:
                raise ValueError(f"teacher_loss: {chosen.loss} needs a teacher, which the first of a path has not")
        if min(self.fraction) < 1 and min(self.student_fraction) < 1:
            raise ValueError("student_fraction: teachers see the fraction too; give one of the two")
        if any(self.student_selection) and any(len(path) < 2 for path in self.networks):
            raise ValueError("student_selection: there is no teacher that could select")
        if self.teacher_weights:
            self._check_teacher_weights(self.teacher_weights)
        for name in self.figure:
            self._check_figure(name)
        return self

    def _check_figure(self, name: str) -> None:
        """Refuse what would be found empty only after everything is trained."""
        filled = [known for known, one in figures.FIGURES.items() if one.needs is None or one.needs.met(self)]
        if name not in filled:
            found = ", ".join(dict.fromkeys(chosen.loss for chosen in self.loss))
            labels = "wrong labels" if any(self.label_noise) else "clean labels"
            raise ValueError(
                f"figure: {name} needs {figures.FIGURES[name].needs.words}; got loss {found} and {labels}, which can "
                f"fill {', '.join(filled)}"
            )

    def _check_teacher_weights(self, name: str) -> None:
        if any(len(path) < 2 for path in self.networks):
            raise ValueError(f"teacher_weights: there is no teacher that could have the weights {name!r}")
        if self.teacher_epochs:
            raise ValueError("teacher_epochs: a teacher that has teacher_weights is not trained; give one of the two")
        first = dict.fromkeys(network for path in self.networks for network in path[0].split("+"))
        if len(first) > 1:
            raise ValueError(f"teacher_weights: {name!r} are the weights of one network, not of {', '.join(first)}")

    @property
    def networks(self) -> tuple[tuple[str, ...], ...]:
        """The paths of networks, first teacher first."""
        if self.path is not None:
            return self.path
        ahead = [(teacher,) for teacher in self.teacher] if self.teacher else [()]
        return tuple((*teacher, student) for teacher in ahead for student in self.student or ())


class Study(Model):
    """Everything that one `snakemake` command trains and draws."""

    # First, because fields are read in order, and the others may name what plug-ins add.
    plugins: Plugins = Field(
        (), validate_default=True, description="Python files that add losses, networks, datasets or figures; they run"
    )
    study: Name = Field(description="names the folder under reports/")
    dataset: Name
    datasets: dict[Name, DeclaredDataset] = Field({}, description="datasets of one's own, by name")
    label_files: dict[Name, str] = Field(
        {}, description="files with one label an example, by name; of CIFAR-10N: FILE.pt:SET"
    )
    weights: dict[Name, Weights] = Field({}, description="networks that were trained elsewhere, by name")
    protocol: Protocol
    seeds: Seeds = Field((0, 1, 2), description="of the last network of each lineage")
    teacher_seeds: TeacherSeeds = Field(((0,),), description=f"of the networks that teach; {_TEACHER_SEEDS}")
    noise_seed: Seed = 0
    experiments: dict[Name, Experiment]
    keep_banks: bool = Field(True, description="false: remove a teacher's bank when its last student is trained")
    cells_per_gpu: CellsPerGpu = Field(1, description="cells that share one GPU; auto: as many as fit into its memory")
    gpus_per_cell: Annotated[Whole, Field(ge=1, le=64)] = Field(
        1, description="GPUs that train one cell together, each with its part of every batch; without GPUs, processes"
    )
    workers: Annotated[Whole, Field(ge=0, le=64)] = Field(
        0, description="processes that decode streamed images for each GPU of a cell; they change no number"
    )

    RESERVED: ClassVar = frozenset({"teachers"})  # the table's name for the networks that only teach

    @model_validator(mode="after")
    def _known_names(self) -> Study:
        for name in self.RESERVED & set(self.experiments):
            raise ValueError(f"experiments.{name}: this name is kd's own; choose another")
        for name, experiment in self.experiments.items():
            self._check_dataset(f"experiments.{name}.dataset", experiment.dataset or self.dataset)
            for noise in experiment.label_noise:
                if noise and noise.kind == "labels" and noise.amount not in self.label_files:
                    raise ValueError(f"experiments.{name}.label_noise.file: {noise.amount!r} is not under label_files")
            if experiment.teacher_weights not in {None, *self.weights}:
                raise ValueError(
                    f"experiments.{name}.teacher_weights: {experiment.teacher_weights!r} is not under weights"
                )
            for own in experiment.student_training:
                self._check_training(f"experiments.{name}.student_training", own)
            if experiment.ensemble and not self._has_ensembles(experiment):
                raise ValueError(
                    f"experiments.{name}.ensemble: no teacher is one; write teacher: A+B or teacher_seeds: 0+1+2"
                )
            if any(experiment.student_selection) and self._has_ensembles(experiment):
                raise ValueError(f"experiments.{name}.student_selection: an ensemble teaches; one network selects")
            for chosen in experiment.loss:
                self._check_loss(f"experiments.{name}.loss: {chosen.loss}", chosen, self._has_ensembles(experiment))
        self._check_dataset("dataset", self.dataset)
        for name, declared in self.datasets.items():
            if declared.source and name not in data.DATASETS:
                raise ValueError(f"datasets.{name}.source: only a built-in dataset{nearest(name, data.DATASETS)}")
        return self

    def _has_ensembles(self, experiment: Experiment) -> bool:
        seeds = experiment.teacher_seeds or self.teacher_seeds
        teachers = [network for path in experiment.networks for network in path[:-1]]
        return any("+" in network for network in teachers) or (bool(teachers) and any(len(of) > 1 for of in seeds))

    def _check_training(self, key: str, own: Own) -> None:
        try:
            with_own(self.protocol, own)
        except ConfigError as error:
            raise ValueError(f"{key}: {error}") from None

    def _check_loss(self, key: str, chosen: LossChoice, ensembles: bool) -> None:
        if ensembles and chosen.needs.teacher - {"logits"}:
            raise ValueError(f"{key} looks at more of a teacher than its logits, which an ensemble does not have")
        if self.gpus_per_cell > 1 and losses.LOSSES[chosen.loss].batchwise:
            raise ValueError(
                f"{key} compares or remembers examples, which several processes part; set gpus_per_cell: 1"
            )

    @property
    def drawn(self) -> list[tuple[str, str]]:
        """The (experiment, figure) pairs to draw, in the study's order."""
        return [(name, figure) for name, experiment in self.experiments.items() for figure in experiment.figure]

    def _check_dataset(self, key: str, name: str) -> None:
        known = {*data.DATASETS, *self.datasets}
        if name not in known:
            raise ValueError(f"{key}: {name!r} is neither built in nor under datasets{nearest(name, known)}")
        declared = self.datasets.get(name)
        source = data.source_of(name, declared and declared.model_dump())
        if self.protocol.flip and not source.mirrorable:
            raise ValueError(f"protocol.flip: a mirrored image of {name} is another class; set flip: false")
        if source.streamed and self.protocol.crop == "padded":
            raise ValueError(
                f"protocol.crop: of {name}, which is streamed, only resized crops are made; set crop: resized"
            )
        if self.protocol.crop == "resized" and not source.streamed:
            raise ValueError(
                f"protocol.crop: resized crops are made of streamed images alone, which {name} has none of; set "
                "crop: padded, or streamed: true beside its folder"
            )


class Recipe(Model):
    """What, beside its path, decides a cell's numbers, or the data's: what the study says of the names in the path."""

    plugins: Plugins = ()  # on command lines alone: no manifest names code to run
    dataset: DeclaredDataset | None = None
    label_file: str | None = None
    protocol: Protocol | None = None  # None where only data is made
    weights: Weights | None = None  # None where the network is trained

    @property
    def declared(self) -> dict[str, Any] | None:
        """The dataset as plain values, None where the study declares none."""
        return self.dataset and self.dataset.model_dump()

    @classmethod
    def parse(cls, values: object) -> Recipe:
        """Read what `kd.study.cells.recipe` or `kd.study.cells.data_recipe` wrote. Raises ConfigError."""
        return checked(cls, values)


# -- loading ----------------------------------------------------------------------------------------------------------


def read_yaml(path: Path) -> dict:
    """Read a YAML file of plain values. Raises ConfigError with file, line and fix."""
    try:
        text = on_disk(Path(path)).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a study with --configfile") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(content).__name__}")
    return content


def parse_yaml(text: str, where: str) -> object:
    """Return the plain values that `text` spells. Raises ConfigError that begins with `where`."""
    try:
        return _PlainYaml(text).plain()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except Exception as error:  # YAMLError, and what a scalar that belies its tag raises, which has no common type
        raise ConfigError(f"{where}: not valid YAML: {error}") from error


_MOST_VALUES = 100_000  # of a study, aliases counted as what they stand for


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values a node has if each alias is written out; one within itself has no end."""
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = (part for one in parts for part in (one if isinstance(one, tuple) else (one,)))
        known[id(node)] = 1 + sum(_written_out(part, known) for part in inner)
    return known[id(node)]


class _PlainYaml(yaml.SafeLoader):
    """YAML of plain values, in which no number is octal by surprise and no key is lost."""

    def plain(self) -> object:
        """Return the values. Raises ConfigError where aliases within aliases stand for more than a study can be."""
        node = self.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > _MOST_VALUES:
            raise ConfigError(
                f"aliases (*name) within aliases stand for more than {_MOST_VALUES:,} values; write out what is meant"
            )
        return self.construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Return keys and values. Raises ConfigError for a key that is there twice: YAML would keep the last."""
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line, name = key.start_mark.line + 1, key.value
            if isinstance(key, yaml.ScalarNode) and name != "<<":
                if name in lines:
                    raise ConfigError(
                        f"line {line}: {name} is there already, on line {lines[name]}, and YAML would keep the last "
                        "alone; remove one, or give it another name"
                    )
                lines[name] = line
        return super().construct_mapping(node, deep)

    def integer(self, node: yaml.ScalarNode) -> int:
        """Return a whole number. Raises ConfigError for one with a leading zero: to YAML 1.1 `010` is 8."""
        value, written = self._decimal(node, self.construct_yaml_int), node.value.replace("_", "")
        if re.fullmatch("[-+]?0[0-9]+", written):
            meant = " or ".join(map(str, dict.fromkeys((value, int(written)))))
            line = node.start_mark.line + 1
            raise ConfigError(f"line {line}: {node.value} begins with 0, which YAML reads as octal; write {meant}")
        str(value)  # raises where a number is too long for any message to show it
        return value

    def real(self, node: yaml.ScalarNode) -> float:
        """Return a number. Raises ConfigError for one to the base of 60."""
        return self._decimal(node, self.construct_yaml_float)

    def _decimal(self, node: yaml.ScalarNode, construct: Callable[[yaml.ScalarNode], _N]) -> _N:
        value = construct(node)
        if ":" in node.value:  # to YAML 1.1 `1:30` is 90
            line = node.start_mark.line + 1
            raise ConfigError(f"line {line}: {node.value} is {value} to YAML, which counts by sixties; write {value}")
        return value


_PlainYaml.add_constructor("tag:yaml.org,2002:int", _PlainYaml.integer)
_PlainYaml.add_constructor("tag:yaml.org,2002:float", _PlainYaml.real)


def merged(overlay: Mapping[str, object], base: Path = DEFAULT) -> dict:
    """Return the values of `base` with each top-level key of `overlay` in the place of its own.

    Keys are replaced whole: the experiments of an overlay are all the experiments there are.
    """
    return {**read_yaml(base), **overlay}


def validate(values: object) -> Study:
    """Return the Study that `values` describe. Raises ConfigError with the key path, what was got and the fix."""
    return checked(Study, values)


_MOST_ERRORS = 20  # that one message shows
_LONGEST = 2000  # characters of one


def checked(model: type[_M], values: object) -> _M:
    """Return the `model` that `values` describe. Raises ConfigError with the key path, what was got and the fix."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        said = [_explain(item) for item in error.errors(include_url=False)]
        more = [f"... and {len(said) - _MOST_ERRORS} more"] if len(said) > _MOST_ERRORS else []
        raise ConfigError("\n".join(said[:_MOST_ERRORS] + more)) from None
    except RecursionError:
        raise ConfigError("lists or keys within each other, too deep to read") from None


_WORDS = {  # in the place of pydantic's own
    "missing": "missing",
    "model_type": "expected keys and their values, as in {teacher: wrn-28-4, student: wrn-16-2, loss: [ce, mse]}",
}


def _explain(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    what = _WORDS.get(item["type"], item["msg"].removeprefix("Value error, "))
    if item["type"] == "missing" and len(item["loc"]) == 2:
        what += f"; who gives {item['loc'][0]} replaces the whole of it: give all keys that are no defaults"
    got = "" if item["type"] in ("value_error", "missing") else f" (got {_shown(item['input'])})"
    # A key that the message itself starts with belongs to the path: `protocol` + `lrr: unknown key`.
    glue = "." if re.match(r"[A-Za-z0-9_.]+: ", what) else ": "
    said = f"{where}{glue}{what}{got}" if where else f"{what}{got}"
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST // 2]} ... {said[-_LONGEST // 2 :]}"


def schema() -> dict:
    """Return the JSON schema of config.yaml; what a loss may be stands in it once, however many keys take one."""
    one = _loss_schema()

    def once(said: object) -> object:
        if said == one:
            return {"$ref": "#/$defs/Loss"}
        if isinstance(said, list):
            return list(map(once, said))
        return {key: once(value) for key, value in said.items()} if isinstance(said, dict) else said

    said = once(Study.model_json_schema())
    return said | {"$defs": said["$defs"] | {"Loss": one}}
