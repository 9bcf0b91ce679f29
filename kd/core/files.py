"""Files that are whole or absent: atomic writes, digests, manifests, sealed state, locks.

Publishing order (promise 1): every artefact to a temporary name, fsync, rename; then the directory; then the manifest,
which names the artefacts with their digests and sizes, in the same way. What has no manifest does not exist.
A manifest ends with a digest of itself, so that a changed bit in any of its numbers is found when it is read.

All paths here are names (kd.core.project): what is given relative is looked for below the project's root.
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

from kd.core.errors import Busy, Damaged, StorageError
from kd.core.project import on_disk

MANIFEST = "manifest.json"
FORMAT = 2  # of manifests; one of another format is made anew
AGAIN = "run snakemake, or the kd verb that makes it"
_PENDING = ".tmp-"  # prefix of files that are not there yet; the writer's machine and pid follow
_HOST = os.uname().nodename.replace("-", "_")[:64]
_SEAL = b',\n "manifest_sha256": "'  # the last key of a manifest: the digest of all that stands before it
_OPEN_LOCKS: set[int] = set()  # file descriptors


def sha256(content: bytes) -> str:
    """Return the hex digest of `content`."""
    return hashlib.sha256(content).hexdigest()


def opened(path: str | Path) -> BinaryIO:
    """Open a file to be read. Raises OSError for what is none: the other end of a pipe could be waited for for ever."""
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
    """Return the bytes of a regular file."""
    with opened(path) as file:
        return file.read()


def kind_of_file(mode: int) -> str:
    """Name what is no regular file."""
    return {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}.get(
        stat.S_IFMT(mode), "a device"
    )


def file_digest(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in chunks."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: object) -> str:
    """Spell `value` as JSON in the one way that equal values share."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@contextlib.contextmanager
def storage(path: Path, needed: int = 0, verb: str = "write") -> Iterator[None]:
    """Turn an operating-system refusal into one message that names the path and what would help."""
    try:
        yield
    except OSError as error:
        room = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            need = f"{needed:,} bytes are needed, " if needed else ""
            room = f" ({need}{free_bytes(path):,} bytes are free; make space and run the same command again)"
        if error.errno in (errno.EACCES, errno.EPERM) and verb != "read":
            room = " (another user's? who share a project need a folder of their group, chmod g+rwXs, and umask 002)"
        gone = verb == "read" and isinstance(error, FileNotFoundError)
        raise (Damaged if gone else StorageError)(f"{path}: cannot {verb}: {error.strerror or error}{room}") from error


def disk_of(path: Path) -> int:
    """Return the number of the file system where `path` is, or will be."""
    return _nearest_folder(path).stat().st_dev


def free_bytes(path: Path) -> int:
    """Return how many bytes can still be written where `path` is, or will be."""
    return shutil.disk_usage(_nearest_folder(path)).free


def _nearest_folder(path: Path) -> Path:
    folder = on_disk(path).resolve()  # where a link points to, which may not be there yet
    while not folder.is_dir():
        folder = folder.parent
    return folder


def demand(path: Path, needed: int) -> None:
    """Raise StorageError unless `needed` bytes can be written where `path` will be: before the work, not after it."""
    folder = _nearest_folder(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{path}: cannot write: {folder} is read-only, or another user's")
    demand_room(path, needed)


def demand_room(path: Path, needed: int) -> None:
    """Raise StorageError unless the disk where `path` will be has so many bytes free."""
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
    """Put `content` (bytes, or a function that writes the file it is given) at `path`, whole or not at all.

    Returns the SHA-256 of what was written. After a crash at any moment `path` holds the old content or
    the new one. Raises StorageError, with the old content in place, when the disk refuses.
    """
    path = Path(path)
    with _written(path, content) as (pending, digest), storage(path):
        os.replace(pending, on_disk(path))
        _sync_directory(path.parent)
    return digest


def pending_name(path: Path) -> Path:
    """Return the name of a file while this process writes it: nobody else's, of any machine."""
    return path.with_name(f"{_PENDING}{_HOST}-{os.getpid()}-{path.name}")


@contextlib.contextmanager
def _written(path: Path, content: bytes | Callable[[Path], object]) -> Iterator[tuple[Path, str]]:
    """Write `content` to a temporary file beside `path` and give its place and digest; afterwards it is gone."""
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
        with contextlib.suppress(OSError):  # of a folder that refuses everything, the first refusal says why
            pending.unlink(missing_ok=True)


def is_pending(name: str) -> bool:
    """Say whether this is the name of a file that is not there yet, or never will be: its writer was killed."""
    return name.startswith(_PENDING)


def sweep(folder: Path, names: str = "*") -> None:
    """Remove what dead writers left unfinished of files of these names. Call it while holding the lock of them."""
    for pending in below(folder, f"{_PENDING}*-{names}"):
        with storage(pending, verb="remove"):
            on_disk(pending).unlink(missing_ok=True)


def below(folder: Path, pattern: str) -> Iterator[Path]:
    """Return the paths below a folder that match a pattern, spelled as the folder is."""
    place = on_disk(folder)
    return (folder / found.relative_to(place) for found in place.glob(pattern))


def publish(
    folder: Path, artefacts: Mapping[str, bytes | Callable[[Path], object]], manifest: dict, at: Path | None = None
) -> dict:
    """Publish artefacts in `folder`, then the manifest that makes them exist: `at`, or manifest.json beside them.

    Returns the manifest as written, with `files: {name: sha256}` and `sizes: {name: bytes}` added. A crash while names
    change leaves no manifest, so what it would name counts as absent and is made again; until then what was there
    before stays whole. Artefacts that are there already, to the byte, are not replaced: only the manifest is, in one
    step, so that whoever reads them meanwhile is not disturbed.
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
    """Write a manifest, which makes what it names exist; return it as `read_manifest` will."""
    body = json.dumps({"format": FORMAT, **manifest}, indent=1, allow_nan=False)[:-2].encode()
    digest = sha256(body)
    write_atomic(path, body + _SEAL + digest.encode() + b'"\n}\n')
    return json.loads(body + b"}") | {"manifest_sha256": digest}


def crash_point(point: str, of: object) -> None:
    """Fail, die or stand still here if a test asks for it: it shows what each moment of making `of` leaves behind.

    The environment variable KD_FAULTS names a folder. A file in it that is called as what is made, with % for /, says
    `POINT ACTION`. Points, in their order: begin (the inputs are judged, the stamp is there still), work (the stamp is
    gone), publish:N (N files have their names, there is no manifest), published (there is), stamp (it is judged; the
    stamp is not there yet). Actions: fail, full (as a full disk does), kill, and hold, which waits until the file is
    gone and has `held` in it meanwhile. A fault happens once: its file is removed before.
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
    """Return the manifest of a published folder (or the one `at` a path), None where there is none.

    Raises Damaged that names it when a bit of it has changed, or another version of kd wrote it; StorageError when it
    cannot be read.
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
    """Make what this manifest is of count as absent, so that it is made anew."""
    with storage(manifest):
        on_disk(manifest).unlink(missing_ok=True)


def parsed_manifest(content: bytes, path: Path) -> dict:
    """Return the manifest that `content` spells. Raises Damaged that names `path` when it is not intact."""
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
    """Return which file that a manifest names is not there with the size that it names, or None: no file is read."""
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
    """Return the manifest of `folder` once the named artefacts (default: all) have the digests it states.

    Raises Damaged that names the first damaged or missing file and how to have it rebuilt; StorageError when one cannot
    be read.
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
    """Write `payload` atomically behind one line of JSON: `header`, and a digest of both."""
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
    """Say whether some process holds `path` locked alone, without waiting for it. To read the file is enough."""
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

    The kernel drops the lock when the process ends, however it ends. With `wait=False` raises Busy at once
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
    """Return a handle that holds the file that is at `path` now: one that is deleted meanwhile keeps nobody out."""
    while True:
        with storage(path):
            place = on_disk(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)  # less the umask: a group may share the folder
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


# A lock is held by whoever has its file open: a worker that outlives its parent must not hold the parent's.
os.register_at_fork(after_in_child=_close_locks)
