"""config.yaml -> Study: what the user may write, checked before anything runs.

An unknown key is refused with the nearest known one. The JSON schema for editors, workflow/config.schema.json, is
generated from these models; a test fails if it is out of date. kd/study/values.py says what each value may be.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticUndefined, to_jsonable_python

from kd import data, losses
from kd.core.errors import ConfigError, nearest
from kd.report import figures
from kd.study.plain_yaml import read_yaml
from kd.study.search import LOSS, SAMPLERS, Axis, Choice, Range, Space
from kd.study.values import (
    TEACHER_SEEDS,
    Axes,
    BatchSize,
    Betas,
    CellsPerGpu,
    Channels,
    Combinations,
    Epochs,
    Evaluate,
    Figures,
    Fractions,
    Gamma,
    LabelNoise,
    LearningRate,
    LossChoice,
    Losses,
    Magnitude,
    Milestones,
    Mixing,
    Name,
    Network,
    Networks,
    Number,
    Optimizer,
    Own,
    Paths,
    Plugins,
    Schedule,
    Schema,
    Seed,
    Seeds,
    SeedsOrAuto,
    Selections,
    Sha256,
    Share,
    Stops,
    Teachers,
    TeacherSeeds,
    WeightDecay,
    Whole,
    loss_choice,
    loss_schema,
    several,
    shown,
)

DEFAULT = Path("config.yaml")
AUTO, FIRST = "auto", 6  # seeds: auto begins with so many (kd/report/seeding.py)
UNDECIDED, DECIDED = "undecided", "decided"  # what its first stage has said of the number of seeds
SGD_LR = 0.1  # the default
PAPER_DROPS = (0.5, 0.75)  # the paper's 100 and 150 of 200 epochs, as shares of a protocol's epochs


# -- models -----------------------------------------------------------------------------------------------------------


class Model(BaseModel):
    """Keys and values that a user may write. An unknown key is refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    REMOVED: ClassVar[Mapping[str, object]] = {}  # removed keys, each with the value that the code now uses

    @classmethod
    @cache
    def since(cls) -> Mapping[str, Any]:
        """Return the JSON value with which each key was introduced: a key that a recipe lacks counts as this value.

        It is the default. A default that changes keeps the first value: `Field(64, json_schema_extra={"since": 32})`.
        A required key has none.
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
    """Say where a misplaced key belongs, or return "" if no model and no loss knows it."""
    places = {
        Study: "the study itself, the top level",
        Protocol: "protocol",
        Experiment: "an experiment: experiments.NAME",
        Search: "a search: searches.NAME",
        DeclaredDataset: "a dataset: datasets.NAME",
        Weights: "weights.NAME",
    }
    for place, where in places.items():
        if key in place.model_fields and place is not model:
            return f"; {key} belongs to {where}"
    takes = [name for name, loss in losses.LOSSES.items() if key in loss.parameters]
    return f"; {key} belongs to a loss: loss: {{{takes[0]}: {{{key}: ...}}}}" if takes else ""


_M = TypeVar("_M", bound=Model)


class Protocol(Model):
    """How every network of a study is trained. The defaults are the paper's, except the precision."""

    name: Name = Field(description="stands in the path of every cell trained this way")
    epochs: Epochs = 200
    batch: BatchSize = Field(128, description="examples a step; the last, partial batch is kept")
    lr: LearningRate = SGD_LR
    momentum: Share = 0.9
    nesterov: bool = True
    weight_decay: WeightDecay = Field(5e-4, description="not applied to 1-D parameters, unless decay_1d")
    decay_1d: bool = Field(False, description="decay biases and batch normalisation too, as mdistiller and others do")
    schedule: Schedule = "multistep"
    milestones: Milestones | None = Field(
        None, description="epochs at which lr is multiplied by gamma; by default at 1/2 and 3/4 of the epochs"
    )
    gamma: Gamma = 0.1
    optimizer: Optimizer = Field("sgd", description="sgd, or adamw, which takes betas instead of momentum and nesterov")
    betas: Betas = Field((0.9, 0.999), description="of adamw: how much of the running means each step keeps")
    warmup: Share = Field(0.0, description="share of the epochs in which lr rises to the schedule's, epoch by epoch")
    ema: Share = Field(
        0.0, description="publish a moving average of the weights over the steps, which reaches back this share"
    )
    swa: Share = Field(0.0, description="publish the mean of the weights after each of this last share of the epochs")
    crop: Literal["padded", "resized"] = Field(
        "padded",
        description="random crops of an image's own size after padding; or of any part, resized: streamed data",
    )
    pad: Annotated[Whole, Field(ge=0)] | None = Field(
        None, description="pixels on each side of padded crops; default: dataset's"
    )
    flip: bool | None = Field(None, description="random horizontal flip; by default where mirror images are the same")
    randaugment: Magnitude | None = Field(
        None,
        description="two random operations on each image, of this magnitude (0 to 30); no bank holds such views",
    )
    mixup: Mixing = Field(
        0.0,
        description="mix images in shares of a beta distribution of this parameter; no bank holds such images",
    )
    cutmix: Mixing = Field(0.0, description="the same with a box of another image; half of them, where mixup is given")
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
        if self.optimizer == "adamw" and self.lr >= SGD_LR:
            raise ValueError(f"lr: got {self.lr:g}, which is for sgd and too much for adamw; set lr: 0.001")
        if self.ema and self.swa:
            raise ValueError("swa: ema is given too, and one network is published; give one of the two")
        if self.milestones and list(self.milestones) != sorted(m for m in set(self.milestones) if 0 < m < self.epochs):
            raise ValueError(f"milestones {list(self.milestones)} must increase, between 1 and {self.epochs - 1}")
        if self.crop == "resized" and self.pad is not None:
            raise ValueError("pad: resized crops are not padded; leave it out")
        if self.crop == "resized" and self.teacher == "bank":
            raise ValueError("teacher: resized crops cannot be enumerated, so no bank holds them; set teacher: online")
        return self

    @property
    def views_are_finite(self) -> bool:
        """Whether a bank can hold what a teacher says of every image as training shows it."""
        return self.crop == "padded" and self.randaugment is None and not (self.mixup or self.cutmix)

    @property
    def copies(self) -> int:
        """How many numbers training keeps of each weight, beside the weight and its gradient."""
        return 1 + (self.optimizer == "adamw") + bool(self.ema or self.swa)

    @property
    def drops(self) -> tuple[int, ...]:
        """Epochs after which the learning rate is multiplied by gamma."""
        if self.milestones is not None:
            return self.milestones
        first, second = (max(1, round(share * self.epochs)) for share in PAPER_DROPS)
        return min(first, max(1, second - 1)), second  # never both at once, not even in three epochs


class OwnTraining(Model):
    """Protocol keys for which a stage may have its own value."""

    lr: LearningRate | None = None
    batch: BatchSize | None = None
    weight_decay: WeightDecay | None = None
    epochs: Epochs | None = None
    schedule: Schedule | None = None
    milestones: Milestones | None = None
    gamma: Gamma | None = None
    optimizer: Optimizer | None = None
    warmup: Share | None = None
    ema: Share | None = None
    swa: Share | None = None
    randaugment: Magnitude | None = None
    mixup: Mixing | None = None
    cutmix: Mixing | None = None


def demand_agreement(protocol: Protocol, chosen: LossChoice) -> None:
    """Raise ValueError that names the key of a protocol by which no network can learn by this loss."""
    key, loss = "mixup" if protocol.mixup else "cutmix", losses.LOSSES.get(chosen.loss)
    mixes = protocol.mixup or protocol.cutmix
    if loss and mixes and (loss.batchwise or loss.needs.views > 1 or loss.needs.another):
        raise ValueError(
            f"{key}: {chosen.loss} compares or remembers examples, or their views, which mixed images are not; set 0"
        )
    if loss and protocol.randaugment is not None and loss.needs.strong:
        raise ValueError(
            f"randaugment: {chosen.loss} compares a weak view with a strong one, which it makes itself; leave it out"
        )


@cache
def with_own(protocol: Protocol, own: Own) -> Protocol:
    """Return a protocol with a stage's own values. Raises ConfigError when they contradict each other."""
    return checked(Protocol, {**protocol.model_dump(), **dict(own)}) if own else protocol


def own_training(values: Mapping[str, object]) -> Own:
    """Check a stage's own values and return them in the order of the model. Raises ValueError that names the fault."""
    try:
        made = OwnTraining.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError(_explain(error.errors()[0])) from None
    return tuple((key, value) for key, value in made.model_dump().items() if value is not None)


def _trainings(value: object) -> tuple[Own, ...]:
    """Read `{lr: [0.1, 0.02], batch: 64}` as every combination of the listed values."""
    if not isinstance(value, dict):
        raise ValueError(f"got {shown(value)}, expected {{lr: [0.1, 0.02]}}")
    each = itertools.product(*(several(_listed(key, values)) for key, values in value.items()))
    return tuple(dict.fromkeys(own_training(dict(zip(value, values, strict=True))) for values in each))


def _listed(key: str, values: object) -> object:
    """Wrap a single value of milestones in a list, because it is a list itself; return other values unchanged."""
    if key == "milestones" and not (isinstance(values, list) and values and isinstance(values[0], list)):
        return [values]
    return values


def _training_schema() -> dict:
    properties = {
        key: {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
        for key, value in OwnTraining.model_json_schema()["properties"].items()
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


Trainings = Annotated[tuple[Own, ...], BeforeValidator(_trainings), Schema(_training_schema)]


class DeclaredDataset(Model):
    """A user's own dataset: a folder of images, or a local copy of a built-in dataset."""

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

    file: str = Field(description="safetensors, or a PyTorch checkpoint of tensors and plain values")
    sha256: Sha256 = Field(description="of the file, in hexadecimal; any other file is refused")
    top1: Annotated[Number, Field(ge=0, le=100)] | None = Field(
        None, description="expected test accuracy in %; more than half a point off is refused"
    )
    mean: Channels | None = Field(
        None, description="of each channel, in 0 to 1, with std: the images it was trained on; by default the dataset's"
    )
    std: Channels | None = None
    key: str | None = Field(
        None, description="where the file has the weights, such as state_dict_ema, if several parts of it fit"
    )

    @model_validator(mode="after")
    def _in_its_units(self) -> Weights:
        if self.top1 is not None and 0 < self.top1 <= 1:
            raise ValueError(f"top1: got {self.top1:g}, expected %: did you mean {100 * self.top1:g}?")
        if (self.mean and len(self.mean)) != (self.std and len(self.std)):
            raise ValueError("mean and std: give one number of each for every channel, or neither")
        if any(value > 1 for value in self.mean or ()) or not all(self.std or (1,)):
            raise ValueError("mean and std are of pixels from 0 to 1, and no std is 0")
        return self

    @property
    def claim(self) -> dict[str, Any]:
        """What the study says of the weights, without the place of their file."""
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
    teacher_seeds: TeacherSeeds | None = Field(None, description=TEACHER_SEEDS)
    ensemble: Combinations | None = Field(None, description="what an ensemble answers; by default mean_logit")
    teacher_epochs: Stops | None = Field(None, description="stop the first teacher early; 0: it is not trained at all")
    teacher_weights: Name | None = Field(
        None, description="the first network of each path is not trained but has these weights"
    )
    chosen_with: Seeds = Field((), description="seeds by which a search chose this: they may not be its own")
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
                raise ValueError(
                    f"teacher_loss: {chosen.loss} needs a teacher, but the first network of a path has none"
                )
        if min(self.fraction) < 1 and min(self.student_fraction) < 1:
            raise ValueError("student_fraction: teachers see the fraction too; give one of the two")
        if any(self.student_selection) and any(len(path) < 2 for path in self.networks):
            raise ValueError("student_selection: there is no teacher that could select")
        if self.teacher_weights:
            self._check_teacher_weights(self.teacher_weights)
        return self

    def check_figures(self, study: Study) -> None:
        """Refuse figures that would turn out empty, before anything is trained."""
        needs = {name: one.needs for name, one in figures.FIGURES.items()}
        filled = [name for name, need in needs.items() if need is None or need.met(self, study)]
        empty = [f"{name} needs {needs[name].words}" for name in self.figure if name not in filled]
        if empty:
            found = ", ".join(dict.fromkeys(chosen.loss for chosen in self.loss))
            labels = "wrong labels" if any(self.label_noise) else "clean labels"
            raise ValueError(
                f"figure: {'; '.join(empty)}; got loss {found}, {labels} and evaluate {study.protocol.evaluate}, "
                f"which can fill {', '.join(filled)}"
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


_SEARCHED = OwnTraining.model_fields.keys() - {"milestones"}  # each is one value


class Tune(Model):
    """One budget for each of several losses."""

    trials: Annotated[Whole, Field(ge=1, le=10_000)] = Field(description="of each loss, on held-out examples")


class Search(Model):
    """A search for a student's loss, hyperparameters and training, by trials that held-out examples score."""

    teacher: Teachers | None = Field(None, description="the network that teaches; A+B is an ensemble of networks")
    student: Network = Field(description="the network that is trained in each trial")
    dataset: Name | None = Field(None, description="by default the study's")
    label_noise: LabelNoise = (None,)
    fraction: Annotated[Number, Field(gt=0, le=1)] = Field(1.0, description="share of the training set, class-balanced")
    space: Axes = Field(
        description="loss: [ce, kl], and hyperparameters of these or values of the student's own training, each a list "
        "or {from: 0.25, to: 20, log: true}"
    )
    sampler: Literal["random", "grid", "tpe", "gp", "local"] = Field(
        "random", description="what proposes settings; tpe, gp and local need the extra kd[search]"
    )
    rounds: Annotated[Whole, Field(ge=1, le=100)] = Field(
        1, description="each proposes from the scores of those before it"
    )
    batch: Annotated[Whole, Field(ge=1, le=1000)] = Field(
        1, description="trials of a round, which are trained side by side"
    )
    tune: Tune | None = Field(
        None, description="instead of batch: search by itself for each loss of the space, all with this budget"
    )
    seed: Seed = Field(1000, description="of every trial; no experiment may have it: the seeds that chose do not judge")

    @model_validator(mode="after")
    def _can_be_made(self) -> Search:
        for key in ("teacher", "label_noise"):
            if len(getattr(self, key) or (0,)) > 1:
                raise ValueError(f"{key}: got several; a search has one")
        if LOSS not in self.space:
            raise ValueError("space.loss: missing; list what the student may learn with, such as [ce, kl]")
        if self.tune:
            raise ValueError("tune: a search of a study parts into one for each loss; ask for it in a study")
        found = self.axes
        needing = [loss for loss in found.takes if losses.LOSSES[loss].needs_teacher]
        if needing and not self.teacher:
            raise ValueError(f"teacher: missing; {needing[0]} needs one")
        budget = self.rounds * self.batch
        if self.sampler == "grid":
            if found.ranges:
                raise ValueError(f"space.{next(iter(found.ranges))}: a grid needs a list of values, such as [1, 3, 10]")
            if (size := int(found.size)) != budget:
                raise ValueError(
                    f"rounds: got {self.rounds} of {self.batch} trials; the grid has {size} settings, which rounds: 1, "
                    f"batch: {size} tries, or any rounds x batch = {size}"
                )
        if found.size < budget:
            raise ValueError(
                f"rounds: got {self.rounds} of {self.batch} trials; allowed are at most {found.size:.0f} in all, for "
                "that many settings are in the space"
            )
        if not SAMPLERS[self.sampler].installed:
            others = ", ".join(name for name, one in SAMPLERS.items() if one.installed)
            raise ValueError(
                f"sampler: got {self.sampler}, whose {SAMPLERS[self.sampler].needs} is not installed: pip install "
                f"'kd[search]'; installed are {others}"
            )
        return self

    @cached_property
    def axes(self) -> Space:
        """Return the space. Raises ValueError that names an axis, what was got and what is allowed."""
        if not isinstance(self.space[LOSS], Choice):
            raise ValueError(f"space.{LOSS}: losses have no order; list them, such as [ce, kl]")
        for name in (names := self.space[LOSS].values):
            if name not in losses.LOSSES:
                raise ValueError(f"space.{LOSS}: {shown(name)}: no such loss{nearest(str(name), losses.LOSSES)}")
        known = {name: losses.LOSSES[name].parameters for name in names}
        for key in self.space.keys() - {LOSS, *_SEARCHED}:
            if not any(key in parameters for parameters in known.values()):
                may = {*_SEARCHED, *(key for of in known.values() for key in of)}
                raise ValueError(
                    f"space.{key}: neither taken by {', '.join(names)} nor a value of training{nearest(key, may)}"
                )
        axes = {LOSS: self.space[LOSS]} | {key: self._axis(key, known) for key in self.space if key != LOSS}
        takes = {name: frozenset(of.keys() & axes.keys() - {*_SEARCHED}) for name, of in known.items()}
        made = Space(axes, takes)
        for name in names:
            try:
                for end in (0, -1):
                    self.chosen(made.active(made.corner(end) | {LOSS: name}))
            except ValueError as error:
                raise ValueError(f"space: {error}") from None
        return made

    def _axis(self, key: str, known: Mapping[str, Mapping[str, Any]]) -> Axis:
        """Return an axis whose values were checked by all that take them; whole where these are whole numbers."""
        axis = self.space[key]
        ends = axis.values if isinstance(axis, Choice) else (axis.low, axis.high)
        if key in _SEARCHED:
            checks = {"": lambda value: dict(own_training({key: value}))[key]}
        else:
            checks = {f"{name}: ": of[key].check for name, of in known.items() if key in of}
        for name, check in checks.items():
            try:
                found = tuple(map(check, ends))
            except ValueError as error:
                raise ValueError(f"space.{key}: {name}{str(error).removeprefix(f'{key}: ')}") from None
        if isinstance(axis, Choice):
            spelled = ("inf" if value == math.inf else value for value in found)  # as JSON has it
            return Choice(tuple(dict.fromkeys(spelled)))
        if not all(isinstance(value, int | float) for value in found):
            raise ValueError(f"space.{key}: has no numbers between two of its values; list them")
        return Range(*found, axis.log, whole=all(isinstance(value, int) for value in found))

    def chosen(self, setting: Mapping[str, Any]) -> tuple[LossChoice, Own]:
        """Return the loss and the training of a setting. Raises ValueError where its values do not go together."""
        own = {key: value for key, value in setting.items() if key in _SEARCHED}
        rest = {key: value for key, value in setting.items() if key not in own and key != LOSS}
        return loss_choice(str(setting[LOSS]), rest), own_training(own)

    def experiment(self, setting: Mapping[str, Any], teacher_seeds: tuple[int, ...]) -> Experiment:
        """Return the experiment whose one cell is the trial of a setting."""
        chosen, own = self.chosen(setting)
        return Experiment.model_construct(
            teacher=self.teacher,
            student=(self.student,),
            loss=(chosen,),
            dataset=self.dataset,
            label_noise=self.label_noise,
            fraction=(self.fraction,),
            student_training=(own,),
            seeds=(self.seed,),
            teacher_seeds=(teacher_seeds,),
        )


def _arms(value: object) -> object:
    """Part each search that has `tune` into one for each loss, NAME_LOSS: its own axes, and as many trials as others.

    `space.loss` may give each loss axes of its own, `{kl: {tau: [1, 4]}, ls: {smoothing: [0.1, 0.2]}}`.
    """
    if not isinstance(value, Mapping):
        return value
    found: dict = {}
    for name, one in value.items():
        arms = _parted(name, one) if isinstance(one, Mapping) and one.get("tune") is not None else {name: one}
        for arm in arms:
            if arm in found or (arm != name and arm in value):
                raise ValueError(f"{name}: its part {arm} has the name of another search; choose another name")
        found |= arms
    return found


def _parted(name: str, given: Mapping) -> dict[str, dict]:
    """Return the searches of one that has `tune`. Raises ValueError that names the key."""
    try:
        budget, space = checked(Tune, given["tune"]), given.get("space")
    except ConfigError as error:
        raise ValueError(f"{name}.tune: {error}") from None
    if "batch" in given:
        raise ValueError(f"{name}.batch: tune says how many trials each loss has; leave it out")
    rounds = given.get("rounds", 1)
    if not isinstance(rounds, int) or rounds < 1 or budget.trials % rounds:
        raise ValueError(f"{name}.rounds: got {shown(rounds)}, in which {budget.trials} trials do not part evenly")
    if not isinstance(space, Mapping) or LOSS not in space:
        raise ValueError(f"{name}.space.loss: missing; list what the student may learn with, such as [ce, kl]")
    chosen = space[LOSS] if isinstance(space[LOSS], Mapping) else {loss: {} for loss in several(space[LOSS])}
    for loss, axes in chosen.items():
        if loss not in losses.LOSSES:
            raise ValueError(f"{name}.space.loss: {shown(loss)}: no such loss{nearest(str(loss), losses.LOSSES)}")
        if not isinstance(axes, Mapping):
            raise ValueError(f"{name}.space.loss.{loss}: got {shown(axes)}, expected its axes, as {{tau: [1, 4]}}")
    shared = {key: axis for key, axis in space.items() if key != LOSS}
    takes = {loss: {*_SEARCHED, *losses.LOSSES[loss].parameters} for loss in chosen}
    for key in shared:
        if not any(key in may for may in takes.values()):
            may = {key for each in takes.values() for key in each}
            raise ValueError(f"{name}.space.{key}: taken by none of {', '.join(chosen)}{nearest(str(key), may)}")
    rest = {key: part for key, part in given.items() if key != "tune"}
    rest |= {"rounds": rounds, "batch": budget.trials // rounds}
    axes = {loss: {k: axis for k, axis in shared.items() if k in takes[loss]} | dict(chosen[loss]) for loss in chosen}
    return {f"{name}_{loss}": {**rest, "space": {LOSS: [loss], **axes[loss]}} for loss in chosen}


Chosen = dict[str, object]  # {column of the table: a value, or a list of values}
PERCENT = ("top1", "agreement", "gap", "ece")  # columns with these endings are percentages: differences are in points
MOST_CONFIRMED = 8  # confirmatory claims of one list: each more makes all of them harder to decide


class OwnClaim(Model):
    """A claim of one's own: some rows of the table are higher than others, or a column rises along another."""

    id: Name
    sentence: str
    source: str = ""
    value: str = Field("test_top1", description="a column of the table, or ANALYSIS.COLUMN")
    rows: Chosen = Field({}, description="of both sides, or of the points")
    a: Chosen | None = Field(None, description="rows of the side that is said to be higher")
    b: Chosen | None = Field(None, description="rows of the other side")
    beats: list[Chosen] = Field([], description="controls, instead of b: a is said to be above each of them")
    over: str | None = Field(None, description="instead of a and b: the column along which the value rises")
    falls: bool = Field(False, description="along `over` it falls")
    smallest: Number | None = Field(None, description="the smallest difference of interest; by default 1 point")
    confirmatory: bool = Field(False, description=f"at most {MOST_CONFIRMED} are; each makes the others harder")

    @model_validator(mode="after")
    def _one_shape(self) -> OwnClaim:
        given = (self.a is not None, self.b is not None or bool(self.beats), self.over is not None)
        if given not in ((True, True, False), (False, False, True)) or (self.b is not None and self.beats):
            raise ValueError("give either a and b, the higher side first, or a and beats, or over")
        if self.smallest is None and not self.in_points:
            raise ValueError(f"smallest: missing; say which difference of {self.value} would be of interest")
        if self.smallest is not None and self.smallest <= 0:
            raise ValueError(f"smallest: got {self.smallest:g}, expected more than 0")
        return self

    @property
    def in_points(self) -> bool:
        """Whether its values are percentages."""
        return self.value.endswith(PERCENT)

    @property
    def analysis(self) -> str:
        """The analysis whose column it is about, "" for a column of the table."""
        return self.value.rpartition(".")[0]

    @property
    def column(self) -> str:
        """The column that it is about."""
        return self.value.rpartition(".")[2]


def _sound_claims(claims: list[OwnClaim]) -> list[OwnClaim]:
    if len({claim.id for claim in claims}) < len(claims):
        raise ValueError("an id twice")
    confirmed = sum(claim.confirmatory for claim in claims)
    if confirmed > MOST_CONFIRMED:
        raise ValueError(f"{confirmed} are confirmatory; {MOST_CONFIRMED} at most, each makes all harder")
    return claims


Claims = Annotated[list[OwnClaim], AfterValidator(_sound_claims)]


class OwnClaims(Model):
    """A file of claims."""

    claims: Claims = Field(min_length=1)


class Drawn(Model):
    """How all figures of a study are drawn."""

    width: Literal["page", "column"] = Field(
        "page", description="of a page, 7 inches where a figure has many panels; or of a journal's column, 3.4 inches"
    )


class Study(Model):
    """Everything that one `snakemake` command trains and draws."""

    # First, because pydantic reads fields in order, and later fields may name what plug-ins add.
    plugins: Plugins = Field(
        (), validate_default=True, description="Python files that add losses, networks, datasets or figures; they run"
    )
    study: Name = Field(description="names the folder under reports/")
    dataset: Name
    datasets: dict[Name, DeclaredDataset] = Field({}, description="datasets of one's own, by name")
    tests: dict[Name, str] = Field(
        {}, description="further test sets, by name: a folder CLASS/*.jpg with the classes of the study's dataset"
    )
    label_files: dict[Name, str] = Field(
        {}, description="files with one label an example, by name; of CIFAR-10N: FILE.pt:SET"
    )
    weights: dict[Name, Weights] = Field({}, description="networks that were trained elsewhere, by name")
    protocol: Protocol
    seeds: SeedsOrAuto = Field(
        (0, 1, 2), description="of the last network of each lineage; auto: as many as the paper's claims need"
    )
    auto_seeds: Literal["undecided", "decided"] | None = Field(
        None, description="kd replaces seeds: auto by a list, and says here whether that is all of them"
    )
    teacher_seeds: TeacherSeeds = Field(((0,),), description=f"of the networks that teach; {TEACHER_SEEDS}")
    noise_seed: Seed = 0
    experiments: dict[Name, Experiment]
    searches: Annotated[dict[Name, Search], BeforeValidator(_arms)] = Field(
        {}, description="searches for a loss and its hyperparameters, by name"
    )
    claims: Claims = Field([], description="what the verdict judges, instead of the claims of the paper")
    figures: Drawn = Drawn()
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
        if self.auto_seeds and len(self.teacher_seeds) > 1:
            raise ValueError(
                f"seeds: {AUTO} needs independent pairs; give one of teacher_seeds, or teacher_seeds: matched"
            )
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
                self._check_training(f"experiments.{name}{'.student_training' if own else ''}", own, experiment)
            if experiment.ensemble and not self._has_ensembles(experiment):
                raise ValueError(
                    f"experiments.{name}.ensemble: no teacher is one; write teacher: A+B or teacher_seeds: 0+1+2"
                )
            if any(experiment.student_selection) and self._has_ensembles(experiment):
                raise ValueError(
                    f"experiments.{name}.student_selection: an ensemble teaches, but only one network can select"
                )
            for chosen in experiment.loss:
                self._check_loss(f"experiments.{name}.loss: {chosen.loss}", chosen, self._has_ensembles(experiment))
            self._check_judges(f"experiments.{name}", experiment)
            try:
                experiment.check_figures(self)
            except ValueError as error:
                raise ValueError(f"experiments.{name}.{error}") from None
        for name, search in self.searches.items():
            self._check_search(f"searches.{name}", search)
        for claim in self.claims:
            self._check_claim(f"claims.{claim.id}.value", claim.analysis)
        self._check_dataset("dataset", self.dataset)
        if self.tests and all(one.dataset not in (None, self.dataset) for one in self.experiments.values()):
            raise ValueError(f"tests: no experiment has networks of {self.dataset}, the study's dataset, to test")
        for name, declared in self.datasets.items():
            if declared.source and name not in data.DATASETS:
                raise ValueError(f"datasets.{name}.source: only a built-in dataset{nearest(name, data.DATASETS)}")
        return self

    def _check_judges(self, key: str, experiment: Experiment) -> None:
        """Refuse seeds that chose something: whoever is the best of many by them was also the luckiest by them."""
        seeds = experiment.seeds or self.seeds
        for seed in seeds:
            if seed in experiment.chosen_with:
                raise ValueError(f"{key}.seeds: got {seed}, by which a search chose; allowed are all but chosen_with")
            for name, search in self.searches.items():
                if seed == search.seed:
                    raise ValueError(
                        f"searches.{name}.seed: got {seed}, which {key} has too; the seeds that chose do not judge: "
                        "allowed is any that no experiment has"
                    )

    def _check_claim(self, key: str, analysis: str) -> None:
        if analysis and not self.measured(analysis):
            drawn = ", ".join(sorted(name for name, of in figures.ANALYSES.items() if of == analysis))
            raise ValueError(
                f"{key}: no experiment measures {analysis}; ask one for a figure of it: {drawn}"
                if drawn
                else f"{key}: {analysis!r} is no analysis{nearest(analysis, set(figures.ANALYSES.values()))}"
            )

    def _check_search(self, key: str, search: Search) -> None:
        if not self.protocol.heldout:
            raise ValueError(
                f"protocol.heldout: got 0; allowed with {key} is a share such as 0.1: trials are scored on held-out "
                "examples, never on the test set"
            )
        self._check_dataset(f"{key}.dataset", search.dataset or self.dataset)
        for noise in filter(None, search.label_noise):
            if noise.kind == "labels" and noise.amount not in self.label_files:
                raise ValueError(f"{key}.label_noise.file: {noise.amount!r} is not under label_files")
        space = search.axes
        for setting in (space.corner(0), space.corner(-1)):
            for loss in space.axes[LOSS].values:
                chosen, own = search.chosen(space.active(setting | {LOSS: loss}))
                experiment = search.experiment(space.active(setting | {LOSS: loss}), self.teacher_seeds[0])
                self._check_training(f"{key}.space", own, experiment)
                self._check_loss(f"{key}.space.loss: {chosen.loss}", chosen, self._has_ensembles(experiment))

    def _has_ensembles(self, experiment: Experiment) -> bool:
        seeds = experiment.teacher_seeds or self.teacher_seeds
        teachers = [network for path in experiment.networks for network in path[:-1]]
        return any("+" in network for network in teachers) or (bool(teachers) and any(len(of) > 1 for of in seeds))

    def _check_training(self, key: str, own: Own, experiment: Experiment) -> None:
        try:
            protocol = with_own(self.protocol, own)
            for chosen in experiment.loss:
                demand_agreement(protocol, chosen)
            for chosen in experiment.teacher_loss:
                demand_agreement(self.protocol, chosen)
        except (ConfigError, ValueError) as error:
            raise ValueError(f"{key}: {error}" if own else f"{key}: protocol.{error}") from None

    def _check_loss(self, key: str, chosen: LossChoice, ensembles: bool) -> None:
        if ensembles and chosen.looks_at - {"logits"}:
            raise ValueError(f"{key} looks at more of a teacher than its logits, which an ensemble does not have")
        if self.gpus_per_cell > 1 and losses.LOSSES[chosen.loss].batchwise:
            raise ValueError(
                f"{key} compares or remembers examples, but each process sees only a part; set gpus_per_cell: 1"
            )

    @property
    def drawn(self) -> list[tuple[str, str]]:
        """The (experiment, figure) pairs to draw, in the study's order."""
        return [(name, figure) for name, experiment in self.experiments.items() for figure in experiment.figure]

    def measured(self, analysis: str) -> list[str]:
        """The experiments whose figures show this analysis, in the study's order."""
        shown = [name for name, figure in self.drawn if figures.ANALYSES.get(figure) == analysis]
        return list(dict.fromkeys(shown))

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
    """What decides the numbers of a cell or dataset beside its path: what the study says of the names in the path."""

    plugins: Plugins = ()  # only on command lines: no manifest names code to run
    dataset: DeclaredDataset | None = None
    label_file: str | None = None
    protocol: Protocol | None = None  # None if only data is made
    weights: Weights | None = None  # None if the network is trained

    @property
    def declared(self) -> dict[str, Any] | None:
        """The dataset as plain values, None if the study declares none."""
        return self.dataset and self.dataset.model_dump()

    @classmethod
    def parse(cls, values: object) -> Recipe:
        """Read what `recipe` or `data_recipe` of kd.study.expansion wrote. Raises ConfigError."""
        return checked(cls, values)


# -- loading ----------------------------------------------------------------------------------------------------------


def merged(overlay: Mapping[str, object], base: Path = DEFAULT) -> dict:
    """Return the values of `base`, with each top-level key that `overlay` has replaced by the overlay's.

    A key is replaced as a whole: an overlay with experiments replaces all experiments.
    """
    return {**read_yaml(base), **overlay}


def validate(values: object) -> Study:
    """Return the Study that `values` describe. Raises ConfigError with the key path, the value and the fix."""
    return checked(Study, values)


_MOST_ERRORS = 20  # shown in one message
_LONGEST = 2000  # characters of an error


def checked(model: type[_M], values: object) -> _M:
    """Return the `model` that `values` describe. Raises ConfigError with the key path, the value and the fix."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        said = [_explain(item) for item in error.errors(include_url=False)]
        more = [f"... and {len(said) - _MOST_ERRORS} more"] if len(said) > _MOST_ERRORS else []
        raise ConfigError("\n".join(said[:_MOST_ERRORS] + more)) from None
    except RecursionError:
        raise ConfigError("lists or keys are nested too deeply") from None


_WORDS = {  # replace pydantic's messages of these types
    "missing": "missing",
    "model_type": "expected keys and their values, as in {teacher: wrn-28-4, student: wrn-16-2, loss: [ce, mse]}",
}


def _explain(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    what = _WORDS.get(item["type"], item["msg"].removeprefix("Value error, "))
    if item["type"] == "missing" and len(item["loc"]) == 2:
        what += f"; giving {item['loc'][0]} replaces all of it: give every key without a default"
    got = "" if item["type"] in ("value_error", "missing") else f" (got {shown(item['input'])})"
    # A key that the message itself starts with belongs to the path: `protocol` + `lrr: unknown key`.
    glue = "." if re.match(r"[A-Za-z0-9_.]+: ", what) else ": "
    said = f"{where}{glue}{what}{got}" if where else f"{what}{got}"
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST // 2]} ... {said[-_LONGEST // 2 :]}"


def schema() -> dict:
    """Return the JSON schema of config.yaml. It defines a loss once, because several keys take one."""
    one = loss_schema()

    def once(said: object) -> object:
        if said == one:
            return {"$ref": "#/$defs/Loss"}
        if isinstance(said, list):
            return list(map(once, said))
        return {key: once(value) for key, value in said.items()} if isinstance(said, dict) else said

    said = once(Study.model_json_schema())
    return said | {"$defs": said["$defs"] | {"Loss": one}}
