"""Departures from Snakemake: each is still needed, and still does what it is for, on the Snakemake that is installed.

Each runs a small Snakefile twice, with the patch and without: a test that fails in its second half says that Snakemake
no longer does what the patch is against, and one that fails in its first that the patch no longer fits.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

from conftest import ROOT
from starting import STARTER

from kd.stamps import DATE, TOP

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
        applied = f"from kd import patches\npatches.{patch}\n" if patch else ""
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


def test_a_published_file_that_is_asked_for_stands_for_its_stamp(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, STUDY)
    workflow.lay(f"{FIGURE}.png", f"results/{CELL}/manifest.json")
    asked, cell = f"{FIGURE}.png", f"results/{CELL}/manifest.json"
    again = f"ask_for_stamps('{STAMPS}', ['{FIGURE}', 'results/{CELL}'])"
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


def test_no_mark_of_an_incomplete_job_keeps_a_report_from_being_made(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, 'rule one:\n    output: update("one")\n    shell: "touch {output}; kill -9 $PPID"\n')
    workflow.run(code=-9)
    assert list((tmp_path / ".snakemake" / "incomplete").iterdir())
    report = ["--report", "report.html", "one"]
    workflow.run(*report, patch=f"ask_for_stamps('{STAMPS}', [])")
    assert (tmp_path / "report.html").exists()
    assert "IncompleteFilesException" in workflow.run(*report, "--ignore-incomplete", code=1)


def test_what_a_failed_job_published_stays(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, 'rule one:\n    output: update("one")\n    shell: "echo new > {output}; exit 1"\n')
    (tmp_path / "one").write_text("old\n")
    workflow.run("--force", "one", patch="keep_what_is_published()", code=1)
    assert workflow.text("one") == "new\n"
    (tmp_path / "one").write_text("old\n")
    workflow.run("--force", "one", code=1)
    assert workflow.text("one") == "old\n"


def test_every_stamp_has_one_date_whatever_the_clock_says(tmp_path: Path) -> None:
    rule = 'rule one:\n    input: "STAMPS/in"\n    output: "STAMPS/out"\n    shell: "touch {output}"\n'
    workflow = Workflow(tmp_path, rule)
    stamp, ahead = tmp_path / STAMPS / "out", 2**32 - 2  # of a machine whose clock is ahead
    target = f"{STAMPS}/out"
    workflow.lay(f"{STAMPS}/in")
    workflow.run(target, patch="date_stamps_alike()")
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


def test_every_patch_is_tested_here() -> None:
    functions = ast.parse((ROOT / "kd" / "patches.py").read_text()).body
    (applied,) = (one for one in functions if getattr(one, "name", None) == "apply")
    names = {call.func.id for call in ast.walk(applied) if isinstance(call, ast.Call)}
    assert len(names) > 4
    assert not {name for name in names if f"{name}(" not in Path(__file__).read_text()}
