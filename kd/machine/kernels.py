"""Keep compiled kernels in a folder that only the user who trains can write, because kernels there are run.

A study may be shared or copied; the kernels that torch compiles for it are not part of it (promise 6). Their digests
lie beside them, so that a damaged kernel is compiled again and not run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kd.core import files
from kd.core.errors import ConfigError, StorageError

log = logging.getLogger("kd")

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # where torch keeps kernels; kd uses the user's folder if it is set
_NAMED = os.environ.get(VARIABLE)  # read now: torch later sets it to a folder in /tmp that any user may create
_DIGESTS = "kd-digests.json"
_LOCK = "kd-digests.lock"


@contextlib.contextmanager
def kept(processor: str) -> Iterator[None]:
    """Make torch keep kernels for this processor in the user's cache while the block runs.

    If the cache cannot be used, or others may write to it, torch uses a new folder that is removed afterwards. Raises
    ConfigError when the file system does not allow running code from the folder.
    """
    if _NAMED:
        Path(_NAMED).mkdir(parents=True, exist_ok=True)
        _demand_runnable(Path(_NAMED))
        os.environ[VARIABLE] = _NAMED
        yield
        return
    folder = _own(processor)
    with contextlib.ExitStack() as held:
        folder = folder or Path(
            held.enter_context(tempfile.TemporaryDirectory(prefix="kd-kernels-", ignore_cleanup_errors=True))
        )
        _demand_runnable(folder)
        os.environ[VARIABLE] = str(folder)
        held.callback(os.environ.pop, VARIABLE, None)
        _discard_damaged(folder)
        try:
            yield
        finally:
            _write_down(folder)


def discard() -> None:
    """Discard all kernels, because they cannot be loaded. A folder that the user named stays; a new one replaces it."""
    folder = Path(os.environ.get(VARIABLE, ""))
    if (folder / _DIGESTS).exists() or folder.parent == _root():
        log.warning("%s: the kernels kept there cannot be used; they are compiled anew", folder)
        for path in folder.glob("*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    else:
        os.environ[VARIABLE] = tempfile.mkdtemp(prefix="kd-kernels-")
        log.warning("%s: the kernels kept there cannot be used; %s is used instead", folder, os.environ[VARIABLE])


def _demand_runnable(folder: Path) -> None:
    if _is_noexec(folder):
        raise ConfigError(
            f"protocol.compile: {folder} is on a file system that is mounted noexec, from which no kernel can be run; "
            f"set compile: never, or name another folder in {VARIABLE}"
        )


def _is_noexec(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_NOEXEC)


def _root() -> Path | None:
    """Return the user's folder of kernels; None if the user has no home."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME", "")
        return Path(cache if os.path.isabs(cache) else Path.home() / ".cache", "kd", "compiled")
    except RuntimeError:
        return None


def _own(processor: str) -> Path | None:
    """Return the user's folder of kernels for a processor and create it if needed; warn and return None if not safe."""
    root = _root()
    if root is None:
        log.warning("kernels are compiled and not kept: this user has no home; XDG_CACHE_HOME can name a folder")
        return None
    folder = root / processor
    try:
        root.parent.parent.parent.mkdir(parents=True, exist_ok=True)
        for made in (root.parent.parent, root.parent, root, folder):
            with contextlib.suppress(FileExistsError):
                made.mkdir(mode=0o700)
        if why := _others_may_write(folder):
            raise PermissionError(0, why)
        if _is_noexec(folder):
            raise PermissionError(0, "it is mounted noexec, so that no kernel can be run from there")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        log.warning("%s: kernels are compiled and not kept there: %s", folder, error.strerror)
        return None
    return folder


def _others_may_write(folder: Path) -> str | None:
    """Return None if only this user can write to a folder; else say who owns it, or that others may write to it."""
    real, me = folder.resolve(), os.geteuid()
    own = [one.resolve() for one in (folder, folder.parent, folder.parent.parent)]
    for path in (real, *real.parents):
        found = path.stat()
        if found.st_uid not in (0, me) or (path == real and found.st_uid != me):
            return f"{path} belongs to another user"
        # A home directory and the folders above may be writable by their group, because that may be the user's own.
        if found.st_mode & (0o022 if path in own else 0o002) and not found.st_mode & stat.S_ISVTX:
            return f"others may write to {path}; make it yours alone (chmod go-w), or remove it"
    return None


# -- digests ----------------------------------------------------------------------------------------------------------


def _discard_damaged(folder: Path) -> None:
    for name, digest in _digests(folder).items():
        path = folder / name
        with contextlib.suppress(OSError):
            if files.file_digest(path) != digest:
                log.warning("%s: damaged; it is compiled anew", path)
                path.unlink()


def _write_down(folder: Path) -> None:
    """Record the digests of new kernels. If the disk is full, they stay without one; training is not affected."""
    with contextlib.suppress(StorageError, OSError), files.lock(folder / _LOCK):
        known = _digests(folder)
        there = {str(path.relative_to(folder)): path for path in _kernels(folder)}
        new = {name: known.get(name) or files.file_digest(path) for name, path in there.items()}
        if new != known:
            files.write_atomic(folder / _DIGESTS, json.dumps(new, indent=0, sort_keys=True).encode())


def _kernels(folder: Path) -> Iterator[Path]:
    """Yield complete libraries, sources and pickles. Their names are made from their contents, so they never change."""
    for path in folder.rglob("*"):
        if path.is_file() and path.parent != folder and path.suffix not in (".lock", ".tmp"):
            yield path


def _digests(folder: Path) -> dict[str, str]:
    try:
        found = json.loads(files.content_of(folder / _DIGESTS))
        return {str(name): str(digest) for name, digest in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}
