"""What students need of the bank of their teacher, and which of these needs a bank does not meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

# How the files of a bank begin that hold the rows of each output that it can hold.
FILES = {"logits": "rows", "prelogits": "prelogits"}


class Need(NamedTuple):
    """One output of a teacher, for every view that a student of this seed sees in so many epochs."""

    seed: int
    epochs: int
    output: str = "logits"

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.epochs} epochs" + (f", {self.output}" if self.output != "logits" else "")


def unmet(manifest: Mapping, needs: Iterable[Need]) -> list[Need]:
    """Return which of these needs the bank of a manifest does not meet."""
    longest = {output: dict(part["holds"]) for output, part in manifest.get("outputs", {}).items()}
    return [need for need in needs if longest.get(need.output, {}).get(need.seed, 0) < need.epochs]
