"""The processes that train one cell together: one, or those that torchrun has started, one for each GPU.

Each takes its part of every batch, and the gradients are those of the whole batch. Batch normalisation takes its
statistics from a part, as everywhere with DistributedDataParallel; the running ones that are kept, evaluated and
published are the first process's. The first process alone locks, logs, saves and publishes.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

# The first may wait this long for a cell that another command trains. A process that dies is noticed at once.
_PATIENCE = timedelta(days=7)


class Peers:
    """One process that trains alone."""

    rank, count = 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this process locks, logs, saves and publishes."""
        return self.rank == 0

    def own(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch [B, ...]: B / count examples, rounded up in the first processes."""
        return batch

    def mean(self, loss: Tensor, examples: int) -> Tensor:
        """Return what to differentiate, of this process's losses [b] in a batch of so many `examples`."""
        return loss.mean()

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return what runs `network` so that its gradients are the means over the processes."""
        return network

    def all_gather(self, values: Tensor) -> Tensor:
        """Return the values [...] of every process: [P, ...]."""
        return values[None]

    def agreed(self, arrived: Sequence[int], save: bool) -> tuple[int, bool]:
        """Return the signal to stop by, 0 if none has arrived anywhere, and whether the first wants to save."""
        return (arrived[0] if arrived else 0), save

    def broadcast(self, value: T) -> T:
        """Return what the first process says, once it does."""
        return value

    def average(self, module: nn.Module) -> None:
        """Give the parameters of `module`, which `parallel` has not seen, the means of the processes' gradients."""

    def same_buffers(self, network: nn.Module) -> None:
        """Give `network` the buffers that the first process's has."""


ALONE = Peers()


class Team(Peers):
    """One of several processes that train together."""

    def __init__(self) -> None:
        """Join the others, which call this too."""
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE
        )
        self.rank, self.count = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def own(self, batch: Tensor) -> Tensor:
        return batch.tensor_split(self.count)[self.rank]

    def mean(self, loss: Tensor, examples: int) -> Tensor:
        return loss.sum() * (self.count / examples)  # gradients are averaged over processes with unequal parts

    def parallel(self, network: nn.Module) -> nn.Module:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch 2.15 has another name for it
            return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)

    def all_gather(self, values: Tensor) -> Tensor:
        rows = [torch.empty_like(values) for _ in range(self.count)]
        torch.distributed.all_gather(rows, values)
        return torch.stack(rows)

    def agreed(self, arrived: Sequence[int], save: bool) -> tuple[int, bool]:
        # On the host, so that no device is waited for.
        word = torch.tensor([arrived[0] if arrived else 0, save and self.is_first], dtype=torch.int64)
        torch.distributed.all_reduce(word, torch.distributed.ReduceOp.MAX)
        stop, save = word.tolist()
        return stop, bool(save)

    def broadcast(self, value: T) -> T:
        values = [value]
        torch.distributed.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def average(self, module: nn.Module) -> None:
        for parameter in module.parameters():
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= self.count

    def same_buffers(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


@contextlib.contextmanager
def joined() -> Iterator[Peers]:
    """Train together with the other processes that torchrun started, or alone if it started none."""
    if not torch.distributed.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    yield Team()
    torch.distributed.destroy_process_group()  # not after an error: the others may be in no state to agree
