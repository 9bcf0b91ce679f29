"""The columns of a table's row that say what a network is: its teachers and losses, and its names for readers.

Figures and captions read them from the table. Only this module makes names, and it makes them from cells, never from
other names. If readers call the value of a column X something else, the column `X_name` says it.
"""

from __future__ import annotations

import math
import re

import pandas as pd

from kd.data import SELECTIONS
from kd.losses import LOSSES as REGISTERED
from kd.losses import Choice
from kd.measure.frames import AXES
from kd.report.figures.naming import number
from kd.study.cells import MEAN_LOGIT, Cell, Stage, spell_objective, spell_selection
from kd.study.values import LossChoice, Noise, Selected

_NETWORKS = {
    "wrn": "WRN",
    "resnet": "ResNet",
    "vgg": "VGG",
    "mobilenetv": "MobileNetV",
    "shufflenetv": "ShuffleNetV",
    "mlp": "MLP",
    "cnn": "CNN",
}
_LOSSES = {
    "ce": "CE",
    "kl": "KL",
    "kl_class": "KL to class means",
    "kl_other": "KL to another image",
    "mse": "MSE",
    "smoothl1": "smooth L1",
    "weights": "weights",
    "soft_ce": "soft CE",
    "reverse_kl": "reverse KL",
    "symmetric_kl": "symmetric KL",
    "jensen_shannon": "JS",
    "akl": "AKL",
    "ctkd": "CTKD",
    "mlkd": "MLKD",
    "crld": "CRLD",
    "ikl": "IKL",
    "dkl": "DKL",
    "gkl": "GKL",
    "wkd_l": "WKD-L",
    "wkd_f": "WKD-F",
    "dkd": "DKD",
    "gdkd": "GDKD",
    "nkd": "NKD",
    "rld": "RLD",
    "swap": "Swap",
    "sld": "SLD",
    "sortkd": "SortKD",
    "revision": "label revision",
    "abkd": "ABKD",
    "ttm": "TTM",
    "wttm": "WTTM",
    "ofa": "OFA",
    "normkd": "NormKD",
    "eakd": "EA-KD",
    "dist": "DIST",
    "one": "ONE",
    "gce": "GCE",
    "symmetric_ce": "symmetric CE",
    "elr": "ELR",
    "fitnet": "FitNet",
    "at": "AT",
    "vid": "VID",
    "catkd": "CAT-KD",
    "sp": "SP",
    "rkd": "RKD",
    "pkt": "PKT",
    "cc": "CC",
    "reviewkd": "ReviewKD",
    "ofd": "OFD",
    "crd": "CRD",
    "sdd": "SDD-KD",
    "sdd_dkd": "SDD-DKD",
}
_SYMBOLS = {"tau": "τ", "alpha": "α", "beta": "β", "gamma": "γ"}
_ALWAYS = ("beta",)  # shown even if it is the default, which paths leave out
_NOISES = {"sym": "symmetric", "asym": "asymmetric", "pair": "pair-flip", "instance": "instance-dependent"}
_SELECTIONS = {
    "fine": "FINE",
    "fine_printed": "FINE as printed",
    "loss_gmm": "loss mixture",
    "small_loss": "small loss",
}
_ENSEMBLES = {"mean_prob": "mean of probabilities", "sum_logit": "sum of logits"}  # the default is the mean of logits


def identity(cell: Cell) -> dict:
    """Return the columns that describe a cell's lineage, and the columns that name the cell for readers."""
    first, *taught = cell.stages
    teacher, chosen = cell.teacher, cell.stage.objective
    learnt = dict.fromkeys(stage.objective for stage in taught)
    return {
        "stages": len(cell.stages),
        "first": first.title,
        "first_loss": first.objective.loss,
        "teacher": teacher.stage.title if teacher else "",
        "teacher_cell": teacher.path if teacher else "",
        "teacher_lineage": teacher.seedless if teacher else "",
        "teacher_members": len(teacher.stage.members) if teacher else 0,
        "teacher_networks": teacher.stage.network if teacher else "",
        "teacher_seed": teacher.stage.seed if teacher else pd.NA,
        "teacher_fraction": teacher.fraction if teacher else math.nan,
        "stopped": " > ".join(str(stage.epochs) for stage in cell.stages[:-1] if stage.epochs is not None),
        "selection": spell_selection(cell.stage.selection) if cell.stage.selection else "",
        "selection_name": selection_name(cell.stage.selection) if cell.stage.selection else "",
        "mix": " + ".join(sorted(map(spell_objective, learnt))),
        "mix_families": " + ".join(sorted({spell_objective(family(one)) for one in learnt})),
        "loss": chosen.loss,
        "family": spell_objective(family(chosen)),
        "noise_name": noise_name(cell.dataset.noise),
        "networks_name": " → ".join(map(network_name, cell.stages)),
        "student_name": network_name(cell.stage),
        "objectives_name": _mix_name(cell),
        "objective_name": objective_name(chosen),
        "family_name": objective_name(family(chosen)),
    }


def family(chosen: LossChoice) -> LossChoice:
    """Return an objective without its tau and alpha (`AXES`): the part that a grid over these two keeps fixed."""
    return chosen._replace(parameters=tuple(pair for pair in chosen.parameters if pair[0] not in AXES))


def order(cell: Cell) -> tuple:
    """Return the sort key of a cell among the cells that it is compared with: fewer stages first, then by losses."""
    first, *taught = cell.stages
    return len(cell.stages), *(_order(stage.objective) for stage in (*taught, first))


def _order(chosen: LossChoice) -> tuple:
    """Return the sort key of an objective: CE, KL by tau with ∞ last, weighted KL, MSE, smooth L1, the others."""
    rank = list(_LOSSES).index(chosen.loss) if chosen.loss in _LOSSES else len(_LOSSES)
    given, resolved = dict(chosen.parameters), chosen.resolved
    others = tuple((name in given, value) for name, value in resolved.items() if name not in AXES)
    return rank, chosen.loss, others, tuple(resolved[name] for name in AXES if name in resolved), chosen.parameters


# -- names for readers ------------------------------------------------------------------------------------------------


def objective_name(chosen: LossChoice) -> str:
    """Spell an objective for readers: KL τ=3, α=0.5; MSE/2; 2·KL τ=∞. No two objectives share a name."""
    if chosen.weights:
        return f"{_LOSSES[chosen.loss]} {chosen.weights}"
    given, spec = dict(chosen.parameters), REGISTERED[chosen.loss].parameters
    weight = given.pop("weight") if "weight" in given and spec["weight"].default == 1 else 1.0
    name = _LOSSES.get(chosen.loss, chosen.loss.upper())
    if weight < 1 and weight == 1 / round(1 / weight):
        name = f"{name}/{round(1 / weight)}"
    elif weight != 1:
        name = f"{number(weight)}·{name}"
    shown = [key for key in spec if key in given or key in _ALWAYS]
    words = [f"{key} {given[key]}" for key in shown if isinstance(spec[key], Choice)]
    numbers = [
        f"{_SYMBOLS.get(key, key)}={number(given.get(key, spec[key].default))}"
        for key in shown
        if not isinstance(spec[key], Choice)
    ]
    return f"{name} {', '.join(numbers + words)}".strip()


def _mix_name(cell: Cell) -> str:
    """Spell the objectives of a lineage: KL τ=3 → MSE, without a first teacher's CE."""
    first, *taught = (stage.objective for stage in cell.stages)
    shown = taught if taught and first.loss == "ce" else [first, *taught]
    return " → ".join(map(objective_name, shown))


def network_name(stage: Stage) -> str:
    """Spell the network of a stage: WRN-16-2; for an ensemble of three seeds: 3 × WRN-28-4 (sum of logits)."""
    times = f"{1 + len(stage.more_seeds)} × " if stage.more_seeds else ""
    how = "" if stage.ensemble == MEAN_LOGIT else f" ({_ENSEMBLES[stage.ensemble]})"
    own = "".join(f", {key} {_own_value(value)}" for key, value in stage.own)
    by = f" on {selection_name(stage.selection)}" if stage.selection else ""
    return " + ".join(times + _member_name(name) for name in stage.networks) + how + own + by


def selection_name(chosen: Selected) -> str:
    """Spell a selection: FINE, or with an amount that is not the default: small loss 0.6."""
    name = _SELECTIONS.get(chosen.name, chosen.name)
    return name if chosen.amount == SELECTIONS[chosen.name].default else f"{name} {number(chosen.amount)}"


def _own_value(value: float | str | tuple) -> str:
    if isinstance(value, str):
        return value
    return " and ".join(map(number, value if isinstance(value, tuple) else (value,)))


def _member_name(network: str) -> str:
    prefix = re.match(r"[a-z]*", network)[0]
    return _NETWORKS.get(prefix, prefix) + network.removeprefix(prefix)


def noise_name(noise: Noise | None) -> str:
    """Spell label noise: 40 % symmetric label noise."""
    if noise is None:
        return "clean labels"
    if noise.kind == "labels":
        return f"labels '{noise.amount}'"
    return f"{100 * noise.amount:g} % {_NOISES.get(noise.kind, noise.kind)} label noise"
