"""The sampler `local`: a Gaussian process in a trust region for numbers, a bandit for what has no order.

It has what the abstract of "Adaptive Local Bayesian Optimization Over Multiple Discrete Variables" (KAIST OSI, arXiv
2012.03501) names: a trust region whose treatment depends on how reliable it is, a combinatorial kernel, and a bandit
for booleans and categories. No constants of that paper are known; the region's are those of TuRBO (Eriksson et al.
2019), and reliability is measured as `reliability` says.

The region is not stored: it follows from the trials, and is replayed from them in each round.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from botorch import fit_gpytorch_mll
from botorch.models import MixedSingleTaskGP, SingleTaskGP
from gpytorch.mlls import ExactMarginalLogLikelihood

from kd.study.search import ASKED, Fresh, Rounds, Setting, Space, Trial, worths

START, SHORTEST, LONGEST = 0.8, 0.5**7, 1.6  # lengths of a region's sides, as shares of an axis
WINS = 3  # rounds in a row that improve, after which the region doubles
_CANDIDATES = 512
_STEPS = 40  # of the fit: more take four times as long and raise the likelihood by a hundredth
_BETTER = 1e-3  # standard deviations of all scores: what is less is no improvement


class Region(NamedTuple):
    """A trust region: the trial that it began with, the length of its sides, rounds in a row that improved or not."""

    first: int = 0
    length: float = START
    won: int = 0
    lost: int = 0


# -- the region, replayed ---------------------------------------------------------------------------------------------


def replayed(space: Space, rounds: Rounds) -> Region:
    """Return the region after these rounds: it doubles, halves, or begins anew where it is not reliable."""
    region, tried = Region(), []
    for trials in rounds:
        before, tried = tried[region.first :], [*tried, *trials]
        if len(before) >= beginning(space):
            region = _after(space, region, before, tried, len(trials))
    return region


def beginning(space: Space) -> int:
    """Return how many trials of a region are drawn by chance before it has a model."""
    return 2 * (len(space.ranges) + 1)


def _after(space: Space, region: Region, before: Sequence[Trial], tried: Sequence[Trial], count: int) -> Region:
    scores = scored(tried)
    best = scores[region.first : -count].max()
    if scores[-count:].max() > best + _BETTER:
        doubles = region.won + 1 == WINS
        length = min(2 * region.length, LONGEST) if doubles else region.length
        return Region(region.first, length, 0 if doubles else region.won + 1, 0)
    # TuRBO's patience: as many failures as axes, at least four, counted in rounds.
    if region.lost + 1 < math.ceil(max(4, len(space.ranges)) / count):
        return region._replace(won=0, lost=region.lost + 1)
    shorter = region.length / 2
    if shorter < SHORTEST or reliability(space, tried[region.first :], region.length) < 0:
        return Region(first=len(tried))
    return Region(region.first, shorter)


def reliability(space: Space, trials: Sequence[Trial], length: float) -> float:
    """Return how well the trials of a region foretell each other, from -1 to 1.

    It is the correlation of each score with the mean of the others, weighted by how near they are: a Gaussian of half
    the region's length, times 1/2 for each category that differs.
    """
    points, kinds, scores = _numbers(space, trials), _kinds(space, trials), scored(trials)
    apart = ((points[:, None] - points[None]) ** 2).sum(2)  # [N, N]
    weights = np.exp(-apart / (2 * (length / 2) ** 2)) * 0.5 ** (kinds[:, None] != kinds[None]).sum(2)
    np.fill_diagonal(weights, 0)
    foretold = weights @ scores / np.maximum(weights.sum(1), 1e-12)
    spread = foretold.std() * scores.std()
    return float(((foretold - foretold.mean()) * (scores - scores.mean())).mean() / spread) if spread else 0.0


# -- a round ----------------------------------------------------------------------------------------------------------


def propose_local(space: Space, rounds: Rounds, count: int, seed: int) -> list[Setting]:
    """Propose settings: categories by a bandit, numbers by Thompson sampling from the model of the region."""
    chance, fresh, region = random.Random(seed), Fresh(space, rounds), replayed(space, rounds)
    tried = [trial for trials in rounds for trial in trials]
    own = tried[region.first :]
    if len(own) < beginning(space):
        return fresh.filled(count, chance)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = _Model(space, own, region.length) if space.ranges else None
        for _ in range(ASKED * count):
            if len(fresh.found) < count:
                chosen = {key: _arm(space, tried, key, chance) for key in space.choices}
                fresh.take(chosen | (model.sampled(chosen) if model else {}))
    return fresh.filled(count, chance)


def _arm(space: Space, tried: Sequence[Trial], key: str, chance: random.Random) -> object:
    """Return a value of an axis by Thompson sampling: each value's best score, unsure where it was tried little.

    Scores are standardised; what was never tried is as good as the mean. Not the mean of a value: a value that is
    tried beside the best numbers of another one would never be known to be better.
    """
    scores, drawn = scored(tried), []
    for value in space.choices[key].values:
        own = [score for trial, score in zip(tried, scores, strict=True) if trial.setting.get(key) == value]
        drawn.append(chance.gauss(max(own, default=0.0), 1 / math.sqrt(len(own) + 1)))
    return space.choices[key].values[int(np.argmax(drawn))]


class _Model:
    """A Gaussian process over numbers and, by a combinatorial kernel, categories, of the trials of a region."""

    def __init__(self, space: Space, trials: Sequence[Trial], length: float) -> None:
        self.space = space
        points, kinds, scores = _numbers(space, trials), _kinds(space, trials), scored(trials)
        self._width, self._points, self._kinds, self._scores = points.shape[1], points, kinds, scores
        inputs = torch.from_numpy(np.concatenate([points, kinds], axis=1))  # [N, D]
        outputs = torch.from_numpy(scores)[:, None]
        places = list(range(self._width, inputs.shape[1]))
        self._gp = MixedSingleTaskGP(inputs, outputs, places) if places else SingleTaskGP(inputs, outputs)
        likelihood = ExactMarginalLogLikelihood(self._gp.likelihood, self._gp)
        fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": _STEPS}})
        self._sides = length * _weights(self._gp, self._width)

    def sampled(self, chosen: Setting) -> Setting:
        """Return the numbers that are best beside these categories in one sample of the process."""
        kinds = _kinds(self.space, [Trial(chosen, 0.0)])
        # The region lies about the best trial of those whose categories differ least.
        apart = (self._kinds != kinds).sum(1)
        centre = self._points[int(np.lexsort((-self._scores, apart))[0])]
        low, high = np.clip(centre - self._sides / 2, 0, 1), np.clip(centre + self._sides / 2, 0, 1)
        shares = low + (high - low) * torch.rand(_CANDIDATES, self._width).double().numpy()
        settings = [self._at(row) for row in shares]
        points = _numbers(self.space, [Trial({**chosen, **numbers}, 0.0) for numbers in settings])
        kinds = np.repeat(kinds, len(points), axis=0)
        with torch.no_grad():
            drawn = self._gp.posterior(torch.from_numpy(np.concatenate([points, kinds], axis=1))).rsample()
        return settings[int(drawn.flatten().argmax())]

    def _at(self, shares: np.ndarray) -> Setting:
        return {
            key: axis.at(float(share)) for (key, axis), share in zip(self.space.ranges.items(), shares, strict=True)
        }


def _weights(gp: SingleTaskGP, width: int) -> np.ndarray:
    """Return the sides of a region beside each other, as TuRBO has them: longer where the process changes slowly."""
    found = [kernel.lengthscale for kernel in gp.covar_module.modules() if getattr(kernel, "has_lengthscale", False)]
    scales = next((one for one in found if one.shape[-1] == width), torch.ones(1, width)).detach().numpy().ravel()
    scales = scales / scales.mean()
    return scales / np.prod(scales) ** (1 / width)


# -- trials as arrays -------------------------------------------------------------------------------------------------


def scored(trials: Sequence[Trial]) -> np.ndarray:
    """Return the scores [N], of mean 0 and variance 1; one that diverged is as bad as the worst."""
    scores = np.array(worths(trials), float)
    return (scores - scores.mean()) / (scores.std() or 1.0)


def _numbers(space: Space, trials: Sequence[Trial]) -> np.ndarray:
    """Return where trials lie on the axes of numbers, [N, D] in [0, 1]."""
    filled = [space.filled(trial.setting) for trial in trials]
    return np.array([[axis.share(one[key]) for key, axis in space.ranges.items()] for one in filled]).reshape(
        len(trials), -1
    )


def _kinds(space: Space, trials: Sequence[Trial]) -> np.ndarray:
    """Return the numbers [N, D] of the values on the other axes."""
    filled = [space.filled(trial.setting) for trial in trials]
    return np.array(
        [[float(axis.values.index(one[key])) for key, axis in space.choices.items()] for one in filled]
    ).reshape(len(trials), -1)
