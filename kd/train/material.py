"""What a cell is given to learn from: which examples, with which labels, in which views."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kd import data
from kd.core.errors import StorageError
from kd.core.files import verified
from kd.core.project import here
from kd.data.arrays import load_array, open_dataset, open_labels
from kd.data.examples import Examples, tensor
from kd.data.splits import hold_out, subset
from kd.data.views import Views
from kd.study import products
from kd.study.cells import DATA, Cell
from kd.study.config import Recipe
from kd.study.expansion import augmentation
from kd.study.values import Selected

KEPT = "kept.npy"  # in the folder of a selection
RELATION = "relation.npy"  # in the folder of a relation between classes
QUALITY = ("kept", *data.MEASURES, *(f"{name}_by_class" for name in data.MEASURES), "teacher_epochs")  # in its manifest


@dataclass(frozen=True)
class Prepared:
    """A cell's data, opened: the examples, what they are, and the digests of all that was read."""

    examples: Examples
    clean: np.ndarray  # [N] the training labels before label noise
    class_names: tuple[str, ...]
    realised_rate: float  # of wrong labels
    channels: int
    grid: Views
    digests: dict[str, str]

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)


def prepared(
    cell: Cell, recipe: Recipe, fraction: float | None = None, workers: int = 0, by: Selected | None = None
) -> Prepared:
    """Open the data that `cell` learns from, memory-mapped, or another `fraction` of them.

    Where its teacher selected for it, it learns from what was kept; another fraction is of all, or of what `cell`
    itself selects `by`. Where the data are streamed, `workers` processes will decode them. Raises StorageError when
    they are damaged or not there.
    """
    source = data.source_of(cell.dataset.name, recipe.declared)
    protocol = recipe.protocol
    dataset = open_dataset(Path(DATA, cell.dataset.name))
    if (dataset.files is not None) != (protocol.crop == "resized"):
        raise StorageError(
            f"{DATA}/{cell.dataset.name}: was made when the study said otherwise whether it is streamed; run "
            f"`kd data {cell.dataset.name}`, or snakemake"
        )
    if dataset.files:  # read where the study says that they are now
        folder = str(here() / Path(recipe.declared["folder"]).expanduser())
        dataset = dataclasses.replace(dataset, files=dataclasses.replace(dataset.files, folder=folder))
    given = open_labels(Path(DATA, cell.dataset.labelled)) if cell.dataset.noise else dataset.train_labels
    realised_rate = float((given != dataset.train_labels).mean())
    # Chosen by the clean labels: the same examples are held out, or left out, at every noise and fraction.
    train, heldout = hold_out(dataset.train_labels, protocol.heldout)
    train = subset(dataset.train_labels, cell.fraction if fraction is None else fraction, among=train)
    selector, by = (cell.teacher, cell.stage.selection) if fraction is None else (cell, by)
    if by:
        train = np.intersect1d(train, kept(selector, by), assume_unique=True)
    parts = {
        "labels": tensor(given),
        "train": tensor(train),
        "heldout": tensor(heldout),
        "test_labels": tensor(dataset.test_labels),
        "mean": torch.tensor(dataset.mean),
        "std": torch.tensor(dataset.std),
        "clean": tensor(dataset.train_labels) if cell.dataset.noise else None,
    }
    opened = data.load(data.CROPS[protocol.crop])
    grid, examples = opened(dataset, *augmentation(source, protocol), workers, parts)
    digests = {"data": dataset.digest, "labels": _digest(given), "examples": _digest(train)}
    names, channels = dataset.class_names, examples.shape[0]
    return Prepared(examples, dataset.train_labels, names, realised_rate, channels, grid, digests)


def kept(teacher: Cell, by: Selected) -> np.ndarray:
    """Return the sorted indices of the examples that `teacher` selected for its students."""
    return _array_in(products.selection(teacher, by).folder, KEPT)


def relation_of(cell: Cell) -> torch.Tensor:
    """Return the relation between classes [K, K] that `cell` reads of its teacher."""
    return tensor(_array_in(products.relation(cell.teacher, cell.related).folder, RELATION))


def _array_in(folder: Path, name: str) -> np.ndarray:
    """Return an array that is published in `folder`, every byte checked. Raises Damaged when one has changed."""
    verified(folder)
    return load_array(folder / name)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
