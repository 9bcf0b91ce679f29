"""What others call the layers of kd's networks: whose names are known, and the rules that make kd's of them.

A rule is a pattern and what replaces it, applied to every name of a state dict in the order given. kd's own names pass
unchanged, so one list serves all publishers of a network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

_BENCHMARKS = ("RepDistiller", "mdistiller")
_CLASSIFIER = (r"^(fc|linear)\.", "classifier.")
_STEM = ((r"^conv1\.", "stem."), (r"^bn1\.", "norm."))
_NORMS = (r"\.bn([1-5])\.", r".norm\1.")


@dataclass(frozen=True)
class Names:
    """Whose names of a network's layers are known, and what makes kd's names of them."""

    publishers: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]


NAMES = {
    "kd.models.resnet_cifar": Names(
        (*_BENCHMARKS, "kd_data", "torchdistill", "chenyaofo"),
        (*_STEM, (r"^layer", "stage"), _NORMS, (r"\.downsample\.", ".shortcut."), _CLASSIFIER),
    ),
    "kd.models.wrn": Names(
        (*_BENCHMARKS, "kd_data", "xternalz"),
        (*_STEM, (r"^block(\d)\.layer\.", r"stage\1."), _NORMS, (r"\.convShortcut\.", ".shortcut."), _CLASSIFIER),
    ),
    "kd.models.resnet_imagenet": Names(("torchvision", "timm"), ((r"^fc\.", "classifier."),)),
    "kd.models.resnet_cifar_stem": Names(
        (*_BENCHMARKS, "kuangliu", "FINE", "weiaicunzai", "kd-capacity-gap"),
        (
            (r"^conv1\.0\.", "stem."),
            (r"^conv1\.1\.", "norm."),
            *((rf"^conv{n + 1}_x\.", f"stage{n}.") for n in range(1, 5)),
            *((rf"\.residual_function\.{3 * n}\.", f".conv{n + 1}.") for n in range(3)),
            *((rf"\.residual_function\.{3 * n + 1}\.", f".norm{n + 1}.") for n in range(3)),
            *_STEM,
            (r"^layer", "stage"),
            _NORMS,
            (r"\.downsample\.", ".shortcut."),
            _CLASSIFIER,
        ),
    ),
    "kd.models.vgg": Names(_BENCHMARKS, ((r"^block", "stage"),)),
    "kd.models.mobilenet_v2": Names(
        _BENCHMARKS,
        (
            (r"^conv1\.", "stem."),
            (r"^conv2\.", "last."),
            *(
                (rf"^blocks\.{row}\.", f"stage{place}.")
                for row, place in enumerate(("1.0", "1.1", "2.0", "3.0", "3.1", "4.0", "4.1"))
            ),
            (r"\.conv\.", ".layers."),
            (r"^classifier\.0\.", "classifier."),
        ),
    ),
    "kd.models.shufflenet_v1": Names(_BENCHMARKS, (*_STEM, (r"^layer", "stage"), _NORMS, _CLASSIFIER)),
    "kd.models.shufflenet_v2": Names(
        _BENCHMARKS,
        (*_STEM, (r"^conv2\.", "last.0."), (r"^bn2\.", "last.1."), (r"^layer", "stage"), _NORMS, _CLASSIFIER),
    ),
    "kd.models.timm_network": Names(
        ("timm",),
        (
            (r"^(fc|head|head\.fc|last_linear)\.(weight|bias)$", r"classifier.\2"),
            (r"^(?!body\.|classifier\.)", "body."),
        ),
    ),
}

# Names by which a network is known that has the shapes of one of kd's and computes something else, and why.
OTHERS = {
    "kd.models.wrn": (
        r"^layer\d\.\d+\.shortcut\.0\.",
        "these are the names of torchdistill's WRN: its shapes are those of kd's, but its shortcuts read a block's raw "
        "input instead of the normalised and activated one, so kd's network with these weights would answer "
        "something else",
    ),
}


def own_names(module: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of a network that `module` defines, whoever named them, under kd's names."""
    rules = NAMES[module].rules if module in NAMES else ()
    return {_renamed(name, rules): value for name, value in weights.items()}


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
