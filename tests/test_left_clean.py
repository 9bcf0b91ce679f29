"""Nothing is left behind: no tracebacks of full disks, no files of dead writers, no folder that a group cannot use."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from made.project import SMALL

from kd.__main__ import main
from kd.core import files
from kd.core.attempts import at_work
from kd.core.errors import StorageError
from kd.jobs import train
from kd.study import stamps
from kd.study.judge import Judge
from kd.study.leftovers import states

TEACHER = "results/digits/quick/resnet14.ce.s0"
ALONE = "results/digits/quick/resnet8.ce.s0"
STUDY = {
    **SMALL,
    "seeds": 0,
    "experiments": {"a": {"teacher": "resnet14", "student": "resnet8", "loss": ["ce", "mse"], "figure": "dots"}},
}
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and become another user")


def project_of(study: dict) -> None:
    for part in ("Snakefile", "workflow", "profiles", "kd"):
        Path(part).symlink_to(ROOT / part)
    Path("config.yaml").write_text(yaml.safe_dump(study))


@pytest.fixture
def small(project: Path) -> Path:
    project_of(STUDY)
    assert main(["data", "digits"]) == 0
    return project


def kd(*arguments: str, **more: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KD_DEVICE": "cpu", **more}
    command = [sys.executable, "-m", "kd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


# -- full disks -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of which all is made but what is drawn and summed up."""
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(folder):
        project_of(STUDY)
        torch.set_num_threads(1)
        assert main(["data", "digits"]) == 0
        for cell in (TEACHER, ALONE, f"{TEACHER}/resnet8.mse.s0"):
            assert main(["train", cell]) == 0
    return folder


@pytest.fixture
def reports(finished: Path, project: Path) -> Iterator[Path]:
    """The study's reports on a disk of their own of 8 MB."""
    shutil.copytree(finished, project, symlinks=True, dirs_exist_ok=True)
    folder = project / "reports"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


VERBS = (
    ["collect"],
    ["figure", "reports/small/table.parquet", "a", "dots"],
    ["tables", "reports/small/table.parquet"],
    ["verdict", "reports/small/table.parquet"],
    ["report"],
)


@ROOT_ONLY
@pytest.mark.slow
def test_a_disk_that_is_full_anywhere_in_a_verb_is_one_line_and_leaves_nothing(reports: Path, capsys) -> None:
    """Also in the middle of a picture: matplotlib's PDF hides what the disk said."""
    study = ["--config", "seeds=0"]
    for verb in VERBS:
        for free in (0, 4096, 8192, 16384, 32768, 65536, 131072):
            ballast = reports / "ballast"
            with open(ballast, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(reports).free - free)
            code = main([*verb, *study])
            said = capsys.readouterr().err
            ballast.unlink()
            assert code in (0, 74), (verb, free, said)
            if code:
                assert "No space left on device" in said
                assert said.count("\n") == 1
                assert not list(reports.rglob(".tmp-*"))
        assert main([*verb, *study]) == 0


@pytest.mark.slow
@ROOT_ONLY
def test_a_log_on_a_full_disk_changes_no_exit_code(small: Path) -> None:
    with open("/dev/full", "w") as full:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for verb, code in ((["train", ALONE], 0), (["train", "results/no/cell"], 2)):
            command = [sys.executable, "-m", "kd", *verb]
            assert subprocess.run(command, stdout=full, stderr=full, env=environment).returncode == code


# -- leftovers --------------------------------------------------------------------------------------------------------


def dead(path: Path) -> Path:
    """Leave what a writer on another machine that died would leave."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = path.with_name(f".tmp-elsewhere-1234-{path.name}")
    left.write_bytes(b"half")
    return left


def test_what_dead_writers_left_goes_with_the_next_who_comes_by(small: Path) -> None:
    state = Path("state/digits/quick/resnet14.ce.s0")
    left = [
        dead(Path(TEACHER, "model.safetensors")),
        dead(state / "lock.json"),
        dead(state / "run-0123456789ab/last.pt"),
    ]
    others = dead(state / "bank.lock.json")  # whoever holds that lock may be writing it
    assert main(["train", TEACHER]) == 0
    assert not [path for path in left if path.exists()]
    assert others.exists()
    with at_work(state / "bank.lock"):
        assert not others.exists()


def test_two_machines_never_write_under_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for host in ("a", "b"):
        monkeypatch.setattr(files, "_HOST", host)
        names.add(files.pending_name(Path("table.csv")))
    assert len(names) == 2


def test_room_is_asked_for_whatever_other_runs_have_saved(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(files, "demand", lambda path, needed: asked.append(needed))
    assert main(["train", TEACHER]) == 0
    shutil.rmtree(TEACHER)
    other = Path("state/digits/quick/resnet14.ce.s0/run-0123456789ab/last.pt")
    other.parent.mkdir()
    other.write_bytes(bytes(10_000_000))
    assert main(["train", TEACHER]) == 0
    assert asked[:2] == asked[2:]


@pytest.mark.parametrize("how", ["kd train", "snakemake"])
def test_the_state_of_a_cell_that_died_once_it_was_published_goes(small: Path, how: str, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train, "forget_states", lambda product: None)  # where it died
        assert main(["train", TEACHER]) == 0
    judge = Judge.of_study(stages_study())
    network = next(one for one in judge.everything if one.name == TEACHER)
    assert len(states(network)) == 1
    other = network.lock.parent / "run-0123456789ab"  # of who may change back
    other.mkdir()
    if how == "kd train":
        assert main(["train", TEACHER]) == 0
    else:
        stamps.project(judge, stamps.question({}))
    assert states(network) == [other]


def stages_study() -> object:
    from kd.study.config import validate

    return validate(STUDY)


# -- groups -----------------------------------------------------------------------------------------------------------

GROUP = 3000


# Root's own Python, which others may not read, is made readable to those who are started here, and to no one else.
OPEN = """
mkdir -p "$2" && mount --bind "$1" "$2"
mount -t tmpfs -o mode=755 tmpfs /root && mkdir -p "$1" && mount --move "$2" "$1"
shift 2; exec "$@"
"""


def as_user(user: int, *command: str) -> subprocess.CompletedProcess:
    """Run a command as another user of the group, who shares files with it."""
    base = Path(sys.base_prefix).resolve()
    opened = ["unshare", "--mount", "bash", "-ec", OPEN, "bash", str(base), f"{Path.cwd()}/python"]
    shared = ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={GROUP}"]
    shared += ["bash", "-c", 'umask 002; exec "$@"', "bash"]
    environment = {**os.environ, "HOME": f"{Path.cwd()}/home{user}", "PYTHONPATH": str(ROOT), "KD_DEVICE": "cpu"}
    environment["LOGNAME"] = f"user{user}"  # Snakemake asks, and no list of users knows
    whole = [*(opened if base.is_relative_to("/root") else []), *shared, *command]
    return subprocess.run(whole, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a group, in which whatever is made is the group's; pytest's own folders are root's alone."""
    with tempfile.TemporaryDirectory(prefix="kd-group-") as folder:
        monkeypatch.chdir(folder)
        project_of(STUDY)
        os.chmod("config.yaml", 0o664)
        os.chown("config.yaml", 0, GROUP)
        for user in (2001, 2002):
            Path(f"home{user}").mkdir()
            os.chown(f"home{user}", user, user)
        os.chown(".", 0, GROUP)
        os.chmod(".", 0o2775)
        tried = as_user(2001, sys.executable, "-c", "import kd, torch")
        if tried.returncode:
            pytest.skip(f"another user cannot start this Python: {tried.stderr}")
        yield Path(folder)
        monkeypatch.undo()


@ROOT_ONLY
@pytest.mark.slow
def test_two_users_of_a_group_work_in_one_folder_and_are_told_the_same(shared: Path) -> None:
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "2"]
    first = as_user(2001, *snakemake, "teachers")
    assert first.returncode == 0, first.stderr
    second = as_user(2002, *snakemake)
    assert second.returncode == 0, second.stderr
    said = [as_user(user, sys.executable, "-m", "kd", "status") for user in (2001, 2002)]
    assert said[0].stdout == said[1].stdout
    assert re.search(r"done +3\n", said[0].stdout)
    again = as_user(2001, *snakemake, "--config", "seeds=[0,1]")
    assert again.returncode == 0, again.stderr
    for stamp in Path(stamps.TOP).rglob("*.stamp"):
        os.utime(stamp, (99, 99))
    assert as_user(2002, *snakemake, "--config", "seeds=[0,1]").returncode == 0
    closed = [path for path in Path("state").rglob("*") if not path.stat().st_mode & 0o020]
    assert not closed


@ROOT_ONLY
@pytest.mark.slow
def test_another_user_sees_what_is_in_training(shared: Path) -> None:
    with files.lock(Path("state/digits/quick/resnet8.ce.s0/lock")):
        files.write_atomic(
            Path("state/digits/quick/resnet8.ce.s0/lock.json"),
            json.dumps({"began": 0, "host": "here", "pid": 1, "slurm_job": None}).encode(),
        )
        for user in (2001, 2002):
            assert re.search(r"running +1\n", as_user(user, sys.executable, "-m", "kd", "status").stdout)


def test_who_may_not_read_a_folder_of_locks_is_told_in_one_line(small: Path, capsys) -> None:
    Path("state/data/digits.lock").unlink()
    Path("state/data/digits.lock").mkdir()
    with pytest.raises(StorageError), files.lock(Path("state/data/digits.lock")):
        pass


# -- locales ----------------------------------------------------------------------------------------------------------


def latin1(folder: Path) -> dict[str, str]:
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / "de_DE.ISO-8859-1")], capture_output=True
    )
    if not (folder / "de_DE.ISO-8859-1").exists():
        pytest.skip(f"no Latin-1 locale can be made: {made.stderr}")
    return {"LOCPATH": str(folder), "LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0"}


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_all_is_read_and_written_as_utf_8_whatever_the_locale(finished: Path, project: Path) -> None:
    """To ASCII most bytes are no characters; to Latin-1 all are, but others."""
    shutil.copytree(finished, project, symlinks=True, dirs_exist_ok=True)
    for verb in VERBS:
        assert main([*verb, "--config", "seeds=0"]) == 0
    before = {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()}
    for verb in (*VERBS, ["status"], ["verify"], ["plan"]):
        config = [] if verb == ["verify"] else ["--config", "seeds=0"]
        done = kd(*verb, *config, **ASCII)
        assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()} == before
    shutil.rmtree("reports")
    environment = latin1(project)
    for verb in VERBS:
        assert kd(*verb, "--config", "seeds=0", **environment).returncode == 0
    assert {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_snakemake_finds_nothing_to_do_in_another_locale(finished: Path, project: Path) -> None:
    shutil.copytree(finished, project, symlinks=True, dirs_exist_ok=True)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", "seeds=0"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    again = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ASCII})
    assert again.returncode == 0, again.stderr
    assert "Nothing to be done" in again.stderr


def test_a_folder_with_a_name_of_any_script_is_read_in_any_locale(project: Path) -> None:
    from made.imagenet import made_imagenet

    made_imagenet(project / "Bilder-ü-图")
    study = {**STUDY, "dataset": "mine", "datasets": {"mine": {"folder": "Bilder-ü-图", "size": 8, "convert": "rgb"}}}
    Path("config.yaml").write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    done = kd("data", "mine", **ASCII)
    assert done.returncode == 0, done.stderr
