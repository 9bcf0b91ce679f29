"""NETWORKS: the families of networks, each with the pattern of its names. A new family is a file and an entry here.

Nothing here imports torch: a study is checked against these names while the Snakefile is parsed. A family is
imported when one of its networks is built, torchvision therefore only for its own.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kd.core.errors import ConfigError, nearest
from kd.models import timm_names

if TYPE_CHECKING:
    from kd.models.network import Network

NAME = "[a-z0-9-]+"  # whatever a family's own pattern is: dots and plus signs separate the parts of a path


@dataclass(frozen=True)
class Family:
    """Describe networks that differ in numbers only.

    A name matches `pattern` as a whole; its named groups (1 where absent; digits as integers) go to `function` of
    `module` together with `classes` and `channels`. `check` says what is wrong with the numbers, or nothing, and `near`
    which names are near a wrong one, by default all examples.
    """

    pattern: re.Pattern[str]
    module: str
    function: str
    examples: tuple[str, ...]
    description: str
    check: Callable[[dict[str, Any]], str] = lambda numbers: ""
    near: Callable[[str], list[str]] | None = None

    def numbers(self, name: str) -> dict[str, Any] | None:
        """Return the numbers in `name`, or None where it is no name of this family."""
        match = self.pattern.fullmatch(name)
        return match and {key: int(text) if text.isdigit() else text for key, text in match.groupdict("1").items()}


def _check_wrn(numbers: dict[str, int]) -> str:
    depth = numbers["depth"]
    return "" if depth >= 10 and depth % 6 == 4 else f"depth {depth} is not 6n + 4 (10, 16, 22, 28, ...)"


NETWORKS = [
    Family(
        re.compile(r"wrn-(?P<depth>[1-9][0-9]{1,2})-(?P<width>[1-9][0-9]?)"),
        "kd.models.wrn",
        "WideResNet",
        ("wrn-16-1", "wrn-16-2", "wrn-16-4", "wrn-16-6", "wrn-28-2", "wrn-28-4", "wrn-40-2", "wrn-40-4"),
        "wide residual network, wrn-depth-width, depth 6n + 4",
        _check_wrn,
    ),
    Family(
        re.compile(r"resnet(?P<depth>8|14|20|26|32|44|56|110)(x(?P<width>4))?"),
        "kd.models.resnet_cifar",
        "CifarResNet",
        (*(f"resnet{depth}" for depth in (8, 14, 20, 26, 32, 44, 56, 110)), "resnet8x4", "resnet32x4"),
        "residual network for 32x32 images, as in the KD benchmarks",
    ),
    Family(
        re.compile(r"resnet(?P<depth>18|34|50|101|152)"),
        "kd.models.resnet_imagenet",
        "ImageNetResNet",
        ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        "residual network for 224x224 images, torchvision's",
    ),
    Family(
        re.compile(r"resnet(?P<depth>18|34|50)-cifar"),
        "kd.models.resnet_cifar_stem",
        "CifarStemResNet",
        ("resnet18-cifar", "resnet34-cifar", "resnet50-cifar"),
        "torchvision's residual network behind a stem for 32x32 images",
    ),
    Family(
        re.compile(r"vgg(?P<depth>8|11|13|16|19)"),
        "kd.models.vgg",
        "Vgg",
        ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"),
        "VGG with batch normalisation for 32x32 images, as in the KD benchmarks",
    ),
    Family(
        re.compile(r"mobilenetv2-half"),
        "kd.models.mobilenet_v2",
        "MobileNetV2Half",
        ("mobilenetv2-half",),
        "MobileNetV2 of half width for 32x32 images, as in the KD benchmarks",
    ),
    Family(
        re.compile(r"shufflenetv1"),
        "kd.models.shufflenet_v1",
        "ShuffleNetV1",
        ("shufflenetv1",),
        "ShuffleNet for 32x32 images, as in the KD benchmarks",
    ),
    Family(
        re.compile(r"shufflenetv2"),
        "kd.models.shufflenet_v2",
        "ShuffleNetV2",
        ("shufflenetv2",),
        "ShuffleNetV2 for 32x32 images, as in the KD benchmarks",
    ),
    Family(
        re.compile(rf"{timm_names.PREFIX}(?P<name>[a-z0-9]+(-[a-z0-9]+)*)"),
        "kd.models.timm_network",
        "TimmNetwork",
        (),
        "any network of timm, written timm:NAME in a study",
        lambda numbers: timm_names.complaint(numbers["name"]),
        near=timm_names.near,
    ),
]


def canonical(name: str) -> str:
    """Return the one spelling of a network's name that paths have: of `timm:vit_tiny` it is `timm-vit-tiny`."""
    return timm_names.canonical(name)


def is_network(name: str) -> bool:
    """Say whether `name` is a network that kd can build."""
    return not _find(name)[1]


def module_of(name: str) -> str:
    """Return the module that defines network `name`, for code digests. Raises ConfigError for an unknown one."""
    return _known(name).module


def build(name: str, classes: int, channels: int = 3) -> Network:
    """Return network `name` with fresh weights from torch's global generator. Raises ConfigError for an unknown one."""
    module, function, numbers = made_by(name)
    return getattr(importlib.import_module(module), function)(**numbers, classes=classes, channels=channels)


def made_by(name: str) -> tuple[str, str, dict[str, Any]]:
    """Return what makes network `name`: a module, its function, and the numbers in the name that this is given."""
    found = _known(name)
    return found.module, found.function, found.numbers(name)


def _find(name: str) -> tuple[Family | None, str]:
    """Return the family of `name` and what is wrong with the name, if anything."""
    for candidate in NETWORKS if re.fullmatch(NAME, name) else ():
        numbers = candidate.numbers(name)
        if numbers is not None:
            return candidate, candidate.check(numbers)
    return None, "unknown"


def _known(name: str) -> Family:
    found, complaint = _find(name)
    if found is None or complaint:
        examples = [example for candidate in NETWORKS for example in candidate.examples]
        near = found.near(name) if found and found.near else examples
        raise ConfigError(f"network {name!r}: {complaint}" + (nearest(name, near) if near else ""))
    return found
