"""How figures spell hyperparameters, and what they call settings; all other names are columns of the table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence


def number(value: float) -> str:
    """Spell a hyperparameter: 3, 0.5, ∞; – where a loss has none."""
    if math.isnan(value):
        return "–"
    if value == math.inf:
        return "∞"
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def titles(keys: Sequence[dict]) -> list[str]:
    """Name each setting by its label noise, and by what else it does not share with the others."""
    if not keys:
        return []
    varied = {name for name in keys[0] if len({str(key[name]) for key in keys}) > 1} | {"noise"}
    named = [title(key, varied) for key in keys]
    if len(set(named)) < len(named):  # only the recipes of their teachers tell them apart
        taught = [f"taught by {key['teacher_lineage']}" for key in keys]
        named = [", ".join(filter(None, pair)) for pair in zip(named, taught, strict=True)]
    return named


def title(key: dict, varied: set[str]) -> str:
    """Name a setting by those of its columns that are `varied`."""
    return ", ".join(filter(None, _words(key, varied)))


def _words(key: dict, varied: set[str]) -> Iterator[str]:
    if varied & {"networks", "student"}:
        yield key["networks_name"]
    if "dataset" in varied:
        yield key["dataset"]
    if varied & {"noise", "noise_rate"}:
        yield key["noise_name"]
    if "fraction" in varied:
        yield f"{100 * key['fraction']:g} % of the data"
    if "protocol" in varied:
        yield f"protocol {key['protocol']}"
    if "epochs" in varied:
        yield f"{key['epochs']} epochs"
    if "family" in varied:
        yield key["family_name"]
    if "alpha" in varied and not math.isnan(key["alpha"]):
        yield f"α\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{number(key['alpha'])}"
