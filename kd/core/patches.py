"""Every departure from what Snakemake (9.17 to 9.27) and its SLURM plugin (2.8) do by themselves.

Each says what happens without it, and names the upstream issue where one is known. Imported by the Snakefile alone;
tests/test_patches.py holds each against the packages that are installed, CI also against the oldest that kd allows.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import ModuleType
from typing import Any

from snakemake.dag import DAG
from snakemake.io import _IOFile
from snakemake.jobs import GroupJob, Job
from snakemake.persistence import FileBackupMixin
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.workflow import Workflow

from kd.core.slurm import job_states

_FILES = ("targetfiles", "forcefiles", "priorityfiles", "untilfiles", "omitfiles")


def apply(stands_for: Callable[[str], str], stamps: str, date: float) -> None:
    """Change what is listed here.

    A target stands for what `stands_for` makes of its path; files below the folder `stamps` have a `date` of their own.
    """
    ask_for_stamps(stands_for)
    keep_what_is_published()
    date_stamps_alike(stamps, date)
    ask_for_no_benchmark()
    say_nothing_of_records()
    fail_alone_on_nodes()
    if "snakemake_executor_plugin_slurm" in sys.modules:
        plugin = sys.modules["snakemake_executor_plugin_slurm"]
        heed_sigterm()
        ask_on(plugin)
        ask_squeue_alone(plugin)
        judge_what_slurm_forgot(plugin)
        tell_of_packs(plugin)
        submit_the_rest_alone()


def ask_for_stamps(stands_for: Callable[[str], str]) -> None:
    """Have a published file that is asked for by name stand for its stamp.

    Without it `snakemake reports/A/figures/f.png` says "Nothing to be done" over an old picture: to Snakemake an input
    that is missing is no reason to run where the output exists.

    And no mark of an incomplete job decides anything. The option ignore-incomplete is not enough: without this,
    --report refuses while another Snakemake is drawing, or after one was killed.
    """
    begin = _original(DAG, "__init__")

    @functools.wraps(begin)
    def init(dag: DAG, *args: Any, **options: Any) -> None:
        for name in _FILES:
            if options.get(name):
                options[name] = set(map(stands_for, options[name]))
        options["ignore_incomplete"] = True
        begin(dag, *args, **options)

    DAG.__init__ = init


def keep_what_is_published() -> None:
    """Neither back up what a job updates nor put it back when the job fails (Snakemake's #3833).

    Without it a job that fails after kd published puts the old picture back over the new one, and two controllers that
    draw one figure stumble over the one backup that both make of it.
    """
    FileBackupMixin.backup_output = lambda persistence, path: None
    FileBackupMixin.restore_output = lambda persistence, path: False


def date_stamps_alike(stamps: str, date: float) -> None:
    """Have Snakemake, which touches what a job has made, give files below `stamps` the one date that all stamps have.

    Without it a job fails where the clock of its machine is behind that of the machine that made its inputs ("older
    modification time than input").
    """
    touch = _original(_IOFile, "touch")

    @functools.wraps(touch)
    def touched(file: _IOFile, *args: Any, **options: Any) -> None:
        if str(file).startswith(f"{stamps}/"):
            if os.stat(file).st_mtime != date:  # kd has dated it; another user's it may not
                touch(file, (date, date))
        else:
            touch(file, *args, **options)

    _IOFile.touch = touched


def ask_for_no_benchmark() -> None:
    """Have the benchmark of a rule that is asked for by name count as its log does: where it is gone, nothing is to do.

    Without it `snakemake collect` runs a job over a table that is current, where benchmarks/ was deleted.
    """
    products = _original(Job, "products")

    @functools.wraps(products)
    def produced(job: Job, include_logfiles: bool = True) -> list[_IOFile]:
        found = products(job, include_logfiles)
        return found if include_logfiles else [one for one in found if one != job.benchmark]

    Job.products = produced


def say_nothing_of_records() -> None:
    """Do not say after a dry run that records are missing.

    Without it Snakemake says so of each stamp that no job of its own has made, as if that decided anything.
    """
    Workflow.log_missing_metadata_info = lambda workflow: None


def fail_alone_on_nodes() -> None:
    """Have the other cells of a job go on when one fails.

    In a job on a node Snakemake reads no profile: without it, it stops at the first failed cell of several.
    """
    execute = _original(Workflow, "execute")

    @functools.wraps(execute)
    def executed(workflow: Workflow, *args: Any, **options: Any) -> Any:
        if not workflow.is_main_process:
            workflow.execution_settings.keep_going = True
        return execute(workflow, *args, **options)

    Workflow.execute = executed


# -- SLURM ------------------------------------------------------------------------------------------------------------

_LOST = 2  # answers in a row in which a job is missing: SLURM has forgotten it


def heed_sigterm() -> None:
    """Stop at once on SIGTERM where jobs are on a cluster: they go on and publish by themselves.

    Without it Snakemake waits for the jobs, for ever if SLURM does not say what became of one (#448 is near). SIGINT
    cancels them.
    """
    leave = _original(JobScheduler, "exit_gracefully")

    @functools.wraps(leave)
    def exit_gracefully(scheduler: JobScheduler, *args: Any) -> None:
        if scheduler.workflow.local_exec:
            leave(scheduler, *args)
            return
        print("kd: terminated; the jobs on the cluster go on by themselves, the same command finds their results")
        sys.stdout.flush()
        os._exit(143)

    JobScheduler.exit_gracefully = exit_gracefully


def ask_on(plugin: ModuleType, patience: float = 3600.0) -> None:
    """Say when a question after the jobs fails, and stop after `patience` seconds of failures.

    Without it the executor says nothing and, when five questions in a row have failed, forgets its jobs and hangs for
    ever (the plugin's #207). The profile makes it ask for as long as it takes (slurm-status-attempts).

    PREEMPTED counts as a failure, so that the job is submitted again: without it the executor waits for SLURM to resume
    a job that it was told never to requeue (the plugin's #109). UNKNOWN counts as no answer: without it the job counts
    as done.
    """
    ask = _original(plugin, "query_job_status")
    asked: set[str] = set()
    failures: list[float] = []  # when each question since the last answer was asked

    @functools.wraps(ask)
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
            plugin.kd_states = _heard(states)
            return plugin.kd_states, seconds
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


def _heard(states: Mapping[str, str]) -> dict[str, str]:
    heard = {"PREEMPTED": "FAILED"}
    return {job: heard.get(state, state) for job, state in states.items() if state != "UNKNOWN"}


def ask_squeue_alone(plugin: ModuleType) -> None:
    """Take it that SLURM remembers jobs for as long as it last said, or long, when it does not say.

    Without it one unanswered `scontrol` makes the executor ask sacct, which may have no accounting behind it.
    """
    ask = _original(plugin, "get_min_job_age")
    known: list[int] = []

    @functools.wraps(ask)
    def get_min_job_age() -> int:
        if not known and (seconds := ask()) is not None:
            known.append(seconds)
        return known[0] if known else 1 << 30

    plugin.get_min_job_age = get_min_job_age


def judge_what_slurm_forgot(plugin: ModuleType) -> None:
    """Judge a job that SLURM no longer knows by what it made, then by sacct where that knows, else as failed.

    Without it Snakemake waits for ever for a job whose end SLURM has forgotten before it was asked (MinJobAge; the
    plugin's #33).
    """
    check = _original(plugin.Executor, "check_active_jobs")
    missing: dict[str, int] = {}  # answers in which a job was missing, by its id

    @functools.wraps(check)
    async def checked(executor: Any, active_jobs: list) -> AsyncIterator:
        plugin.kd_states = None
        async for info in check(executor, active_jobs):
            states, job = plugin.kd_states, str(info.external_jobid)
            if states is None or job in states or job.split("_")[0] in states:
                missing.pop(job, None)
                yield info
                continue
            missing[job] = missing.get(job, 0) + 1
            if missing[job] < _LOST:
                yield info
            elif all(map(os.path.exists, info.job.output)):
                executor.report_job_success(info)
            elif job_states([job]).get(job) in _AT_WORK:
                yield info
            else:
                executor.report_job_error(info, msg=f"SLURM-job '{job}' is forgotten by SLURM, and has not made all.")

    plugin.Executor.check_active_jobs = checked


_AT_WORK = ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING")


def tell_of_packs(plugin: ModuleType) -> None:
    """Print why a job that several cells share failed, or was refused.

    Without it Snakemake prints the reason for a job of one cell alone.
    """
    report = _original(plugin.Executor, "report_job_error")

    @functools.wraps(report)
    def reported(executor: Any, job_info: Any, msg: str | None = None, **rest: Any) -> None:
        if msg and job_info.job.is_group():
            executor.logger.error(msg)
        report(executor, job_info, msg=msg, **rest)

    plugin.Executor.report_job_error = reported


def submit_the_rest_alone() -> None:
    """Have a pack that is submitted again make what it has not made.

    Without it Snakemake has the job start a process for each of its cells, those that are current too.
    """
    spec = _original(GroupJob, "get_target_spec")

    @functools.wraps(spec)
    def get_target_spec(group: GroupJob) -> list:
        rest = [job for job in group.jobs if not all(map(os.path.exists, job.output))]
        return [target for job in rest or group.jobs for target in job.get_target_spec()]

    GroupJob.get_target_spec = get_target_spec


def _original(owner: type | ModuleType, name: str) -> Any:
    """Return a method as Snakemake has it: one process may read the Snakefile twice."""
    found = getattr(owner, name)
    return getattr(found, "__wrapped__", found)
