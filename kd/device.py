"""Where and how a cell is computed: device, precision, threads, compiled or not, and its share of a GPU."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import resource
import shutil
import sysconfig
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kd import files, kernels
from kd.errors import Busy, ConfigError, OutOfMemory, first_line, understood
from kd.peers import ALONE, Peers

SHARES = Path("state/gpus")
AUTO = 0  # cells per GPU: as many as fit into its memory
_PARTS = 48  # that a GPU's memory is shared out in: 1, 2, 3, 4, 6, 8, 12, 16 or 24 equal cells leave nothing over
_POLL_SECONDS = 1.0
# Compiling takes 25 s on one core, 2 s from a full cache. After this many pixels, ten epochs of CIFAR, it has paid for
# every network that was measured (bench/parts.py).
_PIXELS_THAT_PAY = 5e8
_WARM_UP = 3  # calls before a CUDA graph is recorded: libraries choose their kernels and workspaces in them


@dataclass(frozen=True)
class Place:
    """A device, the precision that convolutions run in there, and whether networks are compiled for training."""

    device: torch.device
    precision: str  # fp32 or bf16
    compiles: bool = False
    peers: Peers = ALONE

    def autocast(self) -> torch.autocast:
        """Return the context in which a network runs: bfloat16 autocast, or nothing in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def evaluation_batch(self) -> int:
        """Images at a time without gradients: as many as stay in the cache, or as fill a GPU."""
        return 1000 if self.device.type == "cuda" else 128

    def compiled(self, network: nn.Module, batch: int) -> Callable[[Tensor], Tensor]:
        """Return what runs `network`: compiled, if this place compiles, for whole batches of training and evaluation.

        A partial batch runs as it is: it comes once an epoch, and is not worth a compilation of its own.
        """
        if not self.compiles:
            return self.peers.parallel(network)
        # Products may be added without rounding in between, which torch's own kernels do as well: 7 % of a step.
        options = {"cpp.enable_floating_point_contract_flag": "fast"}
        compiled = _Compiled(lambda: torch.compile(network, dynamic=False, options=options))
        whole = {batch, self.evaluation_batch}
        return lambda inputs: compiled(inputs) if len(inputs) in whole else network(inputs)

    def recorded(self, step: Callable[..., None]) -> Callable[..., None]:
        """Return `step` as it runs fastest here: alone on a GPU as one CUDA graph for each shape of its tensors."""
        return _Recorded(step) if self.device.type == "cuda" and self.peers.count == 1 else step

    def scalar(self, value: float) -> float | Tensor:
        """Return a number that changes between steps in the form that a recorded step can read."""
        return torch.tensor(value, device=self.device) if self.device.type == "cuda" else value

    def describe(self) -> dict:
        """Return what a manifest says of the machine: device, precision, compiled, threads and versions."""
        gpu = self.device.type == "cuda"
        together = {"processes": self.peers.count} if self.peers.count > 1 else {}
        return {
            "device": torch.cuda.get_device_name(self.device) if gpu else _cpu_name(),
            "precision": self.precision,
            "compiled": self.compiles,
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            **together,
        }

    def peak_memory(self) -> dict:
        """Return the most memory held so far, in MiB: resident in the process, and on the GPU if there is one."""
        peak = {"host_mib": _peak_resident() // 2**20}
        if self.device.type == "cuda":
            peak["gpu_mib"] = torch.cuda.max_memory_allocated(self.device) // 2**20
        return peak


class _Compiled:
    """A compiled network. Where what was kept of it cannot be loaded, it is compiled anew, once."""

    def __init__(self, compiled: Callable[[], Callable[[Tensor], Tensor]]) -> None:
        self._make, self._run, self._again = compiled, compiled(), False

    def __call__(self, inputs: Tensor) -> Tensor:
        try:
            return self._run(inputs)
        except Exception as error:  # of a damaged library, source or pickle: they have no common type
            if isinstance(understood(error), OutOfMemory) and "failed to map segment" not in str(error):
                raise
            if self._again:
                raise ConfigError(
                    f"protocol.compile: this network cannot be compiled here ({type(error).__name__}: "
                    f"{first_line(error)}); set compile: never"
                ) from error
        self._again = True
        kernels.discard()
        torch.compiler.reset()
        self._run = self._make()
        return self(inputs)


class _Recorded:
    """A step that works on tensors in place, recorded once per shape of its arguments and then replayed.

    A replay is one launch instead of hundreds. The arguments of the recording are its inbox: a call copies into it.
    """

    def __init__(self, step: Callable[..., None]) -> None:
        self._step = step
        self._calls: dict[tuple, int] = {}
        self._graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor]]] = {}
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *tensors: Tensor) -> None:
        shape = tuple(t.shape for t in tensors)
        self._calls[shape] = self._calls.get(shape, 0) + 1
        if self._calls[shape] <= _WARM_UP:
            # On a stream of its own, as recording demands; each of these is a step of the training like any other.
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._step(*tensors)
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        if shape not in self._graphs:
            self._graphs[shape] = self._record(tensors)
        graph, inbox = self._graphs[shape]
        for slot, tensor in zip(inbox, tensors, strict=True):
            slot.copy_(tensor)
        graph.replay()

    def _record(self, tensors: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
        inbox = [tensor.clone() for tensor in tensors]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._step(*inbox)
        return graph, inbox


@contextlib.contextmanager
def place(
    precision: str,
    threads: int,
    cells_per_gpu: int = 1,
    gpu_bytes: int = 0,
    peers: Peers = ALONE,
    deterministic: bool = False,
) -> Iterator[Place]:
    """Hold a place to compute: a share of a GPU if there is one (or what KD_DEVICE names), else the CPU.

    The share is 1 / `cells_per_gpu`, or more if `gpu_bytes`, what the cell needs, are more. It is one of the GPUs that
    are visible: all of a workstation, or those that SLURM gave to the job. Of `peers` each has a share of its own GPU.
    `deterministic` takes no GPU kernels but those that give the same bits each time, as all of a CPU's do.
    """
    torch.set_num_threads(threads)
    _choose_kernels(deterministic)
    wanted = os.environ.get("KD_DEVICE", "")
    if wanted:
        yield _place(wanted, precision, peers)
    elif not torch.cuda.is_available():
        yield _place("cpu", precision, peers)
    else:
        with contextlib.ExitStack() as held:
            cards = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
            # By UUID: two jobs of one node may both call their GPU 0, and nodes share the folder of the locks.
            memories = {str(card.uuid): card.total_memory for card in cards}
            # The first takes a share for each at once: two cells that took one by one could wait for each other.
            shares = _gpu_shares(memories, gpu_bytes, cells_per_gpu, held, peers.count) if peers.is_first else []
            yield _place(f"cuda:{peers.told(shares)[peers.rank]}", precision, peers)


def _choose_kernels(deterministic: bool) -> None:
    if deterministic != torch.are_deterministic_algorithms_enabled():  # to set it imports the compiler, half a second
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before its first product
        torch.use_deterministic_algorithms(deterministic)


def compiling_pays(pixels: float, wanted: str, processes: int = 1) -> bool:
    """Say whether to compile a network that is trained on `pixels` pixels in all, epochs included.

    Several `processes` run it as it is: compiled for them, a network has been seen to wait for ever.

    `wanted` is auto, always or never; auto is a rule, not a measurement, so that a cell has the same bits each time.
    Raises ConfigError for always where there is no C++ compiler, or nothing of Python for it to include.
    """
    if processes > 1 and wanted == "always":
        raise ConfigError(f"protocol.compile: always, but {processes} processes train uncompiled; set auto")
    if processes > 1:
        return False
    compiler, header = os.environ.get("CXX", "g++"), Path(sysconfig.get_path("include"), "Python.h")
    found = shutil.which(compiler) is not None and header.is_file()
    if wanted == "always" and not found:
        raise ConfigError(f"protocol.compile: always, but {compiler} or {header} is missing; install both, or set auto")
    return wanted == "always" or (wanted == "auto" and found and pixels >= _PIXELS_THAT_PAY)


def _gpu_shares(
    memories: dict[str, int], need: int, cells_per_gpu: int, held: contextlib.ExitStack, count: int = 1
) -> list[int]:
    """Lock a share of each of `count` visible GPUs, the emptiest first, waiting while too few are free.

    Returns the GPUs' numbers. A share is a block of the `_PARTS` of a GPU, by its name with its bytes in `memories`: as
    many as hold `need` bytes, at least 1 / `cells_per_gpu` of them.
    """
    least = _PARTS // cells_per_gpu if cells_per_gpu != AUTO else 1
    sizes = [max(least, math.ceil(_PARTS * need / memory)) for memory in memories.values()]
    if min(sizes) > _PARTS:
        largest = max(memories.values())
        raise ConfigError(f"this cell needs {need / 2**30:.1f} GiB; the largest GPU has {largest / 2**30:.1f}")
    if count > len(memories):
        raise ConfigError(f"gpus_per_cell: this cell is to have {count} GPUs, but {len(memories)} are visible")
    while True:
        with contextlib.ExitStack() as trial:
            taken = _free_shares(list(memories), sizes, trial, count)
            if len(taken) == count:
                held.push(trial.pop_all())
                return taken
        time.sleep(_POLL_SECONDS)


def _free_shares(names: list[str], sizes: list[int], held: contextlib.ExitStack, count: int) -> list[int]:
    """Lock a free share of each of at most `count` GPUs into `held`; return their numbers."""
    taken: list[int] = []
    for block in range(_PARTS):
        for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
            parts = range(block * size, (block + 1) * size)
            if len(taken) == count or number in taken or parts.stop > _PARTS:
                continue
            if _locked_all([SHARES / f"{name}.{part}" for part in parts], held):
                taken.append(number)
    return taken


def _locked_all(paths: list[Path], held: contextlib.ExitStack) -> bool:
    """Lock all of `paths` into `held`, or none."""
    with contextlib.ExitStack() as trial:
        try:
            for path in paths:
                trial.enter_context(files.lock(path, wait=False))
        except Busy:
            return False
        held.push(trial.pop_all())
        return True


def _place(name: str, precision: str, peers: Peers = ALONE) -> Place:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except RuntimeError as error:
        raise ConfigError(f"KD_DEVICE={name}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # fp32 means fp32; torch's default rounds to 10 bits
    return Place(device, _fastest(device) if precision == "auto" else precision, peers=peers)


def _fastest(device: torch.device) -> str:
    """Return bf16 where the hardware multiplies it natively (GPU from Ampere on, CPU with AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    flags = _cpu_info("flags").split()
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"


def _peak_resident() -> int:
    """Return the most bytes that this process had in memory, pages of mapped files included."""
    # Not ru_maxrss where it can be helped: a program inherits that of the process that started it.
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor() -> str:
    """Name this machine's kind of processor, which compiled kernels are made for."""
    return f"{zlib.crc32((_cpu_name() + _cpu_info('flags')).encode()):08x}"


@functools.cache
def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""
