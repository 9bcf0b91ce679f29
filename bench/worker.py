"""One contestant of bench.loops: a process that does its work once for each line on its standard input.

It answers with a line of JSON (its memory) when it has warmed up, and each time it is done. The waiting makes it
possible to run many of them in turn, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd import bank, losses, models
from kd.data.examples import Examples
from kd.data.views import Grid
from kd.device import Place
from kd.fit import History, Plan, fit
from kd.state import State
from kd.teachers import LiveTeacher, StoredTeacher

CLASSES, IMAGES, BATCH = 100, 50_000, 128
TRAIN, TEST = 640, 128  # of an epoch in small: five steps, and a test set in CIFAR's proportion
TEACHER = "wrn-28-4"
GRID = Grid(pad=4, flip=True)


def main() -> None:
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    with contextlib.suppress(EOFError):
        CONTESTANTS[options["loop"]](options)


def turn() -> None:
    """Say that the last turn is over, and wait for the next."""
    resident = {key: int(value.split()[0]) // 1024 for key, value in _status().items() if key.startswith("Rss")}
    print(json.dumps(resident), flush=True)
    if not sys.stdin.readline():
        raise EOFError


def _status() -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())


def repeat(work: Callable[[], None]) -> None:
    """Do `work` in each turn; twice before the first."""
    work()
    while True:
        work()
        turn()


# -- kd ---------------------------------------------------------------------------------------------------------------


def kd(options: dict) -> None:
    """Run kd.fit.fit itself; after each few epochs its state asks whether to save, and waits for its turn."""
    place = _place(options)
    kl = functools.partial(losses.LOSSES["kl"].function, tau=3.0)
    made = plan(objective=kl, epochs=10**9, schedule_epochs=10**9)
    teacher = stored(Path(options["bank"])) if options["teacher"] == "bank" else LiveTeacher(network(TEACHER), place)
    fit(network(options["student"]), examples(), made, teacher, place, Turns(options["epochs"]), History())


def plan(**changes: object) -> Plan:
    """Return the paper's plan for one epoch with cross-entropy, with some values changed."""
    values = {
        "objective": losses.LOSSES["ce"].function,
        "grid": GRID,
        "seed": 0,
        "epochs": 1,
        "schedule_epochs": 1,
        "batch": BATCH,
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "schedule": "multistep",
        "drops": (),
        "gamma": 0.1,
    }
    return Plan(**{**values, **changes})


class Turns(State):
    """A state that keeps nothing; an epoch's end is the end of a turn."""

    def __init__(self, epochs: int) -> None:
        super().__init__(Path("nowhere"), {})
        self._epochs, self._done = epochs, -1  # the first epoch warms up

    def due(self, epoch_ends: bool) -> bool:
        self._done += epoch_ends
        if epoch_ends and self._done % self._epochs == 0:
            turn()
        return False

    def save(self, content: dict) -> None:
        """Keep nothing, after the last epoch neither."""


def _place(options: dict) -> Place:
    return Place(torch.device("cpu"), options["precision"], options.get("compiles", False))


def network(name: str) -> nn.Module:
    return models.build(name, CLASSES, 3)


def examples(train: int = TRAIN) -> Examples:
    """Return images of noise; a small part of them is an epoch, spread over all of them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES + TEST, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (IMAGES + TEST,), generator=generator)
    return Examples(
        images=images[:IMAGES],
        labels=labels[:IMAGES],
        train=torch.arange(0, IMAGES, IMAGES // train)[:train],
        heldout=torch.arange(0),
        test_images=images[IMAGES:],
        test_labels=labels[IMAGES:],
        mean=torch.full((3,), 0.5),
        std=torch.full((3,), 0.25),
    )


def write_bank(path: Path) -> None:
    """Write a bank of the full size: 162 views of 50,000 images, 1.6 GB."""
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (IMAGES * GRID.count, CLASSES))
    part = np.random.default_rng(0).normal(size=(IMAGES, CLASSES)).astype(np.float16)
    for view in range(GRID.count):
        rows[view * IMAGES : (view + 1) * IMAGES] = part
    rows.flush()


def stored(path: Path) -> StoredTeacher:
    rows = torch.from_numpy(np.load(path, mmap_mode="c"))
    return StoredTeacher(torch.arange(len(rows)), rows, GRID)


# -- its peers, and its limits ----------------------------------------------------------------------------------------


def peer(options: dict) -> None:
    """Run a peer's epoch."""
    from bench import peers

    have = examples()
    train = peers.Pictures(have.images[have.train], have.labels[have.train], train=True)
    test = peers.Pictures(have.test_images, have.test_labels, train=False)
    loop = getattr(peers, options["peer"])
    repeat(loop(network(options["student"]), network(TEACHER).eval(), train, test, BATCH).epoch)


def convolutions(options: dict) -> None:
    """Run the convolutions of the student alone, forward and both backwards, layer by layer, on as many images."""
    dtype = torch.bfloat16 if options["precision"] == "bf16" else torch.float32
    layers = [(*layer, number > 0) for number, layer in enumerate(layers_of(network(options["student"]), BATCH, dtype))]

    def work() -> None:
        for _ in range(TRAIN // BATCH * options["epochs"]):
            for layer in layers:
                convolve(*layer)

    repeat(work)


def layers_of(built: nn.Module, batch: int, dtype: torch.dtype) -> list[tuple[nn.Conv2d, Tensor, Tensor, Tensor]]:
    """Return each convolution with inputs, weights and output gradients of its sizes; the first one in float32."""
    found: list = []

    def note(layer: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        here = torch.float32 if not found else dtype
        shapes = (inputs[0].shape, layer.weight.shape, output.shape)
        made = (torch.randn(s).to(here, memory_format=torch.channels_last) for s in shapes)
        found.append((layer, *made))

    for module in built.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        built(torch.zeros(batch, 3, 32, 32))
    return found


def convolve(layer: nn.Conv2d, x: Tensor, weight: Tensor, gradient: Tensor, inner: bool = True) -> None:
    """Compute a layer's output, and the gradients of its weights and, if `inner`, of its inputs."""
    sizes = layer.stride, layer.padding, layer.dilation
    torch.conv2d(x, weight, None, *sizes)
    wanted = [inner, True, False]
    torch.ops.aten.convolution_backward(gradient, x, weight, None, *sizes, False, [0, 0], 1, wanted)


def fill(options: dict) -> None:
    """Fill a bank, kd.bank.fill itself, with the views of one epoch."""
    place, have, teacher = _place(options), examples(options["rows"]), network(TEACHER)
    identity = bank.Identity("t", "d", "e", "c", options["precision"], GRID.pad, GRID.flip)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            bank.fill(Path(folder), identity, [(0, 1)], GRID, teacher, have, place)

    repeat(work)


def passes(options: dict) -> None:
    """Run the bare forward passes that such a bank needs."""
    place, teacher = _place(options), network(TEACHER).to(memory_format=torch.channels_last).eval()
    images = torch.randn(64, 3, 32, 32).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def work() -> None:
        for _ in range(options["rows"] // 64):
            with place.autocast():
                teacher(images)

    repeat(work)


CONTESTANTS = {"kd": kd, "peer": peer, "convolutions": convolutions, "fill": fill, "passes": passes}

if __name__ == "__main__":
    main()
