"""What a real SLURM says of jobs, or fails to say: preempted, forgotten, an unanswered scontrol, SIGTERM."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from made.slurm import LONG, OnSlurm, assert_nothing_saved_was_trained_again, prepared, wait_for

CLUSTER = os.environ.get("KD_TEST_CLUSTER")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(CLUSTER is None, reason="no cluster: make test-slurm starts one"),
]
forgetful = pytest.mark.skipif(CLUSTER != "forgetful", reason="make test-slurm starts a cluster that forgets jobs")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[OnSlurm]:
    with prepared(tmp_path) as made:
        yield made


def test_a_preempted_job_is_submitted_again_and_goes_on(project: OnSlurm) -> None:
    """R7: the executor would wait for SLURM to resume a job that it was told never to requeue."""
    project.resources("train", slurm_partition="low")
    snakemake = project.start()
    job = project.running(epochs=5)
    urgent = ["--exclusive", "--partition=urgent", "--job-name=urgent", "--output=/dev/null"]
    project.slurm("sbatch", *urgent, "--wrap=sleep 3")
    wait_for(lambda: f"{job} PREEMPTED" in project.slurm("squeue", "--noheader", "--states=all", "--format=%A %T"))
    project.ended(snakemake)
    assert_nothing_saved_was_trained_again(project)


def test_an_unanswered_scontrol_does_not_send_questions_to_sacct(project: OnSlurm) -> None:
    """R3: without accounting sacct never answers, and the run fails after an hour."""
    project.study({**LONG, "protocol": {**LONG["protocol"], "epochs": 3}})
    project.shim("scontrol", "exit 1")
    said = project.ended(project.start())
    assert "Asking SLURM about the jobs with squeue." in said
    assert "with sacct" not in said
    assert project.events("epoch") == [1, 2, 3]


def test_sigterm_ends_the_controller_in_seconds_and_leaves_its_jobs_to_publish(project: OnSlurm) -> None:
    snakemake = project.start()
    project.running(epochs=2)
    began = time.monotonic()
    snakemake.send_signal(signal.SIGTERM)
    assert snakemake.wait(30) == 143
    assert time.monotonic() - began < 10
    wait_for(project.published)
    project.run()
    assert_nothing_saved_was_trained_again(project)


@forgetful
def test_a_forgotten_job_that_made_all_is_done(project: OnSlurm) -> None:
    """R8: its end falls between two questions, and SLURM has forgotten it at the second."""
    snakemake, job = paused(project)
    wait_for(project.published)
    resumed(project, snakemake, job)
    project.ended(snakemake)
    assert_nothing_saved_was_trained_again(project)


@forgetful
def test_a_forgotten_job_that_did_not_end_well_is_submitted_again(project: OnSlurm) -> None:
    snakemake, job = paused(project)
    project.slurm("scancel", job)
    resumed(project, snakemake, job)
    said = project.ended(snakemake)
    assert f"SLURM has forgotten job '{job}'" in said
    assert_nothing_saved_was_trained_again(project)


@forgetful
def test_of_a_forgotten_pack_what_is_not_made_is_submitted_again_alone(project: OnSlurm) -> None:
    project.profile(**{"group-components": ["cells=2"]})
    quick = {**LONG["protocol"], "epochs": 25}
    project.study({**LONG, "protocol": quick, "seeds": [0, 1]})
    snakemake, job = paused(project)
    wait_for(lambda: len(project.published()) == 1)
    project.slurm("scancel", job)
    (first,) = project.published()
    resumed(project, snakemake, job)
    project.ended(snakemake)
    logs = sorted(Path(project.folder, ".snakemake/slurm_logs").rglob("*.log"), key=lambda path: int(path.stem))
    assert len(project.published()) == 2
    assert f"results/{first}.stamp" in logs[-2].read_text()
    assert f"results/{first}.stamp" not in logs[-1].read_text()


def paused(project: OnSlurm) -> tuple:
    """Start a study and stop its controller while its job runs; return both."""
    snakemake = project.start()
    job = project.running(epochs=2)
    snakemake.send_signal(signal.SIGSTOP)
    return snakemake, job


def resumed(project: OnSlurm, snakemake: object, job: str) -> None:
    """Have the controller go on once SLURM has forgotten its job."""
    wait_for(lambda: job not in project.jobs())
    snakemake.send_signal(signal.SIGCONT)
