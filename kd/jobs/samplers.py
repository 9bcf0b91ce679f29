"""Samplers of Optuna: a study in memory is made anew for each round, so that nothing but trials is kept."""

from __future__ import annotations

import random
import warnings

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState, create_trial

from kd.study.search import ASKED, Axis, Choice, Fresh, Rounds, Setting, Space, worths

_AT_RANDOM = 10  # trials before a model is made: Optuna's own default


def propose_tpe(space: Space, rounds: Rounds, count: int, seed: int) -> list[Setting]:
    """Propose settings by a tree of Parzen estimators (Bergstra et al. 2011), all axes together."""
    return _asked(TPESampler(seed=seed, n_startup_trials=_AT_RANDOM, multivariate=True), space, rounds, count, seed)


def propose_gp(space: Space, rounds: Rounds, count: int, seed: int) -> list[Setting]:
    """Propose settings by the expected improvement of a Gaussian process over the whole space."""
    return _asked(GPSampler(seed=seed, n_startup_trials=_AT_RANDOM), space, rounds, count, seed)


def _asked(sampler: BaseSampler, space: Space, rounds: Rounds, count: int, seed: int) -> list[Setting]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    axes = {key: _distribution(axis) for key, axis in space.axes.items() if axis.count > 1}
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tried = [trial for trials in rounds for trial in trials]
    for trial, score in zip(tried, worths(tried), strict=True):
        filled = space.filled(trial.setting)
        study.add_trial(create_trial(params={key: filled[key] for key in axes}, distributions=axes, value=score))
    fresh = Fresh(space, rounds)
    for _ in range(ASKED * count if axes else 0):
        if len(fresh.found) == count:
            break
        trial = study.ask(axes)
        # Values are rounded, and what plays no part has its middle, in the study too: else the model would see others.
        setting = space.active({key: _rounded(space.axes[key], trial.params.get(key)) for key in space.axes})
        if not fresh.take(setting):
            study.tell(trial, state=TrialState.FAIL)
    return fresh.filled(count, random.Random(seed))


def _rounded(axis: Axis, value: object) -> object:
    if value is None or isinstance(axis, Choice):
        return axis.middle if value is None else value
    return axis.at(axis.share(value))


def _distribution(axis: Axis) -> BaseDistribution:
    if isinstance(axis, Choice):
        return CategoricalDistribution(axis.values)
    kind = IntDistribution if axis.whole else FloatDistribution
    return kind(int(axis.low) if axis.whole else axis.low, int(axis.high) if axis.whole else axis.high, log=axis.log)


warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
