"""Test a published network on images that are not its dataset's: as they are, in evaluation mode and float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kd import data
from kd.data.arrays import Dataset
from kd.data.examples import Examples, tensor
from kd.losses.ensembles import ENSEMBLES
from kd.measure.answers import run
from kd.measure.measures import right
from kd.measure.scores import Score
from kd.models.network import Network
from kd.train.device import Place


def examples_of(dataset: Dataset, crop: str) -> Examples:
    """Return the test images of a dataset as networks want them, with nothing to train on."""
    nothing = torch.empty(0, dtype=torch.int64)
    parts = dict.fromkeys(("labels", "train", "heldout"), nothing) | {"test_labels": tensor(dataset.test_labels)}
    parts |= {"mean": torch.tensor(dataset.mean), "std": torch.tensor(dataset.std)}
    return data.load(data.CROPS[crop])(dataset, 0, False, 0, parts)[1]


def scored(networks: Sequence[Network], combination: str, examples: Examples, place: Place) -> Score:
    """Test a network, or several that answer as an ensemble by `combination`, one of ENSEMBLES, at tau = 1."""
    index = torch.arange(len(examples.test_labels))
    logits = [run(network, "test", index, examples, place)[0] for network in networks]
    together = ENSEMBLES[combination](torch.stack(logits)) if len(logits) > 1 else logits[0]
    return Score(len(index), 100 * right(together, examples.test_labels).double().mean().item())
