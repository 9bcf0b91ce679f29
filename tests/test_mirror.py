"""`kd mirror`: published rows go to a tracker once, and a tracker that fails takes nothing along."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import values

from kd.__main__ import main
from kd.core import files

TEACHER = "results/digits/quick/resnet14.ce.s0"
BASELINE = "results/digits/quick/resnet8.ce.s0"


def publish(path: str, top1: float = 50.0) -> None:
    """Publish a network of two epochs, the first of which was not evaluated."""
    metrics = f"epoch,lr,test_top1\n1,0.1,\n2,0.01,{top1}\n".encode()
    about = {"kind": "network", "name": path, "recipe": {}, "code": "0", "inputs": {}, "status": "ok"}
    files.publish(Path(path), {"model.safetensors": b"1", "metrics.csv": metrics}, about)


class Database:
    """Stands for trackio's: it keeps what is logged, and refuses a run that it is told to refuse."""

    def __init__(self) -> None:
        self.runs: dict[str, dict] = {}
        self.refused: set[str] = set()

    def delete_run(self, project: str, name: str) -> None:
        self.runs.pop(name, None)

    def bulk_log(self, project: str, name: str, rows: list[dict], steps: list[int]) -> None:
        if name in self.refused:
            raise RuntimeError("database is locked")
        assert (project, name not in self.runs) == ("small", True)
        self.runs[name] = dict(zip(steps, rows, strict=True))


@pytest.fixture
def database(project: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    Path("config.yaml").write_text(json.dumps(values()))
    module, found = ModuleType("trackio.sqlite_storage"), Database()
    module.SQLiteStorage = found
    monkeypatch.setitem(sys.modules, "trackio", ModuleType("trackio"))
    monkeypatch.setitem(sys.modules, "trackio.sqlite_storage", module)
    monkeypatch.setenv("TRACKIO_DIR", "")
    return found


def test_published_rows_are_copied_once_and_again_when_they_change(database: Database, capsys) -> None:
    publish(TEACHER)
    assert main(["mirror", "--to", "trackio", "curves"]) == 0
    assert database.runs == {"digits/quick/resnet14.ce.s0": {1: {"lr": 0.1}, 2: {"lr": 0.01, "test_top1": 50.0}}}
    publish(BASELINE)
    main(["mirror", "--to", "trackio", "curves"])
    main(["mirror", "--to", "trackio", "curves"])
    publish(TEACHER, top1=60.0)
    main(["mirror", "--to", "trackio", "curves"])
    copied = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert copied == ["1", "1", "0", "1"]
    assert database.runs["digits/quick/resnet14.ce.s0"][2]["test_top1"] == 60.0


def test_a_run_that_a_tracker_refuses_is_copied_the_next_time(database: Database, capsys) -> None:
    publish(TEACHER)
    publish(BASELINE)
    database.refused.add("digits/quick/resnet14.ce.s0")
    assert main(["mirror", "--to", "trackio", "curves"]) == 1
    said = capsys.readouterr()
    assert f"kd: trackio: {TEACHER}: RuntimeError: database is locked" in said.err
    assert said.out == "networks copied to curves: 1; refused by trackio: 1\n"
    database.refused.clear()
    assert main(["mirror", "--to", "trackio", "curves"]) == 0
    assert len(database.runs) == 2


def test_what_is_not_installed_or_not_known_is_said_in_a_line(database: Database, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio.sqlite_storage", None)
    assert main(["mirror", "--to", "trackio", "curves"]) == 2
    assert "pip install 'kd[trackio]'" in capsys.readouterr().err
    assert main(["mirror", "--to", "tensorbord", "curves"]) == 2
    assert "did you mean 'tensorboard'" in capsys.readouterr().err


def test_tensorboard_reads_what_was_mirrored(database: Database, monkeypatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for top1 in (50.0, 60.0):
        publish(TEACHER, top1)
        assert main(["mirror", "--to", "tensorboard", "curves"]) == 0
    folder = Path("curves/digits/quick/resnet14.ce.s0")
    assert len(list(folder.iterdir())) == 1
    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("test_top1")] == [(2, 60.0)]
    assert [event.step for event in events.Scalars("lr")] == [1, 2]
