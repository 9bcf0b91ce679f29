"""Plug-ins: a user's own losses, networks, datasets, label noises and figures, in files that a study names.

A plug-in defines one or more of kd's tables LOSSES, NETWORKS, DATASETS, NOISES and FIGURES, and in the same file
everything that they list. Only a study that names plug-ins runs code, and kd says so. No manifest names a plug-in:
products depend on its code by digest, as they depend on kd's own code.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from kd import data, losses, models
from kd.core import code
from kd.core.errors import ConfigError, OutOfMemory, Terminated, understood
from kd.core.project import here
from kd.report import figures

_SAID = "KD_SAID_PLUGINS"
_NAME = "[A-Za-z0-9][A-Za-z0-9_]*"
_TABLES: dict[str, tuple[dict, type, str]] = {  # {name: (kd's table, type of its entries, pattern of their names)}
    "LOSSES": (losses.LOSSES, losses.Loss, "(?!weights$)[a-z][a-z0-9_]*"),
    "DATASETS": (data.DATASETS, data.Source, _NAME),
    "NOISES": (data.NOISES, data.NoiseKind, "(?!frac)[a-z]+"),
    "FIGURES": (figures.FIGURES, figures.Figure, _NAME),
}
_OWN = [(table, dict(table)) for table in (*(table for table, *_ in _TABLES.values()), figures.ANALYSES)]
_NETWORKS = list(models.NETWORKS)


class Plugin(NamedTuple):
    """A plug-in's file as kd read it."""

    path: str
    place: Path  # on the disk: two projects may have files of the same name
    source: bytes

    @property
    def module(self) -> str:
        """Name of its module."""
        return f"{code.PLUGINS}.{Path(self.path).stem}"

    def refuse(self, what: str, line: int | None = None, cause: BaseException | None = None) -> NoReturn:
        """Raise ConfigError that names the file and the line."""
        raise ConfigError(f"{self.path}{f', line {line}' if line else ''}: {what}") from cause


_loaded: list[Plugin] = []


def load(paths: Sequence[str]) -> Sequence[str]:
    """Run these files in their order and fill the tables with kd's own entries and theirs; return the paths.

    If the same files are already loaded, nothing runs. Raises ConfigError that names the file and the line.
    """
    wanted = list(map(_read, paths))
    if wanted == _loaded:
        return paths
    names = [plugin.module for plugin in wanted]
    for plugin in wanted:
        if names.count(plugin.module) > 1:
            plugin.refuse("another plug-in has the same name; rename one of the two")
    _forget()
    _loaded[:] = wanted
    _say(wanted)
    try:
        for plugin in wanted:
            _register(plugin, _run(plugin))
    except BaseException:
        _forget()
        raise
    code.count_plugins({plugin.module: plugin.source for plugin in wanted})
    return paths


def _say(wanted: Sequence[Plugin]) -> None:
    """Say which files run: once, even if this process starts others or starts itself again."""
    places = ", ".join(str(plugin.place) for plugin in wanted)
    if places and os.environ.get(_SAID) != places:
        os.environ[_SAID] = places
        print(f"kd: runs code from {', '.join(plugin.path for plugin in wanted)}", file=sys.stderr)


def _read(path: str) -> Plugin:
    if not path.endswith(".py") or not Path(path).stem.isidentifier():
        raise ConfigError(
            f"plugins: {reprlib.repr(path)}: not a Python file named with letters, digits and underscores"
        )
    try:
        place = here() / Path(path).expanduser()
        return Plugin(path, place, place.read_bytes())
    except OSError as error:
        raise ConfigError(f"plugins: {path}: {error.strerror}") from error
    except ValueError as error:  # a character that no file name can have
        raise ConfigError(f"plugins: {path!r}: {error}") from error


def _forget() -> None:
    for table, own in _OWN:
        table.clear()
        table.update(own)
    models.NETWORKS[:] = _NETWORKS
    for name in (code.PLUGINS, *(plugin.module for plugin in _loaded)):
        sys.modules.pop(name, None)
    _loaded.clear()
    code.count_plugins({})


def _run(plugin: Plugin) -> ModuleType:
    spec = importlib.util.spec_from_file_location(plugin.module, plugin.place)
    module = importlib.util.module_from_spec(spec)
    package = sys.modules.setdefault(code.PLUGINS, ModuleType(code.PLUGINS))  # so that plug-ins can import each other
    sys.modules[plugin.module] = module
    setattr(package, Path(plugin.path).stem, module)
    try:
        # Not by the module's loader, which may run older code from __pycache__: kd must run the code that it digests.
        exec(compile(plugin.source, plugin.path, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        if isinstance(understood(error), OutOfMemory | Terminated):
            raise
        said = error.msg if isinstance(error, SyntaxError) else error
        plugin.refuse(f"{type(error).__name__}: {said}", _line_of(error, plugin.path), error)
    return module


def _line_of(error: BaseException, path: str) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno
    return next((at.lineno for at in reversed(traceback.extract_tb(error.__traceback__)) if at.filename == path), None)


# -- what a plug-in adds ----------------------------------------------------------------------------------------------


def _register(plugin: Plugin, module: ModuleType) -> None:
    added = 0
    for table, (known, kind, names) in _TABLES.items():
        for name, entry in _entries(plugin, module, table, Mapping):
            if complaint := _wrong_name(name, known, names) or _wrong(entry, kind, module):
                plugin.refuse(f"{table}: {name}: {complaint}", _line_in(plugin, table, name))
            known[name] = entry
            added += 1
    for family in _entries(plugin, module, "NETWORKS", Sequence):
        if complaint := _wrong(family, models.Family, module):
            plugin.refuse(f"NETWORKS: {complaint}", _line_in(plugin, "NETWORKS"))
        models.NETWORKS.append(family)
        added += 1
    if not added:
        plugin.refuse(f"adds nothing; it may define {', '.join([*_TABLES, 'NETWORKS'])}")
    figures.ANALYSES.update({name: figure.analysis for name, figure in figures.FIGURES.items() if figure.analysis})


def _entries(plugin: Plugin, module: ModuleType, table: str, kind: type) -> Iterator[Any]:
    found = getattr(module, table, {} if kind is Mapping else ())
    if not isinstance(found, kind) or isinstance(found, str):
        what = "names and entries" if kind is Mapping else "a list"
        plugin.refuse(f"{table}: expected {what}, got {type(found).__name__}", _line_in(plugin, table))
    return iter(found.items() if kind is Mapping else found)


def _wrong_name(name: object, known: Mapping, pattern: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        return f"no name that a path can spell; it must match {pattern}"
    return "there is one of this name already" if name in known else ""


def _wrong(entry: object, kind: type, module: ModuleType) -> str:
    if not isinstance(entry, kind):
        return f"expected a {kind.__name__}, got {type(entry).__name__}"
    try:
        return _wrong_entry(entry, module)
    except Exception as error:  # the user may have put any object in the place of a pattern, a name or a function
        return f"{type(error).__name__}: {error}"


def _wrong_entry(entry: object, module: ModuleType) -> str:
    match entry:
        case losses.Loss():
            made, arguments = (entry.function, 3) if entry.function else (entry.build, 1)
            if getattr(made, "__module__", None) != module.__name__:
                return "its function must be defined in this file, because kd digests only this file's code"
            return _wrong_call(made, arguments, entry.parameters)
        case models.Family():
            return (
                _wrong_function(entry.module, entry.function, module)
                or _wrong_call(getattr(module, entry.function), 0, [*entry.pattern.groupindex, "classes", "channels"])
                or _wrong_examples(entry)
            )
        case data.Source():
            if entry.streamed:
                return "only a folder of images can be streamed"
            return _wrong_function(entry.module, entry.function.rpartition(":")[2], module)
        case data.NoiseKind():
            if entry.takes_file or entry.name in {noise.name for noise in data.NOISES.values()}:
                return f"the label noise called {entry.name!r} is kd's own, or takes a file, as only kd's own may"
            return _wrong_function(entry.module, entry.function.rpartition(":")[2], module)
        case figures.Figure():
            if entry.analysis not in {"", *figures.ANALYSES.values()}:
                return f"no such analysis: {entry.analysis}"
            both = (_wrong_function(entry.module, name, module) for name in (entry.draw, entry.caption))
            return next(filter(None, both), "")
    return ""


def _wrong_function(named: str, function: str, module: ModuleType) -> str:
    if named != module.__name__:
        return f"its module is {named!r}; what a plug-in adds is defined in its own file: write __name__"
    return "" if callable(getattr(module, function, None)) else f"there is no function {function!r} in this file"


def _wrong_call(function: Callable, arguments: int, keywords: Sequence[str] | Mapping) -> str:
    try:
        inspect.signature(function).bind(*range(arguments), **dict.fromkeys(keywords))
    except TypeError as error:
        return f"{function.__name__} cannot be called as kd does: {error}"
    return ""


def _wrong_examples(family: models.Family) -> str:
    for name in family.examples:
        numbers = family.numbers(name)
        if numbers is None or family.check(numbers) or not re.fullmatch(models.NAME, name):
            return f"{name}: an example that is no name of this family, or none that a path can spell ({models.NAME})"
        if models.is_network(name):
            return f"{name}: there is a network of this name already"
    known = (example for other in models.NETWORKS for example in other.examples)
    taken = next((name for name in known if family.numbers(name) is not None), None)
    if taken:
        return f"its pattern also matches {taken}, another network"
    return "" if family.examples else "examples: give at least one name"


def _line_in(plugin: Plugin, table: str, name: object = None) -> int | None:
    """Return the line on which a plug-in defines a table, or its entry `name`."""
    line = None
    for node in ast.walk(ast.parse(plugin.source)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.stmt) and any(isinstance(one, ast.Name) and one.id == table for one in targets):
            line = node.lineno
            for key in node.value.keys if isinstance(getattr(node, "value", None), ast.Dict) else ():
                if isinstance(key, ast.Constant) and key.value == name:
                    return key.lineno
    return line
