"""How a frozen teacher answers: run on what the student sees, or read from rows that were computed before.

Several can answer as one. An ensemble has no rows of its own: each member has, which its own students share, and a
student of the ensemble combines them as it reads. That saves a bank for each combination, and combines at the student's
own tau: the mean of probabilities at one temperature is not their mean at another.

A row's key is (example index, view), never a position in any order: example index * views + view.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from kd.data.examples import Examples
from kd.data.views import Grid
from kd.losses.ensembles import ENSEMBLES
from kd.models.output import Output

if TYPE_CHECKING:
    from kd.study.cells import Cell

# Views at a time that a bank is computed in, which may change a row's last bit. Fastest: on a CPU the activations stay
# in the cache (bench/parts.py).
FILL_BATCH = {"cpu": 64, "cuda": 1024}


class Teacher(Protocol):
    """Whatever says what a frozen teacher says: a bank of stored views, or the network itself."""

    def output(self, index: Tensor, view: Tensor, inputs: Tensor) -> Output:
        """Return what it says of examples `index` [B] in `view` [B], seen as `inputs` [B, C, H, W]; float32."""


class LiveTeacher:
    """A frozen teacher that is run: in each step where views are not finite, once for each row of a bank otherwise."""

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        precision: str = "fp32",
        says: Collection[str] = ("logits",),
    ) -> None:
        """Take `network` to `device`, in evaluation mode and without gradients; `says` is what of it is asked.

        `precision` is fp32, tf32 (fp32 where there is none) or bf16, whatever the student is trained in.
        """
        self._network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._device = device
        self._precision = precision
        self._says = frozenset(says)

    @torch.no_grad()
    def output(self, index: Tensor, view: Tensor, inputs: Tensor) -> Output:
        """Return what it says of `inputs` [B, C, H, W]."""
        with (
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"),
            _tf32(self._precision == "tf32"),
        ):
            if self._says == {"logits"}:
                return Output(self._network(inputs)).float()
            return self._network.outputs(inputs, self._says).float()

    def answers(self, keys: Tensor, examples: Examples, grid: Grid) -> Output:
        """Return what it says, float16 on the CPU, of these keys [B]; all that is read is on the device."""
        index, view = keys // grid.count, keys % grid.count
        inputs = examples.normalise(grid.render(examples.images[index], view))
        return self.output(index, view, inputs).mapped(lambda said: said.half().cpu())


class StoredTeacher:
    """A teacher whose answers were computed before: of each output sorted keys [R] int64 and rows [R, D] float16."""

    def __init__(self, outputs: Mapping[str, tuple[Tensor, Tensor]], grid: Grid) -> None:
        self._outputs, self._views = outputs, grid.count

    def output(self, index: Tensor, view: Tensor, inputs: Tensor | None = None) -> Output:
        """Return what is stored of examples `index` [B] in `view` [B]; `inputs` play no part."""
        key = index * self._views + view
        found = {name: rows[torch.searchsorted(keys, key)] for name, (keys, rows) in self._outputs.items()}
        return Output(**found).float()


class Ensemble:
    """Teachers that answer as one; `combination` is one of ENSEMBLES, `tau` the temperature of who asks."""

    def __init__(self, members: Sequence[Teacher], combination: str, tau: float = 1.0) -> None:
        self._members, self._combine, self._tau = members, ENSEMBLES[combination], tau

    def output(self, index: Tensor, view: Tensor, inputs: Tensor) -> Output:
        """Return the logits of examples `index` [B] in `view` [B], seen as `inputs` [B, C, H, W]."""
        said = torch.stack([member.output(index, view, inputs).logits for member in self._members])
        return Output(self._combine(said, self._tau))


def together(voices: Sequence[Teacher], teacher: Cell, tau: float) -> Teacher:
    """Return what answers for a teacher whose members answer as `voices`; `tau` is the temperature of who asks."""
    return Ensemble(voices, teacher.stage.ensemble, tau) if teacher.is_ensemble else voices[0]


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let a GPU's convolutions round their float32 inputs to 10 bits while the block runs, or see that they do not."""
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def keys_seen(students: Iterable[tuple[int, int]], grid: Grid, train: Tensor) -> Tensor:
    """Return the sorted keys [R] of every view of the examples `train` that students of these (seed, epochs) see."""
    train = train.cpu()
    seen = torch.zeros((int(train.max()) + 1) * grid.count, dtype=torch.bool)
    for seed, epochs in students:
        for epoch in range(epochs):
            seen[train * grid.count + grid.draw(seed, epoch, train)] = True
    return seen.nonzero().squeeze(1)
