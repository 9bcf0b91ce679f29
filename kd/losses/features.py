"""Losses that look at features: at feature maps, pre-logits, or what relates examples to each other.

Their classes import torch. Here stand the names and hyperparameters, which a study is checked against without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from kd.losses.spec import Choice, Later, Loss, Needs, Number, Whole
from kd.losses.warmup import WARMUP


def _looks(*outputs: str) -> Needs:
    """Return that a loss looks at these outputs, and at logits, of student and teacher."""
    both = frozenset({"logits", *outputs})
    return Needs(both, both)


def _check_finest(params: Mapping) -> None:
    finest = params["finest"]
    if finest & (finest - 1):
        raise ValueError(f"finest: got {finest}; allowed: a power of 2, because each grid halves the one before")


LOSSES = {
    "fitnet": Loss(
        None,
        "CE, and the squared difference of the maps after one group",
        {"weight": Number(100.0), "layer": Whole(2, high=4)},
        needs=_looks("maps"),
        build=Later("kd.losses.maps", "FitNet"),
    ),
    "at": Loss(
        None,
        "CE, and the squared difference of where the maps are large",
        {"weight": Number(1000.0)},
        needs=_looks("maps"),
        build=Later("kd.losses.maps", "At"),
    ),
    "vid": Loss(
        None,
        "CE, and how unlikely the teacher's maps are by what the student's say of them",
        {"weight": Number(1.0), "variance": Number(5.0, low=1e-3, high=100)},
        needs=_looks("maps"),
        build=Later("kd.losses.maps", "Vid"),
    ),
    "catkd": Loss(
        None,
        "CE, and the squared difference of class activation maps",
        {"weight": Number(15.0), "resolution": Whole(2, high=16), "cams": Choice("raw", ("raw", "unit"))},
        needs=_looks("cams"),
        build=Later("kd.losses.maps", "CatKd"),
    ),
    "sp": Loss(
        None,
        "CE, and the squared difference of how alike the last maps of the batch's examples are",
        {"weight": Number(3000.0)},
        needs=_looks("maps"),
        build=Later("kd.losses.relations", "Sp"),
        batchwise=True,
    ),
    "rkd": Loss(
        None,
        "CE, and the differences of distances and angles between the batch's examples",
        {"distance": Number(25.0, low=0), "angle": Number(50.0, low=0)},
        needs=_looks("prelogits"),
        build=Later("kd.losses.relations", "Rkd"),
        batchwise=True,
    ),
    "pkt": Loss(
        None,
        "CE, and KL between how alike the batch's examples are to the teacher and to the student",
        {"weight": Number(30_000.0)},
        needs=_looks("prelogits"),
        build=Later("kd.losses.relations", "Pkt"),
        batchwise=True,
    ),
    "cc": Loss(
        None,
        "CE, and the correlation of the differences of neighbours in the batch",
        {"weight": Number(0.02), "dimensions": Whole(128, high=4096)},
        needs=_looks("prelogits"),
        build=Later("kd.losses.relations", "Cc"),
        batchwise=True,
    ),
    "reviewkd": Loss(
        None,
        "CE, and the difference of maps, each fused with all deeper ones, at several sizes",
        {"weight": Number(5.0), "warmup": WARMUP, "middle": Whole(512, high=4096)},
        needs=_looks("prelogits", "edges"),
        build=Later("kd.losses.review", "ReviewKd"),
    ),
    "ofd": Loss(
        None,
        "CE, and the squared difference of maps before their ReLU, down to a margin",
        {"weight": Number(1e-3)},
        needs=_looks("edges"),
        build=Later("kd.losses.ofd", "Ofd"),
    ),
    "crd": Loss(
        None,
        "CE, and telling the teacher's pre-logits of an example from those of other classes",
        {
            "weight": Number(0.8),
            "negatives": Whole(16_384, high=1_000_000),
            "tau": Number(0.07, low=0.02),
            "momentum": Number(0.5, low=0, high=0.999),
            "dimensions": Whole(128, high=4096),
        },
        needs=_looks("prelogits"),
        build=Later("kd.losses.crd", "Crd"),
        batchwise=True,  # it remembers each example
    ),
    "sdd": Loss(
        None,
        "CE, and KL of regions of the last map, twice where region and image disagree about the label",
        {
            "tau": Number(4.0),
            "alpha": Number(0.9, low=0, high=1),
            "finest": Whole(4, high=16),
        },
        needs=_looks("cams"),
        check=_check_finest,
        build=Later("kd.losses.sdd", "Sdd"),
    ),
    "sdd_dkd": Loss(
        None,
        "SDD with DKD, whose terms of the label and of the other classes have weights, in the place of KL",
        {
            "tau": Number(4.0),
            "target": Number(1.0, low=0),
            "rest": Number(8.0, low=0),
            "warmup": WARMUP,
            "finest": Whole(4, high=16),
        },
        needs=_looks("cams"),
        check=_check_finest,
        build=Later("kd.losses.sdd", "SddDkd"),
    ),
}
