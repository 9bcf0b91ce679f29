"""What a reader needs to get the same results: the command, the commit and the versions."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from kd import __version__
from kd.core.project import here

_PACKAGES = ("torch", "snakemake")
_PATIENCE = 60  # seconds: a busy machine may keep git waiting; without its answer the page names no commit


def command(configfiles: Iterable[str | Path], values: Mapping[str, object]) -> str:
    """Return the snakemake command that runs the study of these files and of the `values` given as --config."""
    files, pairs = list(map(_shown, configfiles)), [f"{key}={_spelled(value)}" for key, value in values.items()]
    words = ["--configfile", *files] if files else []
    words += ["--config", *pairs] if pairs else []
    return shlex.join(["snakemake", "--cores", "all", *words])


def _spelled(value: object) -> str:
    """Spell a value for --config: in lists and mappings Snakemake reads every key and value as text."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_spelled(key)}: {_spelled(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_spelled, value)) + "]"
    return value if isinstance(value, str) and re.fullmatch(r"[\w.+-]+", value) else json.dumps(value)


def _shown(path: str | Path) -> str:
    """Return a path as a user in the project's root types it."""
    root = here()
    return str(Path(path).relative_to(root) if Path(path).is_relative_to(root) else path)


def commit() -> str:
    """Return how to get this code: git's command, or why there is none."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in another repository
        found = _git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=12")
    except subprocess.TimeoutExpired:
        return f"# kd {__version__}; its commit is not known: git did not answer"
    except (OSError, subprocess.SubprocessError):
        return f"# kd {__version__}; its commit is not known: it does not run from a git checkout"
    changed = found.endswith("-dirty")
    return f"git checkout {found.removesuffix('-dirty')}" + "  # and changes that were not committed" * changed


def _git(*arguments: str) -> str:
    asked = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(asked, capture_output=True, encoding="utf-8", check=True, timeout=_PATIENCE).stdout.strip()


def versions() -> str:
    """Name the versions of Python, torch and Snakemake."""
    installed = {name: one.version for name in _PACKAGES for one in metadata.distributions(name=name)}
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {it}" for name, it in installed.items())])
