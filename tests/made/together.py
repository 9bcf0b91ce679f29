"""The program that test_peers starts with torchrun in two processes: `fit`, with cross-entropy or ONE."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from kd.losses import LOSSES
from kd.train.device import Place
from kd.train.fit import History, fit
from kd.train.peers import joined
from made.course import built, of_network
from made.fitting import NoState, made_examples, network, plan


class Linear(nn.Module):
    """One linear layer. Dividing a batch among processes does not change its gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, 2] of images [B, 1, 8, 8]."""
        return self.layer(images.flatten(1))


def trained(kind: str = "ce") -> dict | None:
    """Train on 61 examples in batches of 16, so that the last, of 13, is odd; return weights and rows.

    Cross-entropy trains a network without batch normalisation, ONE a resnet8.
    """
    torch.set_num_threads(1)
    made = plan(lr=0.01)
    if kind == "one":
        torch.manual_seed(1)
        objective = built("one", of_network("resnet8", 2), tau=3, branches=3)
        made = dataclasses.replace(made, objective=objective, needs=LOSSES["one"].needs)
    with joined() as peers:
        student, history = Linear() if kind == "ce" else network(), History()
        where = Place(torch.device("cpu"), "fp32", peers=peers)
        fit(student, made_examples(71, heldout=10), made, None, where, NoState(), history)
        found = {"weights": student.state_dict(), "rows": history.rows, "rank": peers.rank, "count": peers.count}
        return found | {"held": made.objective.state_dict()}


if __name__ == "__main__":
    result = trained(*sys.argv[2:])
    torch.save(result, Path(sys.argv[1], f"{result['rank']}.pt"))
