"""Run a sweep as a program."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT


def swept(script: str, *arguments: str) -> str:
    """Run a sweep in a process of its own, without threads; return what it printed."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests" / script), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    print(run.stdout)
    if run.returncode == 77:
        pytest.skip(run.stdout)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-4000:]
    return run.stdout
