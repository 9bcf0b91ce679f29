"""Files that are whole or absent: atomic writes, digests, manifests, sealed state, locks.

Publishing order (promise 1): every artefact to a temporary name, fsync, rename; then the directory;
then `manifest.json`, which names the artefacts and their digests, in the same way. A directory without
a manifest is not a result.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kd.errors import Busy, StorageError

MANIFEST = "manifest.json"
AGAIN = "run snakemake, or the kd verb that makes it"
_PENDING = ".tmp-"  # prefix of files that are not there yet; the writer's pid follows
_OPEN_LOCKS: set[int] = set()  # file descriptors


def sha256(content: bytes) -> str:
    """Return the hex digest of `content`."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: object) -> str:
    """Spell `value` as JSON in the one way that equal values share."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@contextlib.contextmanager
def storage(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn an operating-system refusal into one message that names the path and what would help."""
    try:
        yield
    except OSError as error:
        room = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            need = f"{needed:,} bytes are needed, " if needed else ""
            room = f" ({need}{free_bytes(path):,} bytes are free; make space and run the same command again)"
        raise StorageError(f"{path}: cannot write: {error.strerror or error}{room}") from error


def free_bytes(path: Path) -> int:
    """Return how many bytes can still be written where `path` is, or will be."""
    return shutil.disk_usage(_nearest_folder(path)).free


def _nearest_folder(path: Path) -> Path:
    folder = Path(path).absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def demand(path: Path, needed: int) -> None:
    """Raise StorageError unless `needed` bytes can be written where `path` will be: before the work, not after it."""
    folder, free = _nearest_folder(path), free_bytes(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{path}: cannot write: {folder} is read-only, or another user's")
    if free < needed:
        raise StorageError(
            f"{path}: {needed:,} bytes are needed, {free:,} bytes are free; make space and run the same command again"
        )


def _sync_directory(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes | Callable[[Path], object]) -> str:
    """Put `content` (bytes, or a function that writes the file it is given) at `path`, whole or not at all.

    Returns the SHA-256 of what was written. After a crash at any moment `path` holds the old content or
    the new one. Raises StorageError, with the old content in place, when the disk refuses.
    """
    path = Path(path)
    with _written(path, content) as (pending, digest), storage(path):
        os.replace(pending, path)
        _sync_directory(path.parent)
    return digest


@contextlib.contextmanager
def _written(path: Path, content: bytes | Callable[[Path], object]) -> Iterator[tuple[Path, str]]:
    """Write `content` to a temporary file beside `path` and give its name and digest; afterwards it is gone."""
    pending = path.with_name(f"{_PENDING}{os.getpid()}-{path.name}")
    try:
        with storage(path, 0 if callable(content) else len(content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(pending)
            else:
                pending.write_bytes(content)
            with open(pending, "rb+") as file:
                os.fsync(file.fileno())
            digest = file_digest(pending)
        yield pending, digest
    finally:
        with contextlib.suppress(OSError):  # of a folder that refuses everything, the first refusal says why
            pending.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what dead writers left unfinished in `folder`. Call it while holding the folder's lock."""
    for pending in Path(folder).glob(f"{_PENDING}*"):
        pending.unlink(missing_ok=True)


def publish(folder: Path, artefacts: Mapping[str, bytes | Callable[[Path], object]], manifest: dict) -> dict:
    """Publish a directory: its artefacts, then the manifest that makes it exist.

    Returns the manifest as written, with `files: {name: sha256}` added. A crash while names change leaves no manifest,
    so the directory counts as absent and is made again; until then what was there before stays whole. To publish what
    is there already changes nothing, so that whoever reads it meanwhile is not disturbed.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as held:
        pending = {name: held.enter_context(_written(folder / name, content)) for name, content in artefacts.items()}
        manifest = {**manifest, "files": {name: digest for name, (_, digest) in pending.items()}}
        if _stands(folder, manifest):
            os.utime(folder / MANIFEST)  # as good as new to who compares times
            return manifest
        with storage(folder / MANIFEST):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).unlink(missing_ok=True)  # never an old manifest beside new artefacts
            for number, (name, (path, _)) in enumerate(pending.items()):
                _crash_point(f"publish:{number}")
                os.replace(path, folder / name)
            _sync_directory(folder)
        _crash_point(f"publish:{len(pending)}")
    write_manifest(folder, manifest)
    return manifest


def _stands(folder: Path, manifest: dict) -> bool:
    """Say whether `folder` has this manifest and is undamaged."""
    with contextlib.suppress(StorageError):
        return read_manifest(folder) == json.loads(json.dumps(manifest)) and bool(verified(folder))
    return False


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write the manifest of `folder`, which makes what it names exist."""
    write_atomic(Path(folder) / MANIFEST, (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode())


def _crash_point(name: str) -> None:
    """Die here when the environment asks for it: how the tests show what a crash leaves behind."""
    if os.environ.get("KD_CRASH_AT") == name:
        os._exit(137)


def read_manifest(folder: Path) -> dict | None:
    """Return the manifest of a published directory, or None where there is no result."""
    path = Path(folder) / MANIFEST
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: not a manifest ({error}); remove it and {AGAIN}") from error


def verified(folder: Path, *names: str) -> dict:
    """Return the manifest of `folder` once the named artefacts (default: all) have the digests it states.

    Raises StorageError that names the first damaged or missing file and how to have it rebuilt.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise StorageError(f"{folder}: no result here (no {MANIFEST}); {AGAIN}")
    for name in names or manifest["files"]:
        path = folder / name
        found = file_digest(path) if path.exists() else "no such file"
        if found != manifest["files"].get(name):
            raise StorageError(
                f"{path}: damaged: its manifest says sha256 {manifest['files'].get(name)}, found {found}; "
                f"remove {folder / MANIFEST} and {AGAIN}"
            )
    return manifest


def seal(path: Path, header: dict, payload: bytes) -> None:
    """Write `payload` atomically behind one line of JSON: `header` and the payload's digest."""
    line = canonical_json({**header, "sha256": sha256(payload)}).encode()
    write_atomic(path, line + b"\n" + payload)


def unseal(path: Path) -> tuple[dict, bytes]:
    """Return (header, payload) of a sealed file. Raises StorageError when a bit of it has changed."""
    try:
        line, _, payload = Path(path).read_bytes().partition(b"\n")
        header = json.loads(line)
        intact = header.pop("sha256") == sha256(payload)
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: not a sealed state file") from error
    if not intact:
        raise StorageError(f"{path}: its content does not match its own digest")
    return header, payload


def is_locked(path: Path) -> bool:
    """Say whether some process holds `path` locked, without waiting for it."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock(path: Path, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path` while the block runs (promise 3: one writer), alone or `shared` with others.

    The kernel drops the lock when the process ends, however it ends. With `wait=False` raises Busy at once
    when another process holds it.
    """
    path = Path(path)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _OPEN_LOCKS.add(handle)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError as error:
        raise Busy(f"{path}: another process works on this") from error
    finally:
        _OPEN_LOCKS.remove(handle)
        os.close(handle)


def _close_locks() -> None:
    for handle in _OPEN_LOCKS:
        os.close(handle)
    _OPEN_LOCKS.clear()


# A lock is held by whoever has its file open: a worker that outlives its parent must not hold the parent's.
os.register_at_fork(after_in_child=_close_locks)
