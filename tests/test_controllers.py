"""Several Snakemakes in one folder, and verbs by hand beside them: each helps, waits or is refused; none takes away."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made.faults import EARLIER, Undisturbed, Whole, whole
from made.project import made_by, wait_for, waiting
from made.starting import STARTER
from made.whole import (
    BANK,
    DATA,
    DOTS,
    FIDELITY,
    LABELS,
    LR,
    MEASURES,
    PAGE,
    RELEASE,
    REPORTS,
    STUDENT,
    TABLE,
    TABLES,
    TEACHER,
    VERDICT,
    manifests,
)

from kd.study import stamps
from kd.study.products import Product

# An experiment of the same name with other cells: the teacher alone.
ALONE = ["--config", "experiments={noisy: {student: resnet14, loss: ce, label_noise: {file: theirs}}}"]
OTHER_LR = ["--config", f"protocol={LR['protocol']}"]


class Controller:
    """A Snakemake that is left running, with points at which its jobs stand still."""

    def __init__(self, project: Whole, name: str) -> None:
        self.project = project
        self.faults, self._log = (project.folder.with_name(f"{name}.{what}") for what in ("faults", "log"))
        self.faults.mkdir()
        self.running: subprocess.Popen | None = None

    def start(self, cores: int = 2, forks: bool = True) -> Controller:
        """Start it; without `forks` its jobs are processes of Python's own, which can be found by their commands."""
        python = STARTER.controller if forks else sys.executable
        command = [python, "-m", "snakemake", "--cores", str(cores), "--configfile", "study.yaml"]
        environment = {**self.project.environment, "KD_FAULTS": str(self.faults)}
        with open(self._log, "ab") as log:
            self.running = subprocess.Popen(
                command, cwd=self.project.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def hold(self, name: str, point: str = "work") -> None:
        """Have the job that makes a product stand still at a point."""
        self._fault(name).write_text(f"{point} hold")

    def comes_to(self, name: str) -> None:
        """Wait until a job stands still that makes a product."""
        wait_for(lambda: self._fault(name).read_text().endswith("held"), self.running)

    def goes_on(self, name: str) -> None:
        self._fault(name).unlink()

    def _fault(self, name: str) -> Path:
        return self.faults / name.replace("/", "%")

    def ends(self, code: int = 0) -> str:
        """Wait for its end and return what it printed."""
        assert self.running.wait(600) == code, self.said()[-6000:] + self.project.logs()
        return self.said()

    def said(self) -> str:
        return self._log.read_text()

    def stamps(self) -> set[str]:
        """Return the names of what has a stamp for who asks what this one asks; it has printed the folder."""
        folder = self.project.folder / re.search(r"state/stamps/q-\w+", self.said())[0]
        return {str(path.relative_to(folder)).removesuffix(".stamp") for path in folder.rglob("*.stamp")}


@pytest.fixture
def project(undisturbed: Undisturbed, tmp_path: Path) -> Whole:
    """A finished study with a job of every rule."""
    return undisturbed.copy(tmp_path / "project")


@pytest.fixture
def first_and_second(project: Whole) -> Iterator[tuple[Controller, Controller]]:
    """Two Snakemakes to start in one folder."""
    both = Controller(project, "first"), Controller(project, "second")
    yield both
    for one in both:
        if one.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.running.pid, signal.SIGKILL)
            one.running.wait()


def count(project: Whole) -> None:
    """Have a project take down what is made, as often as it is made."""
    line = '    files.crash_point("published", product)\n'
    project.edit("kd/jobs/making.py", line, """    open("made.txt", "a").write(f"{product}\\n")\n""" + line)


def made(project: Whole) -> list[str]:
    return sorted((project.folder / "made.txt").read_text().splitlines())


def take_away(project: Whole, name: str) -> None:
    """Delete a file of a product, so that it is to do."""
    files = {TABLE: f"{TABLE}.csv", DOTS: f"{DOTS}.svg", STUDENT: f"{STUDENT}/metrics.csv", MEASURES: f"{MEASURES}.csv"}
    (project.folder / files[name]).unlink()


EVERYTHING = {DATA, LABELS, TEACHER, STUDENT, RELEASE, TABLE, DOTS, FIDELITY, TABLES, VERDICT, PAGE}


# -- the same ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_snakemake_with_fewer_cores_helps_and_each_thing_is_made_once(
    project: Whole,
    first_and_second: tuple[Controller, Controller],
) -> None:
    first, second = first_and_second
    before = project.published_bytes()
    count(project)
    take_away(project, TABLE)
    take_away(project, DOTS)
    first.hold(TABLE)
    first.start(forks=False)
    first.comes_to(TABLE)
    assert not {TABLE, DOTS, PAGE} & first.stamps()
    second.start(cores=1, forks=False)
    wait_for(lambda: waiting(project, "collect"), second.running)
    first.goes_on(TABLE)
    said = first.ends() + second.ends()
    assert said.count("localrule collect:") == said.count("localrule report:") == 2
    assert made(project) == [DOTS, TABLE]  # the page shows what it showed
    assert first.stamps() >= EVERYTHING
    assert project.published_bytes() == before


@pytest.mark.slow
def test_a_job_of_the_second_that_is_killed_takes_nothing_of_the_first_along(
    project: Whole,
    first_and_second: tuple[Controller, Controller],
) -> None:
    """Stopped in front of the lock until the first has made the thing, and then killed."""
    first, second = first_and_second
    take_away(project, TABLE)
    first.hold(TABLE)
    first.start(forks=False)
    first.comes_to(TABLE)
    second.start(cores=1, forks=False)
    wait_for(lambda: waiting(project, "collect"), second.running)
    victim = waiting(project, "collect")
    os.kill(victim, signal.SIGSTOP)
    first.goes_on(TABLE)
    first.ends()
    there = first.stamps()
    assert there >= EVERYTHING
    os.kill(victim, signal.SIGKILL)
    assert "Error in rule collect" in second.ends(1)
    assert first.stamps() == there
    assert "Nothing to be done" in project.run()


@pytest.mark.slow
def test_a_job_that_is_killed_leaves_no_stamp(
    project: Whole,
    first_and_second: tuple[Controller, Controller],
) -> None:
    first, _ = first_and_second
    take_away(project, TABLE)
    first.hold(TABLE, "published")
    first.start(forks=False)
    first.comes_to(TABLE)
    (victim,) = project.processes(r"^\S*python\S* -m kd collect")
    os.kill(victim, signal.SIGKILL)
    first.ends(1)
    assert not first.stamps() & {TABLE, DOTS, FIDELITY, TABLES, VERDICT, PAGE}
    assert "Nothing to be done" in project.run("--dry-run")  # it was published, and is what it must be
    assert first.stamps() >= EVERYTHING


@pytest.mark.slow
def test_five_controllers_at_once_train_each_network_once_and_all_succeed(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Fault 34: the numbers are those of one controller alone."""
    project = Whole(tmp_path / "project")
    count(project)
    five = [Controller(project, f"number{number}") for number in range(5)]
    for number, one in enumerate(five):
        one.hold(TEACHER)
        one.start(cores=1 + number % 2)
    for one in five:
        wait_for(lambda one=one: "rule train:" in one.said(), one.running)
    for one in five:  # all of them want the teacher; the one that has begun with it goes on
        one.goes_on(TEACHER)
    for one in five:
        one.ends()
    found = made(project)  # one that lags may fill a bank that was released, and what is small is made again
    assert set(found) == {*manifests(project), BANK, RELEASE}
    assert [found.count(network) for network in (TEACHER, STUDENT)] == [1, 1]
    assert project.published_bytes() == undisturbed.now.published_bytes()
    assert "Nothing to be done" in project.run()


# -- others -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_would_replace_what_the_first_makes_is_refused_in_a_line(
    project: Whole,
    first_and_second: tuple[Controller, Controller],
) -> None:
    first, _ = first_and_second
    take_away(project, DOTS)
    shutil.copy(project.folder / "config.yaml", project.folder / "other.npy")
    first.hold(DOTS)
    first.start()
    first.comes_to(DOTS)
    there = first.stamps()
    refused = {
        "makes study whole of other cells": ALONE,
        "trains protocol quick with lr 0.1, this study has 0.05": OTHER_LR,
        "has another dataset mine": ["--config", f"datasets={whole(EARLIER)['datasets']}"],
        "has another label file theirs": ["--config", "label_files={theirs: other.npy}"],
    }
    for why, options in refused.items():
        said = project.run(*options, code=2)
        (line,) = [line for line in said.splitlines() if "another Snakemake is at work" in line]
        assert line.startswith("kd: another Snakemake is at work in this folder (process ")
        assert why in line
        assert "Traceback" not in said
        assert not re.findall(r"^(?:local)?rule ", said, re.MULTILINE)
    assert first.stamps() == there
    first.goes_on(DOTS)
    first.ends()
    assert first.stamps() >= EVERYTHING


@pytest.mark.slow
def test_who_only_looks_is_never_refused_and_takes_nothing_away(
    project: Whole,
    first_and_second: tuple[Controller, Controller],
) -> None:
    first, _ = first_and_second
    take_away(project, DOTS)
    dead = [project.folder / stamps.TOP / name for name in ("q-dead", "q-dead.lock", "q-left")]
    dead[0].mkdir()
    dead[1].touch()
    dead[2].mkdir()
    first.hold(DOTS)
    first.start()
    first.comes_to(DOTS)
    there = first.stamps()
    assert {DOTS, PAGE}.isdisjoint(there)
    assert made_by(project.run("--dry-run")) == {DOTS, PAGE}
    assert made_by(project.run("--dry-run", *OTHER_LR)) >= {TEACHER, BANK, STUDENT, PAGE}
    assert made_by(project.run("--dry-run", *ALONE)) == {TABLE, TABLES, VERDICT, PAGE}
    assert not [path for path in dead if path.exists()]  # nobody asks that any more
    assert "kd: " not in project.run("--lint", *OTHER_LR)
    project.run("--report", "all.html")
    assert "lr 0.1 -> 0.05" in project.kd("plan", "study.yaml", *OTHER_LR)
    assert "a Snakemake is at work here" in project.kd("status", "study.yaml")
    code = (project.folder / "kd" / "report" / "table.py").read_text()
    project.change("kd/report/table.py")
    assert made_by(project.run("--dry-run")) >= {TABLE, DOTS, FIDELITY, PAGE}
    (project.folder / "kd" / "report" / "table.py").write_text(code)
    assert first.stamps() == there
    first.goes_on(DOTS)
    first.ends()
    assert first.stamps() == there | {DOTS, PAGE}
    assert "Nothing to be done" in project.run()


@pytest.mark.slow
def test_other_cells_of_the_same_study_in_turn_are_made_as_asked(project: Whole) -> None:
    before = project.published_bytes()
    assert made_by(project.run(f"{REPORTS}/table.csv", *ALONE)) == {TABLE}
    assert "resnet8" not in (project.folder / f"{TABLE}.csv").read_text()
    project.run()
    assert project.published_bytes() == before


# -- by hand ----------------------------------------------------------------------------------------------------------


def by_hand(project: Whole, *arguments: str) -> subprocess.Popen:
    """Start a verb and leave it running."""
    command = [sys.executable, "-m", "kd", *arguments, "--configfile", "study.yaml"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=project.folder, env=project.environment, **pipes)


@pytest.mark.slow
def test_a_cell_trained_by_hand_beside_a_controller_waits_and_is_trained_once(
    project: Whole,
    first_and_second: tuple[Controller, Controller],
) -> None:
    """Who asks for the same finds it there; who asks for other values is refused, because the teacher has not them."""
    first, _ = first_and_second
    before = project.published_bytes()
    count(project)
    take_away(project, STUDENT)
    first.hold(STUDENT)
    first.start()
    first.comes_to(STUDENT)
    same = by_hand(project, "train", STUDENT)
    wait_for(lambda: waiting(project, "train"), same)
    other = by_hand(project, "train", STUDENT, *OTHER_LR)
    wait_for(lambda: waiting(project, "train.*lr"), other)
    first.goes_on(STUDENT)
    first.ends()
    said, refusal = same.communicate(timeout=120)[0], other.communicate(timeout=120)[0]
    assert (same.returncode, other.returncode) == (0, 74), said + refusal
    assert f"{STUDENT} is there already" in said
    assert f"{TEACHER}: lr 0.1 -> 0.05" in refusal
    assert made(project).count(STUDENT) == 1
    assert project.published_bytes() == before
    assert "Nothing to be done" in project.run()


@pytest.mark.slow
def test_a_teacher_replaced_by_hand_beside_a_controller_ends_in_no_student_of_it(
    project: Whole,
    first_and_second: tuple[Controller, Controller],
) -> None:
    """The bank was about to be filled: its job fails, and the same command makes everything as the study says."""
    first, _ = first_and_second
    before = project.published_bytes()
    take_away(project, STUDENT)
    first.hold(BANK)
    first.start()
    first.comes_to(BANK)
    project.kd("train", TEACHER, "--configfile", "study.yaml", *OTHER_LR)
    first.goes_on(BANK)
    assert "Error in rule bank" in first.ends(1)
    assert made_by(project.run()) >= {TEACHER, BANK, STUDENT}
    assert project.published_bytes() == before
    assert "Nothing to be done" in project.run()


@pytest.mark.slow
def test_a_table_of_other_cells_collected_by_hand_in_between_is_in_no_figure(
    project: Whole,
    first_and_second: tuple[Controller, Controller],
) -> None:
    """The figure was about to be drawn: whatever it showed, the same command ends with the right one."""
    first, _ = first_and_second
    before = project.published_bytes()
    take_away(project, DOTS)
    first.hold(DOTS)
    first.start()
    first.comes_to(DOTS)
    project.kd("collect", "--configfile", "study.yaml", *ALONE)
    first.goes_on(DOTS)
    assert "Error in rule figure" in first.ends(1)
    assert not {DOTS, PAGE} & first.stamps()
    assert made_by(project.run()) >= {TABLE, DOTS, PAGE}
    assert project.published_bytes() == before


@pytest.mark.slow
def test_answers_can_be_deleted_while_their_analysis_is_published(project: Whole) -> None:
    """What may be deleted at any time is no other thing for being gone."""
    take_away(project, MEASURES)
    held = project.fault(Product("analysis", MEASURES), "published", "hold")
    running = by_hand(project, "measure", "noisy", "measures")
    wait_for(lambda: held.read_text().endswith("held"), running)
    shutil.rmtree(project.folder / "answers")
    held.unlink()
    assert running.wait(60) == 0, running.stdout.read()
    assert "Nothing to be done" in project.run("--dry-run")
