"""What a run prints: lines for people, and Snakemake's own output for who asks for it."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from made.project import Project
from snakemake.logging import LogEvent, logger

from kd.core import files
from kd.study import console, products
from kd.study.products import Product

STAMPS = "state/stamps/q-1"
FIGURE = Product("figure", "reports/small/figures/losses.dots")
PAGE = products.page("small")
NETWORK = Product("network", "results/digits/quick/resnet8.ce.s0")


@pytest.fixture
def shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written in place of Snakemake's output, for a study of one network and one figure."""
    monkeypatch.delenv(console.VARIABLE)
    stream = io.StringIO()
    theirs = logging.StreamHandler(stream)
    theirs.name = "DefaultStreamHandler"
    monkeypatch.setattr(logger, "handlers", [theirs])
    monkeypatch.setattr(logger, "level", logging.INFO)
    settings = SimpleNamespace(quiet=set(), verbose=False, printshellcmds=False, dryrun=False)
    console.install([FIGURE, NETWORK, PAGE], STAMPS, settings)
    return stream


def begins(number: int, rule: str, product: Product, log: str) -> None:
    said = {"jobid": number, "rule_name": rule, "output": [f"{product.stamp(STAMPS)} (update)"], "log": [log]}
    logger.info("", extra={"event": LogEvent.JOB_INFO, **said})


def test_what_is_made_is_a_line_with_its_result_and_seconds(shown: io.StringIO) -> None:
    logger.info("Job stats: ...", extra={"event": LogEvent.RUN_INFO, "stats": {"train": 1, "all": 1, "total": 2}})
    begins(1, "train", NETWORK, "logs/a.log")
    files.publish(Path(NETWORK.name), {"model": b""}, {"status": "ok", "last": {"epoch": 2, "test_top1": 71.25}})
    logger.info("Finished jobid: 1", extra={"event": LogEvent.JOB_FINISHED, "job_id": 1})
    assert shown.getvalue() == f"1 jobs: 1 train\n[1/1] train      71.2 %      0 s  {NETWORK.name}\n"


def test_a_network_that_diverged_says_so(shown: io.StringIO) -> None:
    begins(1, "train", NETWORK, "logs/a.log")
    files.publish(Path(NETWORK.name), {"model": b""}, {"status": "diverged", "cause": "NaN", "last": {}})
    logger.info("Finished jobid: 1", extra={"event": LogEvent.JOB_FINISHED, "job_id": 1})
    assert re.search(r"train +diverged +0 s", shown.getvalue())


def test_at_the_end_the_claims_of_the_study_are_said_with_what_was_found(shown: io.StringIO) -> None:
    lines = pd.DataFrame(
        [
            ("a", "KL is above CE", "confirmatory", 12.345, 9.0, 15.2, "points", "holds", "x"),
            ("b", "MSE is above KL", "confirmatory", -1.5, -2.0, -1.0, "", "does not hold", "clean"),
            ("b", "MSE is above KL", "confirmatory", 0.5, -1.0, 2.0, "", "undecided", "noisy"),
            ("c", "ONE is above CE", "confirmatory", None, None, None, "points", "not measured", "–"),
            ("d", "CE is above ONE", "exploratory", 1.0, 0.0, 2.0, "points", "undecided", "x"),
            ("e", "KL is above ONE", "confirmatory", 1.25, None, None, "points", "undecided", "of one seed"),
        ],
        columns=["claim", "sentence", "kind", "difference", "low", "high", "unit", "verdict", "setting"],
    )
    folder = PAGE.folder
    files.publish(folder, {"verdict.csv": lines.to_csv(index=False).encode()}, {"status": "ok"})
    begins(1, "report", PAGE, "logs/a.log")
    logger.info("Finished jobid: 1", extra={"event": LogEvent.JOB_FINISHED, "job_id": 1})
    assert shown.getvalue().splitlines()[1:] == [
        "  holds           KL is above CE: +12.3 points (+9 to +15.2)",
        "  does not hold   MSE is above KL, clean: -1.5 (-2 to -1)",
        "  undecided       MSE is above KL, noisy: +0.5 (-1 to +2)",
        "  undecided       KL is above ONE: +1.25 points (no interval)",
        "  6 lines of the verdict: 3 undecided, 1 holds, 1 does not hold, 1 not measured",
    ]


def test_a_failure_shows_the_last_line_of_its_log_and_where_it_lies(shown: io.StringIO) -> None:
    Path("a.log").write_text("kd: began\nkd: the disk is full\n\n")
    begins(1, "figure", FIGURE, "a.log")
    said = {"jobid": 1, "rule_name": "figure", "output": [], "log": ["a.log (check log file(s) for error details)"]}
    logger.error("Error in rule figure", extra={"event": LogEvent.JOB_ERROR, **said})
    assert re.search(r"figure +FAILED +0 s  reports/small/figures/losses\.dots\.png\n", shown.getvalue())
    assert shown.getvalue().endswith("    kd: the disk is full\n    log: a.log\n")


def test_what_snakemake_warns_of_is_shown_and_what_it_is_about_is_not(shown: io.StringIO) -> None:
    logger.info("Building DAG of jobs...")
    logger.info("Provided cores: 2", extra={"event": LogEvent.RESOURCES_INFO})
    logger.info("Nothing to be done (all requested files are present and up to date).")
    logger.warning("SLURM does not answer")
    assert shown.getvalue().splitlines() == [
        "Nothing to be done (all requested files are present and up to date).",
        "SLURM does not answer",
    ]


@pytest.mark.parametrize("asks", ["quiet", "verbose", "printshellcmds", "variable", "another logger"])
def test_snakemake_s_own_output_is_a_switch_away(asks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(console.VARIABLE, "snakemake" if asks == "variable" else "")
    theirs = logging.StreamHandler()
    theirs.name = "rich" if asks == "another logger" else "DefaultStreamHandler"
    monkeypatch.setattr(logger, "handlers", [theirs])
    settings = {"quiet": set(), "verbose": False, "printshellcmds": False, "dryrun": False}
    console.install([], STAMPS, SimpleNamespace(**settings | ({asks: True} if asks in settings else {})))
    assert logger.handlers == [theirs]


@pytest.mark.slow
@pytest.mark.process
def test_a_run_prints_what_it_made_and_no_block_of_snakemake_s(done: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(console.VARIABLE)
    for path in (done.folder / "reports" / "small" / "figures").glob("losses.dots.*"):
        path.unlink()
    output = done.run()
    assert re.search(r"^\[1/2\] figure +\d+ s  reports/small/figures/losses\.dots\.png$", output, re.MULTILINE)
    assert re.search(r"^\[2/2\] report +\d+ s  reports/small/report\.html$", output, re.MULTILINE)
    assert "rule figure" not in output
    assert max(map(len, output.splitlines())) < 200
    assert "rule figure" in next((done.folder / ".snakemake" / "log").iterdir()).read_text()
