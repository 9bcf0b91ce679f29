"""Datasets and label noises: the table of contents.

Read while the Snakefile is parsed, so it imports nothing but the standard library: an entry names its function,
and only who runs it loads it.

To add a dataset, write a function that returns `kd.data.arrays.Images` and give it a line in DATASETS; to add a
label noise, write a function `(labels [N], amount, seed, class_names) -> labels [N]` and give it a line in NOISES; one
that `sees_images` is given these, [N, H, W, C], after the class names.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kd.core.errors import ConfigError, nearest


def load(function: str) -> Callable:
    """Import and return what `module:name` names."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def module_of(function: str) -> str:
    """Return the module of what `module:name` names."""
    return function.partition(":")[0]


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from, and what may be done to its images."""

    function: str  # `module:name` of its builder
    description: str
    mirrorable: bool = True  # False where a mirrored image is another class
    pad: int = 4  # pixels: the crop that the dataset is usually trained with
    downloads: bool = False  # takes `source` (a local copy) and `download_root`
    streamed: bool = False  # its images are decoded as they are read, and not before
    counts: tuple[int, int, int] | None = None  # examples to train and to test on, and classes, where they are known
    shape: tuple[int, int, int] | None = None  # of an image, [H, W, C], where it is known
    archive: tuple[str, int] | None = None  # name and bytes of what is downloaded

    @property
    def module(self) -> str:
        """Name of the module that builds it."""
        return module_of(self.function)


@dataclass(frozen=True)
class NoiseKind:
    """A way to make training labels wrong; `amount` is a rate or, for `takes_file`, a path."""

    name: str  # as a study spells it; the key is how a path spells it
    function: str
    description: str
    takes_file: bool = False
    sees_images: bool = False

    @property
    def module(self) -> str:
        """Name of the module that makes it."""
        return module_of(self.function)


DATASETS: dict[str, Source] = {
    "digits": Source(
        "kd.data.sources:digits",
        "1,797 handwritten digits, 8x8 grey, in scikit-learn",
        False,
        1,
        counts=(898, 899, 10),
        shape=(8, 8, 1),
    ),
    "cifar10": Source(
        "kd.data.sources:cifar10",
        "60,000 photographs, 32x32 colour, 10 classes",
        downloads=True,
        counts=(50_000, 10_000, 10),
        shape=(32, 32, 3),
        archive=("cifar-10-python.tar.gz", 170_498_071),
    ),
    "cifar100": Source(
        "kd.data.sources:cifar100",
        "60,000 photographs, 32x32 colour, 100 classes",
        downloads=True,
        counts=(50_000, 10_000, 100),
        shape=(32, 32, 3),
        archive=("cifar-100-python.tar.gz", 169_001_437),
    ),
}


@dataclass(frozen=True)
class Selection:
    """A way to choose what is learnt from where labels may be wrong, by what the teacher says."""

    function: str
    description: str
    sees: str = "prelogits"  # of the teacher; or `losses`, the cross-entropy of what it says against the labels
    default: float | None = 0.5  # amount, above 0 and below 1; None where it must be given

    @property
    def module(self) -> str:
        """Name of the module that makes it."""
        return module_of(self.function)


# What a study declares under `datasets: {NAME: {folder: ..., size: ...}}`.
FOLDER = Source("kd.data.folder:image_folder", "a folder of images: train/CLASS/*.jpg and val|test/CLASS/*")
STREAMED = Source(
    "kd.data.folder:image_folder", "the same, but its images are read when they are needed", streamed=True
)

NOISES: dict[str, NoiseKind] = {
    "sym": NoiseKind("symmetric", "kd.data.noise:symmetric", "this share of all examples, to any other class"),
    "asym": NoiseKind("asymmetric", "kd.data.noise:asymmetric", "this share of a class, to a class it is mistaken for"),
    "pair": NoiseKind("pair", "kd.data.noise:pair", "this share of each class, to the class that comes next"),
    "instance": NoiseKind(
        "instance", "kd.data.instance:instance", "about this share, by what each image looks like", sees_images=True
    ),
    "labels": NoiseKind("file", "kd.data.noise:from_file", "labels read from a file, such as human ones", True),
}

MEASURES = ("precision", "recall", "f1")  # of a selection, against the known noise
SELECTIONS: dict[str, Selection] = {
    "fine": Selection("kd.data.select:fine", "FINE as its code has it: angles to the first direction of a class"),
    "fine_printed": Selection("kd.data.select:fine_printed", "FINE as its paper prints it: squared projections"),
    "loss_gmm": Selection("kd.data.select:loss_gmm", "the lower of two distributions of the losses", "losses"),
    "small_loss": Selection("kd.data.select:small_loss", "this share, of the smallest losses", "losses", None),
}

# How images are cropped for training, as a protocol says it: what opens a dataset so.
CROPS: dict[str, str] = {"padded": "kd.data.examples:opened", "resized": "kd.data.streamed:opened"}


def label_file(named: str) -> tuple[Path, str | None]:
    """Return the label file that a study names, and what of it: `CIFAR-10_human.pt:worse_label` says both."""
    match = re.fullmatch(r"(?P<path>.+\.pt):(?P<key>\w+)", named, re.DOTALL)
    path, key = match.groups() if match else (named, None)
    return Path(path).expanduser(), key


def source_of(name: str, declared: Mapping | None) -> Source:
    """Return where dataset `name` comes from: a folder where the study declares one, else what is built in."""
    if declared and declared.get("folder"):
        return STREAMED if declared.get("streamed") else FOLDER
    if name not in DATASETS:
        raise ConfigError(f"dataset {name!r}: neither built in nor declared with a folder{nearest(name, DATASETS)}")
    return DATASETS[name]
