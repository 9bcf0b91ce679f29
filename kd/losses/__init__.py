"""LOSSES: the losses by name. A new loss is a function, or a class, and an entry in the `LOSSES` of one file.

A loss of logits is a function too: `kd.losses.kl(student, teacher, tau=3)` returns what training computes, [B].

Nothing here imports torch: a study is checked against these names while the Snakefile is parsed.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from kd.core.errors import ConfigError, nearest
from kd.losses import (
    built,
    correlations,
    decoupled,
    divergences,
    examplewise,
    features,
    hard,
    powers,
    robust,
    trusting,
)
from kd.losses.ensembles import ENSEMBLES
from kd.losses.kl import LOSSES as _KL  # not the file, whose name is a loss's: to type checkers it would stay a file
from kd.losses.mse import LOSSES as _MSE
from kd.losses.spec import Choice, Later, Loss, Needs, Number, Whole

__all__ = ["ENSEMBLES", "LOSSES", "Choice", "Later", "Loss", "Needs", "Number", "Whole", "module_of"]

LOSSES: dict[str, Loss] = {
    **hard.LOSSES,
    **_KL,
    **_MSE,
    **divergences.LOSSES,
    **decoupled.LOSSES,
    **trusting.LOSSES,
    **powers.LOSSES,
    **examplewise.LOSSES,
    **correlations.LOSSES,
    **robust.LOSSES,
    **built.LOSSES,
    **features.LOSSES,
}


def module_of(name: str) -> str:
    """Return the module that defines the loss `name`, for code digests. Raises ConfigError for an unknown loss."""
    if name not in LOSSES:
        raise ConfigError(f"loss {name!r}: unknown" + nearest(name, LOSSES))
    return LOSSES[name].module


def __getattr__(name: str) -> Loss:
    if name in LOSSES:
        return LOSSES[name]
    raise AttributeError(f"kd.losses: no loss {name!r}{nearest(name, LOSSES)}")


class _Losses(ModuleType):
    """This module, in which `kl` is the loss and not the file of this folder that has the same name."""

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        return super().__getattribute__("LOSSES").get(name, found) if isinstance(found, ModuleType) else found


sys.modules[__name__].__class__ = _Losses

if TYPE_CHECKING:  # what editors and type checkers know of; tests/test_api.py compares it with LOSSES
    _a = LOSSES["ce"]
    ce = ls = kl = kl_other = kl_class = mse = smoothl1 = soft_ce = reverse_kl = symmetric_kl = jensen_shannon = _a
    dkd = gdkd = nkd = rld = swap = sld = sortkd = revision = abkd = ttm = wttm = ofa = normkd = eakd = dist = _a
    gce = symmetric_ce = one = ikl = dkl = gkl = akl = ctkd = mlkd = crld = wkd_l = wkd_f = elr = fitnet = at = _a
    vid = catkd = sp = rkd = pkt = cc = reviewkd = ofd = crd = sdd = sdd_dkd = _a
