"""The relation between classes as a teacher sees it: how alike it orders what it says of their examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kd.core.errors import ConfigError
from kd.models.output import Output
from kd.study.cells import Cell
from kd.study.values import Related
from kd.train.material import Prepared
from kd.train.told import told

_TINY = 1e-30  # for 0 / 0, where all rows of a class are alike


def related(teacher: Cell, by: Related, have: Prepared, device: torch.device) -> Tensor:
    """Return how alike a teacher finds each two of K classes, [K, K] float32, on the examples to learn from."""
    said = told(teacher, by.tau or 1.0, have, device, by.output)
    return kernel_alignment(class_features(said, have.classes, by.output))


def kernel_alignment(features: Sequence[Tensor]) -> Tensor:
    """Return linear CKA between each two of K features [n, D], [K, K]: row r of one is compared with row r of others.

    ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), columns centred (Kornblith et al., arXiv 1905.00414).
    """
    centred = [one - one.mean(0) for one in features]
    found = torch.eye(len(centred), dtype=centred[0].dtype)
    own = [(one.T @ one).norm() for one in centred]
    for i, one in enumerate(centred):
        for j, other in enumerate(centred[:i]):
            found[i, j] = found[j, i] = (other.T @ one).square().sum() / (own[i] * own[j]).clamp(min=_TINY)
    return found


def class_features(said: Iterable[tuple[Output, Tensor]], classes: int, by: str) -> list[Tensor]:
    """Return what the teacher says of the examples of each class, as many of each: K features [n, D].

    `by` is logits, a row an image, or maps, a row a pixel of its last map. Raises ConfigError where a class has
    fewer than two examples.
    """
    rows, labels = [], []
    for output, truth in said:
        rows.append(output.maps[-1].flatten(2).mT if by == "maps" else output.logits[:, None])
        labels.append(truth)
    every, truth = torch.cat(rows), torch.cat(labels)
    counts = truth.bincount(minlength=classes)
    least = int(counts.min())
    if least < 2:
        raise ConfigError(
            f"relation between classes: class {int(counts.argmin())} has {least} training examples; it is measured on "
            "at least 2 of each"
        )
    return [every[truth == number][:least].flatten(0, 1) for number in range(classes)]
