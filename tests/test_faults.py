"""Every fault that a run must survive, injected for real: kills, full and read-only disks, damage, racing controllers.

Numbers are those of the list of faults. What another file tests bears its number there; the last test counts them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import Tensor

from kd import attempts, files, losses, stages, state
from kd.__main__ import main

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
            patch.setattr(stages, "_objective", lambda cell: Meanwhile(step, act))
            yield

    return patched


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path, size: str) -> None:
        self.path, self._ballast = path, path / "ballast"
        path.mkdir(exist_ok=True)
        self._mount("tmpfs", "-t", "tmpfs", "-o", f"size={size}")

    def fill(self, but: int = 0) -> None:
        """Leave only `but` bytes free."""
        free = shutil.disk_usage(self.path).free
        with open(self._ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - but)

    def make_space(self) -> None:
        self._ballast.unlink()

    def read_only(self, yes: bool = True) -> None:
        self._mount("-o", f"remount,{'ro' if yes else 'rw'}")

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, str(self.path)], check=True)


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


# -- disks ------------------------------------------------------------------------------------------------------------


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


def test_a_disk_that_is_full_with_two_generations_on_it_takes_the_next_in_place_of_the_older(
    undisturbed: Path, small: Path, disk, meanwhile, monkeypatch
) -> None:
    """Fault 5: what was room enough at the start is room enough to the end."""
    full = disk("state", "3m")
    monkeypatch.setattr(state, "_PATIENCE_SECONDS", 0.0)
    with meanwhile(3, full.fill):
        assert main(["train", TEACHER]) == 0
    assert content(small) == content(undisturbed)


def test_a_disk_that_fills_before_the_results_are_written_has_nothing_torn_and_no_epoch_is_trained_twice(
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


def test_another_user_s_folder_is_one_clear_error(small: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fault 8: permissions, met by a user who is not root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    code = (
        "import os, sys; from kd.__main__ import main; import kd.stages; os.chdir(sys.argv[1]);"
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
def test_what_is_damaged_is_refused_by_name_and_doing_what_the_message_says_rebuilds_it(
    undisturbed: Path, project: Path, victim: str, rebuild: list[str], damage: str, capsys
) -> None:
    """Faults 9 to 11: a flipped bit, a truncated, an empty and a deleted file, of a teacher and of prepared data."""
    for tree in ("config.yaml", "data", "results"):
        take = shutil.copytree if (undisturbed / tree).is_dir() else shutil.copy
        take(undisturbed / tree, project / tree)
    whole = Path(victim).read_bytes()
    DAMAGE[damage](Path(victim))
    assert main(["train", STUDENT]) == 74
    said = capsys.readouterr().err
    assert said.startswith(f"kd: {victim}: damaged: ")
    assert not Path(STUDENT).exists()
    Path(re.search(r"; remove (\S+) and run snakemake, or the kd verb that makes it", said)[1]).unlink()
    assert main(rebuild) == 0
    assert Path(victim).read_bytes() == whole
    assert main(["train", STUDENT]) == 0


# -- memory and workers -----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("mebibytes", [0, 2, 20])
def test_a_limit_on_memory_is_met_with_exit_137_one_line_and_a_note(small: Path, mebibytes: int) -> None:
    """Fault 12: ulimit -v, hit while data is opened, a network built or a step taken."""
    code = (
        "import resource, sys; import kd.stages; from kd.__main__ import main;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2);"
        "sys.exit(main(['train', sys.argv[2]]))"
    )
    run = fresh(code, str(mebibytes), TEACHER)
    assert run.returncode == 137, run.stderr
    assert run.stderr.splitlines()[-1].startswith("kd: out of memory: ")
    assert "Traceback" not in run.stderr
    assert attempts.last_attempt(Path("state", *Path(TEACHER).parts[1:], "lock"))["exit"] == 137


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
    assert children == before


def test_an_image_that_cannot_be_decoded_in_a_thread_stops_the_preparation_by_name(project: Path, capsys) -> None:
    """Fault 13: of the threads that do exist, those that decode an image folder."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            Path("images", split, name).mkdir(parents=True)
            for number in range(20):
                image = Image.new("RGB", (8, 8), (number, 2 * number, 9 * number))
                image.save(Path("images", split, name, f"{number}.png"))
    whole = Path("images/train/dog/7.png").read_bytes()
    Path("images/train/dog/7.png").write_bytes(whole[: len(whole) // 2])
    declared = {"mine": {"folder": "images", "size": 8}}
    Path("config.yaml").write_text(json.dumps({**STUDY, "dataset": "mine", "datasets": declared}))
    assert main(["data", "mine"]) == 2
    assert "kd: images/train/dog/7.png: cannot read this image" in capsys.readouterr().err
    assert not Path("data/mine/manifest.json").exists()
    Path("images/train/dog/7.png").write_bytes(whole)
    assert main(["data", "mine"]) == 0
