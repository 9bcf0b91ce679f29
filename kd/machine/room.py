"""Estimate the disk space of a study before it starts. It imports torch only if it has to build a network."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from kd.core.errors import StorageError
from kd.core.files import read_manifest
from kd.core.project import on_disk
from kd.data import DATASETS, source_of
from kd.study.cells import ANSWERS, BANKS, DATA, RESULTS, Cell
from kd.study.config import Study
from kd.study.expansion import analysed, augmentation, taught_by
from kd.study.needs import FILES

Shape = tuple[str, str]  # (network, dataset): they decide the shapes of the weights


def shape_of(cell: Cell) -> Shape:
    """Return the network and dataset of a cell."""
    return cell.stage.network, cell.dataset.name


def disk_bytes(cells: Iterable[Cell], study: Study, published: Mapping[Shape, int] | None = None) -> Mapping[str, int]:
    """Return {top folder: bytes} that training `cells` will add below results/, banks/ and answers/.

    `published` has the sizes of trained cells; a new cell of the same shape takes as much. For other shapes the network
    is built on torch's meta device. Banks and answers are left out if the number of examples is not known yet
    (`unknown` names these datasets), or if they exist: views that an existing bank lacks take little.
    """
    cells, counts = list(cells), _Counts()
    needed = Counter()
    for shape, number in Counter(shape_of(cell) for cell in cells if not cell.is_ensemble).items():
        needed[RESULTS] += number * ((published or {}).get(shape) or _weight_bytes(shape, counts))
    for teacher, students in _with_banks(cells, study).items():
        needed[BANKS] += _bank_bytes(teacher, students, study, counts)
    needed[ANSWERS] = sum(_answer_bytes(cell, counts) for cell in _unanswered(study))
    return needed


def unknown(cells: Iterable[Cell], study: Study) -> list[str]:
    """Return the datasets whose banks or answers `disk_bytes` leaves out, because it lacks their number of examples."""
    names, counts = {cell.dataset.name for cell in (*_with_banks(cells, study), *_unanswered(study))}, _Counts()
    return sorted(name for name in names if counts[name] is None)


def _with_banks(cells: Iterable[Cell], study: Study) -> dict[Cell, list[Cell]]:
    taught = taught_by(cell for cell in cells if cell.reads_banks(study.protocol))
    return {teacher: students for teacher, students in taught.items() if not teacher.is_ensemble}


def _unanswered(study: Study) -> list[Cell]:
    return [cell for cell in analysed(study) if not on_disk(Path(ANSWERS, cell.name)).exists()]


def _weight_bytes(shape: Shape, counts: _Counts) -> int:
    from kd.machine import footprint

    network, dataset = shape
    classes = counts[dataset][2] if counts[dataset] else 100  # a guess, which changes only the last layer
    return footprint.weight_bytes(network, classes)


def _bank_bytes(teacher: Cell, students: list[Cell], study: Study, counts: _Counts) -> int:
    if counts[teacher.dataset.name] is None:
        return 0
    train, _, classes = counts[teacher.dataset.name]
    declared = study.datasets.get(teacher.dataset.name)
    pad, flip = augmentation(source_of(teacher.dataset.name, declared and declared.model_dump()), study.protocol)
    views = (2 * pad + 1) ** 2 * (1 + flip)  # as in kd.data.views, which imports torch
    longest: dict[str, dict[int, int]] = defaultdict(dict)
    for seed, epochs, output in sorted(need for student in students for need in student.needs_of_bank(study.protocol)):
        longest[output][seed] = epochs
    total = 0.0
    for output, epochs in longest.items():
        if not any(on_disk(Path(BANKS, teacher.name)).glob(f"*{FILES[output]}-*")):
            seen = views * (1 - (1 - 1 / views) ** sum(epochs.values()))  # expected number of different views drawn
            total += seen * view_bytes(teacher.stage.network, classes, output)
    return round(train * teacher.dataset.fraction * total)


def view_bytes(network: str, classes: int, output: str) -> int:
    """Return the bytes of one view in a bank of `network`, on the disk as on a GPU: a float16 row and an int64 key."""
    if output == "logits":
        return 2 * classes + 8
    from kd.machine.footprint import width

    return 2 * width(network, classes) + 8


def _answer_bytes(cell: Cell, counts: _Counts) -> int:
    if counts[cell.dataset.name] is None:
        return 0
    from kd.data.splits import SAMPLE
    from kd.machine.footprint import width

    train, test, classes = counts[cell.dataset.name]
    inside = 0 if cell.is_ensemble else width(cell.stage.network, classes)
    row = 4 * classes + 2 * inside + 24  # float32 logits, float16 pre-logits, an index and two labels
    return round((test + min(SAMPLE, train * cell.fraction)) * row)


class _Counts(dict[str, tuple[int, int, int] | None]):
    """{dataset: (training examples, test examples, classes)}, or None for a dataset whose counts are not known yet.

    The counts come from the manifest of the data, read once; if it is missing or damaged, from kd's list of built-in
    datasets.
    """

    def __missing__(self, name: str) -> tuple[int, int, int] | None:
        self[name] = DATASETS[name].counts if name in DATASETS else None
        with contextlib.suppress(StorageError):
            if manifest := read_manifest(Path(DATA, name)):
                self[name] = manifest["counts"]["train"], manifest["counts"]["test"], len(manifest["class_names"])
        return self[name]
