"""Share a GPU: cells that run at the same time, in any process of any node, lock parts of its memory."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path

from kd.core import files
from kd.core.errors import Busy, ConfigError

SHARES = Path("state/gpus")
AUTO = 0  # cells per GPU: as many as fit into its memory
_PARTS = 48  # parts of a GPU's memory: 1, 2, 3, 4, 6, 8, 12, 16 or 24 equal cells divide it without a remainder
_POLL_SECONDS = 1.0


def gpu_shares(
    memories: dict[str, int], need: int, cells_per_gpu: int, held: contextlib.ExitStack, count: int = 1
) -> list[int]:
    """Lock a share on each of `count` GPUs, the emptiest first, and return the GPUs' numbers; wait if too few are free.

    `memories` maps the name of each visible GPU to its bytes. A share is a block of the `_PARTS` of a GPU: as many
    parts as hold `need` bytes, and at least 1 / `cells_per_gpu` of them.
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


def served() -> bool:
    """Say whether NVIDIA's multi-process service runs here, without which the cells that share a GPU take turns."""
    place = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"), "control")
    return place.exists()


def _free_shares(names: list[str], sizes: list[int], held: contextlib.ExitStack, count: int) -> list[int]:
    """Lock a free share on each of up to `count` GPUs into `held`; return the GPUs' numbers."""
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
