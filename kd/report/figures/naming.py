"""What figures call things: KL τ=3, WRN-28-4 → WRN-16-2, 40 % symmetric label noise; and in which order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

_FAMILIES = {"wrn": "WRN", "resnet": "ResNet", "vgg": "VGG", "mlp": "MLP", "cnn": "CNN"}
_LOSSES = {"ce": "CE", "kl": "KL", "mse": "MSE", "smoothl1": "smooth L1", "weights": "weights"}
_SYMBOLS = {"tau": "τ", "alpha": "α", "beta": "β", "gamma": "γ"}
_NOISES = {"sym": "symmetric", "asym": "asymmetric"}
_COMBINED = {"meanprob": "mean of probabilities", "sumlogit": "sum of logits"}  # of an ensemble; else mean of logits
_OPTIONS = ("scale", "reduction", "ensemble")  # hyperparameters that are words
_DEFAULTS = {"smoothl1": {"beta": 1.0}}  # paths leave these out, readers should not have to


def number(value: float) -> str:
    """Spell a hyperparameter: 3, 0.5, ∞."""
    return "∞" if value == math.inf else f"{value:g}"


def parse(objective: str) -> tuple[str, dict[str, float], list[str]]:
    """Split "kl-tau3-scaleone" into its loss, its numbers and its words: kl, {tau: 3}, [scale one]."""
    loss, _, rest = objective.partition("-")
    if loss == "weights":  # a network that was imported; its name is no hyperparameter
        return loss, {}, [rest]
    numbers, words = dict(_DEFAULTS.get(loss, {})), []
    for token in re.split("-(?=[a-z])", rest) if rest else ():  # a dash before a digit is a minus
        option = next((option for option in _OPTIONS if token.startswith(option)), "")
        found = re.fullmatch(r"([a-z](?:[a-z0-9_]*[a-z_])?)(inf|-?[0-9][0-9.]*)", token)
        if option or not found:
            words.append(f"{option} {token.removeprefix(option)}".strip())
        else:
            numbers[found[1]] = float(found[2])
    return loss, numbers, words


def family(objective: str) -> str:
    """Return an objective without its tau and alpha: what a grid over those two holds fixed."""
    if objective.startswith("weights-"):
        return objective
    return "-".join(token for token in objective.split("-") if not re.match(r"(tau|alpha)(inf|\d)", token))


def objective_name(objective: str) -> str:
    """Spell an objective for readers: KL τ=3, α=0.5; MSE/2; 2·KL τ=∞."""
    loss, numbers, words = parse(objective)
    weight = numbers.pop("weight", 1.0)
    name = _LOSSES.get(loss, loss.upper())
    if weight < 1 and math.isclose(1 / weight, round(1 / weight)):
        name = f"{name}/{round(1 / weight)}"
    elif weight != 1:
        name = f"{number(weight)}·{name}"
    details = [f"{_SYMBOLS.get(key, key)}={number(value)}" for key, value in numbers.items()]
    return f"{name} {', '.join(details + words)}".strip()


def mix_name(objectives: str) -> str:
    """Spell a lineage's objectives, "ce > kl-tau3 > mse", leaving out a first teacher's CE: KL τ=3 → MSE."""
    stages = objectives.split(" > ")
    shown = stages[1:] if len(stages) > 1 and stages[0] == "ce" else stages
    return " → ".join(map(objective_name, shown))


def network_name(network: str) -> str:
    """Spell a network for readers: WRN-16-2; or an ensemble: 3 × WRN-28-4 (sum of logits)."""
    members, _, how = network.rpartition("-")
    if how in _COMBINED:
        return f"{network_name(members)} ({_COMBINED[how]})"
    return " + ".join(map(_member_name, network.split("+")))


def _member_name(member: str) -> str:
    times, _, network = member.rpartition("*")
    prefix = re.match(r"[a-z]*", network)[0]
    return (f"{times} × " if times else "") + _FAMILIES.get(prefix, prefix) + network.removeprefix(prefix)


def path_name(networks: str) -> str:
    """Spell a lineage's networks: WRN-28-4 → WRN-16-2."""
    return " → ".join(map(network_name, networks.split(" > ")))


def noise_name(noise: str, rate: float) -> str:
    """Spell a kind and rate of label noise: 40 % symmetric label noise."""
    if noise == "none":
        return "clean labels"
    if noise.startswith("labels-"):
        return f"labels '{noise.removeprefix('labels-')}'"
    return f"{100 * rate:g} % {_NOISES.get(noise, noise)} label noise"


def order(objective: str) -> tuple:
    """Return the sort key of an objective: CE, KL by tau with ∞ last, weighted KL, MSE, smooth L1, the others."""
    loss, numbers, words = parse(objective)
    rank = list(_LOSSES).index(loss) if loss in _LOSSES else len(_LOSSES)
    weight = numbers.get("weight", 1.0)
    return rank, loss, words, weight != 1, weight, numbers.get("tau", 0.0), numbers.get("alpha", 1.0), objective


def titles(keys: Sequence[dict]) -> list[str]:
    """Name each setting by what it does not share with the others; one setting alone needs no title."""
    if not keys:
        return []
    varied = {name for name in keys[0] if len({str(key[name]) for key in keys}) > 1}
    named = [title(key, varied) for key in keys]
    if len(set(named)) < len(named):  # only the recipes of their teachers tell them apart
        taught = [f"taught by {key['taught_by'].rpartition('/')[2]}" for key in keys]
        named = [", ".join(filter(None, pair)) for pair in zip(named, taught, strict=True)]
    return named


def title(key: dict, varied: set[str]) -> str:
    """Name a setting by those of its columns that are `varied`."""
    return ", ".join(_words(key, varied))


def _words(key: dict, varied: set[str]) -> Iterator[str]:
    if varied & {"networks", "student"}:
        yield path_name(key["networks"])
    if "dataset" in varied:
        yield key["dataset"]
    if varied & {"noise", "noise_rate"}:
        yield noise_name(key["noise"], key["noise_rate"])
    if "fraction" in varied:
        yield f"{100 * key['fraction']:g} % of the data"
    if "protocol" in varied:
        yield f"protocol {key['protocol']}"
    if "epochs" in varied:
        yield f"{key['epochs']} epochs"
    if "family" in varied:
        yield objective_name(key["family"])
    if "alpha" in varied:
        yield f"α\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{number(key['alpha'])}"
