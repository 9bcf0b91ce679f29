"""Measure the parts of a step and of a cell, each setting against its alternative. Writes parts.csv.

On one thread, with malloc as kd sets it. Variants take turns within one process; numbers are medians.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench import RESULTS, write
from bench.worker import BATCH, GRID, convolve, examples, layers_of, network, plan
from kd import models
from kd.core.startup import keep_memory
from kd.data import views
from kd.data.arrays import Images, write_dataset
from kd.data.examples import Examples
from kd.machine.state import State
from kd.models import wrn
from kd.models.network import BatchNorm
from kd.train.device import Place
from kd.train.fit import History, Sgd, evaluate, fit

CPU = torch.device("cpu")
BF16, FP32, COMPILING = Place(CPU, "bf16"), Place(CPU, "fp32"), Place(CPU, "bf16", compiles=True)
_PRINTED = {"stdout": subprocess.PIPE, "text": True}
rows: list[dict] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    for part in options.parts:
        PARTS[part](options.rounds)
    write(options.out / "parts.csv", rows, by="part")


def note(part: str, variant: str, value: float, unit: str) -> None:
    rows.append({"part": part, "variant": variant, "value": float(f"{value:.4g}"), "unit": unit})
    print(f"{part:32} {variant:32} {value:10.4g} {unit}", flush=True)


def interleaved(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of one call of each variant. They are called in turns, after two calls to warm up."""
    for work in variants.values():
        work()
        work()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, work in variants.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in seconds.items()}


def images(batch: int = BATCH, side: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)


class Step:
    """A bare training step: fixed images, cross-entropy, kd's optimiser."""

    def __init__(self, name: str, place: Place, compiled: bool = False, side: int = 32, channels: int = 3) -> None:
        torch.manual_seed(0)
        batch, classes = (BATCH, 100) if channels == 3 else (64, 10)
        self.network = models.build(name, classes, channels).to(memory_format=torch.channels_last).train()
        self.forward = COMPILING.compiled(self.network, batch) if compiled else self.network
        self.inputs, self.labels = images(batch, side, channels), torch.randint(0, classes, (batch,))
        self.optimiser, self.place = Sgd(self.network.parameters(), plan()), place

    def __call__(self) -> None:
        with self.place.autocast():
            logits = self.forward(self.inputs)
        cross_entropy(logits.float(), self.labels).backward()
        self.optimiser.step(0.001)


# -- parts ------------------------------------------------------------------------------------------------------------


def first_convolution(rounds: int) -> None:
    """The precision of the first convolution, which has 3 input channels."""
    layer, x, weight, gradient = layers_of(network("wrn-16-2"), BATCH, torch.bfloat16)[0]
    variants = {
        str(dtype).removeprefix("torch."): lambda d=dtype: convolve(layer, x.to(d), weight.to(d), gradient.to(d), False)
        for dtype in (torch.float32, torch.bfloat16)
    }
    for name, seconds in interleaved(variants, rounds).items():
        note("first convolution", name, 1e3 * seconds, "ms a batch of 128")


def steps(rounds: int) -> None:
    """Precision, memory format and compiler, on two students and a teacher."""
    for name in ("wrn-16-2", "wrn-16-4", "wrn-28-4"):
        nchw = Step(name, FP32)
        nchw.network.to(memory_format=torch.contiguous_format)
        nchw.inputs = nchw.inputs.contiguous()
        variants = {"fp32, NCHW": nchw, "fp32": Step(name, FP32), "bf16": Step(name, BF16)}
        if name != "wrn-28-4":
            variants["bf16, compiled"] = Step(name, BF16, compiled=True)
        for variant, seconds in interleaved(variants, max(3, rounds // 3)).items():
            note(f"training step of {name}", variant, BATCH / seconds, "images/s")


def compiling(rounds: int) -> None:
    """What compiling costs, what it saves, and after how many pixels the saving exceeds the cost."""
    for name, side, channels in (("wrn-16-2", 32, 3), ("wrn-16-4", 32, 3), ("resnet8", 8, 1)):
        part = f"compiling {name}, {side}x{side}"
        with tempfile.TemporaryDirectory() as cache:
            eager = _first_step(cache, name, False, side, channels)
            cold, warm = (_first_step(cache, name, True, side, channels) - eager for _ in range(2))
        made = {word: Step(name, BF16, word == "compiled", side, channels) for word in ("eager", "compiled")}
        seconds = interleaved(made, rounds)
        saved = (seconds["eager"] - seconds["compiled"]) / made["eager"].inputs.numel() * channels * 1e6
        note(part, "costs, empty cache", cold, "s")
        note(part, "costs, full cache", warm, "s")
        note(part, "saves", saved, "s a million pixels")
        note(part, "has paid, empty cache", cold / saved, "million pixels")


def _first_step(cache: str, name: str, compiled: bool, side: int, channels: int) -> float:
    """Return the seconds of the first step in a new process."""
    code = f"""
import time, torch
torch.set_num_threads(1)
from bench.parts import BF16, Step
step = Step({name!r}, BF16, {compiled}, {side}, {channels})
began = time.perf_counter()
step()
print(time.perf_counter() - began)
"""
    environment = {**_with_kd(), "TORCHINDUCTOR_CACHE_DIR": cache}
    return float(subprocess.run([sys.executable, "-c", code], env=environment, check=True, **_PRINTED).stdout)


def roofline(rounds: int) -> None:
    """The least time of a compiled step: its convolutions, and the rest at the speed of memory."""
    name = "wrn-16-2"
    layers = [(*layer, number > 0) for number, layer in enumerate(layers_of(network(name), BATCH, torch.bfloat16))]
    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    variants = {
        "convolutions": lambda: [convolve(*layer) for layer in layers],
        "copy": lambda: target.copy_(source),
        "step": Step(name, BF16, compiled=True),
    }
    seconds = interleaved(variants, rounds)
    moved, bandwidth = traffic(name), 2 * source.nbytes / seconds["copy"]
    floor = seconds["convolutions"] + moved / bandwidth
    part = f"roofline of {name}, bf16"
    note(part, "convolutions", 1e3 * seconds["convolutions"], "ms a step")
    note(part, "the rest reads and writes", moved / 1e6, "MB a step")
    note(part, "memory, one thread copying", bandwidth / 1e9, "GB/s")
    note(part, "floor: both", 1e3 * floor, "ms a step")
    note(part, "compiled step", 1e3 * seconds["step"], "ms a step")
    note(part, "floor / compiled step", floor / seconds["step"], "")


def traffic(name: str) -> float:
    """Return the bytes that norms, ReLUs and additions must move in a step even if everything possible is fused.

    A norm with its ReLU moves its size 8 times: forward it reads its input for the sums, reads it again and writes;
    backward it reads gradient and input for the sums, reads both again and writes. A residual addition moves it 3
    times: it writes its sum and reads a second summand, and backward a second gradient.
    """
    values = []

    def note_size(times: int) -> Callable:
        return lambda module, inputs, output: values.append(times * inputs[0].numel() / len(inputs[0]) * BATCH)

    built = network(name).eval()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(note_size(8))
        elif isinstance(module, wrn.Block):
            module.norm2.register_forward_hook(note_size(3))  # has the size of the block's sum
    with torch.no_grad():
        built(torch.zeros(1, 3, 32, 32))
    return 2 * sum(values)


def batch_norm(rounds: int) -> None:
    """kd's batch normalisation from sums against torch's own, in a compiled step."""
    own = Step("wrn-16-2", BF16, compiled=True)
    theirs = Step("wrn-16-2", BF16)
    for module in theirs.network.modules():
        if isinstance(module, BatchNorm):
            module.__class__ = nn.BatchNorm2d
    theirs.forward = COMPILING.compiled(theirs.network, BATCH)
    for name, seconds in interleaved({"sums": own, "torch's": theirs}, rounds).items():
        note("compiled step, batch norm", name, 1e3 * seconds, "ms")


def inference(rounds: int) -> None:
    """Images a second without gradients, by batch size."""
    for name, place in (("wrn-16-2", BF16), ("wrn-28-4", BF16), ("wrn-28-4", FP32)):
        built = network(name).to(memory_format=torch.channels_last).eval()

        @torch.inference_mode()
        def run(inputs: torch.Tensor, built: nn.Module = built, place: Place = place) -> None:
            with place.autocast():
                built(inputs)

        variants = {str(batch): functools.partial(run, images(batch)) for batch in (32, 64, 128, 256, 512)}
        for batch, seconds in interleaved(variants, max(3, rounds // 3)).items():
            note(f"inference of {name}, {place.precision}", f"batch {batch}", int(batch) / seconds, "images/s")


def data_path(rounds: int) -> None:
    """The time to gather, augment and normalise a batch, compared with the step that uses it."""
    have = examples()
    index = torch.randperm(len(have.images))[:BATCH]
    view = GRID.draw(0, 0, index)
    variants = {
        "data path": lambda: have.normalise(GRID.render(have.images[index], view)),
        "step": Step("wrn-16-2", BF16, compiled=True),
    }
    seconds = interleaved(variants, 3 * rounds)
    note("data path", "a batch of 128", 1e3 * seconds["data path"], "ms")
    note("data path", "share of a step", 100 * seconds["data path"] / sum(seconds.values()), "%")


def step_overhead(rounds: int) -> None:
    """What fit() adds to a bare step, measured with one linear layer, whose step is short enough to show it."""
    bare = Step("resnet8", FP32, side=8, channels=1)
    bare.network = bare.forward = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    bare.optimiser = Sgd(bare.network.parameters(), plan())
    digits = _digits(6400)
    step_count = 100
    seconds: dict[str, list[float]] = {"fit": [], "bare step": [], "evaluation": []}

    def timed(name: str, work: Callable[[], object], count: int) -> None:
        began = time.perf_counter()
        work()
        seconds[name].append((time.perf_counter() - began) / count)

    made = plan(batch=64, grid=views.Grid(1, False), lr=0.001)
    for _ in range(rounds):
        history = History()
        fit(bare.network, digits, made, None, FP32, NoState(), history)
        seconds["fit"].append(history.timings[0]["seconds"] / step_count)
        bare.network.train()
        timed("bare step", lambda: [bare() for _ in range(step_count)], step_count)
        timed(
            "evaluation",
            lambda: evaluate(bare.network, digits, "test", FP32),
            step_count,
        )
    middle = {name: median(values) for name, values in seconds.items()}
    added = middle["fit"] - middle["evaluation"] - middle["bare step"]
    note("step of a linear layer on digits", "bare", 1e6 * middle["bare step"], "us")
    note("step of a linear layer on digits", "added by fit()", 1e6 * added, "us")


class NoState(State):
    """A state that is never saved."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), {})

    def due(self, epoch_ends: bool) -> bool:
        return False

    def save(self, content: dict) -> None:
        """Save nothing, not even after the last epoch."""


def _digits(n: int) -> Examples:
    shown, labels = torch.randint(0, 256, (n, 8, 8, 1), dtype=torch.uint8), torch.randint(0, 10, (n,))
    none = torch.arange(0)
    one = torch.ones(1)
    return Examples(shown, labels, torch.arange(n), none, shown[:128], labels[:128], one / 2, one / 4)


def fixed_costs(rounds: int) -> None:
    """The seconds of `kd train` before its first step and after its last, with 50,000 images, without compiling."""
    from kd.study.config import Protocol, Recipe  # imports pydantic, which bench.gpu must do without
    from kd.study.judge import Judge

    protocol = Protocol(name="bench", epochs=1, compile="never")
    recipe = json.dumps({"protocol": protocol.model_dump(), "dataset": None, "label_file": None})
    teacher = "results/cifar100+frac0.02/bench/wrn-16-2.ce.s0"
    costs: dict[str, list[float]] = {"teacher": [], "student": []}
    with tempfile.TemporaryDirectory() as folder:
        write_cifar_shaped(Path(folder), Judge.of_recipe(Recipe.parse(json.loads(recipe))))
        for seed in range(max(3, rounds // 3)):
            for name, cell in (
                ("teacher", f"{teacher[:-1]}{seed}"),
                ("student", f"{teacher}/wrn-16-2.kl-tau3.s{seed}"),
            ):
                began = time.perf_counter()
                command = [sys.executable, "-m", "kd", "train", cell, "--recipe", recipe]
                subprocess.run(command, cwd=folder, check=True, capture_output=True, env=_with_kd())
                wall = time.perf_counter() - began
                with open(Path(folder, cell, "timings.csv")) as file:
                    inside = sum(float(row["seconds"]) for row in csv.DictReader(file))
                costs[name].append(wall - inside)
        note("peak memory of a cell", "mapped files included", _peak(Path(folder, cell)), "MiB")
    note("fixed cost of a cell", "teacher", median(costs["teacher"]), "s")
    note("fixed cost of a cell", "student, its few bank rows filled", median(costs["student"]), "s")
    for name in ("torch", "kd.jobs.train", "kd.study.cells"):
        command = [
            sys.executable,
            "-c",
            f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)",
        ]
        took = [
            float(subprocess.run(command, check=True, env=_with_kd(), **_PRINTED).stdout)
            for _ in range(max(3, rounds // 3))
        ]
        note("import", name, median(took), "s")


def write_cifar_shaped(folder: Path, judge: object, train: int = 50_000, test: int = 1_000) -> None:
    """Publish data in the shape of CIFAR-100, with so many images, as if kd had made them."""
    from kd.jobs import making
    from kd.study import products

    generator = np.random.default_rng(0)
    shapes = {"train": train, "test": test}
    parts = {name: generator.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for name, n in shapes.items()}
    labels = {name: np.arange(n) % 100 for name, n in shapes.items()}
    names = [str(k) for k in range(100)]
    arrays = (parts["train"], labels["train"], parts["test"], labels["test"])
    made = Images(*arrays, names, (0.5,) * 3, (0.25,) * 3)
    product = products.data("cifar100")
    write_dataset(made, folder / product.folder, making.about(judge, product))


def _peak(cell: Path) -> float:
    return json.loads((cell / "manifest.json").read_text())["memory"]["host_mib"]


def _with_kd() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "KD_DEVICE": "cpu"}


PARTS = {
    part.__name__: part
    for part in (
        first_convolution,
        steps,
        compiling,
        roofline,
        batch_norm,
        inference,
        data_path,
        step_overhead,
        fixed_costs,
    )
}

if __name__ == "__main__":
    main()
