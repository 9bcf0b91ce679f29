"""Where a study stands, why cells failed and what is damaged: told from what lies on the disk, in seconds."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, eventually, study
from made.command import kd

from kd.__main__ import main
from kd.core import attempts, files, heartbeat, slurm
from kd.core.errors import Diverged, OutOfMemory, StorageError, Terminated
from kd.core.heartbeat import Beat
from kd.machine.progress import Progress, heard
from kd.study import products
from kd.study.expansion import all_cells
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.study.products import Product
from kd.study.status import faulty, standings

TEACHER = "results/digits/quick/resnet14.ce.s0"
STUDENT = f"{TEACHER}/resnet8.mse.s0"
BASELINE = "results/digits/quick/resnet8.ce.s0"
_ODD = b'{"at": 1, "epoch": 1, "epochs": 2, "share": "x"}'


def failing(lock: Path, error: BaseException) -> None:
    with contextlib.suppress(type(error)), attempts.at_work(lock):
        raise error


def killed(lock: Path, monkeypatch: pytest.MonkeyPatch, job: str | None = None) -> None:
    """Leave the note of an attempt that began and could not say how it ended."""
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    pid = os.fork()
    if pid == 0:
        with attempts.at_work(lock):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def of(name: str, **changes: object) -> tuple[str, str]:
    """Return status and detail of a cell, bank or dataset of the study in conftest."""
    cells, others = standings(Judge.of_study(study(**changes)))
    (found,) = [one for one in (*cells, *others) if one.name == name]
    return found.status, found.detail


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (StorageError("state/x: cannot write: No space left on device"), "storage: state/x: cannot write"),
        (Terminated(15, "stopped in epoch 3"), "terminated: signal 15: stopped in epoch 3"),
        (OutOfMemory("out of memory: 5 GiB"), "out of memory: "),
        (MemoryError("no more"), "out of memory: "),
        (KeyboardInterrupt(), "interrupted: "),
        (ValueError("first line\nlast line"), "ValueError: last line"),
        (OSError(28, "No space left on device", "banks/x"), "storage: banks/x: No space left"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failed_cell_says_why(project: Path, error: BaseException, detail: str) -> None:
    failing(products.network(parse_cell(TEACHER)).lock, error)
    status, said = of(TEACHER)
    assert status == "failed"
    assert said.startswith(detail)


def test_banks_and_datasets_that_failed_are_named_too(project: Path) -> None:
    failing(products.bank(parse_cell(TEACHER)).lock, StorageError("full"))
    failing(products.data("digits").lock, StorageError("full"))
    assert of("banks/digits/quick/resnet14.ce.s0") == of("data/digits") == ("failed", "storage: full")


def test_answers_that_failed_are_named_where_a_figure_shows_them(project: Path) -> None:
    failing(products.answers(parse_cell(TEACHER)).lock, StorageError("full"))
    one = {"teacher": "resnet14", "student": "resnet8", "loss": "mse"}
    name = f"answers/{TEACHER.removeprefix('results/')}"
    assert of(name, experiments={"e": {**one, "figure": "fidelity"}}) == ("failed", "storage: full")
    with pytest.raises(ValueError, match="not enough values"):
        of(name, experiments={"e": {**one, "figure": "dots"}})


def test_a_killed_cell_is_told_from_a_running_one_by_its_lock(project: Path, monkeypatch) -> None:
    lock = products.network(parse_cell(TEACHER)).lock
    killed(lock, monkeypatch)
    assert of(TEACHER) == ("failed", "killed, most often for lack of memory (137)")
    with attempts.at_work(lock):
        status, detail = of(TEACHER)
        assert status == "running"
        assert f"process {os.getpid()}" in detail
    assert of(TEACHER) == ("waiting", "")


def test_a_running_cell_says_how_far_it_is_by_its_own_heartbeat(project: Path) -> None:
    lock = products.network(parse_cell(TEACHER)).lock
    with attempts.at_work(lock):
        heartbeat.write(lock, Beat(time.time(), 12, 200, 0.06, 1234.0, 71.2, 600.0))
        assert of(TEACHER)[1].startswith("epoch 12/200  71.20 %  1,234 images/s  10 min left  0 min on ")
        heartbeat.write(lock, Beat(time.time() - 3600, 12, 200, 0.06))
        assert "epoch" not in of(TEACHER)[1], "an earlier attempt's"
    note = attempts._note(lock)
    with files.lock(lock):
        files.seal(note, {"began": time.time() - 7200, "host": "here", "pid": 1, "slurm_job": None}, b"")
        assert "epoch 12/200  not heard of for 60 min  120 min on here" in of(TEACHER)[1]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"at": 1}', b"\xff", _ODD])
def test_a_damaged_heartbeat_counts_as_none(project: Path, content: bytes) -> None:
    heartbeat.write(Path("lock"), Beat(1.0, 1, 2, 0.5))
    assert heartbeat.read(Path("lock")) == Beat(1.0, 1, 2, 0.5)
    Path("lock.beat.json").write_bytes(content)
    assert heartbeat.read(Path("lock")) is None


def test_a_heartbeat_that_cannot_be_written_stops_nothing(project: Path, monkeypatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.0)
    row = {"epoch": 1, "lr": 0.1, "train_loss": 1.0, "train_top1_running": 50.0, "test_loss": 1.0, "test_top1": 60.0}
    for lock in (Path("nowhere/lock"), Path("lock")):
        with heard(lock):
            shown = Progress("a", epochs=2, steps=4)
            shown.at(0)
            shown.at(4)
            shown.epoch(row, 100.0)
            shown.at(6)
            if lock.parent.exists():
                beat = heartbeat.read(lock)
                assert (beat.epoch, beat.epochs, beat.share, beat.test_top1) == (1, 2, 0.75, 60.0)
                assert beat.images_per_second == 100.0
                assert beat.seconds_left >= 0
        assert heartbeat.read(lock) is None, "a run that succeeded leaves none"
    with contextlib.suppress(Diverged), heard(Path("lock")):
        Progress("a", epochs=2, steps=4).at(3)
        raise Diverged("not finite")
    assert heartbeat.read(Path("lock")).share == 3 / 8, "one that failed says how far it came"
    Progress("a", epochs=2, steps=4).at(8)  # what nobody listens to
    assert heartbeat.read(Path("lock")).share == 3 / 8


def test_slurm_knows_better_why_a_cell_was_killed(project: Path, monkeypatch) -> None:
    shim = project / "bin" / "sacct"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\necho '7|OUT_OF_MEMORY'; echo '8|CANCELLED by 1000'; echo '9|COMPLETED'\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    assert slurm.job_states(["7", "8", "9", "10"]) == {"7": "OUT_OF_MEMORY", "8": "CANCELLED", "9": "COMPLETED"}
    killed(products.network(parse_cell(TEACHER)).lock, monkeypatch, job="7")
    assert of(TEACHER) == ("failed", "out of memory (SLURM job 7)")


def test_without_slurm_there_is_no_word(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert slurm.job_states(["7"]) == {}


def test_cells_behind_a_teacher_that_failed_say_so(project: Path) -> None:
    failing(products.network(parse_cell(TEACHER)).lock, StorageError("full"))
    assert of(f"{TEACHER}/resnet8.kl-tau3.s0") == ("waiting", f"its teacher {TEACHER} failed")
    assert of("results/digits/quick/resnet8.ce.s0") == ("waiting", "")


def test_a_stage_that_succeeds_leaves_no_note(project: Path) -> None:
    lock = products.network(parse_cell(TEACHER)).lock
    failing(lock, Diverged("not finite"))
    with attempts.at_work(lock):
        pass
    assert attempts.last_attempt(lock) is None


@pytest.mark.slow
def test_status_tells_what_a_person_wants_to_know(small: Path, capsys) -> None:
    main(["data", "digits"])
    main(["train", TEACHER])
    running = subprocess.Popen(
        [sys.executable, "-m", "kd", "train", BASELINE, "--config", long_protocol()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: "running  " in status_of(capsys, "--cells", "--config", long_protocol()))
    running.kill()
    running.wait()
    Path("logs", "digits", "quick").mkdir(parents=True)
    printed = status_of(capsys)
    assert "done          1" in printed
    assert "failed        1" in printed
    assert f"  {BASELINE}  killed, most often for lack of memory (137)" in printed
    assert "to do:\n  6 networks: not made yet\n  1 bank: not made yet\n" in printed
    assert "next: the snakemake command of this study makes what is to do; each cell goes on from its state" in printed
    main(["train", BASELINE])
    assert "failed" not in status_of(capsys)
    printed = status_of(capsys, "--config", long_protocol())
    assert "stale         2" in printed
    assert f"  {BASELINE}  epochs 2 -> 500" in printed
    assert "  2 networks: epochs 2 -> 500" in printed
    assert "2 published networks of protocol quick will be trained again in the same place (epochs 2 -> 500)" in printed


def long_protocol() -> str:
    return 'protocol={"name": "quick", "epochs": 500, "batch": 64, "precision": "fp32"}'


def status_of(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["status", *arguments]) == 0
    return capsys.readouterr().out


def test_a_study_is_named_by_its_file_or_its_name(small: Path) -> None:
    Path("workflow/studies").mkdir(parents=True)
    for path in ("other.yaml", "workflow/studies/third.yaml"):
        Path(path).write_text(f"study: {Path(path).stem}")
    assert "study other: 7 cells" in kd("status", "other.yaml").stdout
    assert "study third: 7 cells" in kd("status", "third").stdout
    assert kd("status", "fourth").returncode == 2


# -- verify -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(project: Path) -> Path:
    things = ("network", "results/a/b/c"), ("data", "data/d"), ("bank", "banks/e/f/g"), ("answers", "answers/h/i/j")
    for product in (*itertools.starmap(Product, things), products.figure("study", "e", "dots")):
        about = {"kind": product.kind, "name": product.name}
        names = ("figures/e.dots.png", "figures/e.dots.txt") if product.kind == "figure" else ("one", "two")
        artefacts = dict(zip(names, (b"1" * 1000, b"2"), strict=True))
        files.publish(product.folder, artefacts, about, product.manifest)
    return project


def test_verify_finds_every_damaged_file_and_says_how_it_is_rebuilt(published: Path, capsys) -> None:
    assert main(["verify"]) == 0
    assert "5 published products, 0 damaged" in capsys.readouterr().out
    Path("results/a/b/c/two").unlink()
    for name in ("banks/e/f/g/one", "reports/study/figures/e.dots.png"):
        content = bytearray(Path(name).read_bytes())
        content[500] ^= 1
        Path(name).write_bytes(content)
    Path("data/d/manifest.json").write_text("{")
    assert main(["verify"]) == 74
    said = capsys.readouterr()
    for name in ("results/a/b/c/two", "banks/e/f/g/one", "reports/study/figures/e.dots.png"):
        assert f"{name}: damaged" in said.err
    assert "data/d/manifest.json: not a manifest" in said.err
    assert "kd verify --discard" in said.out
    assert len(faulty()[1]) == 4


def test_what_is_discarded_counts_as_absent_and_the_rest_stays(published: Path, capsys) -> None:
    Path("results/a/b/c/two").write_bytes(b"")
    assert main(["verify", "--discard"]) == 0
    assert files.read_manifest(Path("results/a/b/c")) is None
    assert Path("results/a/b/c/one").exists()
    assert files.verified(Path("data/d"))
    assert main(["verify"]) == 0


def test_a_cell_that_was_copied_is_not_the_one_it_says(project: Path, capsys) -> None:
    files.publish(Path("results/x"), {}, {"kind": "network", "name": "results/y"})
    assert main(["verify"]) == 74
    assert "a copy of results/y" in capsys.readouterr().err


# -- at scale ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_status_and_verify_look_at_thousands_of_cells_in_seconds(project: Path, monkeypatch) -> None:
    """Timed for the reader of the log only; bench/standing.py measures it."""
    many = study(seeds=list(range(500)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # most of the time that a publication takes
        for cell in all_cells(many):
            artefacts = {"model.safetensors": os.urandom(10_000), "metrics.csv": b"epoch\n"}
            files.publish(Path(cell.path), artefacts, nowhere(cell.path))
    began = time.monotonic()
    cells, _ = standings(Judge.of_study(many))
    assert {cell.status for cell in cells} == {"stale"}
    count, wrong = faulty()
    print(f"{len(cells)} cells: {time.monotonic() - began:.1f} s")
    assert len(cells) == count
    assert wrong == []


def nowhere(path: str) -> dict:
    """Return what the manifest of a cell says first that was made by code that there is no more."""
    return {"kind": "network", "name": path, "recipe": {}, "code": "0", "inputs": {}, "status": "ok"}
