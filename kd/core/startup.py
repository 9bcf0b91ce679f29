"""How a process that trains starts and ends.

What has to be said before the interpreter starts is how the C library keeps memory between steps. A training step
allocates and frees the same hundred megabytes again and again. By default glibc gives them back to the
kernel each time and gets them back page by page, 12,000 page faults a step; told to keep them, in huge pages, it makes
a step of a small network a tenth to a quarter faster (bench/parts.py). Elsewhere than on glibc nothing changes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from kd.core.signals import unheed

VARIABLE = "GLIBC_TUNABLES"
KEEP_MEMORY = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        f"glibc.malloc.mmap_threshold={1 << 30}",
        f"glibc.malloc.trim_threshold={1 << 34}",
    )
)


def keep_memory() -> None:
    """Start this command again with malloc told to keep its memory, unless the environment says how it shall behave."""
    if sys.platform == "linux" and VARIABLE not in os.environ:
        os.environ[VARIABLE] = KEEP_MEMORY
        unheed(until_heeded=True)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def speak_utf8() -> None:
    """Start this command again in UTF-8, whatever the locale: names of files and words of studies are of any script."""
    spoken = {sys.getfilesystemencoding(), *(one.encoding.lower() for one in (sys.stdout, sys.stderr) if one)}
    if spoken != {"utf-8"} and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def start_together(processes: int) -> None:
    """Start this command again as so many processes that train together, unless it is one of them."""
    if processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        unheed()
        os.execv(sys.executable, [sys.executable, *torchrun, *sys.orig_argv[1:]])


def leave(code: int) -> None:
    """End this process at once, unless it has others to end: to take torch apart takes a tenth of a short cell."""
    import multiprocessing  # only who has imported torch comes here, and so has this

    if not multiprocessing.active_children():
        flush()
        os._exit(code)


def flush() -> None:
    """Have all that was said be read, before the process ends at once."""
    with contextlib.suppress(OSError):  # whoever was to read it is gone
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
