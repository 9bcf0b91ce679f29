"""The rules data and labels."""

from __future__ import annotations

from pathlib import Path

from kd.data.prepare import prepare_dataset, prepare_labels
from kd.jobs import making
from kd.study import products
from kd.study.cells import DATA, DatasetChoice
from kd.study.config import Recipe
from kd.study.judge import Judge


def data(judge: Judge, dataset: DatasetChoice, recipe: Recipe, stamp: Path | None = None) -> None:
    """Prepare the images and labels of a dataset in data/NAME."""
    product = products.data(dataset.name)

    def prepare(judge: Judge) -> None:
        about = making.about(judge, product)
        prepare_dataset(dataset.name, recipe.declared, product.folder, Path(DATA, "downloads"), about)

    making.make(judge, product, stamp, prepare)


def labels(judge: Judge, dataset: DatasetChoice, recipe: Recipe, stamp: Path | None = None) -> None:
    """Make the noisy training labels of a dataset in data/NAME+NOISE."""
    product = products.labels(dataset.labelled)
    amount = recipe.label_file or dataset.noise.amount

    def prepare(judge: Judge) -> None:
        kind, seed = dataset.noise.kind, dataset.noise_seed
        prepare_labels(Path(DATA, dataset.name), kind, amount, seed, product.folder, making.about(judge, product))

    making.make(judge, product, stamp, prepare)
