"""Names of timm's networks (github.com/huggingface/pytorch-image-models), found without importing it, and so torch.

timm's names have underscores and no dashes, kd's dashes and no underscores: `timm:vit_tiny_patch16_224` of a study is
`timm-vit-tiny-patch16-224` in a path, and each can be had from the other.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path

from kd.core.project import on_disk

PREFIX = "timm-"
_WRITTEN = "timm:"


def canonical(name: str) -> str:
    """Return kd's spelling of a network that is written as timm's, `timm:NAME`; any other name as it is."""
    return PREFIX + name.removeprefix(_WRITTEN).replace("_", "-") if name.startswith(_WRITTEN) else name


def complaint(name: str) -> str:
    """Say what is wrong with a name without its prefix, or nothing."""
    if not _known():
        return "timm is not installed; pip install 'kd[timm]'"
    return "" if name in _known() else "timm has none of this name"


def near(name: str) -> list[str]:
    """Return at most five names near this one."""
    return [PREFIX + one for one in difflib.get_close_matches(name.removeprefix(PREFIX), _known(), n=5, cutoff=0.4)]


@cache
def _known() -> frozenset[str]:
    """Return all names, read from timm's sources: each of its networks is a function that it registers."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    sources = on_disk(Path(spec.submodule_search_locations[0], "models")).glob("*.py")
    registered = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
    found = (name for file in sources for name in registered.findall(file.read_text(encoding="utf-8")))
    return frozenset(name.replace("_", "-") for name in found)
