"""Another example of the same class for each example, as a pure function of (seed, epoch, example)."""

from __future__ import annotations

import torch
from torch import Tensor

from kd.data import views


def classmates(seed: int, epoch: int, index: Tensor, labels: Tensor) -> Tensor:
    """Return for each of the examples `index` [n] another of its class, each once; `labels` [N] are those of all.

    It is the next one in an order of the class that this epoch draws. An example that has its class alone gets itself.
    """
    drawn = views.order(seed, epoch, index, which=2)
    ordered = drawn[labels[drawn].argsort(stable=True)]  # class after class
    own = labels[ordered]
    counts = own.bincount()
    first = (counts.cumsum(0) - counts)[own]
    place = torch.arange(len(ordered), device=index.device)
    found = torch.empty_like(labels)
    found[ordered] = ordered[first + (place - first + 1) % counts[own]]
    return found[index]
