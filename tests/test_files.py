"""Promise 1, complete or absent, and promise 3, one writer: what files hold after crashes, damage and races."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import eventually, is_waited_for

from kd.core import files
from kd.core.errors import Busy, StorageError


def test_a_written_file_is_whole_and_its_digest_is_returned(tmp_path: Path) -> None:
    digest = files.write_atomic(tmp_path / "a" / "x.bin", b"content")
    assert (tmp_path / "a" / "x.bin").read_bytes() == b"content"
    assert digest == files.file_digest(tmp_path / "a" / "x.bin") == files.sha256(b"content")


def test_a_writer_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files.write_atomic(path, b"old")

    def half(pending: Path) -> None:
        pending.write_bytes(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"x: cannot write: No space left.*bytes are free"):
        files.write_atomic(path, half)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def killed_at(point: str, faults: Path) -> dict[str, str]:
    """Return the environment in which who makes `it` is killed at a point."""
    faults.mkdir()
    (faults / "it").write_text(f"{point} kill")
    return {**os.environ, "KD_FAULTS": str(faults)}


@pytest.mark.process
@pytest.mark.parametrize("point", ["publish:0", "publish:1", "publish:2"])
def test_promise_1_complete_or_absent_after_a_crash_while_publishing(tmp_path: Path, point: str) -> None:
    """Fault 2: killed between artefact and manifest."""
    code = (
        "import sys; from pathlib import Path; from kd.core import files;"
        "files.publish(Path(sys.argv[1]), {'a': b'1', 'b': b'2'}, {'kind': 'test', 'name': 'it'})"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=killed_at(point, tmp_path / "faults"))
    assert run.returncode == -signal.SIGKILL
    assert files.read_manifest(tmp_path) is None
    with pytest.raises(StorageError, match="no result here"):
        files.verified(tmp_path)
    files.publish(tmp_path, {"a": b"1", "b": b"2"}, {"kind": "test"})
    assert files.verified(tmp_path)["kind"] == "test"


def test_publishing_anew_leaves_the_old_whole_until_the_new_is_written(tmp_path: Path) -> None:
    files.publish(tmp_path, {"a": b"1"}, {"generation": 1})

    def fails(pending: Path) -> None:
        raise OSError("gone")

    with pytest.raises(StorageError):
        files.publish(tmp_path, {"a": fails}, {"generation": 2})
    assert files.verified(tmp_path)["generation"] == 1


@pytest.mark.process
def test_a_crash_while_publishing_anew_leaves_no_old_manifest_beside_new_artefacts(tmp_path: Path) -> None:
    files.publish(tmp_path, {"a": b"1", "b": b"2"}, {"generation": 1})
    code = (
        "import sys; from pathlib import Path; from kd.core import files;"
        "files.publish(Path(sys.argv[1]), {'a': b'3', 'b': b'4'}, {'name': 'it'})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=killed_at("publish:1", tmp_path / "faults"))
    assert (tmp_path / "a").read_bytes() == b"3"
    assert files.read_manifest(tmp_path) is None


def test_publishing_what_is_there_already_changes_nothing_unless_it_is_damaged(tmp_path: Path) -> None:
    files.publish(tmp_path, {"a": b"1"}, {"shape": (1, 2)})
    inode = (tmp_path / "a").stat().st_ino
    files.publish(tmp_path, {"a": b"1"}, {"shape": (1, 2)})
    assert (tmp_path / "a").stat().st_ino == inode
    (tmp_path / "a").write_bytes(b"2")
    files.publish(tmp_path, {"a": b"1"}, {"shape": (1, 2)})
    assert files.verified(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b"x1"), lambda p: p.write_bytes(b""), lambda p: p.unlink()])
def test_a_flipped_bit_a_truncated_or_a_missing_file_is_named(tmp_path: Path, damage: object) -> None:
    """Faults 9 and 10."""
    files.publish(tmp_path, {"a": b"11", "b": b"2"}, {})
    damage(tmp_path / "a")
    with pytest.raises(StorageError, match=r"a: damaged: .*remove .*manifest\.json and run snakemake"):
        files.verified(tmp_path)
    assert files.verified(tmp_path, "b")


def test_the_same_artefacts_of_another_recipe_change_the_manifest_alone(tmp_path: Path) -> None:
    """Whoever reads them meanwhile is not disturbed."""
    files.publish(tmp_path, {"a": b"1"}, {"recipe": 1})
    before = {name: (tmp_path / name).stat().st_ino for name in ("a", files.MANIFEST)}
    files.publish(tmp_path, {"a": b"1"}, {"recipe": 2})
    assert (tmp_path / "a").stat().st_ino == before["a"]
    assert (tmp_path / files.MANIFEST).stat().st_ino != before[files.MANIFEST]
    assert files.verified(tmp_path)["recipe"] == 2


def test_a_manifest_can_lie_elsewhere_and_name_files_in_folders(tmp_path: Path) -> None:
    at = tmp_path / "manifests" / "thing.json"
    said = files.publish(tmp_path, {"a": b"1", "inside/b": b"22"}, {"kind": "test"}, at)
    assert said == files.read_manifest(tmp_path, at) == files.verified(tmp_path, at=at)
    assert said["sizes"] == {"a": 1, "inside/b": 2}
    assert said["files"]["inside/b"] == files.sha256(b"22")
    assert not (tmp_path / files.MANIFEST).exists()
    (tmp_path / "inside" / "b").write_bytes(b"23")
    with pytest.raises(StorageError, match=r"inside/b: damaged.*remove .*manifests/thing\.json and run snakemake"):
        files.verified(tmp_path, at=at)


def test_what_is_lacking_is_told_from_sizes_alone(tmp_path: Path) -> None:
    said = files.publish(tmp_path, {"a": b"1" * 2000, "b": b""}, {})
    assert files.lacking(tmp_path, said) is None
    (tmp_path / "a").write_bytes(b"2" * 2000)
    assert files.lacking(tmp_path, said) is None  # who reads a large file compares its digest
    (tmp_path / "a").write_bytes(b"1" * 1999)
    assert files.lacking(tmp_path, said) == "a has 1,999 bytes instead of 2,000"
    (tmp_path / "a").unlink()
    assert files.lacking(tmp_path, said) == "a is gone"


def test_what_is_no_manifest_of_this_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / files.MANIFEST
    files.publish(tmp_path, {}, {"kind": "test"})
    whole = path.read_bytes()
    old = json.dumps({"kind": "test", "files": {}}, indent=1).encode()  # without a digest of itself
    for content in (b'{"kind": ', old, b"", whole[:-1], whole + b"\n", whole * 2, b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(StorageError, match=r"manifest\.json: not a manifest of this version of kd, or damaged"):
            files.read_manifest(tmp_path)
    files.write_manifest(path, {"kind": "test", "format": 3})
    with pytest.raises(StorageError, match=r"manifest\.json: a manifest of format 3, not 2; remove it and"):
        files.read_manifest(tmp_path)


def test_any_changed_byte_of_a_manifest_is_found(tmp_path: Path) -> None:
    """Fault 9: also one that leaves it valid JSON, such as another digit of a number."""
    said = {"kind": "test", "last": {"test_top1": 71.25}, "cause": 'a "quoted", ünusual\nline'}
    assert files.publish(tmp_path, {"a": b"1"}, said) == files.read_manifest(tmp_path)
    path = tmp_path / files.MANIFEST
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StorageError):
            files.read_manifest(tmp_path)
        path.write_bytes(whole[:at])
        with pytest.raises(StorageError):
            files.read_manifest(tmp_path)
    assert b"71.25" in whole
    path.write_bytes(whole.replace(b"71.25", b"81.25"))
    with pytest.raises(StorageError):
        files.read_manifest(tmp_path)


def test_data_reach_the_disk_before_the_name_and_the_directory_after_it(tmp_path: Path, monkeypatch) -> None:
    """Fault 3: the order of fsync and rename is what survives a power cut."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(handle: int) -> None:
        calls.append("fsync directory" if os.path.isdir(f"/proc/self/fd/{handle}") else "fsync file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    files.write_atomic(tmp_path / "x", b"1")
    assert calls == ["fsync file", "rename", "fsync directory"]


def test_leftovers_of_dead_writers_are_swept_and_never_fatal(tmp_path: Path) -> None:
    """Fault 4."""
    (tmp_path / ".tmp-99999-model").write_bytes(b"half")
    files.write_atomic(tmp_path / "model", b"whole")
    files.sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_sweep_of_some_names_leaves_what_others_are_writing(tmp_path: Path) -> None:
    """In reports/STUDY several verbs write at once, each under a lock of its own."""
    for name in ("a.dots.png", "a.dots.txt", "b.dots.png"):
        (tmp_path / f".tmp-99999-{name}").write_bytes(b"half")
    files.sweep(tmp_path, "a.dots.*")
    assert [entry.name for entry in tmp_path.iterdir()] == [".tmp-99999-b.dots.png"]


def test_a_sealed_file_reads_back_and_any_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state"
    files.seal(path, {"cell": "a"}, b"payload" * 100)
    assert files.unseal(path) == ({"cell": "a"}, b"payload" * 100)
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(50):
        at = generator.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            header, payload = files.unseal(path)
        except StorageError:
            continue
        assert payload == b"payload" * 100  # the header's text has no digest; its reader compares it
        assert header != {"cell": "a"}
    path.write_bytes(whole[:-1])
    with pytest.raises(StorageError):
        files.unseal(path)


def _seal_for_ever(path: str) -> None:
    number = 0
    while True:
        number += 1
        files.seal(Path(path), {"number": number}, bytes([number % 256]) * 2_000_000)


@pytest.mark.process
def test_sigkill_while_a_state_is_written_leaves_a_readable_one(tmp_path: Path) -> None:
    """Fault 1; the kills at random moments run with the slow tests."""
    path = tmp_path / "state"
    files.seal(path, {"number": 0}, b"\0" * 2_000_000)
    generator = random.Random(1)
    for _ in range(10):
        writer = multiprocessing.get_context("fork").Process(target=_seal_for_ever, args=(str(path),))
        writer.start()
        time.sleep(generator.uniform(0.005, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        header, payload = files.unseal(path)
        assert payload == bytes([header["number"] % 256]) * 2_000_000


def _hold(path: str, ready: object, release: object) -> None:
    with files.lock(Path(path)):
        ready.set()
        release.wait(10)


@pytest.mark.process
def test_promise_3_one_writer_and_a_killed_one_frees_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path / "lock"), ready, release))
    holder.start()
    assert ready.wait(10)
    with pytest.raises(Busy, match="another process"), files.lock(tmp_path / "lock", wait=False):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with files.lock(tmp_path / "lock", wait=False):
        pass


def test_a_lock_is_seen_by_who_may_only_read_and_a_lock_file_may_be_deleted(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not files.is_locked(path)
    with files.lock(path):
        assert files.is_locked(path)
        path.unlink()
        with files.lock(path, wait=False):  # what was deleted keeps nobody out
            assert files.is_locked(path)
    assert not files.is_locked(path)
    with files.lock(path, shared=True), files.lock(path, wait=False, shared=True):
        assert not files.is_locked(path)  # nobody has it alone
        with pytest.raises(Busy), files.lock(path, wait=False):
            pass


@pytest.mark.process
def test_every_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    """So that a group can share a project: umask 002."""
    before = os.umask(0o002)
    try:
        with files.lock(tmp_path / "state" / "lock"):
            files.publish(tmp_path / "made", {"x": b"x"}, {})
            files.seal(tmp_path / "state" / "note", {}, b"")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes.pop("state") == modes.pop("made") == 0o775
    assert modes == dict.fromkeys(("lock", "x", "manifest.json", "note"), 0o664)


def test_who_may_not_write_is_told_how_a_group_shares_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may write anywhere
    with pytest.raises(StorageError, match=r"lock: cannot write: Permission denied \(another user's\? .* umask 002"):
        files.lock(tmp_path / "lock").__enter__()


def test_who_waits_for_a_lock_that_is_deleted_gets_the_one_that_is_there(tmp_path: Path) -> None:
    """`kd delete` and the sweep of stamps delete lock files that they hold, while others may wait for them."""
    path, context = tmp_path / "lock", multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    with files.lock(path):
        waiting = context.Process(target=_hold, args=(str(path), ready, release))
        waiting.start()
        eventually(lambda: is_waited_for(path))
        path.unlink()
    assert ready.wait(10)
    assert path.exists()
    with pytest.raises(Busy), files.lock(path, wait=False):
        pass
    release.set()
    waiting.join()
