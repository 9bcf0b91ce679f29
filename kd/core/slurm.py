"""Ask SLURM what became of jobs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

CAUSES = {
    "TIMEOUT": "time limit",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "its node failed",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted",
}
_SECONDS = 10  # to wait for an answer


def job_states(jobs: Iterable[str]) -> dict[str, str]:
    """Return {job: state} of the jobs that SLURM remembers, such as {"12": "TIMEOUT"}; {} without SLURM.

    With accounting (sacct) SLURM remembers all jobs; without it (squeue) only the jobs of the last minutes.
    """
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    listed = ",".join(wanted)
    lines = _lines("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobIDRaw,State", f"--jobs={listed}")
    if not lines:
        lines = _lines("squeue", "--noheader", "--states=all", "--format=%A|%T")
    pairs = (line.split("|", 1) for line in lines if "|" in line)
    return {job: state.split()[0] for job, state in pairs if job in wanted and state}


def _lines(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        return []
    try:
        answer = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []
