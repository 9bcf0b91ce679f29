"""A study of tiny images that the verbs finish in seconds, without Snakemake, for the tests of the judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conftest import study, values, verb
from PIL import Image

from kd.study import products
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.study.products import Product

CLASSES = ("ant", "bee", "cat")
PROTOCOL = {"name": "quick", "epochs": 1, "batch": 16, "precision": "fp32"}
LOSSES = {"teacher": "resnet14", "student": "resnet8", "loss": {"kl": {"tau": 3}}}
TINY = {
    "dataset": "mine",
    "datasets": {"mine": {"folder": "images", "size": 8}},
    "protocol": PROTOCOL,
    "seeds": [0],
    "experiments": {
        "losses": {**LOSSES, "figure": ["dots", "fidelity"]},
        "noise": {"student": "resnet8", "loss": "ce", "label_noise": {"symmetric": 0.4}},
    },
}

DATA, LABELS = products.data("mine"), products.labels("mine+sym0.4")
TEACHER = products.network(parse_cell("results/mine/quick/resnet14.ce.s0"))
STUDENT = products.network(parse_cell(f"{TEACHER}/resnet8.kl-tau3.s0"))
NOISY = products.network(parse_cell("results/mine+sym0.4/quick/resnet8.ce.s0"))
BANK = products.bank(parse_cell(TEACHER.name))
ANSWERS = products.answers(parse_cell(STUDENT.name))
ANALYSIS = products.analysis("small", "losses", "measures")
TABLE, TABLES, VERDICT, PAGE = (
    of("small") for of in (products.table, products.tables, products.verdict, products.page)
)
DOTS, FIDELITY = (products.figure("small", "losses", name) for name in ("dots", "fidelity"))


def images(folder: Path, train: int = 12, test: int = 6) -> None:
    """Make a folder of images of 8 x 8 pixels. The brightest colour tells the class."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 150, (8, 8, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def tiny(**changes: object) -> dict:
    """The values that a config.yaml of the study would have, with these keys changed."""
    return values(**{**TINY, **changes})


def protocol(**changes: object) -> dict:
    """A change of keys: another protocol with the same name."""
    return {"protocol": {**PROTOCOL, **changes}}


def judge(**changes: object) -> Judge:
    """Return a new judge of the study."""
    return Judge.of_study(study(**tiny(**changes)))


def command(product: Product) -> list[str]:
    """Return the verb that makes a product, and its arguments without the study."""
    verb, last = products.RULES[product.kind], product.name.rpartition("/")[2]
    match product.kind:
        case "data" | "labels" | "testset":
            return [verb, last]
        case "network" | "bank" | "release" | "answers" | "scores":
            return [verb, product.cell]
        case "selection" | "relation":
            return [verb, product.cell, last]
        case "analysis":
            return [verb, *last.split(".")]
        case "figure":
            return [verb, f"{product.folder}/table.parquet", *last.split(".")]
        case "tables" | "verdict":
            return [verb, f"{product.folder}/table.parquet"]
    return [verb]


def make(product: Product, *options: object, **changes: object) -> int:
    """Run the verb that makes a product of the study; return its exit code."""
    return verb(*command(product), *options, **tiny(**changes))


DRAWN = ("figure", "verdict", "page")  # kinds that take a second each


def finish(*, without: tuple[str, ...] = (), **changes: object) -> list[Product]:
    """Make all that is to do in the study, except the kinds in `without`; return it in the order of making."""
    before = judge(**changes)
    waiting, made = {one: None for one in before.all_to_do if one.kind not in without}, []

    def make_after(product: Product) -> None:
        if product in waiting:
            del waiting[product]
            for one in before.asks_for(product):
                make_after(one)
            assert make(product, **changes) == 0
            made.append(product)

    for product in list(waiting):
        make_after(product)
    return made
