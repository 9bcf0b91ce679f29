"""Estimate the disk space of a study before it starts. It imports torch only if it has to build a network."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from kd.core import files
from kd.core.errors import KdError, StorageError
from kd.core.project import on_disk
from kd.data import DATASETS, Source, source_of
from kd.study import products
from kd.study.cells import ANSWERS, BANKS, DATA, RELATIONS, RESULTS, Cell
from kd.study.config import Study
from kd.study.expansion import analysed, augmentation, taught_by
from kd.study.needs import FILES, unmet

Shape = tuple[str, str]  # (network, dataset): they decide the shapes of the weights

_MANIFEST, _ROW = 6_000, 250  # bytes of a cell's manifest, and of one epoch in metrics.csv and timings.csv
_DOWNLOADS = Path(DATA, "downloads")


class Size(NamedTuple):
    """How large a dataset is: examples to train and to test on, classes, and bytes in data/ that are not there yet.

    `shape` is of an image, [H, W, C]; () where images are streamed.
    """

    train: int
    test: int
    classes: int
    absent: int = 0
    shape: tuple[int, ...] = ()


def shape_of(cell: Cell) -> Shape:
    """Return the network and dataset of a cell."""
    return cell.stage.network, cell.dataset.name


def disk_bytes(cells: Iterable[Cell], study: Study, published: Mapping[Shape, int] | None = None) -> Mapping[str, int]:
    """Return {top folder: bytes} that training `cells` adds below data/, results/, relations/, banks/ and answers/.

    `published` has the sizes of trained cells; a new cell of the same shape takes as much. For other shapes the network
    is built on torch's meta device. Data, banks and answers are left out if the number of examples is not known yet
    (`unknown` names these datasets).
    """
    cells, sizes = list(cells), Sizes(study)
    needed = Counter()
    read = dict.fromkeys(cell.dataset for cell in (*cells, *_unanswered(study)))
    for name in dict.fromkeys(dataset.name for dataset in read):
        needed[DATA] += sizes[name].absent if sizes[name] else 0
    for dataset in {one.labelled: one for one in read if one.noise}.values():
        if sizes[dataset.name] and not on_disk(Path(DATA, dataset.labelled)).exists():
            needed[DATA] += 8 * sizes[dataset.name].train
    needed[DATA] += _testset_bytes(study, sizes)
    for shape, number in Counter(shape_of(cell) for cell in cells if not cell.is_ensemble).items():
        needed[RESULTS] += number * ((published or {}).get(shape) or _weight_bytes(shape, sizes))
    for cell in cells:
        if shape_of(cell) not in (published or {}):
            needed[RESULTS] += _MANIFEST + _ROW * cell.epochs(study.protocol)
    for one, name in {products.relation(c.teacher, c.related): c.dataset.name for c in cells if c.related}.items():
        if sizes[name] and not on_disk(one.manifest).exists():
            needed[RELATIONS] += _MANIFEST + 4 * sizes[name].classes ** 2
    for teacher, students in with_banks(cells, study).items():
        needed[BANKS] += _bank_bytes(teacher, students, study, sizes)
    needed[ANSWERS] = sum(_answer_bytes(cell, sizes) for cell in _unanswered(study))
    return needed


def state_bytes(cells: Iterable[Cell], study: Study) -> int:
    """Return the most bytes that one of `cells` keeps in state/ while it trains: two states, weights and copies."""
    sizes = Sizes(study)
    trained = [cell for cell in cells if cell.epochs(study.protocol)]
    copies = ((cell, 1 + cell.protocol_of(study.protocol).copies) for cell in trained)
    return max((2 * each * _weight_bytes(shape_of(cell), sizes) for cell, each in copies), default=0)


def unknown(cells: Iterable[Cell], study: Study) -> list[str]:
    """Return the datasets whose data, banks and answers `disk_bytes` leaves out, because their size is not known."""
    names, sizes = {cell.dataset.name for cell in (*cells, *_unanswered(study))}, Sizes(study)
    return sorted(name for name in names if sizes[name] is None)


def with_banks(cells: Iterable[Cell], study: Study) -> dict[Cell, list[Cell]]:
    """Map each network that has a bank to those of `cells` that read it."""
    taught = taught_by(cell for cell in cells if cell.reads_banks(study.protocol))
    return {teacher: students for teacher, students in taught.items() if not teacher.is_ensemble}


def _unanswered(study: Study) -> list[Cell]:
    return [cell for cell in analysed(study) if not on_disk(Path(ANSWERS, cell.name)).exists()]


def _weight_bytes(shape: Shape, sizes: Sizes) -> int:
    from kd.machine import footprint

    network, dataset = shape
    classes = sizes[dataset].classes if sizes[dataset] else 100  # a guess, which changes only the last layer
    return footprint.weight_bytes(network, classes)


def bank_rows(teacher: Cell, students: Iterable[Cell], study: Study, size: Size) -> dict[str, tuple[float, float]]:
    """Return {output: (rows that a bank then has, rows that it lacks)} of outputs that these students lack in it."""
    declared = study.datasets.get(teacher.dataset.name)
    pad, flip = augmentation(source_of(teacher.dataset.name, declared and declared.model_dump()), study.protocol)
    views = (2 * pad + 1) ** 2 * (1 + flip)  # as in kd.data.views, which imports torch
    manifest = _manifest(Path(BANKS, teacher.name)) or {}
    needs = [need for student in students for need in student.needs_of_bank(study.protocol)]

    def rows(epochs: Mapping[int, int]) -> float:  # the expected number of different views that are drawn
        return size.train * teacher.dataset.fraction * views * (1 - (1 - 1 / views) ** sum(epochs.values()))

    found = {}
    for output in {need.output: None for need in unmet(manifest, needs)}:
        holds = dict(manifest.get("outputs", {}).get(output, {}).get("holds", []))
        longest = dict(holds)
        for need in needs:
            if need.output == output:
                longest[need.seed] = max(longest.get(need.seed, 0), need.epochs)
        found[output] = rows(longest), rows(longest) - rows(holds)
    return found


def _bank_bytes(teacher: Cell, students: list[Cell], study: Study, sizes: Sizes) -> int:
    """Return what a bank takes for these students, 0 if it serves them; a bank that grows is written beside the old."""
    size = sizes[teacher.dataset.name]
    total = 0.0
    for output, (rows, _) in bank_rows(teacher, students, study, size).items() if size else ():
        filling = files.below(Path(BANKS, teacher.name), f"filling-{FILES[output]}-*.npy")
        begun = sum(on_disk(path).stat().st_size for path in filling)
        total += max(0.0, rows * view_bytes(teacher.stage.network, size.classes, output) - begun)
    return round(total)


def view_bytes(network: str, classes: int, output: str) -> int:
    """Return the bytes of one view in a bank of `network`, on the disk as on a GPU: a float16 row and an int64 key."""
    if output == "logits":
        return 2 * classes + 8
    from kd.machine.footprint import width

    return 2 * width(network, classes) + 8


def _answer_bytes(cell: Cell, sizes: Sizes) -> int:
    size = sizes[cell.dataset.name]
    if size is None:
        return 0
    from kd.data.splits import SAMPLE
    from kd.machine.footprint import width

    inside = 0 if cell.is_ensemble else width(cell.stage.network, size.classes)
    row = 4 * size.classes + 2 * inside + 24  # float32 logits, float16 pre-logits, an index and two labels
    return round((size.test + min(SAMPLE, size.train * cell.fraction)) * row)


def _testset_bytes(study: Study, sizes: Sizes) -> int:
    """Return what further test sets take that are not in data/ yet; a folder that cannot be read counts as nothing."""
    from kd.data.folder import files_of  # and with it Pillow

    size, count = sizes[study.dataset], 0
    for name, folder in study.tests.items():
        if not on_disk(products.testset(study.dataset, name).folder).exists():
            with contextlib.suppress(KdError, OSError):
                count += len(files_of(Path(folder).expanduser(), testset=True))
    return count * (math.prod(size.shape) + 8) if size and size.shape else 0  # a streamed one takes hardly any


# -- how large datasets are -------------------------------------------------------------------------------------------


class Sizes(dict[str, Size | None]):
    """{dataset: its size}, or None for a dataset whose size is not known yet.

    The manifest of the data says it; if that is missing or damaged, kd's list of built-in datasets, or the files in the
    folder that the study declares.
    """

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.study = study

    def __missing__(self, name: str) -> Size | None:
        manifest = _manifest(Path(DATA, name))
        if manifest:
            counts = manifest["counts"]
            shape = tuple(manifest.get("shape", ()))
            self[name] = Size(counts["train"], counts["test"], len(manifest["class_names"]), shape=shape)
        else:
            declared = self.study.datasets.get(name)
            folder = declared and declared.folder
            self[name] = _counted(folder, declared.size, declared.streamed) if folder else _built_in(name, declared)
        return self[name]


def _manifest(folder: Path) -> dict | None:
    with contextlib.suppress(StorageError):
        return files.read_manifest(folder)
    return None


def _built_in(name: str, declared: object) -> Size | None:
    source: Source | None = DATASETS.get(name)
    if source is None or source.counts is None or source.shape is None:
        return None
    train, test, classes = source.counts
    height, width, channels = source.shape
    file, size = source.archive or ("", 0)
    download = 0 if declared or on_disk(_DOWNLOADS / file).is_file() else size
    return Size(train, test, classes, (train + test) * (height * width * channels + 8) + download, source.shape)


def _counted(folder: str, size: int, streamed: bool | None) -> Size | None:
    """Count a folder of images, as `kd data` will find it; None if it is not there, or not such a folder."""
    from kd.data.folder import SUFFIXES, files_of  # and with it Pillow

    try:
        names = [name for name, _ in files_of(Path(folder).expanduser()) if name.lower().endswith(SUFFIXES)]
    except (KdError, OSError):
        return None
    train = [name for name in names if name.startswith("train/")]
    image = 8 + max(map(len, names)) if streamed else size * size * 3  # a record of its file, or RGB pixels
    classes = {name.split("/")[1] for name in train}
    absent, shape = len(names) * (image + 8), () if streamed else (size, size, 3)
    return Size(len(train), len(names) - len(train), len(classes), absent, shape)
