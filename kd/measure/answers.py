"""The answers of a published network to images without augmentation, in evaluation mode and float32, for analyses.

answers/<cell>/ holds one safetensors file and a manifest: answers for the whole test set, and for a class-balanced
sample of the examples that the network learnt from, chosen as fractions are. Two cells of one dataset share one sample,
or one sample contains the other, whatever seed and noise. Logits are float32, because analyses measure their ranks and
small differences. Pre-logits are float16: a density or a correlation shows less than its 11 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd.core import files
from kd.data.examples import Examples
from kd.data.splits import SAMPLE, subset
from kd.losses.ensembles import ENSEMBLES
from kd.models.network import Network
from kd.study.cells import ANSWERS, Cell
from kd.train.device import Place
from kd.train.tensors import tensors_of

FILE = "answers.safetensors"


@dataclass(frozen=True)
class Split:
    """The answers of a network to N examples. An ensemble has no pre-logits."""

    index: Tensor  # [N] numbers of the examples, ascending
    labels: Tensor  # [N] as the network was given them
    clean: Tensor  # [N] before label noise
    logits: Tensor  # [N, K] float32
    prelogits: Tensor | None  # [N, D] float16


@dataclass(frozen=True)
class Answers:
    """The answers of a network, and its templates: the rows of the classifier's weight."""

    test: Split
    train: Split
    weight: Tensor | None  # [K, D]
    bias: Tensor | None  # [K]


def sample(clean: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return the sorted indices of about `SAMPLE` of the examples `train` [M], or of all; classes keep their shares."""
    return subset(clean, min(1.0, SAMPLE / len(train)), among=train)


def answered(
    networks: Sequence[Network], combination: str, examples: Examples, clean: np.ndarray, place: Place
) -> dict[str, Tensor]:
    """Return the tensors of a network's answers, named as `read` expects; several networks answer as an ensemble.

    `clean` [N] are the training labels before label noise. `combination` is one of ENSEMBLES, used at tau = 1.
    """
    chosen = torch.from_numpy(sample(clean, examples.train.numpy()))
    given, before = examples.labels[chosen], torch.from_numpy(clean.copy())[chosen]
    every = torch.arange(len(examples.test_labels))
    splits = {
        "test": (every, examples.test_labels, examples.test_labels),
        "train": (chosen, given, before),
    }
    tensors = {}
    for name, (index, labels, truth) in splits.items():
        parts = [run(network, name, index, examples, place) for network in networks]
        tensors |= {f"{name}.index": index, f"{name}.labels": labels, f"{name}.clean": truth}
        if len(networks) > 1:
            tensors[f"{name}.logits"] = ENSEMBLES[combination](torch.stack([logits for logits, _ in parts]))
        else:
            ((tensors[f"{name}.logits"], prelogits),) = parts
            tensors[f"{name}.prelogits"] = prelogits.half()
    if len(networks) == 1:
        tensors |= {key: getattr(networks[0].classifier, key).detach().cpu() for key in ("weight", "bias")}
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}  # safetensors refuses shared memory


@torch.inference_mode()
def run(network: Network, split: str, index: Tensor, examples: Examples, place: Place) -> tuple[Tensor, Tensor]:
    """Return the logits [M, K] and pre-logits [M, D] of the images of `train` or `test` at `index` [M], float32."""
    network = network.to(place.device, memory_format=torch.channels_last).eval()
    logits, prelogits = [], []
    for inputs in examples.plain(split, index, place.evaluation_batch):  # in batches: all may not fit into memory
        features = network.features(inputs.to(place.device))
        logits.append(network.classifier(features).cpu())
        prelogits.append(features.cpu())
    return torch.cat(logits), torch.cat(prelogits)


def manifest_of(cell: Cell) -> dict:
    """Return the manifest of a cell's answers. Raises StorageError when they are missing or damaged."""
    return files.verified(Path(ANSWERS, cell.name))


def read(cell: Cell) -> Answers:
    """Return the published answers of a cell that did not diverge. Raises StorageError when they cannot be read."""
    tensors = tensors_of(Path(ANSWERS, cell.name, FILE))
    keys = [field.name for field in fields(Split)]
    splits = {name: Split(*(tensors.get(f"{name}.{key}") for key in keys)) for name in ("test", "train")}
    return Answers(**splits, weight=tensors.get("weight"), bias=tensors.get("bias"))
