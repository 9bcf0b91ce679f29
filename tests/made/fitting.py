"""The least that `fit` can train: made images, a plan, a small network, a stop at a step."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from torch import Tensor, nn

from kd import losses, models
from kd.data.examples import Examples
from kd.data.views import Grid
from kd.losses.objective import Objective, Pure
from kd.losses.spec import Needs
from kd.machine.state import State
from kd.train.device import Place
from kd.train.fit import History, fit
from kd.train.plan import Plan

CPU = Place(torch.device("cpu"), "fp32")
HEADER = {"cell": "results/made/p/resnet8.ce.s0", "fingerprint": "f"}


def made_examples(n: int = 70, heldout: int = 0) -> Examples:
    """Bright or dark squares in a corner, with noise: two classes, learned in an epoch or two."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(n + 40) % 2
    images = torch.randint(0, 120, (n + 40, 8, 8, 1), dtype=torch.uint8, generator=generator)
    images[labels == 1, 2:5, 2:5] += 110
    return Examples(
        images=images[:n],
        labels=labels[:n],
        train=torch.arange(heldout, n),
        heldout=torch.arange(heldout),
        test_images=images[n:],
        test_labels=labels[n:],
        mean=torch.tensor([0.3]),
        std=torch.tensor([0.2]),
    )


def plan(epochs: int = 3, **changes: object) -> Plan:
    values = {
        "objective": losses.LOSSES["ce"].function,
        "needs": Needs(),
        "grid": Grid(1, False),
        "seed": 0,
        "epochs": epochs,
        "schedule_epochs": epochs,
        "batch": 16,
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": "multistep",
        "drops": (2,),
        "gamma": 0.1,
    }
    made = {**values, **changes}
    if not isinstance(made["objective"], Objective):
        made["objective"] = Pure(made["objective"])
    return Plan(**made)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("resnet8", 2, 1)


def run(
    folder: Path, made: Plan, examples: Examples | None = None, header: dict = HEADER, place: Place = CPU
) -> tuple[dict, list]:
    """Train to the end, going on from what is in `folder`; return weights and rows."""
    trained, history = network(), History()
    fit(trained, examples or made_examples(), made, None, place, State(folder, header), history)
    return trained.state_dict(), history.rows


def same(a: dict, b: dict) -> bool:
    return all(a[key].equal(b[key]) for key in a)


class StopAt:
    """An objective that sends this process a signal at one step: training stops there as SLURM would stop it."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.left, self.number = step, number

    def __call__(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return losses.LOSSES["ce"].function(student, teacher, labels)


class NoState(State):
    """A state that neither has nor keeps anything."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), {})

    def save(self, content: dict) -> None:
        """Keep nothing."""


def logits(seed: int, batch: int = 4, classes: int = 10, spread: float = 4.0, dtype=torch.float64) -> Tensor:
    """Return logits [batch, classes] of standard deviation `spread`."""
    return spread * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=dtype)
