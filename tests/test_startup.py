"""malloc keeps its memory in the processes that train, unless the environment says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

from kd.core.startup import KEEP_MEMORY, VARIABLE

COUNT_FAULTS = """
import resource, sys
{start}
import torch
torch.set_num_threads(1)
def work():
    for _ in range(5):
        activations = [torch.ones(3_000_000) for _ in range(20)]
        del activations
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")


def printed(code: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != VARIABLE}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean | environment, check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


@pytest.mark.slow
@glibc
def test_memory_that_is_freed_is_used_again_without_asking_the_kernel() -> None:
    kept = int(printed(COUNT_FAULTS.format(start="from kd.core.startup import keep_memory; keep_memory()")))
    # glibc's threshold pinned to where it starts: by itself it moves, and one run in three would keep its memory, too
    given_back = int(printed(COUNT_FAULTS.format(start=""), **{VARIABLE: "glibc.malloc.mmap_threshold=131072"}))
    assert kept < given_back / 10


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is done elsewhere")
def test_the_command_starts_again_once_with_its_arguments() -> None:
    code = f"from kd.core.startup import *; keep_memory(); print(os.environ[{VARIABLE!r}], sys.argv)"
    assert printed(code) == f"{KEEP_MEMORY} ['-c']"
    assert printed(code, **{VARIABLE: "glibc.malloc.check=0"}) == "glibc.malloc.check=0 ['-c']"


LEAVE = """
import atexit, logging, multiprocessing, os, sys, time
from kd.core.startup import leave
atexit.register(print, "taken apart")
print("said")  # into a pipe: it is kept back until it is flushed
{before}
leave(3)
"""


def ended(before: str) -> subprocess.CompletedProcess:
    code = LEAVE.format(before=before)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_a_process_that_leaves_says_all_it_has_said_and_takes_nothing_apart() -> None:
    run = ended("")
    assert (run.returncode, run.stdout) == (3, "said\n")


def test_a_process_that_has_started_others_ends_them() -> None:
    run = ended("multiprocessing.get_context('fork').Process(target=time.sleep, args=[60], daemon=True).start()")
    assert (run.returncode, run.stdout) == (0, "said\ntaken apart\n")
