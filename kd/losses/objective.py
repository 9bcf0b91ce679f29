"""What an objective looks at, and what it may hold: parameters, state, a view of its own of the epoch.

Most losses are functions of logits (`Pure`). An objective that holds something is a module: its parameters are trained
with the student, its buffers are part of the state from which a stopped run goes on. Neither is published.

On a GPU a step is recorded once and replayed. So `forward` reads tensors alone: no `.item()`, no branch on data, no
Python number that changes, and buffers are changed in place. Random choices are functions of (seed, epoch, index).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kd.models.output import Output


class Batch(NamedTuple):
    """All that an objective may look at."""

    student: tuple[Output, ...]  # one a view
    teacher: tuple[Output, ...]  # likewise; empty where there is no teacher
    labels: Tensor  # [B] int64
    index: Tensor  # [B] int64, the examples' numbers
    epoch: Tensor  # [] float32; the first is 1


@dataclass(frozen=True)
class Course:
    """What is known before the first step.

    Networks are built on demand, the student with the weights it begins with: a module that an objective stored would
    be trained twice. There is no teacher where several teach as one, or none.
    """

    seed: int
    labels: Tensor  # [N] of all examples, as they are learnt
    classes: int
    batch: int
    steps: int  # an epoch
    epochs: int  # to train
    student: Callable[..., nn.Module]  # and `student(1)`, `student(2)`, ... that begin with other weights
    teacher: Callable[[], nn.Module] | None
    student_shapes: Callable[[], Output]  # of what the loss reads of one image: tensors with shapes and no values
    teacher_shapes: Callable[[], Output] | None
    # What the teacher, or several that teach as one, says beside logits ("maps", ...) of all that is learnt from, as
    # images are: batches, each with its labels. Asked again it is run again.
    told: Callable[[str], Iterator[tuple[Output, Tensor]]] | None = None
    # Between classes, [K, K] float32, as the teacher sees it: published before, where `needs.relation` asks for it.
    relation: Callable[[], Tensor] | None = None
    train: Tensor | None = None  # [n] numbers of the examples that are learnt from; all where None


class Objective(nn.Module):
    """What is minimised: `forward` gives one value per example; a term of a whole batch is spread evenly."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        raise NotImplementedError

    def adapted(self, student: Output) -> Output:
        """Return what the student says after adapters of this objective; they run under autocast, as networks do."""
        return student

    def measured(self, student: Output, labels: Tensor) -> dict[str, Tensor]:
        """Return values [B] by name of what the evaluated student says, after its adapters.

        Their means are columns of metrics.csv, such as test_NAME, in percent where the name ends in top1.
        """
        return {}

    def epoch_begins(self, epoch: int) -> None:
        """Do what is to be done before an epoch, counted from 1, outside any recording."""

    def log(self, *names: str) -> None:
        """Have columns of these names in metrics.csv, each the mean of what `note` is given over an epoch."""
        for name in names:
            self.register_buffer(f"logged_{name}", torch.zeros(2, dtype=torch.float64))

    def note(self, name: str, values: Tensor) -> None:
        """Add values [B] to a column's mean."""
        sums = self.get_buffer(f"logged_{name}")
        sums += torch.stack([values.detach().sum().double(), torch.full_like(sums[0], values.numel())])

    @property
    def logged(self) -> dict[str, Tensor]:
        """Sum and count [2] of each column, on the device."""
        return {name.removeprefix("logged_"): b for name, b in self.named_buffers() if name.startswith("logged_")}


class Pure(Objective):
    """A function of logits and labels, and nothing else."""

    def __init__(self, function: Callable[..., Tensor], **hyperparameters: object) -> None:
        super().__init__()
        self._function = functools.partial(function, **hyperparameters)

    def forward(self, batch: Batch) -> Tensor:
        teacher = batch.teacher[0].logits if batch.teacher else None
        return self._function(batch.student[0].logits, teacher, batch.labels)


class Following(Pure):
    """A function of logits, labels and the epoch."""

    def forward(self, batch: Batch) -> Tensor:
        return self._function(batch.student[0].logits, batch.teacher[0].logits, batch.labels, epoch=batch.epoch)
