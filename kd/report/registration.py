"""Preregistration: a committed file that freezes claims, rule and seeds before the first of its cells is published.

`kd preregister` writes preregistrations/STUDY.json, or STUDY.CLAIMS.json for a file of claims of one's own. The verdict
asks git when that file last changed, and manifests when the cells were published. Who wants to can forge both: the mark
helps the honest, and those who read them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kd.core import files
from kd.core.errors import Damaged, StorageError, first_line
from kd.core.project import here, on_disk
from kd.report.power import ALPHA, LEAST
from kd.study.config import OwnClaim
from kd.study.products import registration

BEFORE, AFTERWARDS, BROKEN = "registered before", "found afterwards", "registration broken"
RULE = {
    "test": "two-sided t test of the mean difference, paired by the seeds of student and teacher",
    "alpha": round(ALPHA, 10),
    "family": "Holm's correction over all confirmatory lines, and over all exploratory ones",
    "least independent pairs": LEAST,
    "diverged": "a pair with a diverged network is left out, and counted; nothing replaces it",
    "accuracy": "after the last epoch",
}
_PATIENCE = 60  # seconds: a busy machine may keep git waiting


@dataclass(frozen=True)
class Registration:
    """A file that `kd preregister` wrote, and what git says of it."""

    path: Path
    content: dict
    own: Sequence[OwnClaim] = ()  # the claims of the study, which it must be of

    @classmethod
    def find(cls, study: str, claims: Path | None = None, own: Sequence[OwnClaim] = ()) -> Registration | None:
        """Return the registration of a study, and of these claims; None if there is none."""
        path = registration(study, claims and claims.stem)
        if not on_disk(path).exists():
            return None
        try:
            return cls(path, json.loads(files.content_of(path)), own)
        except ValueError as error:
            raise StorageError(f"{path}: cannot read this preregistration: {first_line(error)}") from error

    def of(self, line: dict) -> str:
        """Return whether a line of a verdict was registered; if the registration does not count, why."""
        said = [one for one in self.content["lines"] if _same(one, line)]
        if not said:
            return AFTERWARDS
        if self.broken:
            return f"{BROKEN}: {self.broken}"
        pairs = line["found"].n + line["found"].left_out
        return BEFORE if pairs == said[0]["pairs"] else f"{AFTERWARDS}: {pairs} pairs, not {said[0]['pairs']}"

    @cached_property
    def broken(self) -> str:
        """Why the registration does not count, or ""."""
        if self.content["rule"] != RULE:
            return "kd judges by another rule now"
        if not self.content["claims"] and self.content["values"]["claims"] != values_of(self.own):
            return "the study has other claims now"
        for path, digest in self.content["claims"].items():
            if not on_disk(Path(path)).exists() or files.file_digest(Path(path)) != digest:
                return f"{path} is another now"
        try:
            if git("status", "--porcelain", "--", self.path):
                return f"{self.path} is not committed as it is"
            commit, changed = git("log", "-1", "--format=%h %ct", "--", self.path).split()
        except (OSError, ValueError, subprocess.SubprocessError):
            return f"git does not know {self.path}"
        for cell, recipe in self.content["cells"].items():
            try:
                manifest = files.read_manifest(Path(cell)) or {}
            except Damaged:
                manifest = {}
            if "published" not in manifest:
                return f"nothing says when {cell} was published"
            if manifest["published"] <= int(changed):
                return f"{cell} was published before {self.path} was last changed (commit {commit})"
            if digest_of(manifest["recipe"]) != recipe:
                return f"{cell} was trained with other values"
        return ""


def values_of(own: Sequence[OwnClaim]) -> list[dict]:
    """Return the claims of a study as plain values, as a registration freezes them."""
    return [claim.model_dump(mode="json") for claim in own]


def key_of(line: dict, columns: Sequence[str]) -> dict[str, str]:
    """Return what names the setting of a line. The rate of a label file is not known before it is read."""
    told = [column for column in columns if column != "noise_rate" or not line["noise"].startswith("labels-")]
    return {column: spelled(line[column]) for column in told}


def spelled(value: object) -> str:
    """Spell a value as verdict.csv does."""
    return "" if value is None or value != value else str(value)


def digest_of(recipe: dict) -> str:
    """Return the digest of a recipe."""
    return files.sha256(files.canonical_json(recipe).encode())


def _same(said: dict, line: dict) -> bool:
    alike = all(said[name] == line[name] for name in ("claim", "sentence", "smallest", "value"))
    return alike and all(spelled(line[column]) == text for column, text in said["setting"].items())


def git(*arguments: object) -> str:
    """Return what git says in the project's folder."""
    asked = ["git", "-C", str(here()), *map(str, arguments)]
    return subprocess.run(asked, capture_output=True, encoding="utf-8", check=True, timeout=_PATIENCE).stdout.strip()
