"""Load an exported network without kd. `kd export` copies this code behind the network's own, into model.py."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """A network behind the normalisation with which it was trained: it takes images as they are."""

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, K] of images [B, C, H, W], floats from 0 to 1."""
        return self.network((images - self.mean) / self.std)


def load(folder: str | Path = Path(__file__).parent) -> Classifier:
    """Return the network in `folder`, for evaluation; `load().network.train()` trains on."""
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    network = globals()[config["architecture"]](**config["arguments"])
    network.load_state_dict(safetensors.torch.load_file(Path(folder, "model.safetensors")))
    return Classifier(network, config["mean"], config["std"]).eval()
