"""All changes that kd makes to Snakemake (9.17 to 9.27) and its SLURM plugin (2.8).

Each says what happens without it, and names the upstream issue if one is known. Only the Snakefile imports this module.
tests/test_patches.py tests each change on the installed packages, and in CI also on the oldest that kd allows.
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
    """Make the changes below.

    `stands_for` turns the path of a target into the path of its stamp; files below the folder `stamps` get the `date`.
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
    """Replace a published file that the user asks for by its stamp, and ignore all marks of incomplete jobs.

    Without the first, `snakemake reports/A/figures/f.png` says "Nothing to be done" about an old picture: a missing
    input is no reason for Snakemake to run a job whose output exists.

    Without the second, --report refuses while another Snakemake draws, or after one was killed. The command-line option
    ignore-incomplete is not enough.
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
    """Switch off Snakemake's backup of outputs marked update(), and its restore when the job fails (Snakemake's #3833).

    Without it, when a job fails after kd has published, Snakemake restores the old picture over the new one, and two
    controllers that draw the same figure fail because both use the same backup file.
    """
    FileBackupMixin.backup_output = lambda persistence, path: None
    FileBackupMixin.restore_output = lambda persistence, path: False


def date_stamps_alike(stamps: str, date: float) -> None:
    """Give files below `stamps` the fixed date of all stamps when Snakemake touches the outputs of a job.

    Without it a job fails ("older modification time than input") if the clock of its machine is behind the clock of the
    machine that made its inputs.
    """
    touch = _original(_IOFile, "touch")

    @functools.wraps(touch)
    def touched(file: _IOFile, *args: Any, **options: Any) -> None:
        if str(file).startswith(f"{stamps}/"):
            if os.stat(file).st_mtime != date:  # touch only if needed: another user's file would refuse
                touch(file, (date, date))
        else:
            touch(file, *args, **options)

    _IOFile.touch = touched


def ask_for_no_benchmark() -> None:
    """Treat a rule's benchmark file like its log: if it is missing, that is no reason to run the rule.

    Without it `snakemake collect` runs a job for a table that is current when benchmarks/ was deleted.
    """
    products = _original(Job, "products")

    @functools.wraps(products)
    def produced(job: Job, include_logfiles: bool = True) -> list[_IOFile]:
        found = products(job, include_logfiles)
        return found if include_logfiles else [one for one in found if one != job.benchmark]

    Job.products = produced


def say_nothing_of_records() -> None:
    """Do not report missing records after a dry run.

    Without it Snakemake reports each stamp that kd made outside a job. Records decide nothing here.
    """
    Workflow.log_missing_metadata_info = lambda workflow: None


def fail_alone_on_nodes() -> None:
    """Go on with the other cells of a SLURM job when one fails.

    Without it the Snakemake inside the job stops at the first failed cell, because on a node it reads no profile.
    """
    execute = _original(Workflow, "execute")

    @functools.wraps(execute)
    def executed(workflow: Workflow, *args: Any, **options: Any) -> Any:
        if not workflow.is_main_process:
            workflow.execution_settings.keep_going = True
        return execute(workflow, *args, **options)

    Workflow.execute = executed


# -- SLURM ------------------------------------------------------------------------------------------------------------

_LOST = 2  # a job that is missing in so many answers in a row counts as forgotten by SLURM


def heed_sigterm() -> None:
    """Stop at once on SIGTERM when jobs run on a cluster: they go on and publish without a controller.

    Without it Snakemake waits for the jobs, for ever if SLURM does not say what became of one (#448 is similar). SIGINT
    cancels the jobs.
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
    """Log each status query that SLURM does not answer, and stop after `patience` seconds of them.

    Without it the executor logs nothing; after five failed queries in a row it forgets its jobs and hangs for ever (the
    plugin's #207). The profile removes the limit of five (slurm-status-attempts).

    PREEMPTED counts as a failure, so that the job is submitted again. Without it the executor waits until SLURM resumes
    the job, but SLURM was told never to requeue it (the plugin's #109). UNKNOWN counts as no answer. Without it the job
    counts as done.
    """
    ask = _original(plugin, "query_job_status")
    asked: set[str] = set()
    failures: list[float] = []  # the time of each query since the last answer

    @functools.wraps(ask)
    async def query(command: str, logger: Any) -> tuple:
        program = command.split()[0]
        if program not in asked:
            asked.add(program)
            logger.info(f"Asking SLURM about the jobs with {program}.")
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
    """Remember SLURM's MinJobAge from its first answer; until there is one, assume that SLURM forgets no job.

    Without it one unanswered `scontrol` makes the executor use sacct, which fails where SLURM keeps no accounting.
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
    """Judge a job that SLURM has forgotten: done if its outputs exist, at work if sacct says so, else failed.

    Without it Snakemake waits for ever for a job that SLURM forgot (after MinJobAge seconds) before Snakemake asked for
    it (the plugin's #33).
    """
    check = _original(plugin.Executor, "check_active_jobs")
    missing: dict[str, int] = {}  # {job id: number of answers in a row that lack the job}

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
                executor.report_job_error(info, msg=f"SLURM has forgotten job '{job}'; not all of its outputs exist.")

    plugin.Executor.check_active_jobs = checked


_AT_WORK = ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING")


def tell_of_packs(plugin: ModuleType) -> None:
    """Print why a pack, a SLURM job of several cells, failed or was refused.

    Without it Snakemake prints the reason only for jobs of one cell.
    """
    report = _original(plugin.Executor, "report_job_error")

    @functools.wraps(report)
    def reported(executor: Any, job_info: Any, msg: str | None = None, **rest: Any) -> None:
        if msg and job_info.job.is_group():
            executor.logger.error(msg)
        report(executor, job_info, msg=msg, **rest)

    plugin.Executor.report_job_error = reported


def submit_the_rest_alone() -> None:
    """Ask a pack that is submitted again only for the cells that it has not made.

    Without it the job starts a process for each of its cells, even for those that are current.
    """
    spec = _original(GroupJob, "get_target_spec")

    @functools.wraps(spec)
    def get_target_spec(group: GroupJob) -> list:
        rest = [job for job in group.jobs if not all(map(os.path.exists, job.output))]
        return [target for job in rest or group.jobs for target in job.get_target_spec()]

    GroupJob.get_target_spec = get_target_spec


def _original(owner: type | ModuleType, name: str) -> Any:
    """Return Snakemake's own method: if a process reads the Snakefile twice, the patch is already in its place."""
    found = getattr(owner, name)
    return getattr(found, "__wrapped__", found)
