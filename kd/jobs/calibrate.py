"""`kd plan --calibrate`: train a few steps of each kind of network, before the first cell of a study is trained.

It runs `kd train` as Snakemake does, in a project of its own, state/calibration, on images of noise: teachers, banks,
losses and compiled kernels are those of the study. Only the manifests stay there, because they have the seconds. What
was trained here already tells more, and is not calibrated.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import kd
from kd.core import files, project
from kd.core.project import here, on_disk
from kd.data import source_of
from kd.data.arrays import Images, write_dataset
from kd.jobs import making
from kd.machine.hours import CALIBRATED, Speeds, kinds
from kd.machine.room import Size, Sizes
from kd.study import products
from kd.study.cells import MEAN_LOGIT, Cell, DatasetChoice, Stage, canonical, spell_related
from kd.study.config import Recipe, Study
from kd.study.expansion import recipe
from kd.study.judge import Judge
from kd.study.values import LossChoice
from kd.train.arithmetic import compiling_pays

_EPOCHS = 3  # the first compiles or records, so the median counts
_STEPS = 16 if torch.cuda.is_available() else 4  # of an epoch


def calibrate(study: Study, cells: Iterable[Cell]) -> None:
    """Train a little of each kind of network among `cells` that nobody trained here, and say how it went."""
    with files.lock(CALIBRATED.with_suffix(".lock"), wait=False):
        shutil.rmtree(on_disk(CALIBRATED), ignore_errors=True)
        chosen = _one_of_each_kind(study, cells, sizes := Sizes(study))
        for number, cell in enumerate(chosen, 1):
            began = time.monotonic()
            print(f"calibrating {number}/{len(chosen)}: {_short(cell)} on {cell.dataset.name} ", end="", flush=True)
            print(_tried(study, cell, sizes[cell.dataset.name]) or f"{time.monotonic() - began:.0f} s", flush=True)
        for large in [*files.below(CALIBRATED, "**/*.npy"), *files.below(CALIBRATED, "**/*.safetensors")]:
            on_disk(large).unlink()


def _one_of_each_kind(study: Study, cells: Iterable[Cell], sizes: Sizes) -> list[Cell]:
    """Return a cell of each kind whose speed is not known, and for each bank whose speed is not one that reads it."""
    speeds, protocol = Speeds.measured(sizes), study.protocol
    found: dict[object, Cell] = {}
    for cell in cells:
        size = sizes[cell.dataset.name]
        if cell.is_ensemble or not cell.epochs(protocol) or size is None or not size.shape:
            continue  # streamed images cost what reading and decoding them costs, which noise does not tell
        if not speeds.knows(cell, protocol):
            found.setdefault(kinds(cell, protocol)[1], cell)
        for teacher in cell.teacher.members if cell.reads_banks(protocol) else ():
            if speeds.filling(teacher, protocol, 1) is None:
                found.setdefault((teacher.stage.network, cell.dataset.name), cell)
    chosen = dict.fromkeys(_like(cell, study) for cell in found.values())
    behind = {one for cell in chosen for one in cell.lineage if one != cell}  # these are trained all the same
    return [cell for cell in chosen if cell not in behind]


def _like(cell: Cell, study: Study) -> Cell:
    """Return a cell that takes as long for an image: on clean data, all of them, for few epochs, by one teacher."""
    epochs = min(_EPOCHS, study.protocol.epochs)

    def short(stage: Stage) -> Stage:
        objective = LossChoice("ce") if stage.weights else stage.objective
        alone = replace(stage, network=stage.networks[0], more_seeds=(), ensemble=MEAN_LOGIT, objective=objective)
        return replace(alone, epochs=epochs, fraction=1.0, selection=None)

    return canonical(DatasetChoice(cell.dataset.name), cell.protocol, tuple(map(short, cell.stages)))


def _short(cell: Cell) -> str:
    return " > ".join(f"{stage.network}.{stage.objective.loss}" for stage in cell.stages)


def _tried(study: Study, cell: Cell, size: Size) -> str | None:
    """Train a cell and its teachers in the calibration's project; return why it failed, or None."""
    for one in cell.lineage:
        given = json.loads(json.dumps(recipe(study, one)))
        pixels = math.prod(size.shape) * size.train * study.protocol.epochs
        protocol = one.protocol_of(study.protocol)
        pays = compiling_pays(pixels, protocol.compile, study.gpus_per_cell)
        given["protocol"]["compile"] = "always" if pays else "never"
        given["plugins"] = [str(here() / path) for path in study.plugins]
        source = given["dataset"] or {}
        given["dataset"] = {**source, "folder": str(here())} if source.get("folder") else given["dataset"]
        on_disk(CALIBRATED).mkdir(parents=True, exist_ok=True)
        _prepare(one, given, size, study.protocol.batch)
        first = [["relation", one.teacher.path, spell_related(one.related)]] if one.related else []
        for arguments in (*first, ["train", one.path]):
            if why := _failed([*arguments, "--recipe", json.dumps(given)]):
                return why
    return None


def _failed(arguments: list[str]) -> str | None:
    """Run a verb in the calibration's project; return why it failed, or None."""
    package = str(Path(kd.__file__).parent.parent)
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    where = {"cwd": here() / CALIBRATED, "env": {**os.environ, "PYTHONPATH": path}}
    ran = subprocess.run([sys.executable, "-m", "kd", *arguments], **where, stderr=subprocess.PIPE)
    return f"failed: {ran.stderr.decode(errors='replace').strip().splitlines()[-1:]}" if ran.returncode else None


def _prepare(cell: Cell, given: dict, size: Size, batch: int) -> None:
    """Publish images of noise as the dataset of a cell, unless they are there."""
    with project.enter(CALIBRATED):
        judge, product = Judge.of_recipe(Recipe.parse(given)), products.data(cell.dataset.name)
        if not judge.to_do(product):
            return
        count = max(_STEPS * batch, 2 * size.classes)
        draw = np.random.default_rng(0)

        def made(number: int) -> tuple[np.ndarray, np.ndarray]:
            return draw.integers(0, 256, (number, *size.shape), np.uint8), np.arange(number) % size.classes

        channels = size.shape[-1]
        split = (*made(count), *made(max(1, round(count * size.test / size.train))))
        names = [str(label) for label in range(size.classes)]
        noise = Images(*split, names, (0.5,) * channels, (0.25,) * channels)
        source = source_of(cell.dataset.name, given["dataset"])
        write_dataset(noise, product.folder, making.about(judge, product) | {"declared": {}, "of": source.description})
