"""Nothing waits deaf: SIGTERM and SIGINT end whatever waits or computes, and what could be waited for is refused."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, read_until
from made.fitting import made_examples, plan, run, same
from made.imagenet import PROTOCOL, made_imagenet
from made.project import SMALL

from kd.__main__ import main
from kd.core import files, signals
from kd.core.attempts import last_attempt
from kd.core.errors import DataError, Terminated, understood
from kd.core.threads import each
from kd.data.arrays import open_dataset
from kd.data.examples import Examples
from kd.data.folder import files_of, image_folder
from kd.data.noise import from_file
from kd.data.streamed import Stream

CELL = "results/digits/quick/resnet8.ce.s0"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), "KD_DEVICE": "cpu"}
SOON = 60  # seconds on a machine that does much else; what is waited for here would never come
BOTH = pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])


def started(*command: str) -> subprocess.Popen:
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(running: subprocess.Popen) -> tuple[int, str]:
    """Return the code that a shell would see, and what was said meanwhile."""
    said, _ = running.communicate(timeout=SOON)
    return (128 - running.returncode if running.returncode < 0 else running.returncode), said


# -- a process --------------------------------------------------------------------------------------------------------


def verb(body: str) -> subprocess.Popen:
    """Start a command whose verb does this, and wait until it says that it is there."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    code = f"""
import ctypes, threading, time
import kd.__main__ as command
from kd.core import attempts, signals, threads
def schema(options):
    "Do what a test wants."
{lines}
command.look.schema = schema
command.main()
"""
    running = started(sys.executable, "-c", code, "schema")
    read_until(running, "now")
    return running


@pytest.mark.slow
@BOTH
def test_a_signal_at_any_moment_of_a_start_ends_it(project: Path, number: int, code: int) -> None:
    study = {**SMALL, "seeds": 0, "protocol": {**SMALL["protocol"], "epochs": 10_000}}
    Path("config.yaml").write_text(yaml.safe_dump(study))
    assert main(["data", "digits"]) == 0
    begin = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); print('now', flush=True); "
    begin += "import runpy; runpy.run_module('kd', run_name='__main__')"  # before that Python has ways of its own
    for moment in (0.0, 0.1, 0.3, 0.5, 0.8, 1.1, 1.5, 2, 3, 4):
        running = started(sys.executable, "-c", begin, "train", CELL)
        read_until(running, "now")
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(moment)
        running.send_signal(number)
        got, said = ended(running)
        assert "Traceback" not in said, (moment, said)
        assert got == code, (moment, said)


@BOTH
def test_a_signal_in_an_import_ends_the_process_without_raising_through_it(
    project: Path, number: int, code: int
) -> None:
    """C++ code that imports aborts the process (134) when something is raised through it."""
    lines = "import time", "try:", "    print('now', flush=True)", "    time.sleep(3600)"
    Path("slow_to_import.py").write_text(
        "\n".join([*lines, "except BaseException:", "    print('raised', flush=True)"])
    )
    running = verb("import sys; sys.path.insert(0, ''); import slow_to_import")
    running.send_signal(number)
    got, said = ended(running)
    assert (got, said.count("raised"), said.count(f"kd: signal {number}: ")) == (code, 0, 1)


@pytest.mark.slow
def test_a_signal_that_is_swallowed_comes_again(project: Path) -> None:
    running = verb("""
try:
    print("now", flush=True)
    time.sleep(3600)
except BaseException:
    print("swallowed", flush=True)
threading.Event().wait()
""")
    running.send_signal(signal.SIGTERM)
    got, said = ended(running)
    assert (got, said.count("swallowed"), said.count("kd: signal 15: terminated")) == (143, 1, 1)


@pytest.mark.parametrize(
    "what",
    ["AttributeError(\"module 'numpy' has no attribute 'matrix'\")", 'command.Damaged("a file: it has changed")'],
)
def test_what_fails_because_a_signal_was_swallowed_is_that_signal(project: Path, what: str) -> None:
    running = verb(f"""
try:
    print("now", flush=True)
    time.sleep(3600)
except BaseException:  # as C code does that imports what it may lack
    pass
raise {what}
""")
    running.send_signal(signal.SIGTERM)
    got, said = ended(running)
    assert (got, said) == (143, "kd: signal 15: terminated; the same command goes on from there\n")


@pytest.mark.parametrize(
    "hangs",
    [
        # in C, as a collective does whose peers are gone: no handler runs
        "mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock; lock(mutex); lock(mutex)",
        # where what was raised is being cleaned up after
        "try: threading.Event().wait()\n    finally: threading.Event().wait()",
    ],
    ids=["in C", "while cleaning up"],
)
def test_what_no_exception_ends_is_ended_and_leaves_a_note(project: Path, hangs: str) -> None:
    running = verb(f"""
signals.GRACE = 3.0
with attempts.at_work(attempts.Path("state/x/lock")):
    print("now", flush=True)
    {hangs}
""")
    running.send_signal(signal.SIGTERM)
    got, said = ended(running)
    assert got == 143
    assert "kd: signal 15: terminated" in said
    assert last_attempt(Path("state/x/lock"))["exit"] == 143
    assert not files.is_locked(Path("state/x/lock"))


@BOTH
def test_a_signal_ends_the_wait_for_a_lock(project: Path, number: int, code: int) -> None:
    lock = Path("state/x/lock")
    with files.lock(lock):
        running = verb("""
print("now", flush=True)
with attempts.at_work(attempts.Path("state/x/lock")): pass
""")
        wait_until_asked_for(running.pid, lock)
        running.send_signal(number)
        got, said = ended(running)
    assert got == code
    assert "Traceback" not in said


def wait_until_asked_for(pid: int, lock: Path) -> None:
    """Wait until a process waits for a lock."""
    deadline = time.monotonic() + SOON
    waiting = re.compile(rf"-> FLOCK .* {pid} .*:{lock.stat().st_ino} ")
    while not waiting.search(Path("/proc/locks").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_training_in_another_thread_is_possible_and_hears_no_signal() -> None:
    heard: list[list[int]] = []

    def train() -> None:
        with signals.noted() as arrived, signals.saving():
            heard.append(arrived)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert heard == [[]]


def test_a_signal_ends_the_wait_for_threads_that_hang(project: Path) -> None:
    running = verb("""
print("now", flush=True)
threads.each(lambda event: event.wait(), [threading.Event() for _ in range(100)], 2)
""")
    running.send_signal(signal.SIGTERM)
    got, said = ended(running)
    assert got == 143
    assert "Traceback" not in said


def test_what_threads_have_not_begun_is_not_begun_once_one_failed() -> None:
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        raise DataError("no")

    with pytest.raises(DataError):
        each(fail, range(10_000), 1)
    assert len(begun) < 10_000


def test_what_a_library_makes_of_a_signal_is_still_a_signal() -> None:
    stop, made = Terminated(15, "terminated"), ImportError("no module")
    made.__context__ = stop
    assert understood(made) is stop
    assert not isinstance(stop, Exception)


# -- training ---------------------------------------------------------------------------------------------------------

TRAIN = """
import ctypes, threading, time
from kd import losses
from kd.core import signals
from kd.losses.objective import Pure
from kd.train import lesson
from kd.machine import state
from kd.__main__ import main
calls, ce = [], losses.LOSSES["ce"].function
def waits(student, teacher, labels):
    calls.append(1)
    if len(calls) == 40:  # in epoch 3
        print("now", flush=True)
        at_step_40()
    return ce(student, teacher, labels)
lesson.objective_of = lambda *_: Pure(waits)
def at_step_40():
    pass
{}
main()
"""


@pytest.fixture
def small(project: Path) -> Path:
    study = {**SMALL, "seeds": 0, "protocol": {**SMALL["protocol"], "epochs": 4}}
    Path("config.yaml").write_text(yaml.safe_dump(study))
    assert main(["data", "digits"]) == 0
    return project


def stopped(body: str, *arguments: str) -> tuple[int, str]:
    """Train until a step waits, send SIGTERM, and return how that ended."""
    running = started(sys.executable, "-c", TRAIN.format(body), "train", CELL, *arguments)
    read_until(running, "now")
    running.send_signal(signal.SIGTERM)
    return ended(running)


@pytest.mark.slow
@pytest.mark.parametrize(
    "hangs",
    [
        "threading.Event().wait()",
        "mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock; lock(mutex); lock(mutex)",
    ],
    ids=["in Python", "in C"],
)
def test_a_step_that_does_not_end_is_ended_and_what_was_saved_stays(small: Path, hangs: str) -> None:
    got, said = stopped(f"signals.PATIENCE, signals.GRACE = 2.0, 3.0\ndef at_step_40(): {hangs}")
    assert got == 143, said
    assert "no step ended within 2 s; the state that was saved before stays" in said
    assert main(["status"]) == 0
    got, said = ended(started(sys.executable, "-m", "kd", "train", CELL))
    assert re.search(r"going on from epoch [23], step 1\n", said)  # as often as saving is worth it
    assert got == 0


@pytest.mark.slow
def test_a_state_that_takes_long_to_be_saved_is_waited_for(small: Path) -> None:
    got, said = stopped("""
signals.PATIENCE, signals.GRACE = 1.0, 1.0
save = state.State.save
state.State.save = lambda *of: (time.sleep(6), save(*of)) if len(calls) == 40 else save(*of)
""")
    assert got == 143, said
    assert "stopped in epoch 3, step 10, the state is saved" in said


def test_a_signal_while_a_network_is_evaluated_stops_it_and_changes_no_byte(tmp_path: Path, monkeypatch) -> None:
    asked, plain = [], Examples.plain

    def stopping(*of: object) -> object:
        asked.append(1)
        if len(asked) == 3:  # in epoch 2, before what is held out
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*of)

    straight = run(tmp_path / "straight", plan(), made_examples(400, heldout=300))
    with monkeypatch.context() as patch:
        patch.setattr(Examples, "plain", stopping)
        with pytest.raises(Terminated, match="in epoch 2, step 7, the state is saved"):
            run(tmp_path / "stopped", plan(), made_examples(400, heldout=300))
    weights, rows = run(tmp_path / "stopped", plan(), made_examples(400, heldout=300))
    assert same(weights, straight[0])
    assert rows == straight[1]


# -- shared memory ----------------------------------------------------------------------------------------------------


@pytest.fixture
def streamed(project: Path) -> Path:
    """A study of 330 images of 112 x 112, in batches of 2.4 MB."""
    folder = made_imagenet(project / "imagenet")
    for image in list(folder.rglob("*.JPEG")):
        for number in range(10 if "train" in image.parts else 1):
            shutil.copy(image, image.with_name(f"{image.stem}x{number}.JPEG"))
    study = {
        **SMALL,
        "dataset": "mine",
        "datasets": {"mine": {"folder": "imagenet", "size": 112, "streamed": True}},
        "protocol": {**PROTOCOL, "name": "quick", "batch": 64, "epochs": 1},
        "seeds": 0,
        "experiments": {"a": {"student": "resnet8", "loss": "ce"}},
    }
    Path("config.yaml").write_text(yaml.safe_dump(study))
    assert main(["data", "mine"]) == 0
    return project


def with_shared_memory(size: str, *command: str) -> subprocess.Popen:
    """Start a command in a mount namespace of its own, in which /dev/shm has this size."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    mounted = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    return started("unshare", "--mount", "bash", "-c", mounted, "bash", *command)


TRAIN_STREAMED = ["train", "results/mine/quick/resnet8.ce.s0", "--workers", "2", "--threads", "3"]


@pytest.mark.slow
def test_a_shared_memory_too_small_for_workers_is_refused_before_the_first_batch(streamed: Path) -> None:
    got, said = ended(with_shared_memory("4m", sys.executable, "-m", "kd", *TRAIN_STREAMED))
    assert got == 74, said
    assert re.search(
        r"kd: /dev/shm: the images of 2 workers need [\d,]+ bytes of shared memory, 4,194,304 bytes are free; "
        r"enlarge it \(docker run --shm-size=1g\), or set fewer workers\n",
        said,
    ), said
    assert not left_running()


@pytest.mark.slow
def test_a_shared_memory_that_fills_up_meanwhile_is_said_too(streamed: Path) -> None:
    code = """
from kd.data import streamed
from kd.__main__ import main
streamed._free_shared_memory = lambda: 1 << 40
main()
"""
    got, said = ended(with_shared_memory("4m", sys.executable, "-c", code, *TRAIN_STREAMED))
    assert got == 74, said
    assert "kd: /dev/shm: the images of 2 workers need 2,408,448 bytes of shared memory" in said
    assert not left_running()


@pytest.mark.slow
def test_a_shared_memory_that_suffices_is_enough(streamed: Path) -> None:
    got, said = ended(with_shared_memory("64m", sys.executable, "-m", "kd", *TRAIN_STREAMED))
    assert got == 0, said


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, 137)])
def test_a_signal_ends_the_wait_for_images_and_those_who_decode(streamed: Path, number: int, code: int) -> None:
    running = started(
        sys.executable,
        "-c",
        """
import threading
from kd.core import signals
from kd.data import streamed
from kd.__main__ import main
signals.PATIENCE = 2.0
def hangs(reader, request):
    print("now", flush=True)
    threading.Event().wait()
streamed.Reader.__getitem__ = hangs
main()
""",
        *TRAIN_STREAMED,
    )
    read_until(running, "now")
    running.send_signal(number)
    got, said = ended(running)
    assert got == code, said
    assert "Traceback" not in said
    deadline = time.monotonic() + SOON
    while left_running():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def left_running() -> list[str]:
    """Return the processes that work in this folder, but for this one."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(one / "cwd") == os.getcwd() and int(one.name) != os.getpid():
                found.append((one / "cmdline").read_text())
    return found


# -- what is no file --------------------------------------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as bound:  # names of sockets are short
        bound.bind(path.name)


def device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make one")
    os.mknod(path, 0o600 | 0o20000, os.makedev(1, 5))


def symlink(path: Path) -> None:
    os.mkfifo(path.parent.parent / "pipe")
    path.symlink_to("../pipe")


ODD = pytest.mark.parametrize(
    ("make", "kind"),
    [(fifo, "a FIFO"), (unix_socket, "a socket"), (device, "a device"), (symlink, "a FIFO")],
    ids=["fifo", "socket", "device", "symlink"],
)
Make = Callable[[Path], None]


@ODD
@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_no_file_is_refused_by_name_in_a_folder_of_images(
    tmp_path: Path, make: Make, kind: str, streamed: bool
) -> None:
    folder = made_imagenet(tmp_path / "imagenet")
    odd = next(path for path in folder.rglob("train/*") if path.is_dir()) / "a.jpg"
    make(odd)
    for read in (lambda: image_folder(folder, 8, "rgb", streamed), lambda: files_of(folder)):
        with pytest.raises(DataError, match=f"{re.escape(str(odd))}: not a file but {kind}; replace or remove it"):
            read()


def test_an_image_that_became_a_fifo_after_it_was_listed_is_refused_by_name(streamed: Path) -> None:
    image = sorted(Path("imagenet").rglob("val/*/*.JPEG"))[0]
    image.unlink()
    os.mkfifo(image)
    stream = Stream(open_dataset(Path("data/mine")), None)
    with pytest.raises(DataError, match=rf"{image.name}: cannot read this image: .*not a regular file \(a FIFO\)"):
        list(stream.read([("test", np.arange(1), None)], torch.device("cpu")))


@ODD
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".txt"])
def test_what_is_no_file_is_refused_as_labels(tmp_path: Path, make: Make, kind: str, suffix: str) -> None:
    odd = tmp_path / "folder" / f"labels{suffix}"
    odd.parent.mkdir()
    make(odd)
    with pytest.raises(DataError, match=rf"{re.escape(str(odd))}: cannot read labels: .*not a regular file"):
        from_file(np.zeros(3, np.int64), odd, 0, ["a", "b"])


@ODD
def test_what_is_no_file_is_refused_as_weights(small: Path, make: Make, kind: str, capsys) -> None:
    Path("w").mkdir()
    make(Path("w/odd.pt").absolute())
    study = {
        **SMALL,
        "weights": {"mine": {"file": "w/odd.pt", "sha256": "0" * 64}},
        "experiments": {"a": {"teacher": "resnet14", "student": "resnet8", "loss": "mse", "teacher_weights": "mine"}},
    }
    Path("config.yaml").write_text(yaml.safe_dump(study))
    assert main(["train", "results/digits/quick/resnet14.weights-mine.s0"]) == 2
    assert "w/odd.pt: cannot read these weights: not a regular file" in capsys.readouterr().err


def test_what_is_no_file_in_the_place_of_what_is_published_is_waited_for_by_nobody(small: Path, capsys) -> None:
    for name in (f"{CELL}/manifest.json", "state/digits/quick/resnet8.ce.s0/lock.json", "state/data/x.lock"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(name)
    assert not files.is_locked(Path("state/data/x.lock"))
    assert main(["status"]) in (0, 74)
    assert main(["verify"]) == 74
    assert "a FIFO" in capsys.readouterr().err
