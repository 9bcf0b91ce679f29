"""What a teacher selects to learn from, by what it says of the images as they are."""

from __future__ import annotations

import numpy as np
import torch

from kd import data
from kd.models.network import Network
from kd.study.values import Selected
from kd.train.device import Place
from kd.train.material import Prepared
from kd.train.teachers import LiveTeacher


def kept(network: Network, have: Prepared, learnt: np.ndarray, by: Selected, where: Place) -> np.ndarray:
    """Return which of the examples `have` [M] are kept; `learnt` [N] are the indices of those it was trained on.

    Raises DataError that names a class of which nothing can be kept.
    """
    selection, train = data.SELECTIONS[by.name], have.examples.train
    known = np.isin(train.numpy(), learnt, assume_unique=True)
    given = have.examples.labels[train].numpy(), known, by.amount, have.class_names
    return data.load(selection.function)(_said(network, have, selection.sees, where), *given)


@torch.no_grad()
def _said(network: Network, have: Prepared, what: str, where: Place) -> np.ndarray:
    """Return of each example the pre-logits [M, D] in float64, or the cross-entropy against its label [M]."""
    examples, size = have.examples, where.evaluation_batch
    voice, said = LiveTeacher(network, where.device, "fp32", {"logits", "prelogits"}), []
    labels = examples.labels[examples.train].split(size)
    for given, images in zip(labels, examples.plain("train", examples.train, size), strict=True):
        output = voice.output(given, given, images.to(where.device)).mapped(lambda one: one.cpu().double())
        losses = torch.nn.functional.cross_entropy(output.logits, given, reduction="none")
        said.append(losses if what == "losses" else output.prelogits)
    return torch.cat(said).numpy()
