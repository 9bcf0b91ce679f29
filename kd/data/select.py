"""Which examples to learn from where some labels are wrong, by what a network says of them: pure functions.

A selection is a function `(said, labels [N], learnt [N], amount, class_names) -> keep [N]`. `said` are the network's
pre-logits [N, D], or the cross-entropy [N] of what it says against the labels; `learnt` says which examples it learnt
from. No random number enters, and the order of the rows plays no part. What leaves nothing of a class is a DataError.

FINE (Kim et al. 2021, arXiv 2102.11628) takes the direction that pre-logits of a class have in common, and keeps what
lies along it: the more likely of two normal distributions, the one with the larger mean. Its code measures the cosine
of the angle, its paper prints the squared projection. These keep different examples.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from kd.core.errors import DataError

_TOLERANCE, _ITERATIONS = 1e-6, 100  # of the mixtures, as in FINE's code


def fine(
    said: np.ndarray, labels: np.ndarray, learnt: np.ndarray, amount: float, class_names: Sequence[str]
) -> np.ndarray:
    """Return what is kept [N] by FINE's code: what belongs to its class with a probability above `amount`."""
    return _likely(np.abs(along(_unit(said), said, labels, learnt, class_names)), labels, amount, class_names)


def fine_printed(
    said: np.ndarray, labels: np.ndarray, learnt: np.ndarray, amount: float, class_names: Sequence[str]
) -> np.ndarray:
    """Return what is kept [N] by FINE's paper, where long pre-logits score more."""
    return _likely(along(said, said, labels, learnt, class_names) ** 2, labels, amount, class_names)


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)  # a row of zeros lies along nothing: its score is 0


def along(
    rows: np.ndarray, said: np.ndarray, labels: np.ndarray, learnt: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
    """Return the product [N] of each of `rows` [N, D] with the unit vector that the pre-logits of its class share.

    That is the first eigenvector of sum z z^T, not centred, over the pre-logits `said` [N, D] of what was learnt.
    """
    found = np.zeros(len(labels))
    for label, name in enumerate(class_names):
        members = labels == label
        basis = said[members & learnt]
        if not len(basis):
            raise DataError(f"selection: class {name!r}: got no example that was learnt, allowed is 1 or more")
        found[members] = rows[members] @ np.linalg.eigh(basis.T @ basis)[1][:, -1]
    return found


def _likely(scores: np.ndarray, labels: np.ndarray, amount: float, class_names: Sequence[str]) -> np.ndarray:
    """Return what is kept [N]: in each class what is of the upper distribution with a probability above `amount`."""
    keep = np.zeros(len(labels), bool)
    for label, name in enumerate(class_names):
        members = labels == label
        likely = above(scores[members], f"class {name!r}") > amount
        if not 0 < likely.sum() < len(likely):
            raise DataError(
                f"selection: class {name!r}: its mixture does not separate: at a probability above {amount:g} it keeps "
                f"{likely.sum()} of {len(likely)} examples; allowed is a part of them: try another probability, or "
                "another length of the teacher's training"
            )
        keep[members] = likely
    return keep


def above(values: np.ndarray, where: str) -> np.ndarray:
    """Return how probably each of `values` [n] is of the upper of two normal distributions, which are fitted to them.

    Raises DataError that names `where` they are from, where fewer than two differ.
    """
    if (different := len(np.unique(values))) < 2:
        raise DataError(f"selection: {where}: got {different} different scores, allowed for a mixture is 2 or more")
    fitted = GaussianMixture(2, tol=_TOLERANCE, max_iter=_ITERATIONS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it has the bounds of the published code
        fitted.fit(np.sort(values)[:, None])  # sorted: its first guess goes by the order of the rows
    return fitted.predict_proba(values[:, None])[:, fitted.means_.argmax()]


def loss_gmm(
    said: np.ndarray, labels: np.ndarray, learnt: np.ndarray, amount: float, class_names: Sequence[str]
) -> np.ndarray:
    """Return what is kept [N]: of two distributions of the losses `said` [N], the lower, by a probability of `amount`.

    One mixture of all classes, of losses as they are (Arazo et al., arXiv 1904.11238; Li et al., arXiv 2002.07394).
    """
    return _of_each_class(above(-said, "losses") > amount, labels, class_names)


def small_loss(
    said: np.ndarray, labels: np.ndarray, learnt: np.ndarray, amount: float, class_names: Sequence[str]
) -> np.ndarray:
    """Return what is kept [N]: the share `amount` of all examples, those with the smallest losses `said` [N].

    Whoever chooses the share has to know the rate of wrong labels (Han et al., arXiv 1804.06872).
    """
    keep = np.zeros(len(labels), bool)
    keep[np.argsort(said, kind="stable")[: round(amount * len(labels))]] = True
    return _of_each_class(keep, labels, class_names)


def _of_each_class(keep: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    for label, name in enumerate(class_names):
        if not (keep & (labels == label)).any():
            count = (labels == label).sum()
            raise DataError(f"selection: class {name!r}: got none of its {count} examples kept, allowed is 1 or more")
    return keep


def detected(keep: np.ndarray, labels: np.ndarray, clean: np.ndarray) -> dict:
    """Return the share that is kept, and how well it tells right labels [N] from wrong ones, `clean` being the truth.

    Precision is the share of right labels among what is kept, recall the share that is kept of right labels, F1 their
    harmonic mean; each by class of the given labels too, None where there is nothing to take a share of.
    """
    right, of_classes = labels == clean, [labels == label for label in range(int(max(labels.max(), clean.max())) + 1)]
    each = [_quality(keep[some], right[some]) for some in of_classes]
    found = {"kept": float(keep.mean()), **_quality(keep, right)}
    return found | {f"{name}_by_class": [one[name] for one in each] for name in each[0]}


def _quality(keep: np.ndarray, right: np.ndarray) -> dict[str, float | None]:
    hits, kept, there = int((keep & right).sum()), int(keep.sum()), int(right.sum())
    return {
        "precision": hits / kept if kept else None,
        "recall": hits / there if there else None,
        "f1": 2 * hits / (kept + there) if kept + there else None,
    }
