"""Which examples are used: fractions, held-out parts and samples, chosen by seed and example number alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kd.core.errors import ConfigError
from kd.data.mix import mix, stream

SAMPLE = 10_000  # training examples that analyses look at, or as many as come nearest with equal shares of the classes
_SUBSET, _HOLD_OUT = stream("subset"), stream("holdout")


def subset(labels: np.ndarray, fraction: float, seed: int = 0, among: np.ndarray | None = None) -> np.ndarray:
    """Return the sorted indices of `fraction` of each class: round(fraction * n_class) examples, at least 1.

    Indices are those of `labels` [N]; `among` [M] restricts the choice, as to what `hold_out` left for training.
    Whether an example precedes another depends on (seed, index) only, so a smaller fraction lies within a larger.
    Pass the clean labels: then the subset is the same at every label noise.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction: got {fraction}, allowed is more than 0 and at most 1")
    return _first_of_each_class(labels, among, seed, _SUBSET, lambda n: max(1, round(fraction * n)))


def hold_out(
    labels: np.ndarray, share: float, seed: int = 0, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted indices (to train on, held out): `share` of each class is held out, never a whole class.

    As in `subset`, indices are those of `labels` [N] and the order of choice depends on (seed, index) only.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"heldout: got {share}, allowed is 0 up to, not including, 1")
    held = _first_of_each_class(labels, among, seed, _HOLD_OUT, lambda n: min(n - 1, round(share * n)))
    every = np.arange(len(labels)) if among is None else np.sort(among)
    return np.setdiff1d(every, held, assume_unique=True), held


def _first_of_each_class(
    labels: np.ndarray, among: np.ndarray | None, seed: int, purpose: int, count: Callable[[int], int]
) -> np.ndarray:
    indices = np.arange(len(labels)) if among is None else np.asarray(among, np.int64)
    indices = indices[np.argsort(mix(seed, purpose, indices))]
    chosen = [members[: count(len(members))] for members in by_class(labels[indices], indices)]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def by_class(labels: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
    """Return `indices` [N] grouped by their `labels` [N], in the order they came, one array per class that occurs."""
    order = np.argsort(labels, kind="stable")
    return np.split(indices[order], np.flatnonzero(np.diff(labels[order])) + 1) if len(labels) else []
