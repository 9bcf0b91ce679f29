"""A small disk that a test can fill, or make read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


class Disk:
    """A small tmpfs of its own."""

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
