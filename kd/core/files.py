"""Files that are complete or absent: atomic writes, digests, manifests, sealed state, locks.

Publishing order (promise 1): write each artefact under a temporary name, fsync, rename; fsync the directory; then write
the manifest, which names the artefacts with their digests and sizes, in the same way. What has no manifest does not
exist. A manifest ends with a digest of itself, so that kd finds a changed bit when it reads it.

All paths here are names (kd.core.project): a relative path lies below the project's root.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from kd.core.errors import Busy, ConfigError, Damaged, StorageError
from kd.core.project import on_disk

MANIFEST = "manifest.json"
FORMAT = 2  # of manifests; what has a manifest of another format is made again
AGAIN = "run snakemake, or the kd verb that makes it"
_PENDING = ".tmp-"  # prefix of unfinished files; the writer's machine and pid follow
_HOST = os.uname().nodename.replace("-", "_")[:64]
_SEAL = b',\n "manifest_sha256": "'  # the last key of a manifest: the digest of all that stands before it
_OPEN_LOCKS: set[int] = set()  # file descriptors


def sha256(content: bytes) -> str:
    """Return the hex digest of `content`."""
    return hashlib.sha256(content).hexdigest()


def opened(path: str | Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError for anything else: reading a FIFO could wait for ever."""
    try:
        handle = os.open(on_disk(path), os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise OSError(errno.EINVAL, "not a regular file (a socket or a device)", str(path)) from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"not a regular file ({kind_of_file(mode)})", str(path))
    return os.fdopen(handle, "rb")


def content_of(path: str | Path) -> bytes:
    """Read a regular file."""
    with opened(path) as file:
        return file.read()


def kind_of_file(mode: int) -> str:
    """Name the kind of a file that is not a regular one."""
    return {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}.get(
        stat.S_IFMT(mode), "a device"
    )


def file_digest(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in chunks."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: object) -> str:
    """Spell `value` as JSON; equal values have the same spelling."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@contextlib.contextmanager
def storage(path: Path, needed: int = 0, verb: str = "write") -> Iterator[None]:
    """Turn an OSError into a StorageError that names the path and what would help."""
    try:
        yield
    except OSError as error:
        room = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            need = f"{needed:,} bytes are needed, " if needed else ""
            room = f" ({need}{free_bytes(path):,} bytes are free; make space and run the same command again)"
        if error.errno in (errno.EACCES, errno.EPERM) and verb != "read":
            room = " (another user's? a shared project needs a folder of your group, chmod g+rwXs, and umask 002)"
        gone = verb == "read" and isinstance(error, FileNotFoundError)
        raise (Damaged if gone else StorageError)(f"{path}: cannot {verb}: {error.strerror or error}{room}") from error


def disk_of(path: Path) -> int:
    """Return the device number of the file system where `path` is, or will be."""
    return _nearest_folder(path).stat().st_dev


def free_bytes(path: Path) -> int:
    """Return how many bytes can still be written where `path` is, or will be."""
    return shutil.disk_usage(_nearest_folder(path)).free


def _nearest_folder(path: Path) -> Path:
    folder = on_disk(path).resolve()  # follows links; the target may not exist yet
    while not folder.is_dir():
        folder = folder.parent
    return folder


def demand(path: Path, needed: int) -> None:
    """Raise StorageError unless `needed` bytes can be written at `path`. Call it before the work, not after it."""
    folder = _nearest_folder(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{path}: cannot write: {folder} is read-only, or another user's")
    demand_room(path, needed)


def demand_room(path: Path, needed: int) -> None:
    """Raise StorageError unless the disk of `path` has `needed` bytes free."""
    free = free_bytes(path)
    if free < needed:
        raise StorageError(
            f"{path}: {needed:,} bytes are needed, {free:,} bytes are free; make space and run the same command again"
        )


def _sync_directory(folder: Path) -> None:
    handle = os.open(on_disk(folder), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes | Callable[[Path], object]) -> str:
    """Write `content` (bytes, or a function that writes the file it is given) to `path`; return its SHA-256.

    After a crash at any moment `path` holds the old content or the new one. Raises StorageError when the disk refuses;
    the old content stays.
    """
    path = Path(path)
    with _written(path, content) as (pending, digest), storage(path):
        os.replace(pending, on_disk(path))
        _sync_directory(path.parent)
    return digest


def write_folder(folder: Path, artefacts: Mapping[str, bytes]) -> None:
    """Write files as a new folder: it is complete, or not there. Raises ConfigError when something is in it already."""
    place = on_disk(Path(folder).expanduser())
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError(f"{folder}: is there already; name a new folder, or remove it")
    pending = pending_name(place)
    try:
        with storage(folder, sum(map(len, artefacts.values()))):
            place.parent.mkdir(parents=True, exist_ok=True)
            pending.mkdir()
            for name, content in artefacts.items():
                write_atomic(pending / name, content)
            os.replace(pending, place)
            _sync_directory(place.parent)
    finally:
        shutil.rmtree(pending, ignore_errors=True)


def pending_name(path: Path) -> Path:
    """Return the name of a file while this process writes it. No other process of any machine uses the same name."""
    return path.with_name(f"{_PENDING}{_HOST}-{os.getpid()}-{path.name}")


@contextlib.contextmanager
def _written(path: Path, content: bytes | Callable[[Path], object]) -> Iterator[tuple[Path, str]]:
    """Write `content` to a temporary file beside `path` and yield (its place, its digest); remove it afterwards."""
    pending = pending_name(on_disk(path))
    try:
        with storage(path, 0 if callable(content) else len(content)):
            pending.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(pending)
            else:
                pending.write_bytes(content)
            with open(pending, "rb+") as file:
                os.fsync(file.fileno())
            digest = file_digest(pending)
        yield pending, digest
    finally:
        with contextlib.suppress(OSError):  # when a folder refuses everything, the first error says why
            pending.unlink(missing_ok=True)


def is_pending(name: str) -> bool:
    """Say whether this is the name of an unfinished file: its writer is at work, or was killed."""
    return name.startswith(_PENDING)


def sweep(folder: Path, names: str = "*") -> None:
    """Remove unfinished files of these names that dead writers left. Call it while you hold the lock of the files."""
    for pending in below(folder, f"{_PENDING}*-{names}"):
        with storage(pending, verb="remove"):
            on_disk(pending).unlink(missing_ok=True)


def below(folder: Path, pattern: str) -> Iterator[Path]:
    """Return the paths below a folder that match a pattern: relative if the folder is, else absolute."""
    place = on_disk(folder)
    return (folder / found.relative_to(place) for found in place.glob(pattern))


def publish(
    folder: Path, artefacts: Mapping[str, bytes | Callable[[Path], object]], manifest: dict, at: Path | None = None
) -> dict:
    """Publish artefacts in `folder`, then the manifest that makes them exist: `at`, or manifest.json beside them.

    Returns the manifest as written, with `files: {name: sha256}` and `sizes: {name: bytes}` added. The old manifest is
    removed before the first rename. A crash before that leaves the old artefacts complete; a crash after it leaves no
    manifest, so that the artefacts count as absent and are made again. If the same bytes are already there, only the
    manifest is replaced, in one step, so that a process that reads the artefacts meanwhile is not disturbed.
    """
    folder = Path(folder)
    at = at or folder / MANIFEST
    of = manifest.get("name", folder)
    with contextlib.ExitStack() as held:
        pending = {name: held.enter_context(_written(folder / name, content)) for name, content in artefacts.items()}
        sizes = {name: path.stat().st_size for name, (path, _) in pending.items()}
        manifest = {**manifest, "files": {name: digest for name, (_, digest) in pending.items()}, "sizes": sizes}
        if not _are_there(folder, manifest["files"], at):
            with storage(at):
                on_disk(folder).mkdir(parents=True, exist_ok=True)
                on_disk(at).unlink(missing_ok=True)  # never an old manifest beside new artefacts
                for number, (name, (path, _)) in enumerate(pending.items()):
                    crash_point(f"publish:{number}", of)
                    with storage(folder / name):
                        os.replace(path, on_disk(folder / name))
                for changed in {(folder / name).parent for name in pending} | {folder}:
                    _sync_directory(changed)
        crash_point(f"publish:{len(pending)}", of)
    return write_manifest(at, manifest)


def _are_there(folder: Path, digests: Mapping[str, str], at: Path) -> bool:
    """Say whether these artefacts are published in `folder`, undamaged."""
    with contextlib.suppress(StorageError):
        manifest = read_manifest(folder, at)
        return manifest is not None and manifest["files"] == digests and bool(verified(folder, at=at))
    return False


def write_manifest(path: Path, manifest: dict) -> dict:
    """Write a manifest; return it as `read_manifest` will. From then on the artefacts that it names exist."""
    body = json.dumps({"format": FORMAT, **manifest}, indent=1, allow_nan=False)[:-2].encode()
    digest = sha256(body)
    write_atomic(path, body + _SEAL + digest.encode() + b'"\n}\n')
    return json.loads(body + b"}") | {"manifest_sha256": digest}


def crash_point(point: str, of: object) -> None:
    """Fail, die or wait here if a test asks for it, to show what each moment of making `of` leaves behind.

    The environment variable KD_FAULTS names a folder. A test writes `POINT ACTION` into a file there that is named as
    `of`, with % for /. Points, in their order: begin (the inputs are judged, the stamp still exists), work (the stamp
    is removed), publish:N (N files have their names, no manifest exists), published (it exists), stamp (the result is
    judged, the stamp does not exist yet). Actions: fail, full (a full disk), kill, and hold, which writes `held` into
    the file and waits until the test removes it. The other actions remove the file first, so that they happen once.
    """
    folder = os.environ.get("KD_FAULTS")
    asked = Path(folder, str(of).replace("/", "%")) if folder else None
    if asked is None or not asked.exists() or asked.read_text("utf-8").split()[0] != point:
        return
    action = asked.read_text("utf-8").split()[1]
    if action == "hold":
        asked.write_text(f"{point} held", "utf-8")
        while asked.exists():
            time.sleep(0.01)
        return
    asked.unlink()
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(of))
    raise RuntimeError(f"{of}: failed at {point}, as a test asked for")


def read_manifest(folder: Path, at: Path | None = None) -> dict | None:
    """Return the manifest of a published folder (or the one `at` a path), or None if there is none.

    Raises Damaged that names the manifest when a bit of it has changed, or another version of kd wrote it; StorageError
    when it cannot be read.
    """
    path = at or Path(folder) / MANIFEST
    try:
        content = content_of(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(
            f"{path}: cannot read this manifest: {error.strerror}; if it stays so, remove it and {AGAIN}"
        ) from error
    return parsed_manifest(content, path)


def discard(manifest: Path) -> None:
    """Remove a manifest, so that the artefacts that it names count as absent and are made again."""
    with storage(manifest):
        on_disk(manifest).unlink(missing_ok=True)


def parsed_manifest(content: bytes, path: Path) -> dict:
    """Parse a manifest. Raises Damaged that names `path` when it is not intact."""
    body, _, end = content.rpartition(_SEAL)
    if end != sha256(body).encode() + b'"\n}\n':
        raise Damaged(
            f"{path}: not a manifest of this version of kd, or damaged (it does not match its own digest); "
            f"remove it and {AGAIN}"
        )
    manifest = json.loads(content)
    if manifest.get("format") != FORMAT:
        raise Damaged(f"{path}: a manifest of format {manifest.get('format')}, not {FORMAT}; remove it and {AGAIN}")
    return manifest


def lacking(folder: Path, manifest: dict) -> str | None:
    """Name a file of the manifest that is missing or has another size, or return None. It reads no file."""
    place = on_disk(folder)
    for name, size in manifest["sizes"].items():
        try:
            found = os.stat(os.path.join(place, name)).st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is gone"
        if found != size:
            return f"{name} has {found:,} bytes instead of {size:,}"
    return None


def verified(folder: Path, *names: str, at: Path | None = None) -> dict:
    """Check the digests of the named artefacts (default: all) against the manifest of `folder`, and return it.

    Raises Damaged that names the first damaged or missing file and says how to rebuild it; StorageError when a file
    cannot be read.
    """
    folder = Path(folder)
    at = at or folder / MANIFEST
    manifest = read_manifest(folder, at)
    if manifest is None:
        raise Damaged(f"{folder}: no result here (no {at.name}); {AGAIN}")
    for name in names or manifest["files"]:
        path = folder / name
        with storage(path, verb="read"):
            found = file_digest(path) if on_disk(path).exists() else "no such file"
        if found != manifest["files"].get(name):
            raise Damaged(
                f"{path}: damaged: its manifest says sha256 {manifest['files'].get(name)}, found {found}; "
                f"remove {at} and {AGAIN}"
            )
    return manifest


def seal(path: Path, header: dict, payload: bytes) -> None:
    """Write atomically one line, `header` as JSON and a digest of both, and behind it `payload`."""
    line = canonical_json(header).encode()
    write_atomic(path, b"%b %b\n%b" % (line, _seal_of(line, payload), payload))


def unseal(path: Path) -> tuple[dict, bytes]:
    """Return (header, payload) of a sealed file. Raises Damaged when a bit of it has changed."""
    with storage(path, verb="read"):
        first, _, payload = content_of(path).partition(b"\n")
    line, _, digest = first.rpartition(b" ")
    if digest != _seal_of(line, payload):
        raise Damaged(f"{path}: not a sealed file of kd, or damaged (it does not match its own digest)")
    return json.loads(line), payload


def _seal_of(line: bytes, payload: bytes) -> bytes:
    digest = hashlib.sha256(line)
    digest.update(payload)
    return digest.hexdigest().encode()


def is_locked(path: Path) -> bool:
    """Say at once whether some process holds an exclusive lock on `path`. Permission to read the file is enough."""
    try:
        handle = os.open(on_disk(path), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock(path: Path, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path` while the block runs (promise 3: one writer), alone or `shared` with others.

    The kernel releases the lock when the process ends, however it ends. With `wait=False` raises Busy at once
    when another process holds it.
    """
    path = Path(path)
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    handle = _locked(path, how)
    try:
        yield
    finally:
        _OPEN_LOCKS.remove(handle)
        os.close(handle)


def _locked(path: Path, how: int) -> int:
    """Lock the file that is at `path` now and return its handle: a lock on a file since deleted keeps nobody out."""
    while True:
        with storage(path):
            place = on_disk(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)  # the umask decides: a group may share the folder
        _OPEN_LOCKS.add(handle)
        held = False
        try:
            fcntl.flock(handle, how)
            held = _is_at(handle, path)
        except BlockingIOError as error:
            raise Busy(f"{path}: another process works on this") from error
        finally:
            if not held:
                _OPEN_LOCKS.remove(handle)
                os.close(handle)
        if held:
            return handle


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(on_disk(path)))
    except FileNotFoundError:
        return False


def _close_locks() -> None:
    for handle in _OPEN_LOCKS:
        os.close(handle)
    _OPEN_LOCKS.clear()


# A fork inherits the open lock files. If it kept them, a worker that outlives its parent would hold the parent's locks.
os.register_at_fork(after_in_child=_close_locks)
