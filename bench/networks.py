"""The table of networks in docs/networks.md, from the registry: `python -m bench.networks` writes it anew."""

from __future__ import annotations

from pathlib import Path

import torch

from kd import models
from kd.measure.inference import multiply_accumulates
from kd.models.publishers import NAMES

DOC = Path(__file__).parent.parent / "docs" / "networks.md"
_BEGIN, _END = "<!-- written by python -m bench.networks -->\n", "<!-- end -->\n"
_HEAD = """| network | parameters | multiply-accumulates | maps | pre-logits | publishers whose names are known |
|---|---|---|---|---|---|
"""


def table() -> str:
    """Return a line for each network that the registry has as an example."""
    lines = []
    for family in models.NETWORKS:
        known = NAMES.get(family.module)
        publishers = ", ".join(known.publishers) if known else ""
        lines += [_line(name, family.module, publishers) for name in family.examples]
    return _HEAD + "".join(lines)


def _line(name: str, module: str, publishers: str) -> str:
    classes, size = (1000, 224) if module == "kd.models.resnet_imagenet" else (100, 32)
    with torch.device("meta"):
        network = models.build(name, classes).eval()
        maps = network.maps(torch.empty(1, 3, size, size))[0]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    macs = multiply_accumulates([network], (3, size, size))
    sizes = ", ".join(f"{map_.shape[1]}×{map_.shape[2]}²" for map_ in maps)
    width = network.classifier.in_features
    return f"| `{name}` | {parameters:,} | {macs / 1e6:,.1f} M | {sizes} | {width} | {publishers} |\n"


def written(text: str) -> str:
    """Return the text of docs/networks.md with the table of now."""
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    DOC.write_text(written(DOC.read_text(encoding="utf-8")), encoding="utf-8")
