"""The processor of this machine, and the peak memory of this process."""

from __future__ import annotations

import contextlib
import functools
import platform
import resource
import zlib


def peak_resident() -> int:
    """Return the most bytes that this process had in memory, pages of mapped files included."""
    # ru_maxrss is the fallback, because a program inherits it from the process that started it.
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor() -> str:
    """Return a digest of the processor's name and features: compiled kernels run only on the same kind."""
    return f"{zlib.crc32((cpu_name() + cpu_info('flags')).encode()):08x}"


@functools.cache
def cpu_name() -> str:
    """Return the name of the processor."""
    return cpu_info("model name") or platform.processor() or platform.machine()


def cpu_info(key: str) -> str:
    """Return the value of a key in Linux's /proc/cpuinfo, "" on other systems."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""
