"""Digest what modules do: the digest changes with the code that decides numbers, and with nothing else.

It covers syntax trees without comments, docstrings and layout, and the modules that they import from the wings whose
code decides numbers. A changed loss retrains its students; a comment or an error message of kd.core retrains nothing.
The digest ignores where a module lies and in which order it imports, so that a move retrains nothing.

Tables of contents (`kd.losses`, `kd.models`, ...) do not count: the caller names the one family that it uses.

A plug-in, a file of the user's own, is a module of `kd_plugins`. Its digest is taken from the bytes that were run.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

WINGS = frozenset({"data", "models", "losses", "train", "measure", "report"})  # whose code decides numbers
CONTENTS = frozenset({"kd.data", "kd.losses", "kd.losses.spec", "kd.models", "kd.report.figures"})

PLUGINS = "kd_plugins"
_plugins: dict[str, bytes] = {}  # by the names of their modules

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def code_digest(*modules: str) -> str:
    """Return 16 hex digits that change when the code of `modules`, or of what they import from kd, changes."""
    return _sha256("\n".join(sorted(map(_digest, set(modules)))))[:16]


def count_plugins(sources: Mapping[str, bytes]) -> None:
    """Register these plug-ins {module name: source} in place of all earlier ones."""
    _plugins.clear()
    _plugins.update(sources)
    code_digest.cache_clear()
    _digest.cache_clear()


def plugins() -> dict[str, str]:
    """Return {module name: digest of all bytes} of the plug-ins."""
    return {name: hashlib.sha256(source).hexdigest() for name, source in _plugins.items()}


def source_of(name: str) -> str:
    """Return the source of a module of kd, or of a plug-in."""
    return _plugins[name].decode() if name in _plugins else _text(name)


def imports(name: str) -> frozenset[str]:
    """Return the names of the kd modules that module `name` imports, read from its source."""
    return frozenset(_resolved(*one)[0] for one in _imported(_tree(name)))


def behind(*modules: str) -> frozenset[str]:
    """Return the names of the modules whose code `code_digest(*modules)` covers."""
    found = set(modules)
    for name in modules:
        used = (_resolved(*one)[0] for one in _imported(_tree(name), also_for_types=False))
        found |= behind(*filter(counts, used))
    return frozenset(found)


def counts(name: str) -> bool:
    """Say whether the code of a module decides numbers: its wing tells."""
    top, *below = name.split(".")
    return top == PLUGINS or (below != [] and below[0] in WINGS and name not in CONTENTS)


@cache
def _digest(name: str) -> str:
    imported, bare = _parted(source_of(name), None if name in _plugins else _source(name))
    named = itertools.starmap(_resolved, imported)
    used = {f"{_digest(module) if counts(module) else ''} {what} {alias}" for module, what, alias in named}
    return _sha256("\n".join([*sorted(used), bare]))


@cache
def _parted(source: str, path: Path | None) -> tuple[Sequence[Sequence[str]], str]:
    """Return what a source imports from kd, and the rest of its code; remember both beside the module's bytecode.

    A start of kd digests some fifty modules, which takes longer to parse than all else that it does before it begins.
    """
    key = f"{_text('kd.core.code')}\n{source}"  # what was remembered by another parser counts for nothing
    place = path and Path(importlib.util.cache_from_source(str(path))).with_suffix(".parted")
    if place:
        with contextlib.suppress(OSError, ValueError):
            digest, _, remembered = place.read_text(encoding="utf-8").partition("\n")
            if digest == _sha256(key + remembered):
                return tuple(json.loads(remembered))
    tree = ast.parse(source)
    # unparse, not dump: of all but f-strings its text is the same in every Python
    parted = tuple(_imported(tree, also_for_types=False)), ast.unparse(_Bare().visit(tree))
    if place and not sys.dont_write_bytecode:
        with contextlib.suppress(OSError):  # like bytecode: whoever may not write parses each time
            text = json.dumps(parted)
            new = place.with_suffix(f".{os.getpid()}")
            new.parent.mkdir(exist_ok=True)
            new.write_text(f"{_sha256(key + text)}\n{text}", encoding="utf-8")
            new.replace(place)
    return parted


class _Bare(ast.NodeTransformer):
    """Strip a module of its docstrings and of its imports from kd, and make calls of its f-strings.

    Some releases of Python 3.12 and 3.13 write an f-string with other quotes inside than those before and after them.
    """

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Call:
        """Make a call of an f-string, with its parts as arguments."""
        return ast.Call(ast.Name("f"), [self.visit(part) for part in node.values], [])

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.Call:
        """Make a call of a part in braces, with its value, conversion and format as arguments."""
        form = self.visit(node.format_spec) if node.format_spec else ast.Constant(None)
        return ast.Call(ast.Name("braces"), [self.visit(node.value), ast.Constant(node.conversion), form], [])

    def visit(self, node: ast.AST) -> ast.AST | None:
        if _is_of_kd(node) or _is_for_types(node):
            return None
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        return super().visit(node)


def _imported(tree: ast.AST, also_for_types: bool = True) -> Iterator[tuple[str, str, str]]:
    """Yield (module, name in it or "", name here) for each import from kd."""
    queue = [tree]
    while queue:
        node = queue.pop()
        if _is_for_types(node) and not also_for_types:
            continue
        queue.extend(ast.iter_child_nodes(node))
        if not _is_of_kd(node):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", alias.asname or alias.name) for alias in node.names)
            continue
        yield from ((node.module, alias.name, alias.asname or alias.name) for alias in node.names)


def _resolved(module: str, name: str, here: str) -> tuple[str, str, str]:
    """Return an import as what it means: `from kd.data import views` names a module."""
    inner = f"{module}.{name}"
    return (inner, "", here) if name and (inner in _plugins or _source(inner)) else (module, name, here)


def _is_of_kd(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in ("kd", PLUGINS)
    return isinstance(node, ast.Import) and node.names[0].name.split(".")[0] in ("kd", PLUGINS)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def _source(name: str) -> Path | None:
    # By path, because importlib.util.find_spec would import the parent packages.
    if name.split(".")[0] != "kd":
        return None
    path = Path(__file__).parent.parent.joinpath(*name.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _tree(name: str) -> ast.Module:
    return ast.parse(_plugins[name] if name in _plugins else _text(name))


@cache
def _text(name: str) -> str:
    source = _source(name)
    if source is None:
        raise ModuleNotFoundError(f"no module {name} in kd")
    return source.read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
