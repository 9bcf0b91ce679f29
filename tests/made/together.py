"""What two processes run that test_peers starts with torchrun: `fit` on a network without batch normalisation."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from kd.train.device import Place
from kd.train.fit import History, fit
from kd.train.peers import joined
from made.fitting import NoState, made_examples, plan


class Linear(nn.Module):
    """One linear layer: its gradients are those of a batch, however that is divided."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, 2] of images [B, 1, 8, 8]."""
        return self.layer(images.flatten(1))


def trained() -> dict | None:
    """Return weights and rows after 71 examples in batches of 16: of the last 7, one process takes 4, the other 3."""
    torch.set_num_threads(1)
    with joined() as peers:
        network, history = Linear(), History()
        where = Place(torch.device("cpu"), "fp32", peers=peers)
        fit(network, made_examples(71, heldout=10), plan(lr=0.01), None, where, NoState(), history)
        return {"weights": network.state_dict(), "rows": history.rows, "rank": peers.rank, "count": peers.count}


if __name__ == "__main__":
    result = trained()
    torch.save(result, Path(sys.argv[1], f"{result['rank']}.pt"))
