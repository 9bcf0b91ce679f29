"""SLURM's word on jobs: what became of them, for `kd status`; and asking on when it gives none, for Snakemake."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

log = logging.getLogger("kd")

CAUSES = {
    "TIMEOUT": "time limit",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "its node failed",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted",
}
_SECONDS = 10  # that an answer may take


def job_states(jobs: Iterable[str]) -> dict[str, str]:
    """Return the state of each of `jobs` that SLURM remembers, such as {"12": "TIMEOUT"}; nothing where there is none.

    With accounting (sacct) that is all of them, without (squeue) those of the last minutes.
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
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def ask_on(plugin: ModuleType, patience: float = 3600.0) -> None:
    """Have Snakemake's SLURM executor say when a question after its jobs fails, and stop after `patience` seconds.

    By itself it says nothing and, when five questions in a row have failed, forgets its jobs and hangs for ever. The
    profile makes it ask for as long as it takes (slurm-status-attempts); here each failure gets a word, and one that
    lasts too long an end: the jobs go on by themselves, and the same command finds what they have published.
    """
    ask: Callable = plugin.query_job_status
    asked: set[str] = set()
    failures: list[float] = []  # when each question since the last answer was asked

    async def query(command: str, logger: Any) -> tuple:
        program = command.split()[0]
        if program not in asked:
            asked.add(program)
            logger.info(f"SLURM's word on the jobs comes from {program}.")
        states, seconds = await ask(command, logger)
        if states is not None:
            if failures:
                logger.warning(f"SLURM answers again: {program}.")
            failures.clear()
            return states, seconds
        failures.append(time.monotonic())
        lasted = failures[-1] - failures[0]
        if lasted > patience:
            raise RuntimeError(
                f"{program} has failed for {lasted / 60:.0f} minutes. The jobs of this run go on; when SLURM answers "
                f"again, the same command finds what they have published. The question was: {command}"
            )
        logger.warning(f"SLURM does not answer ({program}, question {len(failures)}); asking again.")
        return states, seconds

    plugin.query_job_status = query


def tell_of_packs(plugin: ModuleType) -> None:
    """Have Snakemake print why a job that several cells share failed, or was refused, as it does for a job of one."""
    report: Callable = plugin.Executor.report_job_error

    def reported(self: Any, job_info: Any, msg: str | None = None, **rest: Any) -> None:
        if msg and job_info.job.is_group():
            self.logger.error(msg)
        report(self, job_info, msg=msg, **rest)

    plugin.Executor.report_job_error = reported
