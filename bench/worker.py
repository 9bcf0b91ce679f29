"""One contestant of bench.loops: a process that does its work once for each line on its standard input.

It prints a line of JSON (its memory) when it has warmed up, and after each turn. Because it waits for its turn, many
contestants can run in rotation, so that other work on the machine slows all of them alike.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd import losses, models
from kd.data.examples import Examples
from kd.data.views import Grid
from kd.losses.objective import Pure
from kd.losses.spec import Needs
from kd.machine.state import State
from kd.study.needs import Need
from kd.train import arithmetic, bank
from kd.train.device import Place
from kd.train.fit import History, Sgd, evaluate, fit
from kd.train.plan import Plan
from kd.train.teachers import LiveTeacher, StoredTeacher

CLASSES, IMAGES, BATCH = 100, 50_000, 128
TRAIN, TEST = 640, 128  # images of a small epoch: five steps, and a test set in CIFAR's proportion
TEACHER = "wrn-28-4"
GRID = Grid(pad=4, flip=True)


def main() -> None:
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    with contextlib.suppress(EOFError):
        CONTESTANTS[options["loop"]](options)


def turn() -> None:
    """Report that a turn is over, and wait for the next."""
    memory = {key: int(value.split()[0]) // 1024 for key, value in _status().items() if key.startswith("Rss")}
    if torch.cuda.is_initialized():
        memory["gpu"] = torch.cuda.max_memory_reserved() >> 20
    print(json.dumps(memory), flush=True)
    if not sys.stdin.readline():
        raise EOFError


def _status() -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())


def repeat(work: Callable[[], None]) -> None:
    """Do `work` twice to warm up, and then once in each turn."""
    work()
    while True:
        work()
        turn()


# -- kd ---------------------------------------------------------------------------------------------------------------


def kd(options: dict) -> None:
    """Run kd.train.fit.fit. Its state, which it asks after each epoch whether to save, waits there for its turn."""
    train_for_ever(options, Turns(options["epochs"], turn))


def train_for_ever(options: dict, state: State) -> None:
    """Train a student that reads a bank, or a student of a live teacher, or a network alone."""
    place = _place(options)
    objective = functools.partial(losses.LOSSES["kl"].function, tau=3.0)
    if options["teacher"] == "bank":
        teacher = stored(Path(options["bank"]), place.device)
    elif options["teacher"] == "online":
        teacher = LiveTeacher(network(TEACHER), place.device)
    else:
        teacher, objective = None, losses.LOSSES["ce"].function
    made = plan(objective=objective, epochs=10**9, schedule_epochs=10**9)
    have = examples(options.get("train", TRAIN), options.get("test", TEST))
    fit(network(options["student"]), have, made, teacher, place, state, History())


def together(options: dict) -> None:
    """Run several cells in this process, each in a thread with a CUDA stream of its own."""
    count = options["cells"]
    meeting = threading.Barrier(count, action=turn)
    first_done = [threading.Event() for _ in range(count)]

    def one(number: int) -> None:
        def pause() -> None:
            first_done[number].set()
            meeting.wait()

        stream = torch.cuda.Stream() if torch.cuda.is_available() else None
        with contextlib.suppress(EOFError, threading.BrokenBarrierError), torch.cuda.stream(stream):
            train_for_ever(options, Turns(options["epochs"], pause))

    threads = [threading.Thread(target=one, args=[number]) for number in range(count)]
    for thread, ready in zip(threads, first_done, strict=True):
        thread.start()
        while thread.is_alive() and not ready.wait(1):  # only one thread at a time may record its graphs
            pass
    for thread in threads:
        thread.join()


def shared(options: dict) -> None:
    """Train several students of one bank in one step: they share its images and rows, and each has a stream."""
    place = _place(options)
    have = examples(options.get("train", TRAIN), options.get("test", TEST)).to(place.device)
    teacher, made = stored(Path(options["bank"]), place.device), plan()
    built = (network(options["student"]) for _ in range(options["cells"]))
    students = [student.to(place.device, memory_format=torch.channels_last) for student in built]
    forwards = [place.compiled(student, BATCH) for student in students]
    objectives = [functools.partial(losses.LOSSES["kl"].function, tau=1.0 + number) for number in range(len(students))]
    optimisers = [Sgd(student.parameters(), made) for student in students]
    streams = [torch.cuda.Stream() if place.device.type == "cuda" else None for _ in students]
    sums = torch.zeros(len(students), dtype=torch.float64, device=place.device)

    def step(lr: float | Tensor, index: Tensor, view: Tensor) -> None:
        inputs, taught = have.inputs(index, view, GRID), teacher.output(index, view).logits
        for number, stream in enumerate(streams):
            with _beside(stream):
                with place.autocast():
                    logits = forwards[number](inputs).float()
                loss = objectives[number](logits, taught, have.labels[index])
                loss.mean().backward()
                optimisers[number].step(lr)
                sums[number] += loss.detach().sum()
        for stream in filter(None, streams):
            torch.cuda.current_stream().wait_stream(stream)

    step, state, lr = place.recorded(step), Turns(options["epochs"], turn), place.scalar(made.lr)
    for epoch in range(10**9):
        ((index, view, _),) = made.shown(epoch, have.train, have.labels)
        for student in students:
            student.train()
        for batch in zip(index.split(BATCH), view.split(BATCH), strict=True):
            step(lr, *batch)
        for student, forward in zip(students, forwards, strict=True):
            student.eval()
            evaluate(forward, have, "test", place)
        sums.tolist()
        state.due(epoch_ends=True)


@contextlib.contextmanager
def _beside(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Work on a stream of its own, after all that was begun before."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield


def plan(**changes: object) -> Plan:
    """Return the paper's plan for one epoch with cross-entropy, with these values changed."""
    values = {
        "objective": losses.LOSSES["ce"].function,
        "needs": Needs(),
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
    made = {**values, **changes}
    return Plan(**{**made, "objective": Pure(made["objective"])})


class Turns(State):
    """A state that saves nothing, and ends a turn after every `epochs` epochs."""

    def __init__(self, epochs: int, turn_ends: Callable[[], None]) -> None:
        super().__init__(Path("nowhere"), {})
        self._turn_ends = turn_ends
        self._epochs, self._done = epochs, -1  # the first epoch warms up

    def due(self, epoch_ends: bool) -> bool:
        self._done += epoch_ends
        if epoch_ends and self._done % self._epochs == 0:
            self._turn_ends()
        return False

    def save(self, content: dict) -> None:
        """Save nothing, not even after the last epoch."""


def _place(options: dict) -> Place:
    """Return a contestant's place. On a GPU its steps are recorded as CUDA graphs, unless its options say otherwise."""
    device = torch.device(options.get("device", "cpu"))
    deterministic = options.get("deterministic", False)
    arithmetic.choose_kernels(deterministic)
    arithmetic.tune(device, math.inf if options.get("tuned", True) else 0, deterministic)
    kind = Place if options.get("recorded", True) else Unrecorded
    return kind(device, options["precision"], options.get("compiles", False))


class Unrecorded(Place):
    """A place that records no CUDA graphs, so that every kernel is launched singly."""

    def recorded(self, step: Callable[..., None]) -> Callable[..., None]:
        return step


def network(name: str) -> nn.Module:
    return models.build(name, CLASSES, 3)


def examples(train: int = TRAIN, test: int = TEST) -> Examples:
    """Return 50,000 images of noise. An epoch uses only `train` of them, spread over all."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES + test, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (IMAGES + test,), generator=generator)
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


def stored(path: Path, device: torch.device) -> StoredTeacher:
    rows = torch.from_numpy(np.load(path, mmap_mode="c")).to(device)
    return StoredTeacher({"logits": (torch.arange(len(rows), device=device), rows)}, GRID)


# -- peers and limits -------------------------------------------------------------------------------------------------


def peer(options: dict) -> None:
    """Run a peer's epoch."""
    from bench import peers

    have = examples(options.get("train", TRAIN), options.get("test", TEST))
    train = peers.Pictures(have.images[have.train], have.labels[have.train], train=True)
    test = peers.Pictures(have.test_images, have.test_labels, train=False)
    device = torch.device(options.get("device", "cpu"))
    loop = getattr(peers, options["peer"])
    student, teacher = network(options["student"]).to(device), network(TEACHER).to(device).eval()
    repeat(loop(student, teacher, train, test, BATCH, device, options.get("workers", peers.WORKERS)).epoch)


def convolutions(options: dict) -> None:
    """Run only the student's convolutions, forward and both backward passes, layer by layer, on as many images."""
    dtype = torch.bfloat16 if options["precision"] == "bf16" else torch.float32
    layers = [(*layer, number > 0) for number, layer in enumerate(layers_of(network(options["student"]), BATCH, dtype))]

    def work() -> None:
        for _ in range(TRAIN // BATCH * options["epochs"]):
            for layer in layers:
                convolve(*layer)

    repeat(work)


def layers_of(built: nn.Module, batch: int, dtype: torch.dtype) -> list[tuple[nn.Conv2d, Tensor, Tensor, Tensor]]:
    """Return each convolution with random inputs, weights and output gradients of its shapes; the first in float32."""
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
    """Fill a bank with the views of one epoch, by kd.train.bank.fill."""
    place, have, teacher = _place(options), examples(options["rows"]), network(options.get("network", TEACHER))
    identity = _identity(options)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            bank.fill(Path(folder), identity, [Need(0, 1)], GRID, teacher, have, place, {})

    repeat(work)


def passes(options: dict) -> None:
    """Run only the forward passes that such a bank needs."""
    place, batch = _place(options), bank.FILL_BATCH[options.get("device", "cpu")]
    teacher = network(options.get("network", TEACHER)).to(place.device, memory_format=torch.channels_last).eval()
    images = torch.randn(batch, 3, 32, 32, device=place.device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def work() -> None:
        for _ in range(options["rows"] // batch):
            with place.autocast():
                teacher(images)
        if place.device.type == "cuda":
            torch.cuda.synchronize()

    repeat(work)


# -- whole runs: no turns, one line at the end ------------------------------------------------------------------------


def whole_bank(options: dict) -> None:
    """Fill the bank in options["folder"] that a student reads in its epochs."""
    place, have = _place(options), examples(options["train"], options["test"])
    folder, needs = Path(options["folder"], "bank"), [Need(0, options["epochs"])]
    manifest = bank.fill(folder, _identity(options), needs, GRID, network(TEACHER), have, place, {})
    print(json.dumps({"rows": manifest["outputs"]["logits"]["shape"][0], "seconds": manifest["seconds"]}))


def whole_cell(options: dict) -> None:
    """Train a student that reads a bank, save its state as kd does, and write its weights.

    The bank is the file of rows in options["bank"], or what `whole_bank` filled.
    """
    folder, place = Path(options["folder"]), _place(options)
    objective = functools.partial(losses.LOSSES["kl"].function, tau=3.0)
    made = plan(objective=objective, epochs=options["epochs"], schedule_epochs=options["schedule"])
    if options.get("bank"):
        teacher = stored(Path(options["bank"]), place.device)
    else:
        teacher = bank.open_bank(folder / "bank", _identity(options), [Need(0, options["epochs"])], GRID, place.device)
    have, history, student = examples(options["train"], options["test"]), History(), network(options["student"])
    with tempfile.TemporaryDirectory(dir=folder) as own:
        fit(student, have, made, teacher, place, State(Path(own), {}), history)
        torch.save(student.state_dict(), Path(own, "weights.pt"))
    print(json.dumps({"seconds": [row["seconds"] for row in history.timings], "images": len(have.train)}))


def _identity(options: dict) -> bank.Identity:
    return bank.Identity("t", "d", "e", "c", options["precision"], GRID.pad, GRID.flip)


CONTESTANTS = {
    "kd": kd,
    "together": together,
    "shared": shared,
    "peer": peer,
    "convolutions": convolutions,
    "fill": fill,
    "passes": passes,
    "whole_bank": whole_bank,
    "whole_cell": whole_cell,
}

if __name__ == "__main__":
    main()
