"""Read the path of a cell or the name of a dataset. kd.study.cells describes and spells them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from kd import data, losses, models
from kd.core.errors import ConfigError, nearest
from kd.losses.spec import RELATED
from kd.study.cells import (
    COMBINATIONS,
    MEAN_LOGIT,
    OWN,
    RESULTS,
    SELECTED,
    Cell,
    DatasetChoice,
    Stage,
    canonical,
    stage,
)
from kd.study.config import own_training
from kd.study.values import NAME, WEIGHTS, LossChoice, Noise, Own, Related, Selected, imported, loss_choice, selected

_BY = "|".join(sorted(SELECTED, reverse=True))  # a longer name comes before a shorter one that it begins with
_STAGE = re.compile(
    r"(?P<networks>[a-z0-9+-]+)\.(?P<objective>.+)\.s(?P<seeds>[0-9]{1,9}(?:\+[0-9]{1,9})*)"
    rf"(?:-(?!schedule|optimizer|{_BY})(?P<ensemble>[a-z]+))?(?P<own>(?:-(?:{'|'.join(OWN)})[a-z0-9.+]+)*)"
    r"(?:-epochs(?P<epochs>[0-9]{1,9}))?(?:-frac(?P<fraction>[0-9.]+))?"
    rf"(?:-(?P<selection>(?:{_BY})[0-9.]*))?"
)
_RELATED = re.compile(
    rf"(?P<output>{'|'.join(RELATED)})(?:-tau(?P<tau>[0-9.]+|inf))?(?:-frac(?P<fraction>[0-9.]+))?"
    rf"(?:-(?P<selection>(?:{_BY})[0-9.]*))?"
)
_TOKENS = re.compile("-(?=[a-z])")  # a dash before a digit is a minus
_DATASET = re.compile(
    rf"(?P<name>{NAME})"
    rf"(?:\+(?:(?!frac)(?P<kind>[a-z]+?)(?P<rate>[0-9.]+)|labels-(?P<file>{NAME}))(?:-s(?P<seed>[0-9]{{1,9}}))?)?"
    r"(?:\+frac(?P<fraction>[0-9.]+))?"
)


def demand_cell(path: str | Path) -> tuple[str, ...]:
    """Return the parts of a path that has the form of a cell's path. The network and objective need not be known.

    Raises ConfigError for any other path.
    """
    parts = Path(path).parts
    if parts[:1] != (RESULTS,) or len(parts) < 4:
        raise ConfigError(f"{path}: not a cell; expected {RESULTS}/DATASET/PROTOCOL/NETWORK.OBJECTIVE.sSEED[/...]")
    if not re.fullmatch(NAME, parts[2]):
        raise ConfigError(f"{path}: {parts[2]!r} is not a protocol's name")
    _matched_dataset(parts[1])
    for part in parts[3:]:
        _matched_stage(part)
    return parts


def parse_cell(path: str | Path) -> Cell:
    """Read the path of a cell. Raises ConfigError unless it is the canonical path of a recipe."""
    parts = demand_cell(path)
    cell = Cell(parse_dataset(parts[1]), parts[2], tuple(map(_parse_stage, parts[3:])))
    if cell.dataset.fraction < 1 and any(stage.fraction < 1 for stage in cell.stages):
        raise ConfigError(f"{path}: a fraction of a fraction; give the dataset's or the stages'")
    its_own = canonical(cell.dataset, cell.protocol, cell.stages).path
    if Path(its_own) != Path(path):
        raise ConfigError(f"{path}: this recipe's path is {its_own}")
    if cell.stages[0].needs_teacher:
        raise ConfigError(f"{path}: {cell.stages[0]} needs a teacher: put its directory inside the teacher's")
    for before, after in itertools.pairwise(cell.stages):
        if after.selection and after.is_ensemble:
            raise ConfigError(
                f"{path}: {after} is an ensemble, but only a single network learns from a selection; name one member"
            )
        if after.selection and before.is_ensemble:
            raise ConfigError(f"{path}: {before} is an ensemble, but only one network can select")
        demand_said(before, after.objective.looks_at, path)
    return cell


def parse_dataset(text: str) -> DatasetChoice:
    """Read `cifar100+sym0.4+frac0.1`. Raises ConfigError that names what is wrong."""
    match = _matched_dataset(text)
    noise = None
    if match["file"]:
        noise = Noise("labels", match["file"])
    elif match["kind"]:
        kinds = [kind for kind in data.NOISES if kind != "labels"]
        if match["kind"] not in kinds:
            raise ConfigError(f"{text!r}: {match['kind']}: no such label noise{nearest(match['kind'], kinds)}")
        noise = Noise(match["kind"], _share(match["rate"], text))
    fraction = _share(match["fraction"], text) if match["fraction"] else 1.0
    return DatasetChoice(match["name"], noise, int(match["seed"] or 0), fraction)


def _matched_dataset(text: str) -> re.Match[str]:
    match = _DATASET.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r}: not a dataset; expected NAME, NAME+sym0.4, NAME+frac0.1 or NAME+sym0.4+frac0.1")
    return match


def _share(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise ConfigError(f"{where!r}: {text} is not a rate above 0 and up to 1")
    return value


def _matched_stage(text: str) -> re.Match[str]:
    match = _STAGE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r}: not a stage; expected NETWORK.OBJECTIVE.sSEED, such as wrn-16-2.kl-tau3.s0")
    return match


def _parse_stage(text: str) -> Stage:
    match = _matched_stage(text)
    networks, seeds = match["networks"].split("+"), map(int, match["seeds"].split("+"))
    for network in networks:
        models.module_of(network)
    chosen = _parse_objective(match["objective"])
    if chosen.weights and len(networks) > 1:
        raise ConfigError(f"{text!r}: the weights {chosen.weights!r} are of one network, not of several")
    epochs = int(match["epochs"]) if match["epochs"] else None
    fraction = _share(match["fraction"], text) if match["fraction"] else 1.0
    own = _parse_own(match["own"], text)
    selection = parse_selection(match["selection"]) if match["selection"] else None
    return stage(networks, chosen, seeds, epochs, _parse_ensemble(match["ensemble"], text), fraction, own, selection)


def parse_selection(text: str) -> Selected:
    """Read `fine0.7`. Raises ConfigError that names what is wrong."""
    match = re.fullmatch(rf"({_BY})([0-9.]*)", text)
    if match is None:
        raise ConfigError(f"{text!r}: no such selection{nearest(text, SELECTED)}")
    try:
        return selected(SELECTED[match[1]], match[2] or None)
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}") from None


def parse_related(text: str) -> Related:
    """Read `maps` or `logits-tau8-frac0.1-fine`. Raises ConfigError that names what is wrong."""
    match = _RELATED.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r}: no such relation; expected {' or '.join(RELATED)}, maps-frac0.1 or maps-fine")
    try:
        tau = losses.Number(infinite=True).check(match["tau"]) if match["tau"] else None
    except ValueError as error:
        raise ConfigError(f"{text!r}: tau: {error}") from None
    fraction = _share(match["fraction"], text) if match["fraction"] else 1.0
    selection = parse_selection(match["selection"]) if match["selection"] else None
    return Related(match["output"], tau, fraction, selection)


def demand_said(teacher: Stage, outputs: Iterable[str], where: object) -> None:
    """Raise ConfigError that begins with `where` if a teacher lacks one of these outputs: an ensemble has logits."""
    if teacher.is_ensemble and (more := {*outputs} - {"logits"}):
        raise ConfigError(f"{where}: {teacher} is an ensemble, which does not have the {' and '.join(sorted(more))}")


def _parse_own(text: str, where: str) -> Own:
    values: dict[str, object] = {}
    for word, value in re.findall(f"-({'|'.join(OWN)})([^-]+)", text):
        values[OWN[word]] = value.split("+") if OWN[word] == "milestones" else value
    try:
        return own_training(values)
    except ValueError as error:
        raise ConfigError(f"{where!r}: {error}") from None


def _parse_ensemble(found: str | None, where: str) -> str:
    if found is None:
        return MEAN_LOGIT
    if found not in COMBINATIONS:
        raise ConfigError(f"{where!r}: {found}: no such ensemble{nearest(found, COMBINATIONS)}")
    return COMBINATIONS[found]


def _parse_objective(text: str) -> LossChoice:
    first, _, name = text.partition("-")
    if first == WEIGHTS:
        if not re.fullmatch(NAME, name):
            raise ConfigError(f"{text!r}: expected {WEIGHTS}-NAME")
        return imported(name)
    loss, *tokens = _TOKENS.split(text)
    if loss not in losses.LOSSES:
        raise ConfigError(f"{text!r}: {loss}: no such loss{nearest(loss, losses.LOSSES)}")
    values = {}
    for token in tokens:
        found = losses.LOSSES[loss].read(token)
        if found is None:
            known = losses.LOSSES[loss].parameters
            raise ConfigError(f"{text!r}: {token}: no such hyperparameter of {loss}{nearest(token, known)}")
        values |= [found]
    try:
        return loss_choice(loss, values)
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}") from None
