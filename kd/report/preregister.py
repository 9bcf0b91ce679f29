"""Write what `kd.report.registration` reads: the claims, rule and seeds of a study, before its cells are published."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kd.core import files
from kd.core.errors import ConfigError, itemised
from kd.core.project import here, on_disk
from kd.report.own_claims import read_claims
from kd.report.planned import claims_of, planned
from kd.report.registration import RULE, digest_of, git, key_of
from kd.report.verdict import KEY
from kd.study.cells import REPORTS, TEACHERS
from kd.study.expansion import memberships
from kd.study.judge import Judge
from kd.study.products import network, registration


def preregister(judge: Judge, claims_file: Path | None) -> Path:
    """Write the registration of a study. Raises ConfigError if one exists, or if one of its cells was published."""
    study = judge.study
    path = registration(study.study, claims_file and claims_file.stem)
    if on_disk(path).exists():
        raise ConfigError(f"{path}: exists; a change after the first cell breaks it, so remove it first, by git rm")
    claims = read_claims(claims_file) if claims_file else claims_of(study)
    cells = dict.fromkeys(cell for name, cell in memberships(study, judge.students) if name != TEACHERS)
    if known := _published([cell.path for cell in cells]):
        raise ConfigError(
            f"{len(known)} of the cells are published: nothing can be registered before them; name other seeds\n"
            f"{itemised(known)}"
        )
    told = {claim.id: {"sentence": claim.sentence, "value": claim.value} for claim in claims}
    content = {
        "study": study.study,
        "commit": _commit(),
        "rule": RULE,
        "claims": {str(claims_file): files.file_digest(claims_file)} if claims_file else {},
        "lines": [
            {
                "claim": line["claim"],
                **told[line["claim"]],
                "smallest": float(line["smallest"]),
                "pairs": int(line["pairs"]),
                "setting": key_of(line, KEY),
            }
            for line in planned(judge, claims).to_dict("records")
        ],
        "seeds": list(study.seeds),
        "values": study.model_dump(mode="json"),
        "cells": {cell.path: digest_of(judge.expected(network(cell)).recipe) for cell in cells},
    }
    files.write_atomic(path, (json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n").encode())
    return path


def _commit() -> str:
    try:
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        raise ConfigError(
            f"{here()}: no commit of git here, by which a registration could be dated: git init"
        ) from None


def _published(cells: Sequence[str]) -> list[str]:
    """Return which cells are published, or stand in a table under reports/."""
    tables = (pd.read_csv(on_disk(path)) for path in files.below(Path(REPORTS), "*/table.csv"))
    told = {cell for table in tables for cell in table.get("cell", ())}
    return [cell for cell in cells if cell in told or files.read_manifest(Path(cell))]
