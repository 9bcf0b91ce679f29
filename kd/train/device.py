"""Where and how a cell is computed: device, precision, threads, compiled or not, and its share of a GPU."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd.core.errors import ConfigError, OutOfMemory, first_line, understood
from kd.machine import kernels
from kd.machine.processor import cpu_name, peak_resident
from kd.machine.shares import gpu_shares
from kd.train import arithmetic
from kd.train.peers import ALONE, Peers

# Images at a time without gradients: as many as stay in the cache, or as fill a GPU.
EVALUATION_BATCH = {"cpu": 128, "cuda": 1000}
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
        """Images at a time without gradients."""
        return EVALUATION_BATCH[self.device.type]

    def compiled(self, network: nn.Module, batch: int) -> Callable[[Tensor], Tensor]:
        """Return what runs `network`: compiled, if this place compiles, for whole batches of training and evaluation.

        A partial batch runs as it is: it comes once an epoch, and is not worth a compilation of its own.
        """
        if not self.compiles:
            return self.peers.parallel(network)
        compiled = _Compiled(lambda: torch.compile(network, dynamic=False, options=arithmetic.COMPILER))
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
            "device": torch.cuda.get_device_name(self.device) if gpu else cpu_name(),
            "precision": self.precision,
            "compiled": self.compiles,
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            **together,
        }

    def peak_memory(self) -> dict:
        """Return the most memory held so far, in MiB: resident in the process, and on the GPU if there is one."""
        peak = {"host_mib": peak_resident() // 2**20}
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
    gpu_bytes: Callable[[], int] = lambda: 0,
    peers: Peers = ALONE,
    deterministic: bool = False,
) -> Iterator[Place]:
    """Hold a place to compute: a share of a GPU if there is one (or what KD_DEVICE names), else the CPU.

    The share is 1 / `cells_per_gpu`, or more if `gpu_bytes()`, what the cell needs, is more. It is one of the GPUs that
    are visible: all of a workstation, or those that SLURM gave to the job. Of `peers` each has a share of its own GPU.
    `deterministic` takes no GPU kernels but those that give the same bits each time, as all of a CPU's do.
    """
    torch.set_num_threads(threads)
    arithmetic.choose_kernels(deterministic)
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
            shares = gpu_shares(memories, gpu_bytes(), cells_per_gpu, held, peers.count) if peers.is_first else []
            yield _place(f"cuda:{peers.broadcast(shares)[peers.rank]}", precision, peers)


def _place(name: str, precision: str, peers: Peers = ALONE) -> Place:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except RuntimeError as error:
        raise ConfigError(f"KD_DEVICE={name}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Place(device, arithmetic.precision_of(precision, device), peers=peers)
