"""What students need from their teacher's bank, and which of these needs a bank does not meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

# {output: first part of the names of the bank's files that hold it}
FILES = {"logits": "rows", "prelogits": "prelogits"}


class Need(NamedTuple):
    """One output of a teacher, for every view that a student of this seed sees in `epochs` epochs."""

    seed: int
    epochs: int
    output: str = "logits"

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.epochs} epochs" + (f", {self.output}" if self.output != "logits" else "")


def unmet(manifest: Mapping, needs: Iterable[Need]) -> list[Need]:
    """Return the needs that the bank with this manifest does not meet."""
    longest = {output: dict(part["holds"]) for output, part in manifest.get("outputs", {}).items()}
    return [need for need in needs if longest.get(need.output, {}).get(need.seed, 0) < need.epochs]
