"""Start kd as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT


def kd(*arguments: str, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kd", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)
