"""The project's root, the one folder behind all paths.

A path in kd is a name: relative to the root, as studies, manifests, messages and Snakemake spell it, and absolute only
where a user gave it so. `on_disk` makes it a place, in the very call that opens, lists, makes, locks or removes a file;
kd.core.files does so itself for all who call it.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import TypeVar

P = TypeVar("P", str, Path)

_root: Path | None = None  # None is the working directory, whichever that is by then


def here() -> Path:
    """Return the root: the folder that was entered, else the working directory."""
    return _root or Path.cwd()


def enter(folder: str | Path) -> contextlib.ExitStack:
    """Make `folder` the root of this process, all its threads included; a relative one lies in the root of now.

    To close what is returned, as `with` does, brings back the root of before. Raises NotADirectoryError.
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
    """Return where on the disk a path lies: below the root, unless it is absolute."""
    return path if _root is None else _root / path


def named(place: Path) -> Path:
    """Return the path of a place on the disk, relative where it lies below the root that was entered."""
    return place.relative_to(_root) if _root and place.is_relative_to(_root) else place
