"""In which numbers and by which kernels a network is computed: what changes bits without changing a formula."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from kd.core.errors import ConfigError
from kd.machine.processor import cpu_info

# Compiling takes 25 s on one core, 2 s from a full cache. After this many pixels, ten epochs of CIFAR, it has paid for
# every network that was measured (bench/parts.py).
_PIXELS_THAT_PAY = 5e8
# Products may be added without rounding in between, which torch's own kernels do as well: 7 % of a step.
COMPILER = {"cpp.enable_floating_point_contract_flag": "fast"}


def choose_kernels(deterministic: bool) -> None:
    """Take no GPU kernels but those that give the same bits each time, or take any; fp32 means fp32."""
    if deterministic != torch.are_deterministic_algorithms_enabled():  # to set it imports the compiler, half a second
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before its first product
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # torch's default rounds to 10 bits


def tune(device: torch.device, pixels: float, deterministic: bool) -> None:
    """Have cuDNN try its kernels and take the fastest, if a network sees so many `pixels` in all that trying pays."""
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic and pixels >= _PIXELS_THAT_PAY


def precision_of(wanted: str, device: torch.device) -> str:
    """Return the precision in which a device trains: fp32 or bf16 as wanted; for auto the fastest."""
    return fastest(device) if wanted == "auto" else wanted


def fastest(device: torch.device) -> str:
    """Return bf16 where the hardware multiplies it natively (GPU from Ampere on, CPU with AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    flags = cpu_info("flags").split()
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"


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
