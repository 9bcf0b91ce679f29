"""The study of record: what stands in reports/record/ is what its committed table says by now."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

from bench import record


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_chains_of_record_stand_beside_ce_and_every_student_beside_its_teacher() -> None:
    rows = record.table()
    chains = rows[rows["experiment"] == "chains"]
    assert (chains["objectives"] == "ce").sum() == chains["seed"].nunique()
    students = rows[rows["stages"] > 1]
    assert students["teacher_top1"].notna().all()
    assert students.loc[students["teacher"] == "wrn-28-2", "teacher_top1"].round(2).isin([58.16, 44.75]).all()


@pytest.mark.slow
def test_captions_comparisons_and_verdict_of_record_are_those_of_its_table(tmp_path: Path) -> None:
    found = {path: content for path, content in record.made(tmp_path).items() if isinstance(content, bytes)}
    assert len([path for path in found if path.endswith(".txt")]) == 9
    for path, content in found.items():
        assert (record.RECORD / path).read_bytes() == content, f"{path}: python -m bench.record"
