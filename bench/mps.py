"""NVIDIA's multi-process service (MPS), under which processes that share a GPU train at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch


@contextlib.contextmanager
def service(folder: Path) -> Iterator[dict[str, str]]:
    """Run NVIDIA's multi-process service; yield the environment for its clients, empty if it serves nobody."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or not torch.cuda.is_available():
        print("no nvidia-cuda-mps-control here: processes run without it")
        yield {}
        return
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}
    for path in environment.values():
        Path(path).mkdir()
    subprocess.run([control, "-d"], env={**os.environ, **environment}, check=True)
    try:
        client = [sys.executable, "-c", "import torch; torch.zeros(1, device='cuda')"]
        served = subprocess.run(client, env={**os.environ, **environment}, timeout=60, check=False).returncode == 0
        if not served:
            print("nvidia-cuda-mps-control serves nobody here: processes run without it")
        yield environment if served else {}
    finally:
        subprocess.run([control], input="quit\n", env={**os.environ, **environment}, text=True, check=True)
