"""Every departure from what Snakemake does by itself. Written against 9.27.1; tests/test_patches.py holds each.

Imported by the Snakefile alone. kd/slurm.py has what concerns Snakemake's SLURM plugin.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection
from typing import Any

from snakemake.dag import DAG
from snakemake.io import _IOFile
from snakemake.jobs import Job
from snakemake.persistence import FileBackupMixin
from snakemake.workflow import Workflow

from kd.errors import nearest
from kd.products import owner
from kd.stamps import DATE, TOP

_FILES = ("targetfiles", "forcefiles", "priorityfiles", "untilfiles", "omitfiles")


def apply(stamps: str, known: Collection[str]) -> None:
    """Change what is listed here, for a workflow with stamps in the folder `stamps` of products with `known` names."""
    ask_for_stamps(stamps, known)
    keep_what_is_published()
    date_stamps_alike()
    ask_for_no_benchmark()
    say_nothing_of_records()
    fail_alone_on_nodes()


def ask_for_stamps(stamps: str, known: Collection[str]) -> None:
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
                options[name] = {_asked(path, stamps, known) for path in options[name]}
        options["ignore_incomplete"] = True
        begin(dag, *args, **options)

    DAG.__init__ = init


def _asked(path: str, stamps: str, known: Collection[str]) -> str:
    product = owner(os.path.normpath(path)) if not os.path.isabs(path) else None
    if product is None:
        return path
    if product not in known:
        raise SystemExit(f"kd: {path}: the study makes no such thing{nearest(product, known)}")
    return f"{stamps}/{product}.stamp"


def keep_what_is_published() -> None:
    """Neither back up what a job updates nor put it back when the job fails (Snakemake since 9.13.7).

    Without it a job that fails after kd published puts the old picture back over the new one, and two controllers that
    draw one figure stumble over the one backup that both make of it.
    """
    FileBackupMixin.backup_output = lambda persistence, path: None
    FileBackupMixin.restore_output = lambda persistence, path: False


def date_stamps_alike() -> None:
    """Have Snakemake, which touches what a job has made, give stamps the one date that all stamps have.

    Without it a job fails where the clock of its machine is behind that of the machine that made its inputs ("older
    modification time than input").
    """
    touch = _original(_IOFile, "touch")

    @functools.wraps(touch)
    def touched(file: _IOFile, *args: Any, **options: Any) -> None:
        if str(file).startswith(f"{TOP}/"):
            touch(file, (DATE, DATE))
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


def _original(owner: type, name: str) -> Any:
    """Return a method as Snakemake has it: one process may read the Snakefile twice."""
    found = getattr(owner, name)
    return getattr(found, "__wrapped__", found)
