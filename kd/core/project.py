"""The project's root: the folder that all relative paths of kd start from.

A path in kd is a name: relative to the root, as studies, manifests, messages and Snakemake spell it, or absolute where
the user gave it so. `on_disk` turns a name into a place on the disk. It is called where a file is opened, listed, made,
locked or removed; the functions of kd.core.files call it themselves.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import TypeVar

P = TypeVar("P", str, Path)

_root: Path | None = None  # None means the working directory at the time of the call


def here() -> Path:
    """Return the root: the folder that `enter` chose, else the working directory."""
    return _root or Path.cwd()


def enter(folder: str | Path) -> contextlib.ExitStack:
    """Make `folder`, absolute or relative to the current root, the root of all threads of this process.

    Closing the returned stack, as `with` does, restores the old root. Raises NotADirectoryError.
    """
    before, root = _root, (here() / Path(folder).expanduser()).resolve()
    if not root.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "no such folder", str(folder))
    left = contextlib.ExitStack()
    left.callback(_make_root, before)
    _make_root(root)
    return left


def _make_root(root: Path | None) -> None:
    global _root
    _root = root


def on_disk(path: P) -> P | Path:
    """Return the place of a path on the disk: below the root, unless the path is absolute."""
    return path if _root is None else _root / path


def named(place: Path) -> Path:
    """Return the name of a place on the disk: relative if it lies below the root that `enter` chose."""
    return place.relative_to(_root) if _root and place.is_relative_to(_root) else place
