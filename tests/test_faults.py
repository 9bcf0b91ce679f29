"""Every fault that a run must survive, injected for real: kills, full and read-only disks, damage, racing controllers.

Numbers are those of the list of faults. What another file tests bears its number there; the last test counts them.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from made.disk import Disk
from made.project import KL3, SMALL, Project, changed, wait_for, waiting, with_losses
from torch import Tensor

from kd import losses
from kd.__main__ import main
from kd.core import attempts, files
from kd.losses.objective import Pure
from kd.machine import state
from kd.train import lesson

TEACHER = "results/digits/quick/resnet14.ce.s0"
STUDENT = f"{TEACHER}/resnet8.mse.s0"
EPOCHS, STEPS = 3, 15  # steps an epoch: digits in batches of 64
STUDY = {
    "study": "small",
    "dataset": "digits",
    "protocol": {"name": "quick", "epochs": EPOCHS, "batch": 64, "precision": "fp32"},
    "experiments": {"a": {"teacher": "resnet14", "student": "resnet8", "loss": ["ce", "mse"]}},
}


@pytest.fixture
def small(project: Path) -> Path:
    """A project folder with a study and its data."""
    return prepare(project)


def prepare(folder: Path) -> Path:
    (folder / "config.yaml").write_text(json.dumps(STUDY))
    with contextlib.chdir(folder):
        assert main(["data", "digits"]) == 0
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which a teacher was trained with nothing in the way."""
    folder = prepare(tmp_path_factory.mktemp("undisturbed"))
    with contextlib.chdir(folder):
        assert main(["train", TEACHER]) == 0
    return folder


def content(folder: Path, cell: str = TEACHER) -> tuple[bytes, bytes]:
    """Return the bytes that a cell is compared by."""
    return tuple((folder / cell / name).read_bytes() for name in ("model.safetensors", "metrics.csv"))


class Meanwhile:
    """A loss that does something else as well at one step of training."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.left, self.act = step, act

    def __call__(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            self.act()
        return losses.LOSSES["ce"].function(student, teacher, labels)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], object]:
    """Give the context in which training does something else as well at one step."""

    @contextlib.contextmanager
    def patched(step: int, act: Callable[[], object]) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(lesson, "objective_of", lambda *_: Pure(Meanwhile(step, act)))
            yield

    return patched


@pytest.fixture
def disk(small: Path) -> Iterator[Callable[[str, str], Disk]]:
    """Give what mounts a small file system on a folder of the project."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    made: list[Disk] = []

    def mounted(name: str, size: str) -> Disk:
        made.append(Disk(small / name, size))
        return made[-1]

    yield mounted
    for each in made:
        subprocess.run(["umount", "--lazy", str(each.path)], check=True)


def epochs_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines on finished epochs, and forget them."""
    lines = [record.message for record in caplog.records if record.message.startswith("epoch ")]
    caplog.clear()
    return lines


# -- kills while something is written ---------------------------------------------------------------------------------


def check_state(folder: str) -> None:
    """Fail unless a whole state is there, and take down its number, which never falls."""
    saved, seen = state.State(Path(folder), {"cell": "made"}).load(), Path(folder, "seen")
    assert saved["network"].eq(saved["number"]).all()
    assert saved["number"] >= int(seen.read_text() if seen.exists() else 0)
    seen.write_text(str(saved["number"]))


def keep_saving(folder: str, begun: Callable[[], object] = lambda: None, times: float = math.inf) -> None:
    """Save states of 1 MB one after the other, each with its number in all of it."""
    kept = state.State(Path(folder), {"cell": "made"})
    number = (kept.load() or {"number": 0})["number"]
    begun()
    while times > 0:
        number, times = number + 1, times - 1
        kept.save({"number": number, "network": torch.full((250_000,), float(number))})


def kill_again_and_again(
    kills: int, longest: float, work: Callable[[Callable], object], check: Callable[[], object] = lambda: None
) -> None:
    """Fork a process that does `work`, kill it after a random time, `check`; so often. Call it in a fresh Python.

    The time counts from when `work` calls the function it is given, so that on a busy machine, too, something is done
    between two kills; one time in five it counts from the fork.
    """
    torch.set_num_threads(1)  # threads do not survive a fork
    generator = random.Random(0)
    for _ in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                work(functools.partial(os.write, writer, b"."))
            finally:
                traceback.print_exc()
                os._exit(1)
        os.close(writer)
        if generator.random() < 0.8:
            os.read(reader, 1)
        time.sleep(generator.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        os.close(reader)
        check()


@pytest.mark.slow
def test_a_state_survives_200_kills_of_the_process_that_saves_it(tmp_path: Path) -> None:
    """Fault 1: 0 of 200 unreadable, and never older than the one before the last."""
    code = (
        "import sys, test_faults as t; folder = sys.argv[1]; t.keep_saving(folder, times=1)\n"
        "t.kill_again_and_again(200, 0.06, lambda begun: t.keep_saving(folder, begun), lambda: t.check_state(folder))"
    )
    run = fresh(code, str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert "going on from the generation before it" not in run.stderr  # of the last, none is ever torn
    assert int((tmp_path / "seen").read_text()) > 50


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_the_kernel_sees_data_synced_before_names_change_and_the_directory_after(tmp_path: Path) -> None:
    """Fault 3: power loss; every artefact, then the manifest, by what strace sees."""
    code = (
        "import sys; from pathlib import Path; from kd.core import files;"
        "files.publish(Path(sys.argv[1]), {'a': b'1', 'b': b'2'}, {})"
    )
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,unlink"
    command = ["strace", "-f", "-y", "-e", calls, "-o", str(trace), sys.executable, "-c", code, str(tmp_path / "cell")]
    subprocess.run(command, env=environment(), check=True)
    folder = re.escape(str(tmp_path / "cell"))
    seen = []
    for line in trace.read_text().splitlines():
        if found := re.search(rf"fsync\(\d+<{folder}(?:/\.tmp-[\w.]+-\d+-)?([^>]*)>", line):
            seen.append(f"fsync {found[1] or 'folder'}")
        elif found := re.search(rf'rename\w*\(.*"{folder}/\.tmp-[\w.]+-\d+-([^"]+)", .*"{folder}/\1"', line):
            seen.append(f"rename {found[1]}")
    manifest = ["fsync manifest.json", "rename manifest.json", "fsync folder"]
    assert seen == ["fsync a", "fsync b", "rename a", "rename b", "fsync folder", *manifest]


# -- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_disk_that_fills_while_a_state_is_saved_costs_nothing(
    undisturbed: Path, small: Path, disk, meanwhile, monkeypatch, capsys, caplog
) -> None:
    """Fault 5: the old state is intact, the message has path, needed and free bytes, exit 74; then it goes on."""
    full = disk("state", "3m")
    monkeypatch.setattr(state, "_PATIENCE_SECONDS", 0.0)  # a save after every step
    with meanwhile(2, full.fill):
        assert main(["train", TEACHER]) == 74
    refusal = (
        r"kd: state/\S+last\.pt: cannot write: No space left .*\([\d,]{9,} bytes are needed, 0 bytes are free; make"
    )
    assert re.match(refusal, capsys.readouterr().err.splitlines()[-1])
    (saved,) = Path("state").rglob("previous.pt")
    files.unseal(saved)
    assert not Path(TEACHER).exists()
    full.make_space()
    assert main(["train", TEACHER]) == 0
    assert "going on from epoch 1, step 2" in caplog.text
    assert content(small) == content(undisturbed)


@pytest.mark.slow
def test_a_full_disk_takes_the_next_generation_in_place_of_the_older(
    undisturbed: Path, small: Path, disk, meanwhile, monkeypatch
) -> None:
    """Fault 5: what was room enough at the start is room enough to the end."""
    full = disk("state", "3m")
    monkeypatch.setattr(state, "_PATIENCE_SECONDS", 0.0)
    with meanwhile(3, full.fill):
        assert main(["train", TEACHER]) == 0
    assert content(small) == content(undisturbed)


def test_a_disk_that_fills_before_results_are_written_costs_no_epoch(
    undisturbed: Path, small: Path, disk, meanwhile, capsys, caplog
) -> None:
    """Fault 6: exit 74; after making space the run publishes what it had."""
    full = disk("results", "3m")
    with meanwhile(EPOCHS * STEPS, full.fill):
        assert main(["train", TEACHER]) == 74
    assert "No space left" in capsys.readouterr().err
    assert len(epochs_in(caplog)) == EPOCHS
    assert not [path for path in Path(TEACHER).rglob("*") if path.is_file()]
    full.make_space()
    assert main(["train", TEACHER]) == 0
    assert not epochs_in(caplog)
    assert content(small) == content(undisturbed)


@pytest.mark.slow
def test_a_bank_that_does_not_fit_is_refused_without_a_signal(small: Path, disk, capsys) -> None:
    """Fault 6, of banks: exit 74, and no SIGBUS, whoever fills it; after making space the same command fills it."""
    assert main(["train", TEACHER]) == 0
    full = disk("banks", "1m")
    full.fill(but=20_000)
    for command in (["bank", TEACHER, "--needs", f"0:{EPOCHS}"], ["train", STUDENT]):
        assert main(command) == 74
        refusal = r"kd: banks/\S+: cannot write: No space left .*\([\d,]{6,} bytes are needed, [\d,]+ bytes are free"
        assert re.match(refusal, capsys.readouterr().err.splitlines()[-1])
        assert not list(Path("banks").rglob("manifest.json"))
    full.make_space()
    assert main(["bank", TEACHER, "--needs", f"0:{EPOCHS}"]) == 0
    assert main(["train", STUDENT]) == 0


@pytest.mark.parametrize("tree", ["state", "results"])
def test_a_disk_that_is_too_small_is_refused_before_training(small: Path, disk, tree: str, capsys, caplog) -> None:
    """Fault 7: a cell that cannot be kept is not begun."""
    disk(tree, "500k")
    assert main(["train", TEACHER]) == 74
    assert re.match(
        rf"kd: {tree}/\S+: [\d,]{{7,}} bytes are needed, [\d,]+ bytes are free",
        capsys.readouterr().err.splitlines()[-1],
    )
    assert not epochs_in(caplog)


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["state", "results"])
def test_a_read_only_folder_is_one_clear_error_before_training_and_loses_nothing(
    small: Path, disk, tree: str, capsys, caplog
) -> None:
    """Fault 8: a file system that was remounted read-only."""
    locked = disk(tree, "8m")
    assert main(["train", TEACHER]) == 0
    before = sorted(path for path in locked.path.rglob("*") if path.suffix != ".json")
    epochs_in(caplog)
    capsys.readouterr()
    locked.read_only()
    assert main(["train", STUDENT]) == 74
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd: ")]
    assert re.match(rf"kd: {tree}/\S+: cannot write: .*[Rr]ead-only", said)
    assert not epochs_in(caplog)
    assert sorted(path for path in locked.path.rglob("*") if path.suffix != ".json") == before
    assert files.verified(Path(TEACHER))
    locked.read_only(False)
    assert main(["train", STUDENT]) == 0


@pytest.mark.slow
def test_another_user_s_folder_is_one_clear_error(small: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fault 8: permissions, met by a user who is not root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    code = (
        "import os, sys; from kd.__main__ import main; import kd.jobs.train; os.chdir(sys.argv[1]);"
        "os.setgid(65534); os.setuid(65534); sys.exit(main(['train', sys.argv[2]]))"
    )
    for folder in (small, *small.parents):
        if folder.owner() == "root" and folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(0o755)
    run = fresh(code, str(small), TEACHER)
    assert run.returncode == 74
    assert "Permission denied" in run.stderr
    assert "Traceback" not in run.stderr
    assert list(Path("data/digits").iterdir())


def fresh(code: str, *arguments: str, **options: object) -> subprocess.CompletedProcess:
    """Run `code` in a Python that has done nothing yet and finds kd and these tests."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, **options)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


# -- damage -----------------------------------------------------------------------------------------------------------

DAMAGE = {
    "flipped": lambda path: path.write_bytes(
        path.read_bytes()[:-9] + bytes([path.read_bytes()[-9] ^ 1]) + path.read_bytes()[-8:]
    ),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 100),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("victim", "rebuild"),
    [
        (f"{TEACHER}/model.safetensors", ["train", TEACHER]),
        ("data/digits/train_images.npy", ["data", "digits"]),
        ("data/digits/train_labels.npy", ["data", "digits"]),
    ],
    ids=["teacher", "images", "labels"],
)
def test_what_is_damaged_is_refused_and_rebuilt_as_the_message_says(
    undisturbed: Path, project: Path, victim: str, rebuild: list[str], damage: str, capsys
) -> None:
    """Faults 9 to 11: a flipped bit, a truncated, an empty and a deleted file, of a teacher and of prepared data."""
    for tree in ("config.yaml", "data", "results"):
        take = shutil.copytree if (undisturbed / tree).is_dir() else shutil.copy
        take(undisturbed / tree, project / tree)
    whole = Path(victim).read_bytes()
    DAMAGE[damage](Path(victim))
    given = json.dumps(yaml.safe_load(Path("config.yaml").read_text()))
    assert main(["train", STUDENT, "--study-json", given]) == 74  # as Snakemake asks
    said, (folder, name) = capsys.readouterr().err, os.path.split(victim)
    assert not Path(STUDENT).exists()
    if damage == "flipped":  # of the size that it should have: whoever reads it finds it
        assert said.startswith(f"kd: {victim}: damaged: ")
        Path(re.search(r"; remove (\S+) and run snakemake, or the kd verb that makes it", said)[1]).unlink()
    else:
        assert re.search(
            rf"kd: {STUDENT}: .*; run snakemake, or the kd verb .*\n  {folder}: {name} (has|is gone)", said
        )
    assert main(rebuild) == 0
    assert Path(victim).read_bytes() == whole
    assert main(["train", STUDENT]) == 0


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "metrics.csv", "manifest.json"])
def test_a_cell_that_is_asked_for_and_damaged_is_trained_anew(
    undisturbed: Path, project: Path, name: str, damage: str, caplog
) -> None:
    """Faults 9 to 11, of the cell itself: whoever asks for it gets it whole."""
    for tree in ("config.yaml", "data", "results"):
        take = shutil.copytree if (undisturbed / tree).is_dir() else shutil.copy
        take(undisturbed / tree, project / tree)
    DAMAGE[damage](Path(TEACHER, name))
    assert main(["train", TEACHER]) == 0
    assert files.verified(Path(TEACHER))
    assert content(project) == content(undisturbed)


# -- memory and workers -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "take", [lambda: bytearray(1 << 46), lambda: torch.empty(1 << 46)], ids=["Python's", "torch's"]
)
def test_an_allocation_that_is_refused_exits_137_with_one_line_and_a_note(
    small: Path, meanwhile, take: Callable, capsys
) -> None:
    """Fault 12: MemoryError and torch's own error are one thing; the state stays and the same command goes on."""
    with meanwhile(2 * STEPS, take):
        assert main(["train", TEACHER]) == 137
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd: ")]
    assert said.startswith("kd: out of memory: ")
    note = attempts.last_attempt(Path("state", *Path(TEACHER).parts[1:], "lock"))
    assert note["exit"] == 137
    assert note["cause"].startswith("out of memory: ")
    assert main(["train", TEACHER]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("mebibytes", [3, 10])  # from 20 on oneDNN may be refused its own memory, and then it crashes
def test_a_limit_on_memory_is_met_with_exit_137_one_line_and_a_note(small: Path, mebibytes: int) -> None:
    """Fault 12: ulimit -v, hit while a network is built or a step taken."""
    code = (
        "import resource, sys; import kd.jobs.train; from kd.__main__ import main;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2);"
        "sys.exit(main(['train', sys.argv[2]]))"
    )
    run = fresh(code, str(mebibytes), TEACHER)
    assert run.returncode == 137, run.stderr
    assert run.stderr.splitlines()[-1].startswith("kd: out of memory: ")
    assert "Traceback" not in run.stderr
    assert attempts.last_attempt(Path("state", *Path(TEACHER).parts[1:], "lock"))["exit"] == 137


@pytest.mark.slow
def test_training_has_no_worker_processes_that_could_die(small: Path, meanwhile) -> None:
    """Fault 13: nothing to lose, since images are read from memory by the process that trains."""
    children = []

    def count() -> None:
        children.extend(
            pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
        )

    count()
    before = list(children)
    children.clear()
    with meanwhile(STEPS + 1, count):
        assert main(["train", TEACHER]) == 0
        assert main(["train", STUDENT]) == 0
    assert set(children) == set(before)


# -- Snakemake --------------------------------------------------------------------------------------------------------

CELL = "digits/quick/resnet14.ce.s0"  # the cell that the tests below train, 25 epochs of a sixth of a second each
LONG = {**SMALL["protocol"], "epochs": 25}


class Counted(Project):
    """A project that takes down who trained which epoch of which stage."""

    def __init__(self, folder: Path, data: Path) -> None:
        super().__init__(folder)
        shutil.copytree(data / "data", folder / "data")
        note = """open("epochs", "a").write(f"{self._name} {row['epoch']} {__import__('os').getpid()}\\n")"""
        self.edit("kd/machine/progress.py", "        text = (", f"        {note}\n        text = (")

    @property
    def epochs(self) -> Counter:
        """Return how often each epoch of each stage was trained."""
        lines = (self.folder / "epochs").read_text().splitlines()
        return Counter(tuple(line.split()[:2]) for line in lines)

    @property
    def trainers(self) -> set[int]:
        return {int(line.split()[2]) for line in (self.folder / "epochs").read_text().splitlines()}

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start snakemake as a terminal would, at the head of its own process group."""
        log = open(self.folder / "started.log", "ab")  # noqa: SIM115
        return subprocess.Popen(
            self.command(*arguments), cwd=self.folder, env=self.environment, stdout=log, stderr=log, process_group=0
        )

    def is_under_way(self) -> bool:
        return any((self.folder / "state" / CELL).glob("run-*/previous.pt"))


@pytest.fixture
def counted(tmp_path: Path, undisturbed: Path) -> Counted:
    project = Counted(tmp_path, undisturbed)
    project.study({**SMALL, "protocol": LONG})
    return project


TARGET = f"results/{CELL}/manifest.json"


@pytest.mark.slow
def test_a_killed_controller_leaves_its_cell_to_the_next_which_adopts_it(counted: Counted) -> None:
    """Fault 30: jobs go on; a plain restart at once never writes beside them, and each epoch is trained once."""
    running = counted.start(TARGET)
    wait_for(counted.is_under_way, running)
    running.kill()
    running.wait()
    (trainer,) = counted.trainers
    os.kill(trainer, signal.SIGSTOP)
    again = counted.start(TARGET)
    wait_for(lambda: waiting(counted, "train"), again)
    os.kill(trainer, signal.SIGCONT)
    assert again.wait(120) == 0
    assert_each_epoch_once(counted)
    assert counted.trainers == {trainer}
    assert "is there already" in counted.logs()


def assert_each_epoch_once(project: Counted) -> None:
    assert project.epochs == Counter({("resnet14.ce.s0", str(epoch)): 1 for epoch in range(1, 26)})


@pytest.mark.slow
def test_a_controller_that_is_terminated_leaves_nothing_that_must_be_cleared(counted: Counted) -> None:
    """Fault 31: it ends as its running jobs do, and the next start is clean."""
    running = counted.start(TARGET)
    wait_for(counted.is_under_way, running)
    running.terminate()
    assert running.wait(300) != 0
    counted.run(TARGET)
    assert_each_epoch_once(counted)


@pytest.mark.slow
def test_control_c_saves_the_state_and_no_epoch_is_trained_again(
    counted: Counted,
) -> None:
    """Fault 32: SIGINT to all that the terminal runs; exit not 0, and finished epochs stay finished."""
    running = counted.start(TARGET)
    wait_for(counted.is_under_way, running)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(300) != 0
    assert not counted.processes("kd train")
    assert "the state is saved" in counted.logs()
    assert not counted.published()
    counted.run(TARGET)
    assert_each_epoch_once(counted)
    assert len(counted.trainers) == 2


@pytest.mark.slow
def test_after_a_kill_of_everything_a_plain_restart_goes_on_from_the_state(counted: Counted) -> None:
    """Fault 35: Snakemake's mark of an incomplete job stands in nobody's way."""
    running = counted.start(TARGET)
    wait_for(counted.is_under_way, running)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    wait_for_none(counted)
    assert list((counted.folder / ".snakemake" / "incomplete").iterdir())
    before = counted.epochs
    counted.run(TARGET)
    assert len(counted.epochs) == 25
    again = {stage for stage, times in counted.epochs.items() if times > 1}
    assert again <= set(before) - {("resnet14.ce.s0", "1")}  # after the last of at least two saves
    assert "Nothing to be done" in counted.run(TARGET)


def wait_for_none(project: Project) -> None:
    deadline = time.monotonic() + 30
    while project.processes("python"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_lock_of_a_snakemake_that_is_no_more_locks_nobody_out(tmp_path: Path) -> None:
    """Fault 33: there is nothing to unlock."""
    project, target = Project(tmp_path), "data/digits/manifest.json"
    locks = project.folder / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text(f"{target}\n{TARGET}\n")
    project.run(target)
    assert (project.folder / target).exists()


@pytest.mark.slow
def test_a_cell_that_is_killed_says_so_and_a_retry_goes_on_from_its_state(counted: Counted) -> None:
    """Fault 12: the log says 137 and memory; until the retry begins, the note tells of a beginning without an end."""
    running = counted.start(TARGET, "--retries", "1")
    wait_for(counted.is_under_way, running)
    (victim,) = [pid for pid in counted.processes(f"kd train results/{CELL} ") if is_python(pid)]
    os.kill(victim, signal.SIGKILL)
    lock = counted.folder / "state" / CELL / "lock"
    note = attempts.last_attempt(lock)
    assert note["pid"] == victim
    assert "ended" not in note
    assert running.wait(300) == 0
    said = (counted.folder / "started.log").read_text()
    assert "\nkd: killed (137), most often for lack of memory; the next attempt goes on from the saved state\n" in said
    assert len(counted.epochs) == 25
    assert counted.epochs["resnet14.ce.s0", "1"] == 1
    assert attempts.last_attempt(lock) is None


def is_python(pid: int) -> bool:
    return "python" in Path(f"/proc/{pid}/exe").readlink().name


@pytest.mark.slow
@pytest.mark.parametrize("change", ["loss", "tau"])
def test_without_snakemake_s_records_a_change_still_reaches_the_table(done: Project, change: str) -> None:
    """Fault 36: never a table with stale numbers."""
    for record in (done.folder / ".snakemake" / "metadata").rglob("*"):
        if record.is_file():
            record.write_text('{"')
    table = done.folder / "reports" / "small" / "table.csv"
    before, old = done.published(), table.read_text()
    if change == "loss":
        done.edit("kd/losses/kl.py", "def kl(", "def kl(*a, **k):\n    return 2 * _kl(*a, **k)\n\n\ndef _kl(")
    else:
        done.study(with_losses("ce", {"kl": {"tau": [5]}}, "mse"))
    done.run()
    new = {name.replace("tau3", "tau5") for name in KL3} if change == "tau" else KL3
    assert changed(before, done.published()) == new
    rows = {line for line in table.read_text().splitlines() if ",kl," in line}
    assert len(rows) == 2
    assert not rows & set(old.splitlines())


@pytest.mark.slow
def test_times_from_the_future_and_the_past_retrain_and_delete_nothing(done: Project) -> None:
    """Fault 41: a clock that was wrong costs a look at what is there."""
    before = done.published()
    cells = sorted(before)
    trained = {name: (done.folder / "results" / name / "model.safetensors").stat().st_ino for name in cells}
    for when, name in (("+2 days", cells[-1]), ("-2 years", cells[0]), ("-1 year", cells[1])):
        for path in (done.folder / "results" / name).glob("*.*"):
            if path.is_file():
                subprocess.run(["touch", "-d", when, str(path)], check=True)
    subprocess.run(["touch", "-d", "+2 days", str(done.folder / "data/digits/manifest.json")], check=True)
    done.run()
    assert done.published() == before
    assert trained == {name: (done.folder / "results" / name / "model.safetensors").stat().st_ino for name in cells}


@pytest.mark.slow
def test_results_that_another_machine_sees_seconds_late_are_waited_for(counted: Counted) -> None:
    """Fault 42: with latency-wait, as for SLURM; Snakemake waits for the stamp, and the next jobs for the result."""
    teacher = f"results/{CELL}"
    hide = f"if [ {{output.stamp:q}} = {{STAMPS}}/{teacher}.stamp ]; then mv {{output.stamp:q}} {teacher} late; "
    show = f"(sleep 2; mv late/*.stamp {{output.stamp:q}}; sleep 2; mv late/* {Path(teacher).parent}) & fi"
    counted.edit("workflow/rules/train.smk", "&>> {log:q} ||", f"&>> {{log:q}} && {hide}{show} ||")
    (counted.folder / "late").mkdir()
    counted.study({**with_losses("mse"), "seeds": [0], "protocol": {**LONG, "epochs": 2}})
    counted.run("students", "--latency-wait", "20")
    assert set(counted.published()) == {CELL, f"{CELL}/resnet8.mse.s0"}
    assert counted.epochs.total() == 4
    assert "Nothing to be done" in counted.run("students")


@pytest.mark.slow
def test_a_job_that_fails_after_its_cell_was_published_leaves_the_new_result(done: Project) -> None:
    """Fault 35, at its worst moment: Snakemake puts nothing old in the place of what kd published."""
    done.change("kd/losses/kl.py")
    done.edit("workflow/rules/train.smk", "&>> {log:q} ||", "&>> {log:q} && exit 1 ||")
    cell, before = sorted(KL3)[0], done.published()
    done.run(f"results/{cell}/manifest.json", code=1)
    after = done.published()
    assert changed(before, after) == {cell}
    assert files.verified(done.folder / "results" / cell)
    shutil.copy(ROOT / "workflow" / "rules" / "train.smk", done.folder / "workflow" / "rules" / "train.smk")
    done.run(f"results/{cell}/manifest.json")
    assert done.published() == after


# -- storms -----------------------------------------------------------------------------------------------------------


def train_one_after_the_other(folder: str, begun: Callable[[], object]) -> None:
    """Train resnet8 at seeds 0, 1, 2, ... and save the state twenty times a second."""
    os.chdir(folder)
    torch.set_num_threads(1)
    state._PATIENCE_SECONDS = 0.05
    load = state.State.load
    state.State.load = lambda kept: (load(kept), begun())[0]  # training goes on from here
    for seed in itertools.count():
        cell = f"results/digits/quick/resnet8.ce.s{seed}"
        if not Path(cell, "manifest.json").exists():
            assert main(["train", cell]) == 0


@pytest.mark.slow
def test_a_storm_of_kills_changes_no_byte(tmp_path: Path, undisturbed: Path) -> None:
    """Faults 1, 2 and 16 together: killed at 80 random moments, between two steps or two writes or two renames."""
    shutil.copytree(undisturbed / "data", tmp_path / "data")
    longer = {**STUDY, "protocol": {**STUDY["protocol"], "epochs": 10}}
    (tmp_path / "config.yaml").write_text(json.dumps(longer))
    code = (
        "import sys, test_faults as t; import kd.losses.hard, kd.models.resnet_cifar\n"
        "t.kill_again_and_again(80, 0.3, lambda begun: t.train_one_after_the_other(sys.argv[1], begun))"
    )
    run = fresh(code, str(tmp_path))
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stderr.count("going on from epoch") > 40
    disturbed = [path.relative_to(tmp_path / "state") for path in (tmp_path / "state/digits/quick").iterdir()]
    with contextlib.chdir(tmp_path):
        assert all(main(["train", f"results/{cell}"]) == 0 for cell in disturbed)  # the last has not ended
    calm = tmp_path / "calm"
    calm.mkdir()
    for name in ("data", "config.yaml"):
        (calm / name).symlink_to(tmp_path / name)
    with contextlib.chdir(calm):
        for cell in disturbed:
            assert main(["train", f"results/{cell}"]) == 0
            assert content(calm, f"results/{cell}") == content(tmp_path, f"results/{cell}")


@pytest.mark.slow
def test_kills_of_the_command_itself_change_no_byte(tmp_path: Path, undisturbed: Path) -> None:
    """Faults 1 and 12: `kd train` as Snakemake calls it, killed five times."""
    for tree in ("config.yaml", "data"):
        take = shutil.copytree if (undisturbed / tree).is_dir() else shutil.copy
        take(undisturbed / tree, tmp_path / tree)
    command = [sys.executable, "-m", "kd", "train", TEACHER]
    generator, kills = random.Random(0), 0
    while not (tmp_path / TEACHER / "manifest.json").exists():
        running = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
        for line in running.stderr:
            if "cross-entropy" in line and kills < 5:  # the start is over: now within the first epoch, and what follows
                time.sleep(generator.uniform(0, 0.5))
                running.kill()
        kills += running.wait() != 0
    assert kills >= 1
    assert content(tmp_path) == content(undisturbed)


# -- the list ---------------------------------------------------------------------------------------------------------


def test_every_fault_of_the_list_has_its_test() -> None:
    """Count the numbers that the tests bear."""
    numbers = set()
    for path in Path(__file__).parent.rglob("*.py"):
        for spelled in re.findall(r"[Ff]aults? (\d+(?:(?: to |, and | and |, )\d+)*)", path.read_text()):
            numbers |= spelled_numbers(spelled)
    missing = sorted(set(range(1, 59)) - numbers)
    assert not missing, f"no test bears these numbers of the list of faults: {missing}"


def spelled_numbers(text: str) -> set[int]:
    """Return the numbers of "3", "9 and 10" or "16 to 19"."""
    numbers = {int(number) for number in re.findall(r"\d+", text)}
    for first, last in re.findall(r"(\d+) to (\d+)", text):
        numbers |= set(range(int(first), int(last) + 1))
    return numbers
