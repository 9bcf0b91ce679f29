"""Code that counts as that of now: what `kd adopt` has proved, or was described to take as proved (promise 8).

results/adopted.json has pairs of code digests, the old and the new, each for one kind of network: a rewrite that gives
the same bits in float32 may not in bfloat16. A pair also says what it rests on, its proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kd import models
from kd.core import files
from kd.study.cells import RESULTS, Cell
from kd.study.config import Protocol
from kd.study.recipes import brief

FILE = Path(RESULTS, "adopted.json")
EQUAL, CLOSE, NONE = PROOFS = "equal", "close", "none"  # to the bit; within a GPU's tolerance; not proved

_TOLD_APART = frozenset({"name", "precision", "compile", "teacher"})  # what `kind_of` has by other names

Kind = dict[str, Any]


class Adopted:
    """Pairs of code digests: `old`, `new`, `kind` (None: of any product) and `proof`."""

    def __init__(self, pairs: Iterable[Mapping] = ()) -> None:
        self.pairs = list(pairs)

    @classmethod
    def read(cls) -> Adopted:
        """Return what is adopted in this folder. Raises StorageError where a bit of it has changed."""
        manifest = files.read_manifest(FILE.parent, FILE)
        return cls(manifest["pairs"] if manifest else ())

    def write(self, root: Path = Path()) -> None:
        """Publish these pairs in the folder `root`."""
        about = {"kind": "adopted", "name": str(FILE), "files": {}, "sizes": {}}
        files.write_manifest(root / FILE, {**about, "pairs": self.pairs})

    @cached_property
    def has_unproved(self) -> bool:
        """Whether anything counts without a proof."""
        return any(pair["proof"] == NONE for pair in self.pairs)

    @cached_property
    def _codes(self) -> frozenset[str]:
        return frozenset(code for pair in self.pairs for code in (pair["old"], pair["new"]))

    def proof(self, cell: Cell | None, manifest: Mapping, code: str) -> str | None:
        """Return what it rests on that something counts as made by this code, its weakest link; None if it does not.

        Two codes that give the same count as each other, whichever was first: who goes back retrains nothing either.
        `cell` is None of what is no network.
        """
        made = manifest["code"]
        if made == code:
            return EQUAL
        if not {made, code} <= self._codes:
            return None
        kind = kind_of(cell, manifest) if cell else None
        alike = [pair for pair in self.pairs if pair["kind"] in (None, kind)]
        for n in range(len(PROOFS)):
            if code in _reached(made, [pair for pair in alike if pair["proof"] in PROOFS[: n + 1]]):
                return PROOFS[n]
        return None


def _reached(code: str, pairs: Iterable[Mapping]) -> set[str]:
    """Return the codes that pairs lead to from this one."""
    found, queue = {code}, [code]
    while queue:
        one = queue.pop()
        ends = [(pair["old"], pair["new"]) for pair in pairs]
        more = {new for old, new in ends if old == one} | {old for old, new in ends if new == one}
        queue += more - found
        found |= more
    return found


def kind_of(cell: Cell, manifest: Mapping) -> Kind:
    """Return of which kind a trained network is: those of one kind run the same lines, in the same arithmetic.

    Numbers play no part, neither epochs nor tau; words, yes or no, and what is given at all do.
    """
    made = manifest["recipe"]["protocol"] | dict(cell.stage.own)
    objective, noise = cell.stage.objective, cell.dataset.noise
    protocol = Protocol.since() | made
    parts = {
        "noise": noise,
        "heldout": protocol["heldout"],
        "fraction": cell.dataset.fraction < 1,
        "student_fraction": cell.stage.fraction < 1,
        "selection": cell.stage.selection,
        "randaugment": protocol["randaugment"] is not None,
        **{key: protocol[key] for key in ("warmup", "ema", "swa", "mixup", "cutmix")},
    }
    words = brief(made, {"": Protocol.since()})
    return {
        "network": models.module_of(cell.stage.network).rpartition(".")[2],
        "loss": "-".join([objective.loss, *(key + _word(value) for key, value in objective.parameters)]),
        "teacher": _taught(cell, protocol["teacher"]),
        "precision": manifest["precision"],
        "compiled": manifest["compiled"],
        "examples": [name for name, there in parts.items() if there],
        "protocol": {k: v for k, v in words.items() if isinstance(v, str | bool) and k not in _TOLD_APART},
        "processes": manifest.get("processes", 1),
        "device": manifest["device"],
    }


def _word(value: float | str) -> str:
    return value if isinstance(value, str) else "inf" if value == float("inf") else ""


def _taught(cell: Cell, teacher: str) -> str:
    if cell.teacher is None:
        return "none"
    return f"{teacher}, {cell.teacher.stage.ensemble} of several" if cell.teacher.is_ensemble else teacher


def described(kind: Kind) -> str:
    """Say of which kind a network is."""
    said = [
        f"{kind['network']}, {kind['loss']}, teacher {kind['teacher']}",
        kind["precision"] + (", compiled" if kind["compiled"] else ""),
        *kind["examples"],
        *(f"{key} {value}" for key, value in kind["protocol"].items()),
        *([f"{kind['processes']} processes"] if kind["processes"] > 1 else []),
        kind["device"],
    ]
    return "; ".join(said)
