"""A digest of what modules do.

Snakemake sees changed parameters, not changed imports. So each rule carries, as a parameter, the digest of
the syntax trees behind it, without comments, docstrings and layout: a comment retrains nothing, a changed
loss retrains its students.

The walk follows imports inside `kd`. It stops at the tables of contents (`kd.losses`, `kd.models`,
`kd.data`, `kd.figures`), where a caller names the one family that its cell uses, and at the plumbing, which
moves bytes and words but computes no number: a better error message must not retrain a grid.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
REGISTRIES = frozenset({"kd", "kd.losses", "kd.models", "kd.data", "kd.figures"})
PLUMBING = frozenset(
    {
        "kd.errors",
        "kd.signals",
        "kd.threads",
        "kd.files",
        "kd.code",
        "kd.config",
        "kd.cells",
        "kd.startup",
        "kd.device",
        "kd.kernels",
        "kd.footprint",
        "kd.attempts",
        "kd.slurm",
        "kd.status",
        "kd.products",
        "kd.judge",
        "kd.stamps",
        "kd.making",
        "kd.leftovers",
        "kd.controllers",
        "kd.patches",
        "kd.delete",
        "kd.state",
        "kd.progress",
        "kd.losses.spec",
    }
)


@cache
def code_digest(*modules: str) -> str:
    """Return 16 hex digits that change when `modules`, or what they import from kd, do something else."""
    digest = hashlib.sha256()
    for name in sorted(_closure(modules)):
        digest.update(f"{name}:{_meaning(name)}\n".encode())
    return digest.hexdigest()[:16]


def imports(name: str) -> frozenset[str]:
    """Return the names of the kd modules that module `name` imports, read from its source."""
    return frozenset(_imported(_tree(name)))


def _closure(modules: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue.extend(imports(name) - REGISTRIES - PLUMBING)
    return found


@cache
def _source(name: str) -> Path | None:
    # Found by path below this package, so that nothing is imported by looking.
    path = Path(__file__).parent.joinpath(*name.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _tree(name: str) -> ast.Module:
    source = _source(name)
    if source is None:
        raise ModuleNotFoundError(f"no module {name} in kd")
    return ast.parse(source.read_text(encoding="utf-8"))


@cache
def _meaning(name: str) -> str:
    tree = _tree(name)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    # unparse, not dump: its text does not change between Python versions
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "kd")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kd":
            yield node.module
            for alias in node.names:  # `from kd.data import views` names a module
                if _source(f"{node.module}.{alias.name}"):
                    yield f"{node.module}.{alias.name}"
