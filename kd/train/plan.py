"""How one network is trained: what the protocol, the loss and the cell say, and what follows of an epoch's number."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from kd.data import views
from kd.data.classmates import classmates
from kd.data.examples import Asked
from kd.data.mixing import Mixing
from kd.losses.objective import Objective
from kd.losses.spec import Needs


@dataclass(frozen=True)
class Plan:
    """How one network is trained: the protocol's values, and what the cell adds to them."""

    objective: Objective
    needs: Needs
    grid: views.Views
    seed: int
    epochs: int  # to train: fewer than the schedule is made for where a teacher is stopped early
    schedule_epochs: int
    batch: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    schedule: str
    drops: tuple[int, ...]
    gamma: float
    decay_1d: bool = False  # whether biases and batch normalisation are decayed too
    evaluate: int = 1  # after every so many epochs, and the last; 0: after the last alone
    optimizer: str = "sgd"
    betas: tuple[float, float] = (0.9, 0.999)  # of adamw
    warmup: float = 0.0  # these three are shares of the schedule's epochs
    ema: float = 0.0
    swa: float = 0.0
    recordable: bool = True  # whether a step can be recorded on a GPU and replayed
    strong: views.Views | None = None  # how an image is shown after the first time, if otherwise
    mixing: Mixing | None = None  # of each image with another

    @property
    def grids(self) -> list[views.Views]:
        """How images are shown: once for each view, once more as those that they are mixed with, or taught by."""
        further = [self.strong or self.grid] * (self.needs.views - 1)
        return [self.grid, *further, *([self.grid] if self.mixing or self.needs.another else [])]

    def shown(self, epoch: int, train: Tensor, labels: Tensor) -> list[Asked]:
        """Return what an epoch shows: for each of `grids` the examples [N] in their order, and their views [N].

        `labels` are those of all examples, as they are learnt.
        """
        orders = [views.order(self.seed, epoch, train)] * self.needs.views
        if self.mixing:
            orders.append(self.mixing.partners(self.seed, epoch, train))
        each = enumerate(zip(orders, self.grids, strict=False))
        found = [(index, grid.draw(self.seed, epoch, index, which), grid) for which, (index, grid) in each]
        if self.needs.another:  # in the view in which this epoch shows it as itself, because a bank holds no other
            mates = classmates(self.seed, epoch, orders[0], labels)
            found.append((mates, self.grid.draw(self.seed, epoch, mates), self.grid))
        return found

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0: the schedule's, less in the epochs of a warm-up."""
        rises = max(1, round(self.warmup * self.schedule_epochs)) if self.warmup else 0
        warm = min(1.0, (epoch + 1) / (rises + 1))
        if self.schedule == "cosine":
            return warm * self.lr * (1 + math.cos(math.pi * epoch / self.schedule_epochs)) / 2
        return warm * self.lr * self.gamma ** sum(epoch >= drop for drop in self.drops)

    def evaluates(self, epoch: int) -> bool:
        """Say whether the network is evaluated after an epoch, counted from 1."""
        return epoch == self.epochs or (self.evaluate > 0 and epoch % self.evaluate == 0)
