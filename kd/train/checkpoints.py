"""The state dict of a network in a file that others wrote: what fits the network decides, not the file's suffix.

Codes wrap their weights (`model`, `state_dict`, `net`, ...) and prefix their names (`module.`, `student.`, ...), each
in its own way. So every part of a file in which names lead to tensors alone is tried: it is the network's if it has
the network's names, under kd's or a publisher's spelling, and their shapes.
"""

from __future__ import annotations

import argparse
import io
import logging
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from kd import models
from kd.core.errors import ConfigError, DataError, first_line, nearest
from kd.models import publishers

_SHOWN = 5  # names that an error lists before it counts the rest
_DEPTH = 3  # of mappings in mappings that are looked into
_COUNTER = "num_batches_tracked"  # old checkpoints lack these counters of batch normalisation, which nothing here reads

# What training codes keep beside tensors: the numbers of a schedule, and the command line. Building these runs nothing.
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype("float64")),
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as numpy 1 calls it
    (_SCALAR, "numpy._core.multiarray.scalar"),
]

log = logging.getLogger("kd")


@dataclass(frozen=True)
class Part:
    """What may be the weights of a network: where in the file it is, its tensors by kd's names, and what is wrong."""

    key: str
    weights: Mapping[str, Tensor]
    wrong: Mapping[str, list[str]]

    @property
    def fits(self) -> bool:
        """Say whether the network's names, and their shapes, are what this is."""
        return not any(self.wrong.values())


def weights_in(content: bytes, path: Path, network: nn.Module, name: str, key: str | None) -> Mapping[str, Tensor]:
    """Return what of the bytes of file `path` are the weights of `network`, the one called `name`, by its own names.

    `key` says where they are, if several parts of the file fit. Raises DataError that names file and fault.
    """
    loaded = _loaded(content, path)
    tried = list(_parts(loaded, name, network.state_dict(), path))
    if not tried:
        held = f"; it holds {_listed(list(map(str, loaded)))}" if isinstance(loaded, Mapping) and loaded else ""
        raise DataError(f"{path}: holds no state dict of tensors{held}")
    if key is not None:
        known = sorted({part.key for part in tried})
        tried = [part for part in tried if part.key == key or part.key.startswith(f"{key}.")]
        if not tried:
            raise DataError(f"{path}: nothing under the key {key!r} can be weights{nearest(key, known)}")
    fitting = [part for part in tried if part.fits]
    if len(fitting) > 1:
        keys = ", ".join(repr(part.key) for part in fitting)
        raise DataError(f"{path}: several parts are weights of this network: {keys}; name one in the study, as `key`")
    if not fitting:
        part = min(tried, key=lambda part: sum(map(len, part.wrong.values())))
        said = "; ".join(f"{what}: {_listed(names)}" for what, names in part.wrong.items() if names)
        where = f" under {part.key!r}" if part.key else ""
        raise DataError(f"{path}: not the weights of this network{where}: {said}{_hint(loaded, network, name, path)}")
    if fitting[0].key:
        log.info("%s: read what is under %s", path, fitting[0].key)
    return fitting[0].weights


def _loaded(content: bytes, path: Path) -> object:
    try:
        if content[8:9] == b"{":  # after the length of its header, safetensors is JSON
            return safetensors.torch.load(content)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # what a malformed header or pickle raises has no common type
        raise DataError(f"{path}: neither safetensors nor a checkpoint of tensors: {_why(error, content)}") from error


def _why(error: Exception, content: bytes) -> str:
    if held := re.search(r"(?:Unsupported global:|load unsupported) GLOBAL (\S+)", str(error)):
        return (
            f"it holds {held[1]}, and reading that could run code. Where you trust the file, save its state dict "
            "alone: torch.load with weights_only off gives what it holds, torch.save(STATE_DICT, NEW) writes it"
        )
    if tarfile.is_tarfile(io.BytesIO(content)):
        return "it is an archive of files: unpack it, and name one of them"
    return first_line(error)


def _parts(loaded: object, name: str, own: Mapping[str, Tensor], path: Path) -> Iterator[Part]:
    """Yield each part of a file that may be weights; one that is too small to be is left out if it has a prefix."""
    module = models.module_of(name)
    wanted = sum(not one.endswith(_COUNTER) for one in own)
    for key, tensors in _named_tensors(loaded):
        names = [one for one in tensors if not one.endswith(_COUNTER)]
        dots = Counter(one[: n + 1] for one in names for n, letter in enumerate(one) if letter == ".")
        for prefix in ["", *(prefix for prefix, count in dots.items() if count == wanted)]:
            given = {one.removeprefix(prefix): value for one, value in tensors.items() if one.startswith(prefix)}
            _demand_no_other(module, given, path)
            weights = publishers.own_names(module, given)
            yield Part(".".join(filter(None, [*key, prefix[:-1]])), weights, _wrong(weights, own))


def _named_tensors(loaded: object, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield every mapping of names to nothing but tensors, and where it is."""
    if not isinstance(loaded, Mapping):
        return
    if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        yield key, {str(name): value for name, value in loaded.items()}
    elif len(key) < _DEPTH:
        for name, value in loaded.items():
            yield from _named_tensors(value, (*key, str(name)))


def _demand_no_other(module: str, given: Mapping[str, Tensor], path: Path) -> None:
    pattern, reason = publishers.OTHERS.get(module, ("(?!)", ""))
    if any(re.search(pattern, name) for name in given):
        raise DataError(f"{path}: {reason}")


def _wrong(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, list[str]]:
    return {
        "missing": [name for name in own if name not in weights and not name.endswith(_COUNTER)],
        "unexpected": [name for name in weights if name not in own],
        "different": [
            f"{name} is {_kind(weights[name])}, not {_kind(value)}"
            for name, value in own.items()
            if name in weights and not _alike(weights[name], value)
        ],
    }


def _hint(loaded: object, network: nn.Module, name: str, path: Path) -> str:
    """Say which other network of kd these are the weights of, if any: codes give one name to several."""
    channels = next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), 3)
    for other in (example for family in models.NETWORKS for example in family.examples if example != name):
        with torch.device("meta"):
            own = models.build(other, network.classifier.out_features, channels).state_dict()
        try:
            if any(part.fits for part in _parts(loaded, other, own, path)):
                return f"; they are those of a {other}"
        except (ConfigError, DataError):
            continue
    return ""


def _alike(one: Tensor, other: Tensor) -> bool:
    plain = one.layout is torch.strided and not one.is_quantized and not one.is_meta
    return plain and one.shape == other.shape and one.is_floating_point() == other.is_floating_point()


def _kind(value: Tensor) -> str:
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
