"""Read YAML of plain values, and refuse what YAML 1.1 reads otherwise than it looks: octal numbers, double keys."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import yaml

from kd.core.errors import ConfigError
from kd.core.project import on_disk

_N = TypeVar("_N", int, float)


def read_yaml(path: Path) -> dict:
    """Read a YAML file of plain values. Raises ConfigError with file, line and fix."""
    try:
        text = on_disk(Path(path)).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a study with --configfile") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(content).__name__}")
    return content


def parse_yaml(text: str, where: str) -> object:
    """Return the plain values that `text` spells. Raises ConfigError that begins with `where`."""
    try:
        return _PlainYaml(text).plain()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except Exception as error:  # YAMLError; a scalar that does not fit its tag raises errors of many types
        raise ConfigError(f"{where}: not valid YAML: {error}") from error


_MOST_VALUES = 100_000  # in a study, with all aliases written out


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values a node has with all aliases written out: infinitely many if one contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = (part for one in parts for part in (one if isinstance(one, tuple) else (one,)))
        known[id(node)] = 1 + sum(_written_out(part, known) for part in inner)
    return known[id(node)]


class _PlainYaml(yaml.SafeLoader):
    """A SafeLoader that refuses octal and sexagesimal numbers, and keys that stand twice."""

    def plain(self) -> object:
        """Return the values. Raises ConfigError when nested aliases stand for too many values."""
        node = self.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > _MOST_VALUES:
            raise ConfigError(
                f"aliases (*name) within aliases stand for more than {_MOST_VALUES:,} values; write out what is meant"
            )
        return self.construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Return keys and values. Raises ConfigError for a key that stands twice, because YAML would keep the last."""
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line, name = key.start_mark.line + 1, key.value
            if isinstance(key, yaml.ScalarNode) and name != "<<":
                if name in lines:
                    raise ConfigError(
                        f"line {line}: {name} is there already, on line {lines[name]}, and YAML would keep the last "
                        "alone; remove one, or give it another name"
                    )
                lines[name] = line
        return super().construct_mapping(node, deep)

    def integer(self, node: yaml.ScalarNode) -> int:
        """Return a whole number. Raises ConfigError for a leading zero, because YAML 1.1 reads `010` as 8."""
        value, written = self._decimal(node, self.construct_yaml_int), node.value.replace("_", "")
        if re.fullmatch("[-+]?0[0-9]+", written):
            meant = " or ".join(map(str, dict.fromkeys((value, int(written)))))
            line = node.start_mark.line + 1
            raise ConfigError(f"line {line}: {node.value} begins with 0, which YAML reads as octal; write {meant}")
        str(value)  # raises if the number is too long to be printed
        return value

    def real(self, node: yaml.ScalarNode) -> float:
        """Return a number. Raises ConfigError for a sexagesimal one."""
        return self._decimal(node, self.construct_yaml_float)

    def _decimal(self, node: yaml.ScalarNode, construct: Callable[[yaml.ScalarNode], _N]) -> _N:
        value = construct(node)
        if ":" in node.value:  # YAML 1.1 reads `1:30` as 90
            line = node.start_mark.line + 1
            raise ConfigError(f"line {line}: {node.value} is {value} to YAML, which counts by sixties; write {value}")
        return value


_PlainYaml.add_constructor("tag:yaml.org,2002:int", _PlainYaml.integer)
_PlainYaml.add_constructor("tag:yaml.org,2002:float", _PlainYaml.real)
