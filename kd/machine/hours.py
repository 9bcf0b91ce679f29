"""Estimate the hours of a study from networks and banks that were made: their manifests say how many seconds each took.

The unit is an image that is trained on: forward, backward, and what the loss asks of a teacher that runs in each step.
An image that is only evaluated counts as a third. So a network that was trained on a tenth of the data, for few epochs,
or in a calibration (kd.jobs.calibrate), tells how long others of its kind take. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import csv
import heapq
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kd.core import files, project
from kd.core.errors import ConfigError, StorageError
from kd.core.project import on_disk
from kd.machine.room import Size, Sizes
from kd.study.cells import BANKS, RESULTS, STATE, Cell
from kd.study.config import Protocol, checked
from kd.study.paths import parse_cell
from kd.study.recipes import known_values

CALIBRATED = Path(STATE, "calibration")  # a project of its own, which `kd plan --calibrate` fills

_FORWARD = 1 / 3  # of the seconds of a training step
_ENOUGH = 8  # networks of a kind that are read
_TIMINGS = "timings.csv"  # as in kd.jobs.train, which imports torch
# What of a protocol changes the seconds of an image. `compile` does, too, but a calibration decides it in advance.
_SLOWS = ("batch", "optimizer", "crop", "ema", "swa", "randaugment", "mixup", "cutmix", "precision", "deterministic")


class Kind(NamedTuple):
    """What decides the seconds of an image: what is trained, on what, how, and which network teaches in each step."""

    network: str
    dataset: str
    live: str  # "" where a bank answers, or nobody is asked
    protocol: tuple
    loss: str  # "" stands for any loss


class Speed(NamedTuple):
    """How fast one network was trained, or one bank was filled."""

    seconds: float  # for an image, or for a row of a bank
    device: str
    threads: int
    on_gpu: bool


def kinds(cell: Cell, protocol: Protocol) -> tuple[Kind, Kind]:
    """Return the kinds of a cell, the narrow one first: with its loss, and with any loss."""
    own, asked = cell.protocol_of(protocol), cell.stage.objective.needs.teacher
    live = cell.teacher.stage.title if cell.teacher and asked and not cell.reads_banks(protocol) else ""
    values = tuple((key, getattr(own, key)) for key in (*_SLOWS, *(["teacher_precision"] if live else [])))
    return tuple(
        Kind(cell.stage.network, cell.dataset.name, live, values, loss) for loss in (cell.stage.objective.loss, "")
    )


def images(cell: Cell, protocol: Protocol, size: Size) -> float:
    """Return how many images the training of a cell takes, those that are evaluated counted by their cost."""
    own, epochs = cell.protocol_of(protocol), cell.epochs(protocol)
    evaluated = size.test + own.heldout * size.train
    times = 1 if own.evaluate == "last" else -(-epochs // own.evaluate)
    return epochs * size.train * (1 - own.heldout) * cell.fraction + _FORWARD * times * evaluated


class Speeds:
    """How fast networks and banks were made, by kind, on the device that made most of them."""

    def __init__(
        self, trained: Mapping[Kind, Sequence[Speed]], filled: Mapping[tuple[str, str], Sequence[Speed]]
    ) -> None:
        every = [speed for of_kind in trained.values() for speed in of_kind]
        self.device, self.on_gpu, self.threads = "", False, 1
        if every:
            chosen = Counter((one.device, one.on_gpu) for one in every).most_common(1)[0][0]
            self.device, self.on_gpu = chosen
            self.threads = Counter(one.threads for one in every if one.device == self.device).most_common(1)[0][0]
        self._trained, self._filled = (
            {
                key: statistics.median(of_device)
                for key, found in each.items()
                if (of_device := [one.seconds for one in found if one.device == self.device])
            }
            for each in (trained, filled)
        )

    @classmethod
    def measured(cls, sizes: Sizes) -> Speeds:
        """Read what was made in this project and, for kinds that lack there, in its calibration."""
        trained, filled = _made(sizes)
        if on_disk(CALIBRATED).is_dir():
            with project.enter(CALIBRATED):
                more, more_filled = _made(Sizes(sizes.study))
            trained, filled = {**more, **trained}, {**more_filled, **filled}
        return cls(trained, filled)

    def knows(self, cell: Cell, protocol: Protocol) -> bool:
        """Say whether a network of the kind of this cell was trained."""
        return any(kind in self._trained for kind in kinds(cell, protocol))

    def training(self, cell: Cell, protocol: Protocol, size: Size | None) -> float | None:
        """Return the seconds that training a cell takes, None if nothing like it was trained."""
        if not cell.epochs(protocol):
            return 0.0
        found = next((self._trained[kind] for kind in kinds(cell, protocol) if kind in self._trained), None)
        return None if size is None or found is None else found * images(cell, protocol, size)

    def filling(self, teacher: Cell, protocol: Protocol, rows: float) -> float | None:
        """Return the seconds that so many rows of a bank take, None if no bank of its network was filled."""
        found = self._filled.get(_filler(teacher, protocol.teacher_precision))
        return None if found is None else found * rows


def _filler(teacher: Cell, precision: str) -> tuple[str, str, str]:
    return teacher.stage.network, teacher.dataset.name, precision


def _made(sizes: Sizes) -> tuple[dict, dict]:
    """Read how fast everything below results/ and banks/ was made."""
    trained: dict[Kind, list[Speed]] = defaultdict(list)
    filled: dict[tuple, list[Speed]] = defaultdict(list)
    for cell, manifest in _manifests(RESULTS):
        if manifest.get("status") != "ok" or not manifest.get("epochs") or cell.is_ensemble:
            continue
        protocol, size = _protocol(files.canonical_json(manifest["recipe"]["protocol"])), sizes[cell.dataset.name]
        if protocol is None or size is None:
            continue
        with contextlib.suppress(ConfigError):  # values of its own that this kd does not know
            narrow, wide = kinds(cell, protocol)
            if len(trained[narrow]) < _ENOUGH:
                lasted = _epoch_seconds(Path(cell.path), manifest) * manifest["epochs"]
                for kind in (narrow, wide):
                    trained[kind].append(_speed(lasted / images(cell, protocol, size), manifest))
    for cell, manifest in _manifests(BANKS):
        if manifest.get("computed"):
            seconds = manifest["seconds"] / manifest["computed"]
            filled[_filler(cell, manifest["precision"])].append(_speed(seconds, manifest))
    return {kind: found for kind, found in trained.items() if found}, filled


def _speed(seconds: float, manifest: Mapping) -> Speed:
    device = manifest["device"]
    return Speed(seconds, device, manifest["threads"], "gpu_mib" in manifest.get("memory", {}))


def _manifests(top: str) -> Iterator[tuple[Cell, dict]]:
    for path in sorted(files.below(Path(top), f"**/{files.MANIFEST}")):
        with contextlib.suppress(ConfigError, StorageError):  # a path that this study does not know; a damaged manifest
            if manifest := files.read_manifest(path.parent):
                yield parse_cell(Path(RESULTS, *path.parent.parts[1:])), manifest


@cache
def _protocol(made: str) -> Protocol | None:
    with contextlib.suppress(ConfigError):
        return checked(Protocol, known_values(Protocol, json.loads(made)))
    return None


def _epoch_seconds(folder: Path, manifest: Mapping) -> float:
    """Return the median of an epoch, because the first compiles; the mean where the timings are damaged or gone."""
    with contextlib.suppress(OSError, StorageError):
        content = files.content_of(folder / _TIMINGS)
        if files.sha256(content) == manifest["files"].get(_TIMINGS):
            rows = csv.DictReader(content.decode("utf-8").splitlines())
            return statistics.median(float(row["seconds"]) for row in rows)
    return manifest["seconds"] / manifest["epochs"]


# -- side by side -----------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """Something that takes `seconds`, and what must be there before it."""

    seconds: float
    after: tuple[str, ...]


def wall_clock(tasks: Mapping[str, Task], at_once: int) -> float:
    """Return the seconds until all tasks are done when so many run at once; each stands behind what it waits for."""
    waits = {name: {one for one in task.after if one in tasks} for name, task in tasks.items()}
    followers: dict[str, list[str]] = defaultdict(list)
    for name, awaited in waits.items():
        for one in awaited:
            followers[one].append(name)
    order = {name: place for place, name in enumerate(tasks)}
    ready = [(order[name], name) for name, awaited in waits.items() if not awaited]
    heapq.heapify(ready)
    running: list[tuple[float, int, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < at_once:
            place, name = heapq.heappop(ready)
            heapq.heappush(running, (now + tasks[name].seconds, place, name))
        now, _, ended = heapq.heappop(running)
        for name in followers[ended]:
            waits[name].discard(ended)
            if not waits[name]:
                heapq.heappush(ready, (order[name], name))
    return now


def critical_path(tasks: Mapping[str, Task]) -> tuple[float, str]:
    """Return the seconds of the longest chain of tasks, and the task at its end."""
    ends: dict[str, float] = {}
    for name, task in tasks.items():
        ends[name] = task.seconds + max((ends[one] for one in task.after if one in ends), default=0.0)
    last = max(ends, key=ends.__getitem__)
    return ends[last], last


def numbers_at_once(tasks: Mapping[str, Task], least: float) -> Iterable[tuple[int, float]]:
    """Yield (how many at once, seconds) for 1, 2, 4, ... until more of them help little."""
    number = 1
    while True:
        seconds = wall_clock(tasks, number)
        yield number, seconds
        if seconds < 1.1 * least or number >= len(tasks):
            return
        number *= 2
