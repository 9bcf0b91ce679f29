"""Departures from Snakemake: each is still needed, and still does what it is for, on the Snakemake that is installed.

Each runs a small Snakefile twice, with the patch and without: a test that fails in its second half says that Snakemake
no longer does what the patch is against, and one that fails in its first that the patch no longer fits.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 (first: its modules import each other)
import snakemake_executor_plugin_slurm as slurm_plugin
from conftest import ROOT
from made.starting import STARTER
from snakemake.jobs import GroupJob

from kd.core import patches
from kd.study.stamps import DATE, TOP

STAMPS = f"{TOP}/q-0"
FIGURE = "reports/A/figures/a.dots"
CELL = "digits/quick/resnet8.ce.s0"


class Workflow:
    """A small workflow in a folder of its own, with one patch or with none."""

    def __init__(self, folder: Path, rules: str) -> None:
        self.folder = folder
        self._rules = rules.replace("STAMPS", STAMPS).replace("FIGURE", FIGURE)

    def run(self, *arguments: str, patch: str | None = None, code: int = 0) -> str:
        """Run it to its end with one patch, written as it is called, and return what was printed."""
        applied = f"from kd.core import patches\nfrom kd.study import stamps\npatches.{patch}\n" if patch else ""
        (self.folder / "Snakefile").write_text(applied + self._rules)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        # the options of kd's own profile that make a difference here
        options = ["--cores", "1", "--rerun-triggers", "mtime", "--keep-incomplete", "--nolock"]
        ended, output = STARTER.run([*arguments, *options], self.folder, environment)
        assert ended == code, output
        return output

    def lay(self, *names: str, when: float = DATE) -> None:
        """Have empty files of these names and this date."""
        for name in names:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (when, when))

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()


NOTHING = "Nothing to be done"
STUDY = """
rule table:
    output: update("STAMPS/reports/A/table.stamp")
    shell: "touch {output}"

rule figure:
    input: "STAMPS/reports/A/table.stamp"
    output:
        stamp=update("STAMPS/FIGURE.stamp"),
        picture=update("FIGURE.png"),
    shell: "echo new > {output.picture}; touch {output.stamp}"

rule train:
    output: update("STAMPS/results/{cell}.stamp")
    shell: "touch {output}"
"""


@pytest.mark.slow
def test_a_published_file_that_is_asked_for_stands_for_its_stamp(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, STUDY)
    workflow.lay(f"{FIGURE}.png", f"results/{CELL}/manifest.json")
    asked, cell = f"{FIGURE}.png", f"results/{CELL}/manifest.json"
    known = [FIGURE, f"results/{CELL}"]
    again = f"ask_for_stamps(lambda path: stamps.asked_for(path, '{STAMPS}', {known}))"
    said = workflow.run("--dry-run", asked, "./" + cell, patch=again)
    assert all(f"rule {rule}:" in said for rule in ("table", "figure", "train"))
    workflow.lay(f"{STAMPS}/reports/A/table.stamp", f"{STAMPS}/{FIGURE}.stamp", f"{STAMPS}/results/{CELL}.stamp")
    assert NOTHING in workflow.run("--dry-run", asked, cell, patch=again)
    said = workflow.run("--dry-run", asked, cell, "--forcerun", cell, patch=again)
    assert "rule train:" in said
    assert "rule figure:" not in said
    (tmp_path / STAMPS / f"{FIGURE}.stamp").unlink()
    (tmp_path / STAMPS / "reports/A/table.stamp").unlink()
    assert NOTHING in workflow.run("--dry-run", asked)
    assert "MissingRuleException" in workflow.run("--dry-run", cell, code=1)


@pytest.mark.slow
def test_no_mark_of_an_incomplete_job_keeps_a_report_from_being_made(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, 'rule one:\n    output: update("one")\n    shell: "touch {output}; kill -9 $PPID"\n')
    workflow.run(code=-9)
    assert list((tmp_path / ".snakemake" / "incomplete").iterdir())
    report = ["--report", "report.html", "one"]
    workflow.run(*report, patch="ask_for_stamps(str)")
    assert (tmp_path / "report.html").exists()
    assert "IncompleteFilesException" in workflow.run(*report, "--ignore-incomplete", code=1)


@pytest.mark.slow
def test_what_a_failed_job_published_stays(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, 'rule one:\n    output: update("one")\n    shell: "echo new > {output}; exit 1"\n')
    (tmp_path / "one").write_text("old\n")
    workflow.run("--force", "one", patch="keep_what_is_published()", code=1)
    assert workflow.text("one") == "new\n"
    (tmp_path / "one").write_text("old\n")
    workflow.run("--force", "one", code=1)
    assert workflow.text("one") == "old\n"


@pytest.mark.slow
def test_every_stamp_has_one_date_whatever_the_clock_says(tmp_path: Path) -> None:
    rule = 'rule one:\n    input: "STAMPS/in"\n    output: "STAMPS/out"\n    shell: "touch {output}"\n'
    workflow = Workflow(tmp_path, rule)
    stamp, ahead = tmp_path / STAMPS / "out", 2**32 - 2  # of a machine whose clock is ahead
    target = f"{STAMPS}/out"
    workflow.lay(f"{STAMPS}/in")
    workflow.run(target, patch=f"date_stamps_alike('{TOP}', {DATE})")
    assert stamp.stat().st_mtime == DATE
    stamp.unlink()
    workflow.run(target)
    assert stamp.stat().st_mtime > DATE
    stamp.unlink()
    workflow.lay(f"{STAMPS}/in", when=ahead)
    assert "has older modification time" in workflow.run(target, code=1)


def test_a_benchmark_that_is_gone_is_no_reason_to_run(tmp_path: Path) -> None:
    rule = 'rule one:\n    output: "one"\n    benchmark: "one.tsv"\n    shell: "touch {output}"\n'
    workflow = Workflow(tmp_path, rule)
    workflow.lay("one")
    assert NOTHING in workflow.run("one", patch="ask_for_no_benchmark()")
    assert "rule one:" in workflow.run("--dry-run", "one")
    workflow.run("--force", "one", patch="ask_for_no_benchmark()")
    assert (tmp_path / "one.tsv").exists()


def test_a_dry_run_does_not_speak_of_missing_records(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, 'rule one:\n    output: "one"\n    shell: "touch {output}"\n')
    workflow.lay("one")
    about = "metadata"
    assert about not in workflow.run("--dry-run", "one", patch="say_nothing_of_records()")
    assert about in workflow.run("--dry-run", "one")


@pytest.mark.slow
def test_in_a_job_on_a_node_one_cell_fails_alone(tmp_path: Path) -> None:
    workflow = Workflow(
        tmp_path,
        """
rule bad:
    output: "bad"
    priority: 1
    shell: "exit 1"

rule good:
    output: "good"
    shell: "touch {output}"
""",
    )
    on_a_node = ["--mode", "remote", "--target-jobs", "bad:", "good:", "--allowed-rules", "bad", "good"]
    workflow.run(*on_a_node, patch="fail_alone_on_nodes()", code=1)
    assert (tmp_path / "good").exists()
    (tmp_path / "good").unlink()
    workflow.run(*on_a_node, code=1)
    assert not (tmp_path / "good").exists()
    workflow.run("bad", "good", patch="fail_alone_on_nodes()", code=1)  # who starts Snakemake decides
    assert not (tmp_path / "good").exists()


# -- SLURM's plugin: its own functions, and programs that answer in SLURM's place --------------------------------------


class Slurm:
    """The plugin, and what it makes of SLURM's answers."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.said: list[str] = []
        self.ended: dict[str, str] = {}  # what became of each job, by its id

    def answers(self, program: str, text: str, code: int = 0) -> None:
        """Have a program print a text from now on."""
        path = self._programs / program
        once = f"rm {path}.fails 2>&- && exit 1"
        path.write_text(f"#!/bin/sh\n{once}\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        path.chmod(0o755)

    def fails_once(self, program: str) -> None:
        """Have a program fail when it is called next."""
        (self._programs / f"{program}.fails").touch()

    def ask(self) -> dict | None:
        return asyncio.run(slurm_plugin.query_job_status("squeue", self._logger()))[0]

    def poll(self, jobs: dict[str, object]) -> set[str]:
        """Have the plugin look once what became of jobs; return those that it goes on waiting for."""
        executor = object.__new__(slurm_plugin.Executor)
        settings = {"status_attempts": 2, "init_seconds_before_status_checks": 5, "keep_successful_logs": True}
        executor.workflow = SimpleNamespace(executor_settings=SimpleNamespace(**settings, status_command="squeue"))
        executor.logger, executor.run_uuid = self._logger(), "x"
        executor.status_rate_limiter = contextlib.AsyncExitStack()
        executor.next_seconds_between_status_checks = 5
        executor._preemption_warning = True
        executor._status_query_calls = executor._status_query_failures = 0
        executor._status_query_total_seconds = executor._status_query_max_seconds = 0.0
        executor._status_query_min_seconds, executor._status_query_cycle_rows = None, []
        executor.report_job_success = lambda info: self.ended.update({info.external_jobid: "done"})
        executor.report_job_error = lambda info, msg="", **rest: self.ended.update({info.external_jobid: msg})
        infos = [SimpleNamespace(external_jobid=number, aux={}, job=job) for number, job in jobs.items()]

        async def look() -> set[str]:
            return {info.external_jobid async for info in executor.check_active_jobs(infos)}

        return asyncio.run(look())

    def _logger(self) -> SimpleNamespace:
        return SimpleNamespace(info=self.said.append, warning=self.said.append, debug=lambda text: None)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    for owner, names in {
        slurm_plugin: ("query_job_status", "get_min_job_age"),
        slurm_plugin.Executor: ("check_active_jobs", "report_job_error"),
        GroupJob: ("get_target_spec",),
    }.items():
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))  # as it is, when the test has ended
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    made = Slurm(programs)
    made.answers("sacct", "", code=1)
    made.answers("scontrol", "MinJobAge = 300 sec")
    return made


def test_each_question_that_slurm_does_not_answer_gets_a_word(slurm: Slurm) -> None:
    """Fault 44."""
    slurm.answers("squeue", "", code=1)
    assert slurm.ask() is None
    assert slurm.said == []
    patches.ask_on(slurm_plugin)
    assert slurm.ask() is slurm.ask() is None
    slurm.answers("squeue", "1|COMPLETED")
    assert slurm.ask() == {"1": "COMPLETED"}
    assert slurm.said == [
        "Asking SLURM about the jobs with squeue.",
        "SLURM does not answer (squeue, question 1); asking again.",
        "SLURM does not answer (squeue, question 2); asking again.",
        "SLURM answers again: squeue.",
    ]


def test_asking_ends_with_a_message_when_it_has_gone_on_for_too_long(slurm: Slurm) -> None:
    slurm.answers("squeue", "", code=1)
    patches.ask_on(slurm_plugin, patience=-1)
    with pytest.raises(RuntimeError, match=r"squeue has failed for 0 minutes\. The jobs of this run go on"):
        slurm.ask()


def test_a_preempted_job_has_failed_and_one_of_which_slurm_knows_nothing_goes_on(slurm: Slurm) -> None:
    slurm.answers("squeue", "1|PREEMPTED\n2|UNKNOWN\n3|RUNNING")
    jobs = dict.fromkeys("123")
    assert slurm.poll(jobs) == {"1", "3"}
    assert slurm.ended == {"2": "done"}
    slurm.ended.clear()
    patches.ask_on(slurm_plugin)
    assert slurm.poll(jobs) == {"2", "3"}
    assert list(slurm.ended) == ["1"]
    assert "failed" in slurm.ended["1"]


def test_an_unanswered_scontrol_leaves_the_question_with_squeue(slurm: Slurm) -> None:
    slurm.answers("squeue", "1|RUNNING")
    slurm.answers("scontrol", "", code=1)
    slurm.poll({"1": None})
    assert any("Falling back to 'sacct'" in text for text in slurm.said)
    slurm.said.clear()
    patches.ask_squeue_alone(slurm_plugin)
    slurm.poll({"1": None})
    assert slurm.said == []
    slurm.answers("scontrol", "MinJobAge = 300 sec")
    assert slurm_plugin.get_min_job_age() == 300
    slurm.answers("scontrol", "", code=1)
    assert slurm_plugin.get_min_job_age() == 300


def test_a_job_that_slurm_forgot_is_judged_by_what_it_made(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "made").touch()
    made, half = (SimpleNamespace(output=[tmp_path / "made", tmp_path / name]) for name in ("made", "not made"))
    jobs = {"1": made, "2": half, "3": half}
    slurm.answers("squeue", "")
    assert all(slurm.poll(jobs) == set(jobs) for _ in range(3))
    patches.ask_on(slurm_plugin)
    patches.judge_what_slurm_forgot(slurm_plugin)
    assert slurm.poll(jobs) == set(jobs)
    slurm.answers("sacct", "3|RUNNING")
    assert slurm.poll(jobs) == {"3"}
    assert slurm.ended == {"1": "done", "2": "SLURM has forgotten job '2'; not all of its outputs exist."}


def test_a_question_without_an_answer_makes_no_job_forgotten(slurm: Slurm, tmp_path: Path) -> None:
    jobs = {"1": SimpleNamespace(output=[tmp_path / "not made"])}
    patches.ask_on(slurm_plugin)
    patches.judge_what_slurm_forgot(slurm_plugin)
    for text in ("", "1|RUNNING", ""):
        slurm.answers("squeue", text)
        slurm.fails_once("squeue")
        assert slurm.poll(jobs) == {"1"}
    assert slurm.ended == {}


def test_why_a_pack_failed_is_printed(slurm: Slurm) -> None:
    said: list[str] = []
    executor = object.__new__(slurm_plugin.Executor)
    executor.logger = SimpleNamespace(error=said.append, info=said.append)
    pack = SimpleNamespace(is_group=lambda: True, log_error=lambda *args, **rest: None)
    executor.workflow = SimpleNamespace(scheduler=SimpleNamespace(error_callback=lambda job: None))
    executor.error_callback = lambda job: None
    executor.print_job_error = lambda *args, **rest: None
    executor.report_job_error(SimpleNamespace(job=pack), msg="no such partition")
    assert "no such partition" not in said
    patches.tell_of_packs(slurm_plugin)
    executor.report_job_error(SimpleNamespace(job=pack), msg="no such partition")
    assert said.count("no such partition") == 1


def test_a_pack_is_submitted_again_for_what_it_has_not_made(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    pack = object.__new__(GroupJob)
    pack.jobs = [
        SimpleNamespace(rule=SimpleNamespace(name=name), wildcards_dict={}, output=[tmp_path / name]) for name in "abc"
    ]
    for job in pack.jobs:
        job.get_target_spec = lambda job=job: [job.rule.name]
    assert len(pack.get_target_spec()) == 3
    patches.submit_the_rest_alone()
    assert pack.get_target_spec() == ["b", "c"]
    for name in "bc":
        (tmp_path / name).touch()
    assert pack.get_target_spec() == ["a", "b", "c"]


def test_sigterm_ends_who_has_jobs_on_a_cluster_and_waits_for_those_that_run_here() -> None:
    """tests/test_slurm_answers.py has it with a real SLURM."""
    program = """
import threading, types
import snakemake.api
from snakemake.scheduling.job_scheduler import JobScheduler
from kd.core import patches
def told(local):
    scheduler = types.SimpleNamespace(workflow=types.SimpleNamespace(local_exec=local), _lock=threading.Lock())
    scheduler._open_jobs = threading.Semaphore()
    JobScheduler.exit_gracefully(scheduler)
    return scheduler._user_kill
assert told(False) == "graceful"
patches.heed_sigterm()
assert told(True) == "graceful"
told(False)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 143, ended.stderr
    assert "the jobs on the cluster go on by themselves" in ended.stdout


def test_every_patch_is_tested_here() -> None:
    functions = ast.parse((ROOT / "kd" / "core" / "patches.py").read_text()).body
    (applied,) = (one for one in functions if getattr(one, "name", None) == "apply")
    names = {call.func.id for call in ast.walk(applied) if isinstance(call, ast.Call)}
    assert len(names) > 4
    assert not {name for name in names if f"{name}(" not in Path(__file__).read_text()}
