"""Where a cell is computed: device, precision, threads, and one slot of a GPU per cell."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from kd import files
from kd.errors import Busy, ConfigError

SLOTS = Path("state/gpus")
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Place:
    """A device and the precision that convolutions run in there."""

    device: torch.device
    precision: str  # fp32 or bf16

    def autocast(self) -> torch.autocast:
        """Return the context in which a network runs: bfloat16 autocast, or nothing in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def describe(self) -> dict:
        """Return what a manifest says of the machine: device, precision, threads and versions."""
        gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if gpu else _cpu_name(),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }

    def peak_memory(self) -> dict:
        """Return the most memory held so far, in MiB: resident in the process, and on the GPU if there is one."""
        peak = {"host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
        if self.device.type == "cuda":
            peak["gpu_mib"] = torch.cuda.max_memory_allocated(self.device) // 2**20
        return peak


@contextlib.contextmanager
def place(precision: str, threads: int, cells_per_gpu: int = 1) -> Iterator[Place]:
    """Hold a place to compute: a GPU's slot if there is a GPU (or what KD_DEVICE names), else the CPU.

    On SLURM the scheduler has chosen the GPU already (CUDA_VISIBLE_DEVICES) and no slot is taken.
    """
    torch.set_num_threads(threads)
    wanted = os.environ.get("KD_DEVICE", "")
    if wanted:
        yield _place(wanted, precision)
    elif not torch.cuda.is_available():
        yield _place("cpu", precision)
    elif "SLURM_JOB_ID" in os.environ:
        yield _place("cuda:0", precision)
    else:
        with contextlib.ExitStack() as held:
            yield _place(f"cuda:{_gpu_slot(cells_per_gpu, held)}", precision)


def _gpu_slot(cells_per_gpu: int, held: contextlib.ExitStack) -> int:
    """Lock a slot of the visible GPUs, the emptiest GPU first, waiting while all are taken; return the GPU's number."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    names = visible.split(",")  # slots are named after the physical GPU: two masks may show one card
    while True:
        for slot in range(cells_per_gpu):
            for number, name in enumerate(names):
                with contextlib.suppress(Busy):
                    held.enter_context(files.lock(SLOTS / f"{name}.{slot}", wait=False))
                    return number
        time.sleep(_POLL_SECONDS)


def _place(name: str, precision: str) -> Place:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except RuntimeError as error:
        raise ConfigError(f"KD_DEVICE={name}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Place(device, _fastest(device) if precision == "auto" else precision)


def _fastest(device: torch.device) -> str:
    """Return bf16 where the hardware multiplies it natively (GPU from Ampere on, CPU with AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    flags = _cpu_info("flags").split()
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""
