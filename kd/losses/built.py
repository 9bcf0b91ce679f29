"""Losses that build an objective, which holds something, follows the epoch or looks at feature maps.

Their classes import torch. Here stand the names and hyperparameters, which a study is checked against without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from kd.losses.spec import Choice, Later, Loss, Number


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
        "warmup": Number(0.083, low=0, high=1),  # share of the epochs: 20 of 240
        "ce": Number(1.0, low=0),
    }


LOSSES = {
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
    ),
}
