"""Losses that build an objective, which holds something or follows the epoch; those of `features` look at more.

Their classes import torch. Here stand the names and hyperparameters, which a study is checked against without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from kd.losses.kl import COMPARED
from kd.losses.spec import LABELS_ALONE, RELATED, Choice, Later, Loss, Needs, Number, Whole
from kd.losses.warmup import WARMUP

_MAPS = frozenset({"logits", "maps"})


def _check_terms(params: Mapping) -> None:
    if not params["wmse"] and not params["sce"]:
        raise ValueError("wmse: got 0, and sce is 0 too; nothing of the teacher is left")


def _parted(wmse: float, wtau: float, **own: Number) -> dict:
    return {
        "wmse": Number(wmse, low=0),
        "sce": Number(1.0, low=0),
        "tau": Number(4.0),
        "wtau": Number(wtau, infinite=True),
        **own,
        "prior": Choice("example", ("example", "class")),
        "warmup": WARMUP,
        "ce": Number(1.0, low=0),
    }


LOSSES = {
    "one": Loss(
        None,
        "CE of branches and of their gated ensemble, and KL from the ensemble to each branch; without a teacher",
        {
            "tau": Number(),
            "branches": Whole(low=2, high=16),
            "gate": Choice("learned", ("learned", "mean")),
            "rampup": Number(0.267, low=0, high=1),  # share of the epochs: 80 of 300
            "w": Number(1.0, low=0),
        },
        needs=Needs(_MAPS, frozenset()),
        build=Later("kd.losses.one", "One"),
    ),
    "ikl": Loss(
        None,
        "CE, a squared error between logits weighted by the teacher's probabilities, and a soft cross-entropy",
        _parted(8.0, 100.0),
        check=_check_terms,
        build=Later("kd.losses.ikl", "Ikl"),
        batchwise=True,  # the class means, where `prior` asks for them
    ),
    "dkl": Loss(
        None,
        "IKL whose weighted error has no gradient, as KL has none: the control beside it",
        _parted(8.0, 100.0),
        check=_check_terms,
        build=Later("kd.losses.ikl", "Dkl"),
        batchwise=True,
    ),
    "gkl": Loss(
        None,
        "IKL whose weights have an exponent gamma, which flattens them, and are normalised over the batch",
        _parted(16.0, 4.0, gamma=Number(0.05, low=0, high=1)),
        check=_check_terms,
        build=Later("kd.losses.ikl", "Gkl"),
        batchwise=True,
    ),
    "akl": Loss(
        None,
        "KL and reverse KL between softmax(t/tau) and softmax(s/tau), mixed by the gaps at the teacher's head and tail",
        {
            "tau": Number(1.0),
            "mu": Number(0.5, low=0, high=1),
            "ratio": Choice("adaptive", ("adaptive", "forward", "reverse")),
            "alpha": Number(1.0, low=0, high=1),
            "weight": Number(1.0),
        },
        build=Later("kd.losses.akl", "Akl"),
        zero_at_teacher=True,
        logs=frozenset({"head_gap", "tail_gap"}),
    ),
    "ctkd": Loss(
        None,
        "CE and KL at a temperature that is learnt against the student",
        {
            "alpha": Number(0.9, low=0, high=1),
            "warmup": Number(0.042, low=0, high=1),  # share of the epochs: 10 of 240
        },
        build=Later("kd.losses.ctkd", "Ctkd"),
        logs=frozenset({"temperature"}),
    ),
    "mlkd": Loss(
        None,
        "CE and KL at five temperatures of a weak and a strong view, and pairs of examples and of classes of the weak",
        {
            "instance": Number(1.0, low=0),
            "pairs": Number(1.0, low=0),
            "classes": Number(1.0, low=0),
            "weak": Number(0.5, low=0),
            "ce": Number(1.0, low=0),
            "logits": COMPARED,
        },
        needs=Needs(views=2, strong=True),
        build=Later("kd.losses.mlkd", "Mlkd"),
        batchwise=True,
    ),
    "crld": Loss(
        None,
        "CE of a weak and a strong view, KL within and across the two where the teacher is sure",
        {
            "tau": Number(4.0),
            "same": Number(2.0, low=0),
            "cross": Number(0.5, low=0),
            "sure_weak": Number(0.9, low=0, high=1),
            "sure_strong": Number(0.2, low=0, high=1),
            "ce": Number(1.0, low=0),
        },
        needs=Needs(views=2, strong=True),
        build=Later("kd.losses.crld", "Crld"),
    ),
    "wkd_l": Loss(
        None,
        "CE, the target's term of NKD, and the Wasserstein distance between what the other classes are given",
        {
            "tau": Number(8.0),
            "rest": Number(600.0),
            "target": Number(1.0, low=0),
            "kappa": Number(1.0),
            "relation": Choice("maps", RELATED),
            "regularisation": Number(0.05, low=1e-3),
            "iterations": Whole(10, high=100_000),
            "decay": Number(0.375, low=0, high=1),  # share of the epochs: the last 90 of 240
        },
        needs=Needs(relation="relation"),
        build=Later("kd.losses.wkd", "WkdL"),
    ),
    "wkd_f": Loss(
        None,
        "CE, and the distance between mean and deviation of the channels of the last feature maps",
        {"weight": Number(0.08), "mean": Number(4.0, low=0), "grid": Whole(1, high=16)},
        needs=Needs(_MAPS, _MAPS),
        build=Later("kd.losses.wkd", "WkdF"),
    ),
    "elr": Loss(
        None,
        "CE, and towards what the student said of the same example in earlier epochs",
        {"beta": Number(0.9, low=0, high=0.999_999), "weight": Number(7.0)},
        needs=LABELS_ALONE,
        build=Later("kd.losses.elr", "Elr"),
        batchwise=True,  # it remembers each example
    ),
}
