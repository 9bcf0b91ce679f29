"""What is asked for by name is made as the study says; and what Snakemake's other options do to a study."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from made.faults import EARLIER, NOW, Undisturbed, Whole, whole
from made.project import Project, jobs_in, made_by
from made.whole import (
    ANSWERS,
    BANK,
    DATA,
    DOTS,
    FIDELITY,
    ITS_ANSWERS,
    ITS_SCORES,
    LABELS,
    LR,
    MEASURES,
    PAGE,
    PROPOSAL,
    RELATION,
    RELEASE,
    REPORTS,
    SCORES,
    SELECTION,
    STUDENT,
    TABLE,
    TABLES,
    TEACHER,
    TESTSET,
    TRIAL,
    TRIED,
    VERDICT,
    manifests,
)

from kd.study.products import Product, owner

MADE_FROM = {
    DATA: [],
    LABELS: [DATA],
    TESTSET: [DATA],
    TEACHER: [DATA, LABELS],
    BANK: [DATA, TEACHER],  # which is gone: the study keeps none
    SELECTION: [DATA, LABELS, TEACHER],
    RELATION: [DATA, LABELS, TEACHER, SELECTION],
    STUDENT: [DATA, LABELS, TEACHER, SELECTION, RELATION, BANK],
    PROPOSAL: [],
    TRIAL: [DATA, LABELS, PROPOSAL],  # and its network, which it trains itself
    RELEASE: [STUDENT],
    ITS_ANSWERS: [DATA, LABELS, TEACHER],
    ANSWERS: [DATA, LABELS, STUDENT],
    MEASURES: [ITS_ANSWERS, ANSWERS],
    ITS_SCORES: [DATA, LABELS, TESTSET, TEACHER],
    SCORES: [DATA, LABELS, TESTSET, STUDENT],
    TABLE: [TEACHER, STUDENT, ITS_SCORES, SCORES],
    DOTS: [TABLE],
    FIDELITY: [TABLE, MEASURES],
    TABLES: [TABLE],
    VERDICT: [TABLE],
    PAGE: [DOTS, FIDELITY, TABLE, TABLES, VERDICT],
}
TARGETS = {  # a file of each
    DATA: f"{DATA}/train_images.npy",
    LABELS: f"{LABELS}/train_labels.npy",
    TESTSET: f"{TESTSET}/test_images.npy",
    TEACHER: f"{TEACHER}/metrics.csv",
    BANK: f"{BANK}/manifest.json",
    SELECTION: f"{SELECTION}/kept.npy",
    RELATION: f"{RELATION}/relation.npy",
    STUDENT: f"{STUDENT}/model.safetensors",
    PROPOSAL: f"{PROPOSAL}.json",
    TRIAL: f"{TRIAL}.json",
    ITS_ANSWERS: f"{ITS_ANSWERS}/answers.safetensors",
    ANSWERS: ANSWERS,
    MEASURES: f"{MEASURES}.parquet",
    ITS_SCORES: ITS_SCORES,
    SCORES: f"{SCORES}/scores.csv",
    TABLE: f"{REPORTS}/curves.csv",
    DOTS: f"{DOTS}.svg",
    FIDELITY: f"{FIDELITY}.txt",
    TABLES: f"{REPORTS}/comparisons.csv",
    VERDICT: f"{REPORTS}/figures/verdict.pdf",
    PAGE: f"{REPORTS}/report.html",
}
RULES = {  # what the rules ask for that can be asked for by name
    "teachers": [TEACHER],
    "students": [STUDENT],
    "chains": [],
    "collect": [TABLE],
    "figures": [DOTS, FIDELITY],
    "tables": [TABLES],
    "verdict": [VERDICT],
    "report": [PAGE],
    "all": [PAGE, TEACHER, STUDENT, TRIAL, RELEASE],
}
NETWORKS = {TEACHER, STUDENT}
TRAINED = {*NETWORKS, TRIAL}


def needed(target: str, changed: set[str]) -> set[str]:
    """Return what must be made for a target where `changed` is out of date: that, and what is made from it."""
    if target == BANK or is_out_of_date(target, changed):
        return {target}.union(*(needed(one, changed) for one in MADE_FROM[target]))
    return set()


def is_out_of_date(name: str, changed: set[str]) -> bool:
    return name in changed or any(is_out_of_date(one, changed) for one in MADE_FROM[name])


def change_labels(project: Whole) -> None:
    shutil.copy(project.folder / "theirs.npy", project.folder / "theirs-of-before.npy")
    project.ask(EARLIER)
    project.study(whole(NOW))


def change_style(project: Whole) -> None:
    project.change("kd/report/figures/style.py")


CHANGES: dict[str, tuple[Callable[[Whole], None], set[str]]] = {
    "a value of the protocol": (lambda project: project.ask(NOW, **LR), TRAINED),
    "the size of the images": (lambda project: project.study(whole(EARLIER)), {DATA, PROPOSAL}),
    "a file of labels": (change_labels, {LABELS}),
    "the style of figures": (change_style, {DOTS, FIDELITY, VERDICT, PAGE}),
}


@pytest.fixture
def project(undisturbed: Undisturbed, tmp_path: Path) -> Whole:
    """A finished study with a job of every rule."""
    return undisturbed.copy(tmp_path / "project")


def made_anew(project: Whole, before: dict[str, dict]) -> set[str]:
    """Return what was published since."""
    return {name for name, manifest in manifests(project).items() if before.get(name) != manifest}


# -- targets ----------------------------------------------------------------------------------------------------------


def test_every_published_file_names_what_it_belongs_to(undisturbed: Undisturbed) -> None:
    belongs = {}
    for name, manifest in manifests(undisturbed.now).items():
        product = Product(manifest["kind"], name)
        belongs |= {str(product.folder / file): name for file in manifest["files"]} | {str(product.manifest): name}
        if name == str(product.folder):
            belongs[name] = name
    assert set(belongs.values()) == {TRIED, *MADE_FROM} - {BANK, RELEASE}
    assert set(undisturbed.now.published_bytes()) <= set(belongs)
    assert {path: owner(path) for path in belongs} == belongs


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_asked_for_by_name_needs_what_has_changed_and_no_more(project: Whole, change: str) -> None:
    """Some of each; the slow test has all."""
    act, changed = CHANGES[change]
    act(project)
    for name in {len(change) % len(TARGETS): STUDENT, 1: FIDELITY}.values():
        assert made_by(project.run("--dry-run", TARGETS[name])) == needed(name, changed), name


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_all_that_can_be_asked_for_by_name_needs_what_has_changed_and_no_more(project: Whole, change: str) -> None:
    act, changed = CHANGES[change]
    act(project)
    for name, target in TARGETS.items():
        assert made_by(project.run("--dry-run", target)) == needed(name, changed), target
    for rule, asked in RULES.items():
        wanted = set().union(*(needed(name, changed) for name in asked))
        assert made_by(project.run("--dry-run", rule)) == wanted, rule


@pytest.mark.slow
def test_a_figure_that_is_asked_for_by_name_is_drawn_anew_alone(project: Whole) -> None:
    before = manifests(project)
    project.change("kd/report/figures/dots.py")
    assert made_by(project.run(f"{DOTS}.pdf")) == {DOTS}
    assert made_anew(project, before) == {DOTS}
    assert "Nothing to be done" in project.run("--dry-run")  # it looks as before, so that the page is as it must be


@pytest.mark.slow
def test_a_table_that_is_asked_for_after_a_value_changed_has_its_numbers(project: Whole) -> None:
    before = manifests(project)
    project.ask(NOW, **LR)
    said = project.run(f"{REPORTS}/means.csv")
    assert made_by(said) == needed(TABLES, NETWORKS)
    assert said.index("kd: 2 networks: lr 0.1 -> 0.05\n") < said.index("rule train:")
    assert made_anew(project, before) == needed(TABLES, NETWORKS)
    assert all(manifests(project)[name]["recipe"]["protocol"]["lr"] == 0.05 for name in NETWORKS)
    assert made_by(project.run("--dry-run", f"{DOTS}.png")) == {DOTS}
    project.run()
    assert "Nothing to be done" in project.run("--dry-run")


@pytest.mark.slow
def test_what_is_to_do_is_said_in_groups_and_what_is_trained_again_in_one_line(project: Whole) -> None:
    project.ask(NOW, **LR)
    said = project.run("--dry-run")
    lines = [line for line in said[: said.index("Building DAG")].splitlines() if line.startswith("kd: ")]
    assert lines[-1] == (
        "kd: 2 published networks of protocol quick will be trained again in the same place (lr 0.1 -> 0.05); "
        "give the protocol another name to keep them"
    )
    assert "kd: 2 networks: lr 0.1 -> 0.05" in lines
    assert sum(int(line.split()[1]) for line in lines[:-1]) == len(made_by(said))
    assert "kd: " not in project.run("--lint")
    project.ask(NOW, protocol={**LR["protocol"], "name": "slow"})
    said = project.run("--dry-run")
    assert "kd: 2 networks: not made yet\n" in said
    assert "published networks" not in said


def test_a_misspelt_target_is_refused_in_one_line_that_names_the_nearest(project: Whole) -> None:
    for wrong, right in (
        (f"{REPORTS}/figures/noisy.dot.png", DOTS),
        (f"{TEACHER}/resnet8.wdk_l.s0-smallloss0.97", STUDENT),
        ("reports/hole/table.csv", TABLE),
    ):
        said = project.run("--dry-run", wrong, code=1)
        (line,) = [line for line in said.splitlines() if line.startswith("kd: ")]
        assert line == f"kd: {wrong}: the study makes no such thing; did you mean '{right}'?"
        assert "Traceback" not in said
    said = project.run("--dry-run", "tabels", code=1)
    assert "No rule to produce tabels" in said
    assert "Traceback" not in said


# -- options of Snakemake ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_forced_jobs_look_again_and_leave_what_is_current_as_it_is(project: Whole) -> None:
    dots, means = f"{DOTS}.png", f"{REPORTS}/means.csv"
    assert made_by(project.run("--dry-run", "--forcerun", dots)) == {DOTS, PAGE}
    assert made_by(project.run("--dry-run", dots, "--forcerun", "figure")) == {DOTS}
    forced = project.run("--dry-run", means, "--forcerun", f"{STUDENT}/metrics.csv")
    assert made_by(forced) == {STUDENT, BANK, TABLE, TABLES} - {BANK}
    before = manifests(project)
    assert made_by(project.run("--forceall", dots)) == {*NETWORKS, TABLE, DOTS}
    assert not made_anew(project, before)


@pytest.mark.slow
def test_after_touch_a_changed_loss_is_still_trained(project: Whole) -> None:
    """Times decide nothing, so there is nothing to touch."""
    project.change("kd/losses/wkd.py")
    project.run("--touch")
    project.run("--touch", "--forceall")
    said = project.run("--dry-run")
    assert made_by(said) == needed(PAGE, {STUDENT}) | {RELEASE}
    assert "kd: 1 network: made by other code" in said


@pytest.mark.slow
def test_a_part_of_what_is_to_do_can_be_asked_for(project: Whole) -> None:
    project.ask(NOW, **LR)
    assert made_by(project.run("--dry-run", "--until", f"{REPORTS}/table.csv")) == needed(TABLE, NETWORKS)
    left = made_by(project.run("--dry-run", "--omit-from", f"{REPORTS}/curves.parquet"))
    assert left == needed(MEASURES, NETWORKS) | {RELEASE, TRIAL, SCORES, ITS_SCORES}
    assert made_by(project.run("--dry-run", "--batch", "all=1/4")) < needed(PAGE, NETWORKS) | {RELEASE, TRIAL}


@pytest.mark.slow
def test_a_report_and_a_summary_can_be_made(project: Whole) -> None:
    before = project.published_bytes()
    project.run("--report", "all.html")
    shown = (project.folder / "all.html").read_text()
    assert all(name in shown for name in ("noisy.dots.png", "means.csv", "verdict.csv"))
    assert f"{PAGE}.stamp" in project.run("--summary")
    assert project.published_bytes() == before


@pytest.mark.slow
def test_to_delete_all_output_deletes_no_network(project: Whole) -> None:
    before = project.published_bytes()
    project.run("--delete-all-output")
    left = project.published_bytes()
    assert left == {path: digest for path, digest in before.items() if not path.startswith("reports/")}
    assert made_by(project.run("--dry-run")) == {MEASURES, TABLE, DOTS, FIDELITY, TABLES, VERDICT, PAGE}


# -- times and records ------------------------------------------------------------------------------------------------


def age(project: Project, seconds: float) -> None:
    """Give every file of a project a time so many seconds from now."""
    for path in project.folder.rglob("*"):
        os.utime(path, (time.time() + seconds,) * 2)


def truncate_records(project: Project) -> None:
    """Damage all that Snakemake remembers."""
    records = [path for path in (project.folder / ".snakemake" / "metadata").rglob("*") if path.is_file()]
    assert records
    for record in records:
        os.truncate(record, 5)


def copy_without_times(project: Project) -> None:
    """Have a copy of the project, made without its times, in its place."""
    original = project.folder.with_name("original")
    project.folder.rename(original)
    shutil.copytree(original, project.folder, copy_function=shutil.copyfile)


ACCIDENTS = {
    "times from the past": lambda project: age(project, -1e8),
    "times from the future": lambda project: age(project, 1e8),
    "truncated records": truncate_records,
    "a copy": copy_without_times,
    "no records": lambda project: shutil.rmtree(project.folder / ".snakemake"),
    "no states": lambda project: shutil.rmtree(project.folder / "state"),
}


@pytest.mark.slow
def test_times_records_and_states_decide_nothing(done: Project) -> None:
    """Faults 36 and 41: nothing is made anew, and nothing fails."""
    for accident, act in ACCIDENTS.items():
        act(done)
        assert "Nothing to be done" in done.run("--dry-run"), accident


@pytest.mark.slow
def test_under_times_from_the_future_what_is_to_do_is_made_at_the_first_try(done: Project) -> None:
    """Fault 41: Snakemake would refuse an output that is older than its input."""
    done.change("kd/report/figures/dots.py")
    age(done, 1e8)
    jobs, _ = jobs_in(done.run())
    assert jobs == {"figure": 1, "report": 1, "all": 1}
    assert "Nothing to be done" in done.run("--dry-run")
