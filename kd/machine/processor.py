"""What this machine is, and how much memory this process has held."""

from __future__ import annotations

import contextlib
import functools
import platform
import resource
import zlib


def peak_resident() -> int:
    """Return the most bytes that this process had in memory, pages of mapped files included."""
    # Not ru_maxrss where it can be helped: a program inherits that of the process that started it.
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor() -> str:
    """Name this machine's kind of processor, which compiled kernels are made for."""
    return f"{zlib.crc32((cpu_name() + cpu_info('flags')).encode()):08x}"


@functools.cache
def cpu_name() -> str:
    """Return the name of the processor."""
    return cpu_info("model name") or platform.processor() or platform.machine()


def cpu_info(key: str) -> str:
    """Return what Linux says of the processor under a key, nothing elsewhere."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""
