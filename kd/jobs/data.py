"""The rules data, labels and testset."""

from __future__ import annotations

import logging
from pathlib import Path

from kd.data.prepare import prepare_dataset, prepare_labels, prepare_testset
from kd.jobs import making
from kd.study import products
from kd.study.cells import DATA, DatasetChoice
from kd.study.config import Recipe
from kd.study.judge import Judge

log = logging.getLogger("kd")


def data(judge: Judge, dataset: DatasetChoice, recipe: Recipe, stamp: Path | None = None) -> None:
    """Publish the images and labels of a dataset in data/NAME."""
    product = products.data(dataset.name)

    def prepare(judge: Judge) -> None:
        about = making.about(judge, product)
        prepare_dataset(dataset.name, recipe.declared, product.folder, Path(DATA, "downloads"), about)

    making.make(judge, product, stamp, prepare)


def labels(judge: Judge, dataset: DatasetChoice, recipe: Recipe, stamp: Path | None = None) -> None:
    """Publish the noisy training labels of a dataset in data/NAME+NOISE."""
    product = products.labels(dataset.labelled)
    amount = recipe.label_file or dataset.noise.amount

    def prepare(judge: Judge) -> None:
        kind, seed = dataset.noise.kind, dataset.noise_seed
        made = prepare_labels(
            Path(DATA, dataset.name), kind, amount, seed, product.folder, making.about(judge, product)
        )
        shares = [100 * share for share in (made["realised_rate"], *made["realised_rate_by_class"])]
        wrong, least, most = shares[0], min(shares[1:]), max(shares[1:])
        log.info(
            "%s: %d of %d labels are wrong, %.1f %%, of a class %.1f to %.1f %%",
            *(product, made["wrong"], made["count"], wrong, least, most),
        )

    making.make(judge, product, stamp, prepare)


def testset(judge: Judge, name: str, stamp: Path | None) -> None:
    """Publish the images of a further test set of the study's dataset in data/DATASET@NAME."""
    study = judge.study
    product, dataset = products.testset(study.dataset, name), DatasetChoice(study.dataset)

    def prepare(judge: Judge) -> None:
        declared, about = judge.recipe_of(dataset).declared, making.about(judge, product)
        prepare_testset(name, study.tests[name], Path(DATA, study.dataset), declared, product.folder, about)

    making.make(judge, product, stamp, prepare)
