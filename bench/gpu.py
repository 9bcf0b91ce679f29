"""Measure kd on a GPU: python -m bench.gpu [--parts ...]. Writes gpu.csv, gpu_kernels.csv and gpu.txt.

Each part is to end within a minute on one H200 with 16 cores, but `whole`, which trains 200 epochs. The contestants are
processes that take turns, as in bench.loops. It needs torch, torchvision and pandas, and the training code of kd; no
Snakemake and no configuration.

`--device cpu` runs the same code on a few images without a GPU, to test that it runs. Its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import RESULTS, write
from bench.loops import Contestant, in_turns, machine
from bench.mps import service
from bench.parts import interleaved, traffic
from bench.worker import BATCH, GRID, IMAGES, TEACHER, Turns, layers_of, network, train_for_ever, write_bank

EPOCHS = 200
ALL_VIEWS = IMAGES * GRID.count
KINDS = {  # {kind of kernel: pattern in its name}; the first match counts
    "convolutions and products": r"conv|xmma|cutlass|gemm|dgrad|wgrad|fprop|mma|cudnn",
    "copies": r"^Mem(cpy|set)",
    "optimiser": r"multi_tensor|foreach",
    "norms, activations, loss, views": r"",
}


@dataclass(frozen=True)
class Size:
    """How much work each part does."""

    train: int  # images of an epoch
    test: int
    epochs: int  # in a turn
    rows: int  # in a bank
    whole: tuple[int, int, int]  # images, test images and epochs of the cell that is trained to its end
    measured: int  # epochs from which 200 are extrapolated
    cells: int  # that train at once
    workers: int  # of a peer's loader
    side: int  # of the matrices that are multiplied
    copied: int  # bytes


FULL = Size(12_800, 2_560, 2, 49_152, (IMAGES, 10_000, EPOCHS), 5, 8, 8, 8192, 4 << 30)
TINY = Size(256, 128, 1, 128, (256, 128, 3), 2, 2, 1, 256, 1 << 20)


class Bench:
    """One measurement: its device, its size, and its rows so far."""

    def __init__(self, device: str, networks: list[str], rounds: int) -> None:
        self.device, self.networks, self.rounds = device, networks, rounds
        self.size = FULL if self.is_gpu else TINY
        self.rows: list[dict] = []
        self.kernels: list[dict] = []

    @property
    def is_gpu(self) -> bool:
        """Whether this is a real measurement, not a rehearsal on a CPU."""
        return self.device.startswith("cuda")

    def note(self, part: str, variant: str, value: float, unit: str) -> None:
        self.rows.append({"part": part, "variant": variant, "value": float(f"{value:.4g}"), "unit": unit})
        print(f"{part:40} {variant:44} {value:12.4g} {unit}", flush=True)

    def kd(self, name: str, student: str, processes: int = 1, **options: object) -> Contestant:
        """Return a contestant that runs kd.train.fit: in bf16, compiled, recorded and tuned, unless `options` say."""
        size = self.size
        fixed = {"loop": "kd", "precision": "bf16", "compiles": self.is_gpu, "teacher": "none", "threads": 1}
        epoch = {"device": self.device, "train": size.train, "test": size.test, "epochs": size.epochs}
        images = size.train * size.epochs * options.get("cells", 1)
        return Contestant(name, student, {**fixed, **epoch, **options}, processes, images=images)

    def measured(self, part: str, group: list[Contestant]) -> dict[str, float]:
        """Give each contestant its turns; note and return images a second."""
        in_turns(group, self.rounds)
        for one in group:
            self.noted(part, one)
        return {one.name: one.rate for one in group}

    def noted(self, part: str, one: Contestant) -> None:
        """Note what was measured of a contestant: images a second, and the memory of its GPU."""
        self.note(part, one.name, one.rate, "images/s")
        if "gpu" in one.memory:
            self.note(f"{part}, memory", one.name, one.memory["gpu"], "MiB of the GPU at most, a process")


# -- parts ------------------------------------------------------------------------------------------------------------


def steps(bench: Bench) -> None:
    """Training with cross-entropy and evaluation: the effect of compiler, CUDA graphs and precision."""
    first, *others = bench.networks
    plain = {"compiles": False, "recorded": False, "tuned": False}
    every = {
        "fp32, eager": {"precision": "fp32", **plain},
        "fp32, compiled, recorded": {"precision": "fp32", "tuned": False},
        "bf16, eager": plain,
        "bf16, recorded": {"compiles": False, "tuned": False},
        "bf16, compiled": {"recorded": False, "tuned": False},
        "bf16, compiled, recorded": {"tuned": False},
        "bf16, compiled, recorded, tuned": {},
        "bf16, compiled, recorded, deterministic": {"deterministic": True},
    }
    some = ["fp32, compiled, recorded", "bf16, eager", "bf16, compiled, recorded"]
    variants = [(first, every), *((name, {key: every[key] for key in some}) for name in others)]
    group = [bench.kd(key, name, **options) for name, chosen in variants for key, options in chosen.items()]
    in_turns(group, bench.rounds)  # together: while one compiles, others can
    for one in group:
        bench.noted(f"training {one.student}", one)


def bank(bench: Bench) -> None:
    """Filling the teacher's bank, compared with the forward passes alone."""
    group = []
    loops = {"fill": ("fp32", "tf32", "bf16"), "passes": ("bf16",)}
    for loop, precision in ((loop, one) for loop, precisions in loops.items() for one in precisions):
        options = {"loop": loop, "precision": precision, "rows": bench.size.rows, "device": bench.device, "threads": 4}
        group.append(Contestant(f"{loop}, {precision}", TEACHER, options, images=bench.size.rows))
    for name, rate in bench.measured(f"bank of {TEACHER}", group).items():
        if name.startswith("fill"):
            bench.note(f"bank of {TEACHER}", f"{name}, all {GRID.count} views", ALL_VIEWS / rate, "s")


def cell(bench: Bench) -> None:
    """A student that reads WRN-28-4's bank: 200 epochs, extrapolated from a few whole ones."""
    epochs = bench.size.whole[2]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.npy")
        write_bank(rows)
        for name in bench.networks:
            short = min(bench.size.measured, epochs)
            options = {"student": name, "epochs": short, "bank": str(rows), "folder": folder}
            ran, wall = _run({**_whole(bench), "loop": "whole_cell", **options})
            _note_cell(bench, f"cell {name}, {epochs} epochs", f"from {short - 1} epochs", ran, wall, epochs)


def whole(bench: Bench) -> None:
    """The bank that a student reads in 200 epochs, and this student, each from start to exit."""
    _, _, epochs = bench.size.whole
    with tempfile.TemporaryDirectory() as folder:
        same = {**_whole(bench), "folder": folder, "epochs": epochs}
        filled, wall = _run({**same, "loop": "whole_bank"})
        part = f"bank for one student, {epochs} epochs"
        bench.note(part, f"{filled['rows']:,} rows, bf16", wall, "s, process and disk included")
        ran, wall = _run({**same, "loop": "whole_cell", "student": bench.networks[0]})
        part = f"cell {bench.networks[0]}, {epochs} epochs"
        bench.note(part, "whole", wall, "s, process, saving and evaluation included")
        _note_cell(bench, part, "whole, from its epochs", ran, wall, epochs)


def _whole(bench: Bench) -> dict:
    images, test, epochs = bench.size.whole
    same = {"device": bench.device, "precision": "bf16", "compiles": bench.is_gpu, "threads": 4}
    return same | {"train": images, "test": test, "schedule": epochs}


def _note_cell(bench: Bench, part: str, variant: str, ran: dict, wall: float, epochs: int) -> None:
    beside = wall - sum(ran["seconds"])
    bench.note(part, f"{variant}: all epochs", epochs * median(ran["seconds"][1:]), "s")
    bench.note(part, f"{variant}: first epoch, compiling and recording", ran["seconds"][0], "s")
    bench.note(part, f"{variant}: beside its epochs", beside, "s")
    bench.note(part, f"{variant}: training and evaluation", ran["images"] / median(ran["seconds"][1:]), "images/s")


def _run(options: dict) -> tuple[dict, float]:
    """Run a worker to its end; return its last line, and the seconds from its start to its exit."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "bench.worker", json.dumps(options)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(said.splitlines()[-1]), time.perf_counter() - began


def together(bench: Bench) -> None:
    """Several cells at once on one GPU: as processes, as threads with a stream each, or in one step for all.

    The processes run under NVIDIA's multi-process service where it is installed.
    """
    student, count = bench.networks[0], bench.size.cells
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as served:
        rows = Path(folder, "rows.npy")
        write_bank(rows)
        from_bank = {"teacher": "bank", "bank": str(rows)}
        processes = bench.kd(f"{count} processes{', MPS' if served else ''}", student, count, **from_bank)
        processes.environment = served
        group = [
            bench.kd("1 process", student, **from_bank),
            processes,
            bench.kd(f"{count} threads, a stream each", student, **from_bank, loop="together", cells=count),
            bench.kd(f"{count} cells in one step", student, **from_bank, loop="shared", cells=count),
        ]
        for name, rate in bench.measured(f"{count} cells of {student} at once", group).items():
            seconds = EPOCHS * IMAGES / rate
            bench.note(f"{count} cells of {student} at once", f"{name}: seconds a cell of 200 epochs", seconds, "s")


def peers(bench: Bench) -> None:
    """kd's loops against the loops of its peers, in the same run."""
    student, workers = bench.networks[0], bench.size.workers
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.npy")
        write_bank(rows)
        same = {"device": bench.device, "train": bench.size.train, "test": bench.size.test, "threads": 8}
        group = [
            Contestant(
                name, student, {"loop": "peer", "peer": kind, "workers": workers, **same}, images=bench.size.train
            )
            for name, kind in (("as the paper's code", "Paper"), ("as mdistiller", "Mdistiller"))
        ]
        group.append(bench.kd("kd, teacher online", student, teacher="online"))
        group.append(bench.kd("kd, bank", student, teacher="bank", bank=str(rows)))
        part = f"{TEACHER} -> {student}, one cell"
        rates = bench.measured(part, group)
    for name, rate in rates.items():
        if name.startswith("kd"):
            bench.note(part, f"{name}, of mdistiller's", rate / rates["as mdistiller"], "x")
            bench.note(part, f"{name}, of the paper's", rate / rates["as the paper's code"], "x")


def roofline(bench: Bench) -> None:
    """The speed that memory and arithmetic allow, how much of it training reaches, and where its time goes."""
    bandwidth, rate = _ceilings(bench)
    for name in bench.networks:
        part = f"roofline of {name}, bf16"
        flops, moved = _flops(name), _bytes(name)
        floor = max(flops / rate, moved / bandwidth)
        bench.note(part, "arithmetic", flops / 1e9, "GFLOP an image")
        bench.note(part, "memory, all fused that can be", moved / 1e6, "MB an image")
        bench.note(part, "floor", 1 / floor, "images/s")
        images, seconds, spent, kernels = _profiled(bench, name)
        bench.note(part, "training and evaluation, under the profiler", images / seconds, "images/s")
        bench.note(part, "share of the floor", images / seconds * floor, "")
        bench.note(part, "kernels", kernels / images * BATCH, "a batch of training and its share of the evaluation")
        for kind in KINDS:
            of_kind = sum(taken for kernel, taken in spent.items() if _kind(kernel) == kind)
            bench.note(part, f"time in {kind}", 100 * of_kind / seconds, "%")
        bench.note(part, "time in no kernel", 100 * (1 - sum(spent.values()) / seconds), "%")
        longest = sorted(spent.items(), key=lambda pair: -pair[1])[:25]
        bench.kernels += [
            {"network": name, "kernel": kernel, "kind": _kind(kernel), "percent": round(100 * taken / seconds, 2)}
            for kernel, taken in longest
        ]


def _ceilings(bench: Bench) -> tuple[float, float]:
    """Return (bytes a second that a large copy reads and writes, operations a second of a large product in bf16)."""
    device, size = torch.device(bench.device), bench.size
    source, target = (torch.empty(size.copied // 2, dtype=torch.uint8, device=device).random_() for _ in range(2))
    left, right = (torch.randn(size.side, size.side, device=device, dtype=torch.bfloat16) for _ in range(2))
    variants = {"copy": _waited(lambda: target.copy_(source)), "product": _waited(lambda: left @ right)}
    seconds = interleaved(variants, 4 * bench.rounds)
    bandwidth, rate = 2 * source.nbytes / seconds["copy"], 2 * size.side**3 / seconds["product"]
    bench.note("card", "copy, read and written", bandwidth / 1e12, "TB/s")
    bench.note("card", f"product of {size.side} x {size.side} matrices, bf16", rate / 1e12, "TFLOP/s")
    return bandwidth, rate


def _waited(work: Callable[[], object]) -> Callable[[], None]:
    def done() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return done


def _flops(name: str) -> float:
    """Return the floating-point operations of a training step per image."""
    built = network(name)
    with FlopCounterMode(display=False) as counter:
        built(torch.zeros(2, 3, 32, 32)).sum().backward()
    return counter.get_total_flops() / 2


def _bytes(name: str) -> float:
    """Return the smallest number of bytes per image that a training step in bf16 moves.

    A convolution moves the size of its input and of its output three times each: once forward, twice backward.
    `traffic` counts what lies between the convolutions.
    """
    layers = layers_of(network(name), 1, torch.bfloat16)
    return 2 * sum(3 * (x.numel() + gradient.numel()) for _, x, _, gradient in layers) + traffic(name) / BATCH


def _profiled(bench: Bench, name: str) -> tuple[int, float, dict[str, float], int]:
    """Return (images, seconds, {kernel: seconds}, kernels run) of two epochs of fit, after three to warm up."""
    activity = torch.profiler.ProfilerActivity.CUDA if bench.is_gpu else torch.profiler.ProfilerActivity.CPU
    profiler = torch.profiler.profile(activities=[activity])
    times: list[float] = []

    class Enough(Exception):
        pass

    def pause() -> None:
        times.append(time.perf_counter())
        if len(times) == 2:
            profiler.start()
            times[-1] = time.perf_counter()
        if len(times) == 3:
            profiler.stop()
            raise Enough

    options = {
        "device": bench.device,
        "precision": "bf16",
        "compiles": bench.is_gpu,
        "teacher": "none",
        "student": name,
    }
    with contextlib.suppress(Enough):
        train_for_ever(options | {"train": bench.size.train, "test": bench.size.test}, Turns(2, pause))
    time_of = "self_device_time_total" if bench.is_gpu else "self_cpu_time_total"
    found = profiler.key_averages()
    spent = {event.key: getattr(event, time_of) / 1e6 for event in found}
    return 2 * bench.size.train, times[2] - times[1], spent, sum(event.count for event in found)


def _kind(kernel: str) -> str:
    return next(kind for kind, names in KINDS.items() if re.search(names, kernel))


PARTS = {part.__name__: part for part in (steps, bank, cell, together, peers, roofline, whole)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--networks", nargs="+", default=["wrn-16-2", "wrn-16-4", TEACHER])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench.gpu: no GPU here (--device cpu runs the same code on a few images)")
    bench = Bench(options.device, options.networks, options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.txt").write_text(machine(options.device) + "\n")
    failed = False
    for part in options.parts:
        try:
            PARTS[part](bench)
        except Exception:  # whatever it is, the other parts can be measured
            traceback.print_exc()
            failed = True
        write(options.out / "gpu.csv", bench.rows, by="part")  # after each part, because the next may be cut off
        if bench.kernels:
            pd.DataFrame(bench.kernels).to_csv(options.out / "gpu_kernels.csv", index=False)
    sys.exit(failed)


if __name__ == "__main__":
    main()
