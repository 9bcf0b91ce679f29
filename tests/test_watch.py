"""`kd watch`: what it says to a pipe and draws on a terminal, of files alone."""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path

import pytest
from conftest import study, values
from rich.console import Console

from kd.__main__ import main
from kd.cli import watch
from kd.core import attempts, heartbeat
from kd.core.errors import OutOfMemory
from kd.core.heartbeat import Beat
from kd.study import products
from kd.study.judge import Judge
from kd.study.paths import parse_cell

TEACHER = "results/digits/quick/resnet14.ce.s0"
BASELINE = "results/digits/quick/resnet8.ce.s0"


def lock_of(cell: str) -> Path:
    return products.network(parse_cell(cell)).lock


@pytest.fixture
def running(project: Path) -> contextlib.ExitStack:
    """A study in which a cell is at work, another one does not say how far it is, and a third one failed."""
    Path("config.yaml").write_text(json.dumps(values()))
    with contextlib.suppress(OutOfMemory), attempts.at_work(lock_of(BASELINE.replace("s0", "s1"))):
        raise OutOfMemory("5 GiB are too much")
    with contextlib.ExitStack() as held:
        held.enter_context(attempts.at_work(lock_of(BASELINE)))
        held.enter_context(attempts.at_work(lock_of(TEACHER)))
        heartbeat.write(lock_of(BASELINE), Beat(time.time(), 120, 200, 0.6, 1234.0, 71.2, 600.0))
        yield held


def test_a_pipe_gets_lines_until_nobody_works_and_each_failure_once(running, capsys, monkeypatch) -> None:
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: running.close())  # all runs end meanwhile
    assert main(["watch"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first[8:] == " 2 running, 1 failed, 2 waiting"  # for their teacher
    assert lines[0].startswith(f"  running {BASELINE}  epoch 120/200  71.20 %  1,234 images/s  10 min left  0 min on ")
    assert lines[1].startswith("  running results/digits/quick/resnet14.ce.s0  0 min on ")
    assert lines[2] == f"  failed  {BASELINE.replace('s0', 's1')}  out of memory: 5 GiB are too much"
    assert lines[3][8:] == " 1 failed, 4 waiting (2 could start now); no snakemake is at work here"
    assert len(lines) == 4


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_a_table_and_the_failures(running, width: int) -> None:
    view = watch.view_of(Judge.of_study(study()))
    console = Console(file=io.StringIO(), width=width)
    console.print(watch.drawn("small", view, width))
    drawn = console.file.getvalue()
    (row,) = [line for line in drawn.splitlines() if line.startswith("resnet8.ce.s0 ")]
    assert row.split()[1:6] == ["120/200", "1,234", "71.20", "10", "min"]
    assert ("━" in row) == (width == 120)
    assert "results/digits/quick/resnet8.ce.s1  out of memory: 5 GiB are too much" in drawn
    assert max(map(len, drawn.splitlines())) <= width


def test_the_live_view_ends_when_nothing_is_to_do(running, capsys, monkeypatch) -> None:
    view = watch.view_of(Judge.of_study(study()))
    views = iter([view, view._replace(is_done=True)])
    monkeypatch.setattr(watch, "view_of", lambda judge: next(views))
    slept = []
    monkeypatch.setattr(watch.time, "sleep", slept.append)
    watch._live(Judge.of_study(study()))
    assert capsys.readouterr().out.endswith("study small: 2 running, 1 failed, 2 waiting\n")
    assert len(slept) == 1


def test_looking_writes_nothing(running) -> None:
    def tree() -> dict:
        return {path: path.stat().st_mtime_ns for path in Path().rglob("*")}

    before = tree()
    watch.view_of(Judge.of_study(study()))
    assert tree() == before
