"""Studies on a real SLURM (tests/cluster.sh starts one): what is killed there goes on, and nothing is trained twice."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from made.faults import VARY
from made.project import Project
from made.slurm import (
    ACCOUNTING,
    CELL,
    EPOCHS,
    LONG,
    OnSlurm,
    assert_nothing_saved_was_trained_again,
    prepared,
    wait_for,
)

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif("KD_TEST_CLUSTER" not in os.environ, reason="no cluster: make test-slurm starts one"),
]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[OnSlurm]:
    with prepared(tmp_path) as made:
        yield made


def test_the_demo_in_packs_ends_with_the_table_that_it_has_locally(tmp_path: Path) -> None:
    here, project = Project(tmp_path / "here"), OnSlurm(tmp_path / "there")
    demo = {**yaml.safe_load((ROOT / "workflow/studies/demo.yaml").read_text()), "seeds": [0]}
    demo["protocol"] |= {"epochs": 2}  # a tenth: what is compared is two ways to run it
    for each in (here, project):
        each.study(demo)
    here.run()
    project.profile(**{"group-components": ["cells=10"], "resources": ["lane=2"]})
    project.run()
    tables = [pd.read_csv(p.folder / "reports/demo/table.csv") for p in (here, project)]
    pd.testing.assert_frame_equal(*(table.drop(columns=VARY) for table in tables))
    published = here.published()
    assert len(published) == 10
    for cell in published:
        for name in ("model.safetensors", "metrics.csv"):
            mine, theirs = (p.folder / "results" / cell / name for p in (here, project))
            assert mine.read_bytes() == theirs.read_bytes(), theirs
    # data, labels, two teachers, their banks, what one of them answers; eight cells in a pack, with their answers
    assert len(project.jobs()) == 8
    assert "0 damaged" in project.kd("verify")


def test_a_cell_that_fails_in_a_pack_fails_alone(tmp_path: Path) -> None:
    project = OnSlurm(tmp_path)
    project.profile(**{"group-components": ["cells=6"], "retries": 0})
    project.edit("kd/losses/mse.py", "    squares = (", '    raise ValueError("broken on purpose")\n    squares = (')
    said = project.run(code=1)
    assert len(project.published()) == 1 + 4, said


def test_a_cell_that_hits_its_time_limit_is_retried_and_goes_on(project: OnSlurm) -> None:
    """Faults 18, 19 and 45."""
    epochs = 150
    # A limit is a minute at least, and SLURM may notice half a minute later: each epoch waits, so that none is trained
    # for the time alone.
    note = '        with open("events.txt", "a") as events:\n'
    project.edit("kd/machine/progress.py", note, f"        __import__('time').sleep(0.7)\n{note}")
    project.study({**LONG, "protocol": {**LONG["protocol"], "epochs": epochs}})
    project.resources("train", runtime="attempt")
    snakemake = project.start()
    wait_for(lambda: project.jobs("timeout"))
    wait_for(lambda: "time limit" in project.kd("status", "--configfile", "study.yaml"))
    project.ended(snakemake, seconds=900)
    assert_nothing_saved_was_trained_again(project, epochs)
    assert len(project.jobs()) >= 2
    assert len(pd.read_csv(project.folder / f"results/{CELL}/metrics.csv")) == epochs


def test_a_cancelled_cell_keeps_its_state_and_a_plain_restart_goes_on(project: OnSlurm) -> None:
    """Fault 49."""
    project.profile(retries=0)
    snakemake = project.start()
    project.slurm("scancel", project.running())
    project.ended(snakemake, code=1)
    status = project.kd("status", "--configfile", "study.yaml")
    assert re.search(rf"failed +1\b.*{CELL}  terminated: signal 15: stopped in epoch", status, re.DOTALL), status
    project.run()
    assert_nothing_saved_was_trained_again(project)
    assert len(project.events("epoch")) == EPOCHS  # SIGTERM: not one epoch twice


def test_a_save_that_takes_longer_than_slurm_waits_leaves_the_one_before(project: OnSlurm) -> None:
    """Fault 46: SIGTERM, and SIGKILL three seconds later while the state is being saved."""
    slow = project.folder / "slow"
    project.edit(
        "kd/machine/state.py",
        "        began = time.monotonic()\n",
        "        began = time.monotonic()\n        time.sleep(20 * Path('slow').exists())\n",
    )
    snakemake = project.start()
    job = project.running()
    slow.touch()
    project.slurm("scancel", job)
    wait_for(lambda: len(project.jobs("running")) == 0)
    slow.unlink()
    project.ended(snakemake)
    assert_nothing_saved_was_trained_again(project)


def test_a_requeued_cell_goes_on_and_has_one_writer(project: OnSlurm) -> None:
    """Fault 47: SLURM starts the job again by itself; the profile forbids that, and where it is allowed it is safe."""
    project.profile(**{"slurm-no-requeue": False, "slurm-requeue": True})
    snakemake = project.start()
    job = project.running()
    project.slurm("scontrol", "requeue", job)

    def goes_on() -> bool:
        # When the job has ended, SLURM puts its next start two minutes off. Until then this changes nothing, and once
        # the job is running it is refused.
        subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], capture_output=True)
        return job in project.jobs("running")

    wait_for(goes_on)
    project.ended(snakemake)
    assert_nothing_saved_was_trained_again(project)


def test_a_cell_whose_node_goes_down_is_trained_on_by_another_job(project: OnSlurm) -> None:
    """Fault 48."""
    project.resources("train", slurm_partition="frail")
    snakemake = project.start()
    project.running()
    project.slurm("scontrol", "update", "nodename=n3", "state=down", "reason=test")
    wait_for(lambda: not project.jobs("running"))
    # it comes back by itself when its slurmd next speaks up; no need to wait for that
    subprocess.run(["scontrol", "update", "nodename=n3", "state=resume"], capture_output=True)
    project.ended(snakemake)
    assert_nothing_saved_was_trained_again(project)


def test_a_cell_that_is_killed_is_retried_with_more_memory(project: OnSlurm) -> None:
    """Fault 12, on SLURM: no memory is enforced on this cluster, so the test kills as the kernel would."""
    snakemake = project.start()
    project.running()
    (python,) = project.processes(r"^\S*python\S* -m kd train")  # not the shell that started it
    os.kill(python, 9)
    wait_for(lambda: len(project.jobs()) == 2)
    asked = project.slurm("squeue", "--noheader", "--states=all", f"--jobs={project.jobs()[-1]}", "--format=%m")
    assert asked.strip() == "8000M"
    project.ended(snakemake)
    assert_nothing_saved_was_trained_again(project)


def test_a_warning_signal_saves_the_state_all_the_same(project: OnSlurm) -> None:
    """Fault 50."""
    snakemake = project.start()
    project.slurm("scancel", "--signal=USR1", "--full", project.running())
    project.ended(snakemake)
    assert_nothing_saved_was_trained_again(project)
    assert len(project.events("epoch")) == EPOCHS


def test_a_controller_that_is_killed_leaves_jobs_that_the_next_one_finds(project: OnSlurm) -> None:
    """Fault 30, on SLURM: the job goes on without its controller; the next command waits for it and trains nothing."""
    snakemake = project.start()
    project.running()
    assert "a Snakemake is at work here" in project.kd("verify")
    snakemake.kill()
    snakemake.wait()
    assert "no Snakemake is at work here" in project.kd("verify")
    project.run()
    assert project.events("epoch") == list(range(1, EPOCHS + 1))


def test_the_controller_may_be_a_job_itself(project: OnSlurm) -> None:
    command = " ".join(project.command())
    project.slurm("sbatch", "--wait", "--cpus-per-task=1", "--output=started.log", f"--wrap={command}")
    assert len(project.published()) == 1, project.said()


@pytest.mark.parametrize("command", ["squeue", "sbatch"])
def test_slurm_that_answers_again_after_five_failures_has_lost_nothing(project: OnSlurm, command: str) -> None:
    """Fault 44: for squeue that is one word each; a submission that fails is a failed attempt at the job."""
    failures = 5 if command == "squeue" else 2
    project.study({**LONG, "protocol": {**LONG["protocol"], "epochs": 3}})
    project.shim(
        command,
        f'echo . >> $count; [ "$(wc -l < $count)" -gt {failures} ] || {{ echo "Socket timed out" >&2; exit 1; }}\n'
        'exec $real "$@"',
    )
    said = project.ended(project.start())
    assert project.events("epoch") == [1, 2, 3]
    if command == "squeue":
        assert said.count("SLURM does not answer (squeue") == 5
        assert "SLURM answers again" in said
    else:
        assert "Socket timed out" in said


def test_slurm_that_never_answers_again_is_given_up_with_a_message(project: OnSlurm) -> None:
    """Fault 44, beyond: Snakemake stops, where it would hang for ever, and the next command goes on."""
    project.edit("kd/core/patches.py", "patience: float = 3600.0", "patience: float = 5.0")
    project.shim("squeue", f'[ ! -e {project.folder}/dead ] || exit 1; exec $real "$@"')
    (project.folder / "dead").touch()
    said = project.ended(project.start(), code=1)
    assert "the same command finds what they have published" in said
    (project.folder / "dead").unlink()
    project.run()
    assert project.events("epoch") == list(range(1, EPOCHS + 1))


def test_a_job_whose_state_is_unknown_is_not_taken_for_done(project: OnSlurm) -> None:
    """Fault 51: the executor takes UNKNOWN for success; the stamp is looked for, and the job is tried again."""
    project.profile(**{"latency-wait": 3})
    project.shim("squeue", '$real "$@" | ( [ -e $count ] && cat || sed "s/RUNNING/UNKNOWN/; T; w $count" )')
    project.ended(project.start())
    assert_nothing_saved_was_trained_again(project)


@pytest.mark.parametrize(
    ("resource", "value", "message", "cells"),
    [
        ("slurm_partition", "nosuch", "invalid partition specified: nosuch", "cells=1"),
        ("gres", "tpu:1", "Invalid generic resource", "cells=4"),
    ],
)
def test_what_slurm_refuses_stops_at_once_with_its_words(
    project: OnSlurm, resource: str, value: str, message: str, cells: str
) -> None:
    """Fault 52, for a job of one cell and for one of several."""
    project.profile(**{"group-components": [cells]})
    project.resources("train", **{resource: value})
    began = time.monotonic()
    said = project.ended(project.start(), code=1)
    assert message in said
    assert f"{resource}={value}" in said
    assert time.monotonic() - began < 60


@pytest.mark.skipif(not ACCOUNTING, reason="this cluster has no accounting: make test-slurm starts one that does")
def test_with_accounting_status_says_what_became_of_old_jobs(project: OnSlurm) -> None:
    """Fault 43: the profile needs no accounting, and `kd status` uses it where it is there."""
    project.profile(retries=0)
    snakemake = project.start()
    job = project.running()
    (python,) = project.processes(r"^\S*python\S* -m kd train")
    os.kill(python, 9)
    project.ended(snakemake, code=1)
    assert job in project.slurm("sacct", "--noheader", "--allocations", "--format=JobIDRaw")
    assert "killed" in project.kd("status", "--configfile", "study.yaml")
    project.run()
    assert_nothing_saved_was_trained_again(project)
