"""What a run prints: one line for each thing that is made, with its result and seconds, and failures as they happen.

Snakemake itself prints a block of lines for each job. That stays in .snakemake/log/, and on the terminal with
KD_OUTPUT=snakemake, --printshellcmds, --verbose or --quiet. The Snakefile alone imports this module.
"""

from __future__ import annotations

import atexit
import contextlib
import csv
import io
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from snakemake.logging import LogEvent, logger
from tqdm import tqdm

from kd.core import files
from kd.core.errors import StorageError
from kd.core.project import on_disk
from kd.study.products import READ_BY_PEOPLE, RULES, Product

VARIABLE = "KD_OUTPUT"

_DEFAULT = "DefaultStreamHandler"  # Snakemake's name for what writes to the terminal; a logger plug-in replaces it
# What to open of what is made of several files: its ending, or its name.
_ENDING = {"analysis": ".csv", "figure": ".png", "proposal": ".json", "trial": ".json"}
_OPENED = {"table": "table.csv", "tables": "means.csv", "verdict": "verdict.md", "page": "report.html"}
_STAMP = ".stamp"
# What Snakemake says of itself in each run.
_NOISE = (
    "Assuming unrestricted shared filesystem",
    "Building DAG of jobs",
    "Conda environments: ignored",
    "Elapsed time",
    "Execute ",
    "Group jobs: inactive",
    "Reasons:",
    "Select jobs to execute",
    "This was a dry-run",
    "Using shell:",
    "host:",
)
_SILENT = {
    LogEvent.JOB_STARTED,
    LogEvent.PROGRESS,
    LogEvent.RESOURCES_INFO,
    LogEvent.SHELLCMD,
    LogEvent.WORKFLOW_STARTED,
}


def install(products: Iterable[Product], stamps: str, settings: Any) -> None:
    """Print in Snakemake's place, unless the user asked for its own output or for another logger.

    Args:
        products: all that the study publishes.
        stamps: the folder that their stamps lie in.
        settings: Snakemake's output settings.
    """
    theirs = next((one for one in logger.handlers if one.name == _DEFAULT), None)
    asked = settings.quiet or settings.verbose or settings.printshellcmds or os.environ.get(VARIABLE) == "snakemake"
    if theirs is None or asked:
        return
    known = {one.stamp(stamps): one for one in products}
    logger.removeHandler(theirs)
    logger.addHandler(Console(theirs, known, settings.dryrun))


class Job(NamedTuple):
    """A job that Snakemake has started: its rule, its stamp and log or "", and when it began."""

    rule: str
    stamp: str
    log: str
    began: float


class Console(logging.Handler):
    """Writes what Snakemake logs as lines about products; on a terminal a bar with the time left stands below them."""

    def __init__(self, theirs: logging.StreamHandler, products: dict[str, Product], dry: bool) -> None:
        super().__init__()
        self.name = _DEFAULT  # so that a Snakefile that is read twice replaces this one
        self.stream, self.formatter = theirs.stream, theirs.formatter
        self._products, self._dry = products, dry
        self._jobs: dict[int, Job] = {}
        self._done = self._total = 0
        self._bar: tqdm | None = None
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            for line in self._lines(record):
                tqdm.write(line, file=self.stream)
            self.stream.flush()
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        super().close()

    def _lines(self, record: logging.LogRecord) -> Iterable[str]:
        match event := getattr(record, "event", None):
            case LogEvent.JOB_INFO:
                return self._started(record)
            case LogEvent.JOB_FINISHED:
                return self._finished(self._jobs.get(record.job_id))
            case LogEvent.JOB_ERROR:
                return self._failed(record)
            case LogEvent.RUN_INFO:
                return self._counts(record)
        text = str(record.msg or "") if event is None else self.format(record)
        quiet = record.levelno < logging.WARNING and (event in _SILENT or text.lstrip().startswith(_NOISE))
        return [text] if text and not quiet else []

    def _started(self, record: logging.LogRecord) -> Iterable[str]:
        job = self._jobs[record.jobid] = _job(record)
        if self._dry and job.rule in RULES.values():
            yield f"{job.rule:<7} {self._called(job)}"

    def _finished(self, job: Job | None) -> Iterable[str]:
        if job is None or job.stamp not in self._products:
            return
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        product = self._products[job.stamp]
        yield self._line(job, _result(product))
        if product.kind == "page":
            yield from _found(product.folder / "verdict.csv")

    def _failed(self, record: logging.LogRecord) -> Iterable[str]:
        job = self._jobs.get(record.jobid) or _job(record)
        yield self._line(job, "FAILED")
        if job.log:
            yield f"    {_last_line(job.log)}\n    log: {job.log}"

    def _counts(self, record: logging.LogRecord) -> Iterable[str]:
        if self._total:  # after a dry run Snakemake says it once more
            return
        counts = {rule: number for rule, number in record.stats.items() if rule in RULES.values()}
        self._total = sum(counts.values())
        if counts:
            yield f"{self._total} jobs: {', '.join(f'{number} {rule}' for rule, number in counts.items())}"
        if counts and not self._dry and self.stream.isatty():
            self._bar = tqdm(total=self._total, file=self.stream, unit="job", leave=False, smoothing=0)

    def _line(self, job: Job, result: str) -> str:
        place = f"[{self._done:>{len(str(self._total))}}/{self._total}]"
        return f"{place} {job.rule:<7} {result:>9} {time.monotonic() - job.began:>6.0f} s  {self._called(job)}"

    def _called(self, job: Job) -> str:
        product = self._products.get(job.stamp)
        if product is None:
            return job.stamp.removesuffix(_STAMP)
        if product.kind in _OPENED:
            return str(product.folder / _OPENED[product.kind])
        return f"{product.name}{_ENDING.get(product.kind, '')}"


def _job(record: logging.LogRecord) -> Job:
    stamp, log = (next(iter(paths), "").partition(" ")[0] for paths in (record.output, record.log))
    return Job(record.rule_name, stamp, log, time.monotonic())


def _result(product: Product) -> str:
    """Return the accuracy of a network, or how large something is; of what people read the path is enough."""
    with contextlib.suppress(StorageError):
        said = files.read_manifest(product.folder, product.manifest) or {}
        if said.get("status") == "diverged":
            return "diverged"
        if "test_top1" in said.get("last", {}):
            return f"{said['last']['test_top1']:.1f} %"
        if product.kind not in READ_BY_PEOPLE and said:
            return f"{sum(said['sizes'].values()) / 1e6:,.1f} MB"
    return ""


def _found(verdict: Path) -> Iterable[str]:
    """Say what a study found: a line for each confirmatory claim that was measured, and the count of all verdicts."""
    with contextlib.suppress(OSError, StorageError):
        lines = list(csv.DictReader(io.StringIO(files.content_of(verdict).decode())))
        for line in lines:
            if line["kind"] == "confirmatory" and line["difference"]:
                difference, *ends = (_signed(line[key]) for key in ("difference", "low", "high"))
                interval = " to ".join(ends) if all(ends) else "no interval"
                setting = line["setting"] if sum(one["claim"] == line["claim"] for one in lines) > 1 else ""
                unit = f" {line['unit']}" if line["unit"] else ""
                sentence = ", ".join(filter(None, [line["sentence"], setting]))
                yield f"  {line['verdict']:<15} {sentence}: {difference}{unit} ({interval})"
        counts = Counter(line["verdict"] for line in lines)
        yield f"  {len(lines)} lines of the verdict: {', '.join(f'{n} {word}' for word, n in counts.most_common())}"


def _signed(number: str) -> str:
    return f"{float(number):+.3g}" if number else ""


def _last_line(log: str) -> str:
    with contextlib.suppress(OSError):
        lines = on_disk(Path(log)).read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""
