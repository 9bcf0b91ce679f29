"""LOSSES: the losses by name. A new loss is a function, or a class, and an entry in the `LOSSES` of one file.

Nothing here imports torch: a study is checked against these names while the Snakefile is parsed.
"""

from __future__ import annotations

from kd.core.errors import ConfigError, nearest
from kd.losses import (
    built,
    correlations,
    decoupled,
    divergences,
    examplewise,
    features,
    hard,
    kl,
    mse,
    powers,
    robust,
    trusting,
)
from kd.losses.ensembles import ENSEMBLES
from kd.losses.spec import Choice, Later, Loss, Needs, Number, Whole

__all__ = ["ENSEMBLES", "LOSSES", "Choice", "Later", "Loss", "Needs", "Number", "Whole", "module_of"]

LOSSES: dict[str, Loss] = {
    **hard.LOSSES,
    **kl.LOSSES,
    **mse.LOSSES,
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
