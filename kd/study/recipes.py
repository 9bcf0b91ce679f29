"""Compare recipes, and give a key that a recipe lacks the value of its introduction (promise 8).

A manifest keeps the whole recipe of a product. A key that it lacks did not exist when the product was made, and counts
as the value with which the key was introduced (`since`). So a new key makes nothing stale, and a default that changes
later does. A removed key counts as the value that the code uses from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kd import losses
from kd.core import files
from kd.core.project import here
from kd.study import products
from kd.study.cells import Cell
from kd.study.config import DeclaredDataset, Drawn, Protocol, Weights

Since = Mapping[str, Mapping]  # {part of a recipe: {key: the value that it counts as where it is missing}}

UNREADABLE = "unreadable"  # replaces the digest of a file that cannot be read; counts as unchanged
_AUTO = {"precision": lambda made: made["precision"], "compile": lambda made: "always" if made["compiled"] else "never"}


def since(kind: str, recipe: Mapping) -> Since:
    """Return the values that missing keys of such a recipe count as, by part; "" is the recipe itself."""
    match kind:
        case "data":
            return {"": DeclaredDataset.since()}
        case "figure":
            return {"": Drawn.since()}
        case "page":
            return {"protocol": Protocol.since()}
        case "network":
            loss = losses.LOSSES.get(recipe.get("objective", {}).get("loss"))  # None if weights come from a file
            objective = {key: plain(value) for key, value in loss.since.items()} if loss else {}
            return {"protocol": Protocol.since(), "objective": objective, "weights": Weights.since()}
    return {}


def plain(value: float | str) -> float | str:
    """Return a hyperparameter as JSON can spell it."""
    return "inf" if value == float("inf") else value


def brief(recipe: Mapping, known: Since, part: str = "") -> dict:
    """Drop the keys whose values they would count as if missing, so that new keys do not change a recipe's digest."""
    first = known.get(part, {})
    return {
        key: brief(value, known, key) if isinstance(value, dict) else value
        for key, value in recipe.items()
        if key not in first or value != first[key]
    }


def changed(made: Mapping, now: Mapping, known: Since, manifest: Mapping | None = None, part: str = "") -> str | None:
    """Return which value of a recipe has changed, such as `lr 0.1 -> 0.05`, or None.

    The `manifest` of a network, if given, says which value `auto` stood for.
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
    """Say whether the manifest has the value that `auto` stood for: a network's has, a page's has what was asked."""
    return part == "protocol" and name in _AUTO and manifest is not None and manifest["kind"] == "network"


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else "none" if value is None else str(value)


def made_with(cell: Cell, manifest: Mapping) -> dict:
    """Rebuild from manifests the recipe with which a network was trained."""
    data = products.data(cell.dataset.name)
    prepared = files.read_manifest(data.folder) or {}
    dataset = known_values(DeclaredDataset, manifest["inputs"][data.name]["recipe"])
    folder = (prepared.get("declared") or {}).get("folder") or "gone"
    first = Cell(cell.dataset, cell.protocol, cell.stages[:1])
    began = (files.read_manifest(Path(first.path)) or manifest)["recipe"]
    claim = began.get("weights")
    return {
        # A dataset without a declared size is built in, and needs no declaration.
        "dataset": {**dataset, "folder": str(here() / Path(folder).expanduser())} if dataset["size"] else None,
        # A stage with values of its own records the changed protocol; its first teacher has none and records the plain.
        "protocol": known_values(Protocol, (began if cell.stage.own else manifest["recipe"])["protocol"]),
        "weights": claim and {**claim, "file": "gone"},
    }


def known_values(model: type[Protocol | DeclaredDataset], made: Mapping) -> dict:
    """Return all current keys with the values in a manifest; a key that it lacks gets the value of its introduction."""
    return {key: value for key, value in {**model.since(), **made}.items() if key in model.model_fields}
