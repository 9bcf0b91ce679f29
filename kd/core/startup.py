"""How a process that trains starts and ends.

The C library must be told before the interpreter starts to keep memory between steps. A training step allocates and
frees the same hundred megabytes again and again. By default glibc returns them to the kernel each time and gets them
back page by page, with 12,000 page faults a step. When glibc keeps them, in huge pages, a step of a small network is a
tenth to a quarter faster (bench/parts.py). Other C libraries ignore the setting.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import kd
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
    """Start this command again with a malloc that keeps its memory, unless the user has set GLIBC_TUNABLES."""
    if sys.platform == "linux" and VARIABLE not in os.environ:
        os.environ[VARIABLE] = KEEP_MEMORY
        unheed(until_heeded=True)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def speak_utf8() -> None:
    """Start this command again in UTF-8, whatever the locale, because studies and file names may use any script."""
    spoken = {sys.getfilesystemencoding(), *(one.encoding.lower() for one in (sys.stdout, sys.stderr) if one)}
    if spoken != {"utf-8"} and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def start_together(processes: int) -> None:
    """Start this command again as `processes` processes that train together, unless this is one of them."""
    if processes > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        unheed()
        os.execv(sys.executable, [sys.executable, *torchrun, *sys.orig_argv[1:]])


def run_verb(arguments: Sequence[str], folder: Path) -> int:
    """Run a verb of kd in a process of its own, in a project's folder; return its exit code, 137 when it is killed.

    A signal that ends this process ends that one, too, which saves what it has.
    """
    paths = [str(Path(kd.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    sys.stdout.flush()
    with subprocess.Popen([sys.executable, "-m", "kd", *arguments], cwd=folder, env=environment) as child:
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            raise
    return code if code >= 0 else 128 - code


def leave(code: int) -> None:
    """End this process at once, unless it has children: unloading torch takes a tenth of the time of a short cell."""
    import multiprocessing  # costs nothing: torch has imported it already

    if not multiprocessing.active_children():
        flush()
        os._exit(code)


def flush() -> None:
    """Write out all buffered output, because `os._exit` would lose it."""
    with contextlib.suppress(OSError):  # the reader has gone
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
