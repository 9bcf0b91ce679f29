"""How much a cell needs of a GPU's memory, and a study of the disk, worked out before they start."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from kd import models
from kd.core.errors import StorageError
from kd.core.files import read_manifest
from kd.data import DATASETS, source_of
from kd.data.examples import Examples
from kd.data.splits import SAMPLE
from kd.data.views import Grid
from kd.study.cells import ANSWERS, BANKS, DATA, RESULTS, Cell, analysed, augmentation, taught_by
from kd.study.config import Study

_FIXED = 1 << 30  # CUDA's context, the libraries' workspaces, the allocator's and the graphs' pools
_SLACK = 1.25  # fragments, and the gradients of activations that are alive at once


def gpu_bytes(network: str, classes: int, examples: Examples, batch: int, rows: int = 0) -> int:
    """Return the bytes that training `network` on `examples` takes, with `rows` rows of a bank.

    Weights with gradients and momenta, what one batch keeps for its backward pass, and the data, which stay on the
    device. Activations count as float32: in bfloat16 it is less.
    """
    kept = _kept_by_a_step(network, classes, (batch, *examples.shape))
    bank = rows * (2 * classes + 8)  # as on the disk
    return math.ceil(_FIXED + examples.nbytes + bank + _SLACK * kept)


def disk_bytes(cells: Iterable[Cell], study: Study) -> Mapping[str, int]:
    """Return the bytes that training `cells` will add below results/, banks/ and answers/, by top folder.

    Banks and answers count where the number of examples is known (`unknown` names the datasets of which it is not), and
    where there are none yet: what a bank lacks is little.
    """
    cells = list(cells)
    needed = Counter(
        {RESULTS: sum(_weight_bytes(cell.stage.network, _classes(cell)) for cell in cells if not cell.is_ensemble)}
    )
    for teacher, students in _lacking_banks(cells, study).items():
        needed[BANKS] += _bank_bytes(teacher, students, study)
    needed[ANSWERS] = sum(map(_answer_bytes, _lacking_answers(study)))
    return needed


def unknown(cells: Iterable[Cell], study: Study) -> list[str]:
    """Return the datasets whose banks or answers `disk_bytes` leaves out: how many examples they have is not known."""
    counted = [*_lacking_banks(cells, study), *_lacking_answers(study)]
    return sorted({cell.dataset.name for cell in counted if _counts(cell) is None})


def _lacking_banks(cells: Iterable[Cell], study: Study) -> dict[Cell, list[Cell]]:
    taught = taught_by(cell for cell in cells if cell.reads_banks(study.protocol))
    return {t: of for t, of in taught.items() if not t.is_ensemble and not Path(BANKS, t.name).exists()}


def _lacking_answers(study: Study) -> list[Cell]:
    return [cell for cell in analysed(study) if not Path(ANSWERS, cell.name).exists()]


def _bank_bytes(teacher: Cell, students: list[Cell], study: Study) -> int:
    counts = _counts(teacher)
    if counts is None:
        return 0
    train, _, classes = counts
    declared = study.datasets.get(teacher.dataset.name)
    grid = Grid(*augmentation(source_of(teacher.dataset.name, declared and declared.model_dump()), study.protocol))
    epochs = sum({student.stage.seed: student.epochs(study.protocol) for student in students}.values())
    seen = grid.count * (1 - (1 - 1 / grid.count) ** epochs)  # views of an example that are drawn, on average
    row = 2 * classes + 8  # float16 logits and an int64 key
    return round(train * teacher.dataset.fraction * seen * row)


def _answer_bytes(cell: Cell) -> int:
    counts = _counts(cell)
    if counts is None:
        return 0
    train, test, classes = counts
    inside = 0 if cell.is_ensemble else _width(cell.stage.network, classes)
    row = 4 * classes + 2 * inside + 24  # float32 logits, float16 pre-logits, an index and two labels
    return round((test + min(SAMPLE, train * cell.fraction)) * row)


def _classes(cell: Cell) -> int:
    counts = _counts(cell)
    return counts[2] if counts else 100  # it decides the last layer only


def _counts(cell: Cell) -> tuple[int, int, int] | None:
    """Return how many examples there are to train and to test on, and classes; None where nobody knows yet.

    The manifest of the data says so, and kd of built-in ones; a damaged manifest does not, for they will be made anew.
    """
    with contextlib.suppress(StorageError):
        if manifest := read_manifest(Path(DATA, cell.dataset.name)):
            return manifest["counts"]["train"], manifest["counts"]["test"], len(manifest["class_names"])
    return DATASETS[cell.dataset.name].counts if cell.dataset.name in DATASETS else None


@functools.cache
def _weight_bytes(network: str, classes: int) -> int:
    with torch.device("meta"):
        return sum(tensor.nbytes for tensor in models.build(network, classes).state_dict().values())


@functools.cache
def _width(network: str, classes: int) -> int:
    with torch.device("meta"):
        return models.build(network, classes).classifier.in_features


def _kept_by_a_step(network: str, classes: int, shape: tuple[int, ...]) -> int:
    """Return the bytes of weights, gradients, momenta and saved activations, counted without computing anything."""
    with torch.device("meta"):
        built = models.build(network, classes, shape[1]).train()
        images = torch.empty(shape)
    weights = sum(p.nbytes for p in built.parameters())
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # several views of one storage are kept once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = built(images)
    activations = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return activations + logits.nbytes + 2 * weights  # the weights themselves are saved for the backward pass
