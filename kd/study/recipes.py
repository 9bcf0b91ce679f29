"""Recipes compared, and what a key counts as that one of them lacks (promise 8).

A manifest keeps the whole recipe that something was made from. A key that it lacks did not exist when it was made, and
counts as the value with which the key was introduced (`since`). So a new key makes nothing stale, a default that
changes later does, and a key that is removed leaves the value that the code goes by from then on.
"""

from __future__ import annotations

from collections.abc import Mapping

from kd import losses
from kd.study.config import DeclaredDataset, Protocol, Weights

Since = Mapping[str, Mapping]  # for each part of a recipe, its keys and what each counts as where it is lacking

UNREADABLE = "unreadable"  # in the place of a digest: no change
_AUTO = {"precision": lambda made: made["precision"], "compile": lambda made: "always" if made["compiled"] else "never"}


def since(kind: str, recipe: Mapping) -> Since:
    """Return what each key counts as that a recipe of this kind of product lacks; "" is the recipe itself."""
    match kind:
        case "data":
            return {"": DeclaredDataset.since()}
        case "page":
            return {"protocol": Protocol.since()}
        case "network":
            loss = losses.LOSSES.get(recipe.get("objective", {}).get("loss"))  # None where weights come from a file
            objective = {key: plain(value) for key, value in loss.since.items()} if loss else {}
            return {"protocol": Protocol.since(), "objective": objective, "weights": Weights.since()}
    return {}


def plain(value: float | str) -> float | str:
    """Return a hyperparameter as JSON can spell it."""
    return "inf" if value == float("inf") else value


def brief(recipe: Mapping, known: Since, part: str = "") -> dict:
    """Return a recipe without the keys that count as what they are: its digest outlives keys that come and go."""
    first = known.get(part, {})
    return {
        key: brief(value, known, key) if isinstance(value, dict) else value
        for key, value in recipe.items()
        if key not in first or value != first[key]
    }


def changed(made: Mapping, now: Mapping, known: Since, manifest: Mapping | None = None, part: str = "") -> str | None:
    """Return which value of a recipe is another now, as `lr 0.1 -> 0.05`, or None.

    The `manifest` of a network, if one is given, says what `auto` became.
    """
    first = known.get(part, {})
    made, now = {**first, **made}, {**first, **now}
    for name in dict.fromkeys([*now, *made]):
        then, wanted = made.get(name), now.get(name)
        if then == wanted or wanted == UNREADABLE:
            continue
        if isinstance(then, dict) and isinstance(wanted, dict):
            if found := changed(then, wanted, known, manifest, name):
                return found
        elif not (_is_auto(part, name, manifest) and wanted in ("auto", _AUTO[name](manifest))):
            if isinstance(then, list | dict) or isinstance(wanted, list | dict):
                return f"other {name}"
            return f"{name} {_short(then)} -> {_short(wanted)}"
    return None


def _is_auto(part: str, name: str, manifest: Mapping | None) -> bool:
    """Say whether a manifest has what `auto` became: that of a network has, a page tells what was asked for."""
    return part == "protocol" and name in _AUTO and manifest is not None and manifest["kind"] == "network"


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else "none" if value is None else str(value)
