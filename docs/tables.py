"""Write the tables of losses and selections into their pages, from the registries: python docs/tables.py.

Hyperparameters, what is looked at and traits are those of the registration; costs are what bench/losses.py measured.
The first sentence of a loss's docstring is its formula, and the papers that the docstring names are its sources, or
those of its module if it names none. All but these tables is written by hand.
"""

from __future__ import annotations

import csv
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from kd import data
from kd.losses import LOSSES, Choice, Loss, Number, Whole, features

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("docs/losses.md", "docs/data.md")
COSTS = ROOT / "bench/results/losses.csv"
_BLOCK = re.compile(r"(<!-- (\w+): python docs/tables\.py writes this table -->\n).*?(<!-- end -->)", re.DOTALL)
_SOURCE = re.compile(r"\b\d{4}\.\d{4,5}\b|\b(?:[A-Z]{2,} )+20\d\d\b|\b\w+/\w+ \(20\d\d\)")
_SIGNS = {
    r"\bsum_": "Σ_",
    r"\balpha\b(?!-)": "α",
    r"\btau\b|(?<=Σ_)tau\b": "τ",
    r"\|\|": "‖",
    r"\^2\b": "²",
    r" \* ": " · ",
    r"(?<![\w^])-(?=[\w(])|(?<= )-(?= )": "−",
}
_LOOKS = {"prelogits": "pre-logits", "maps": "maps", "edges": "edges", "cams": "activation maps"}


def page(text: str) -> str:
    """Return a page with its tables written anew."""
    return _BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[3], text)


def blocks(text: str) -> list[str]:
    """Return the tables that a page has."""
    return [block[0] for block in _BLOCK.finditer(text)]


def _losses() -> str:
    return _of({name: loss for name, loss in LOSSES.items() if name not in features.LOSSES})


def _features() -> str:
    return _of(features.LOSSES)


def _of(losses: dict[str, Loss]) -> str:
    made, costs = Counter(map(_made, LOSSES.values())), _costs()
    rows = []
    for name, loss in losses.items():
        # What two losses share says nothing of the second.
        told = (loss.description, "") if made[_made(loss)] > 1 and name != _made(loss).__name__ else _told(_made(loss))
        rows.append((f"`{name}`", told[0], _parameters(loss), _needs(loss), _traits(loss), costs[name], told[1]))
    return _table(("loss", "value", "hyperparameters (default; range)", "looks at", "traits", "cost", "source"), rows)


def _costs() -> dict[str, str]:
    """Return {loss: its time for an epoch against CE's}, as `python -m bench.losses` measured it."""
    with COSTS.open(encoding="utf-8") as file:
        return {line["loss"]: line["epoch_against_ce"] for line in csv.DictReader(file)}


def _made(loss: Loss) -> Callable:
    """Return the function or class that a loss is."""
    return loss.function or getattr(loss.build, "function", None) or loss.build.imported


def _told(made: Callable) -> tuple[str, str]:
    """Return the formula of a docstring, and its sources."""
    doc = inspect.cleandoc(made.__doc__)
    first = re.split(r"\.(?:\s|$)", doc.partition("\n\n")[0], maxsplit=1)[0]
    formula = re.sub(r" \([^()]*\d{4}\.\d{4,5}[^()]*\)|, \[[BN]\]|^Return ", "", " ".join(first.split()))
    for word, sign in _SIGNS.items():
        formula = re.sub(word, sign, formula)
    found = _SOURCE.findall(doc) or _SOURCE.findall(importlib.import_module(made.__module__).__doc__)
    escaped = re.sub(r"[*_]", r"\\\g<0>", formula.replace("`", "").replace("<", "&lt;"))
    return escaped, ", ".join(dict.fromkeys(found))


def _parameters(loss: Loss) -> str:
    return ", ".join(f"`{name}` ({'; '.join(_values(one))})" for name, one in loss.parameters.items())


def _values(parameter: Number | Whole | Choice) -> list[str]:
    if isinstance(parameter, Choice):
        rest = (word for word in parameter.options if word != parameter.default)
        return [", ".join(f"`{word}`" for word in (parameter.default, *rest))]
    missing = "1 − α" if parameter.optional else "must be given"
    default = missing if parameter.default is None else _number(parameter.default)
    usual = type(parameter)()
    least, most = parameter.low != usual.low, parameter.high != usual.high
    ends = f"{_number(parameter.low)} to {_number(parameter.high)}" if most else f"≥ {_number(parameter.low)}"
    return [default, *([ends] if least or most else []), *(f"`{word}`" for word in parameter.words)]


def _number(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-").replace("-", "−")


def _needs(loss: Loss) -> str:
    """Say what a loss looks at beside the logits of one view, and whether its teacher runs in each step."""
    needs = loss.needs
    seen = [word for output, word in _LOOKS.items() if output in needs.student | needs.teacher]
    seen += ["a weak and a strong view" if needs.strong else f"{needs.views} views"] if needs.views > 1 else []
    seen += ["another image"] if needs.another else []
    seen += ["a relation of classes"] if needs.relation else []
    live = [] if not needs.teacher or needs.from_bank else ["teacher live"]
    return ", ".join([*seen, *live] if needs.teacher else ["no teacher", *seen])


def _traits(loss: Loss) -> str:
    traits = {"0 at the teacher": loss.zero_at_teacher, "batchwise": loss.batchwise, "unrecorded": not loss.recordable}
    return ", ".join(trait for trait, has in traits.items() if has)


def _selections() -> str:
    rows = []
    for name, one in data.SELECTIONS.items():
        default = "must be given" if one.default is None else _number(one.default)
        sees = "losses" if one.sees == "losses" else "pre-logits"
        rows.append((f"`{name}`", one.description, sees, default, _told(data.load(one.function))[1]))
    return _table(("selection", "keeps", "looks at the teacher's", "amount (default)", "source"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [[*head], ["---"] * len([*head]), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


TABLES: dict[str, Callable[[], str]] = {"losses": _losses, "features": _features, "selections": _selections}

if __name__ == "__main__":
    for name in PAGES:
        (ROOT / name).write_text(page((ROOT / name).read_text(encoding="utf-8")), encoding="utf-8")
