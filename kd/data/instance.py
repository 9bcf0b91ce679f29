"""Label noise that depends on the image (Xia et al. 2020, arXiv 2006.07836): similar images take the same wrong label.

Of each example a rate of its own is drawn, and its wrong label by what a random linear map of its pixels says of each
class. The realised rate is therefore that of a draw and not exact: the manifest of the labels has it. Every draw is a
pure function of (seed, example index, class), and a rate that is raised keeps the labels that were wrong before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from kd.core.errors import DataError
from kd.data.mix import mix, stream
from kd.data.noise import check_rate
from kd.data.splits import by_class

_WHETHER, _TO, _RATE, _MAP = stream("flips"), stream("flips to"), stream("its rate"), stream("its map")
_DEVIATION = 0.1  # of the examples' rates, as published


def instance(labels: np.ndarray, rate: float, seed: int, class_names: Sequence[str], images: np.ndarray) -> np.ndarray:
    """Return labels [N]; an example's is wrong with probability q, drawn around `rate`, and follows its image.

    `images` [N, H, W, C] count as they are, 0 to 255, as in the published codes: the map is then so steep that most
    images have one wrong label that they can take. Raises DataError where there is one class.
    """
    check_rate(rate)
    classes, every = len(class_names), np.arange(len(labels))
    if classes < 2:
        raise DataError(f"label noise: {classes} class leaves no other one to take")
    flips = uniform(seed, _WHETHER, every) < flip_rates(rate, uniform(seed, _RATE, every))
    noisy = labels.copy()
    for members in by_class(labels[flips], every[flips]):
        label, pixels = int(labels[members[0]]), images[members].reshape(len(members), -1).astype(np.float64)
        size = pixels.shape[1] * classes
        steepness = ndtri(uniform(seed, _MAP, label * size + np.arange(size))).reshape(-1, classes)
        below = wrong_shares(pixels, steepness, label).cumsum(1)
        noisy[members] = (below <= uniform(seed, _TO, members)[:, None] * below[:, -1:]).sum(1)
    return noisy


def flip_rates(rate: float, drawn: np.ndarray) -> np.ndarray:
    """Return the flip rate [N] of each example: normal around `rate`, cut off at 0 and 1, at quantiles `drawn` [N]."""
    low, high = (ndtr((end - rate) / _DEVIATION) for end in (0.0, 1.0))
    return np.clip(rate + _DEVIATION * ndtri(low + drawn * (high - low)), 0, 1)


def wrong_shares(pixels: np.ndarray, steepness: np.ndarray, label: int) -> np.ndarray:
    """Return the probabilities [n, K] of each wrong label of images `pixels` [n, m] of a class; its own has 0.

    That is the softmax over the other classes of pixels times `steepness` [m, K].
    """
    scores = pixels @ steepness
    scores[:, label] = -np.inf
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def uniform(seed: int, purpose: int, index: np.ndarray) -> np.ndarray:
    """Return numbers [N] between 0 and 1, neither of them, by (seed, purpose, index [N])."""
    return ((mix(seed, purpose, index) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
