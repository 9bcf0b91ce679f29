"""Knowledge-distillation experiments: teachers, students and chains as one DAG of trained networks.

>>> study = kd.open("config.yaml")        # from any folder; see kd.api
>>> kd.losses.kl(student, teacher, tau=3)  # logits [B, K] -> [B]; see kd.losses
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from kd import losses as losses
    from kd.api import OpenedStudy

__version__ = "0.1.0"


def open(path: str | os.PathLike[str] = "config.yaml") -> OpenedStudy:
    """Open the study in a file. Raises ConfigError with the key, what was found and what is allowed."""
    from kd.api import OpenedStudy  # here, because each process of kd imports this module

    return OpenedStudy(path)


def __getattr__(name: str) -> Any:
    if name == "losses":
        return importlib.import_module("kd.losses")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
