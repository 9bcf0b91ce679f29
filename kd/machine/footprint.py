"""How much a cell needs of a GPU's memory, and a study of the disk, worked out before they start."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kd import models
from kd.core.errors import StorageError
from kd.core.files import read_manifest
from kd.data import source_of
from kd.data.examples import Examples
from kd.data.splits import SAMPLE
from kd.data.views import Grid
from kd.study.cells import ANSWERS, BANKS, DATA, RESULTS, Cell, analysed, augmentation, taught_by
from kd.study.config import Study
from kd.study.needs import FILES

_FIXED = 1 << 30  # CUDA's context, the libraries' workspaces, the allocator's and the graphs' pools
_SLACK = 1.25  # fragments, and the gradients of activations that are alive at once


def gpu_bytes(
    network: str, classes: int, examples: Examples, batch: int, bank: int = 0, objective: nn.Module | None = None
) -> int:
    """Return the bytes that training `network` on `examples` takes, with a bank of so many bytes and an objective.

    Weights with gradients and momenta, what one batch keeps for its backward pass, and the data, which stay on the
    device. Of the objective its parameters, with gradients and momenta, and its buffers, which may remember every
    example. Activations count as float32: in bfloat16 it is less.
    """
    kept = _kept_by_a_step(network, classes, (batch, *examples.shape))
    learned, held = (
        sum(tensor.nbytes for tensor in tensors)
        for tensors in ((objective.parameters(), objective.buffers()) if objective else ((), ()))
    )
    return math.ceil(_FIXED + examples.nbytes + bank + 3 * learned + held + _SLACK * kept)


def view_bytes(network: str, classes: int, output: str) -> int:
    """Return the bytes of one view in a bank of `network`, on the disk as on a GPU: a float16 row and an int64 key."""
    return 2 * (classes if output == "logits" else _width(network, classes)) + 8


def disk_bytes(cells: Iterable[Cell], study: Study) -> Mapping[str, int]:
    """Return the bytes that training `cells` will add below results/, banks/ and answers/, by top folder.

    Banks and answers count where the data are prepared, which is when the number of examples is known, and where there
    are none yet: what a bank lacks of an output that it has is little.
    """
    cells = list(cells)
    needed = Counter(
        {RESULTS: sum(_weight_bytes(cell.stage.network, _classes(cell)) for cell in cells if not cell.is_ensemble)}
    )
    for teacher, students in taught_by(cell for cell in cells if cell.reads_banks(study.protocol)).items():
        if not teacher.is_ensemble:
            needed[BANKS] += _bank_bytes(teacher, students, study)
    needed[ANSWERS] = sum(_answer_bytes(c) for c in analysed(study) if not Path(ANSWERS, c.name).exists())
    return needed


def _bank_bytes(teacher: Cell, students: list[Cell], study: Study) -> int:
    manifest = _prepared(teacher)
    if manifest is None:
        return 0
    declared = study.datasets.get(teacher.dataset.name)
    grid = Grid(*augmentation(source_of(teacher.dataset.name, declared and declared.model_dump()), study.protocol))
    longest: dict[str, dict[int, int]] = defaultdict(dict)
    for seed, epochs, output in sorted(need for student in students for need in student.needs_of_bank(study.protocol)):
        longest[output][seed] = epochs
    total = 0.0
    for output, epochs in longest.items():
        if not any(Path(BANKS, teacher.name).glob(f"*{FILES[output]}-*")):
            seen = grid.count * (1 - (1 - 1 / grid.count) ** sum(epochs.values()))  # views that are drawn, on average
            total += seen * view_bytes(teacher.stage.network, _classes(teacher), output)
    return round(manifest["counts"]["train"] * teacher.dataset.fraction * total)


def _answer_bytes(cell: Cell) -> int:
    manifest = _prepared(cell)
    if manifest is None:
        return 0
    counts, classes = manifest["counts"], _classes(cell)
    inside = 0 if cell.is_ensemble else _width(cell.stage.network, classes)
    row = 4 * classes + 2 * inside + 24  # float32 logits, float16 pre-logits, an index and two labels
    return round((counts["test"] + min(SAMPLE, counts["train"] * cell.fraction)) * row)


def _classes(cell: Cell) -> int:
    manifest = _prepared(cell)
    return len(manifest["class_names"]) if manifest else 100  # it decides the last layer only


def _prepared(cell: Cell) -> dict | None:
    """Return the manifest of a cell's data, None where they are not prepared, or will be anew: theirs is damaged."""
    with contextlib.suppress(StorageError):
        return read_manifest(Path(DATA, cell.dataset.name))
    return None


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
