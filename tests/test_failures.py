"""Whatever befalls a job, the same command goes on: every rule fails, is killed or meets a full disk at every point."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product as pairs
from pathlib import Path

import pytest
from conftest import ROOT
from made.disk import Disk
from made.faults import EARLIER, NOW, POINTS, Undisturbed, Whole, files_of, fill, move_in, rules, take_away

from kd.study import products
from kd.study.products import Product

RULES = sorted(products.RULES.values())
ENDS = {"fail": 1, "full": 74, "kill": -signal.SIGKILL}  # what a verb ends with that meets such a fault
CASES = list(pairs(POINTS, ENDS))
ROUNDS = int(os.environ.get("KD_ROUNDS", "1"))  # 50: every product meets every case, with what was there earlier or not


@pytest.mark.slow
def test_every_rule_makes_a_kind_of_product_and_every_kind_is_in_the_study(undisturbed: Undisturbed) -> None:
    assert rules(ROOT) == set(RULES)
    assert {product.kind for product in undisturbed.now.everything()} == set(products.KINDS)


# -- verbs, each by itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_job_that_ended_badly_is_made_by_the_next(
    rule: str, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One case of each rule, another than its neighbours'; the slow test has all."""
    number, project = RULES.index(rule), undisturbed.copy(tmp_path / "project")
    monkeypatch.chdir(project.folder)
    check(rule, ("nothing", "earlier")[number % 2], [CASES[number % len(CASES)]], project, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "earlier"])
@pytest.mark.parametrize("rule", RULES)
def test_a_job_that_ended_badly_at_any_point_is_made_by_the_next(
    rule: str, before: str, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few cases of each rule, every other one with what was there earlier; with KD_ROUNDS all of both."""
    number, project = 2 * RULES.index(rule) + (before == "earlier"), undisturbed.copy(tmp_path / "project")
    monkeypatch.chdir(project.folder)
    check(rule, before, CASES if ROUNDS > 1 else CASES[number % 12 :: 12], project, undisturbed)


def check(rule: str, before: str, cases: list[tuple[str, str]], project: Whole, undisturbed: Undisturbed) -> None:
    """Have the last product of a rule meet faults, and its verb make it afterwards as if there had been none."""
    if rule in ("train", "bank"):  # a bank that is there; without it a student fills one
        shutil.copytree(undisturbed.kept(NOW) / "banks", "banks", dirs_exist_ok=True)
    wanted = project.published_bytes()
    *_, product = (one for one in project.everything() if products.RULES[one.kind] == rule)
    for point, action in cases:
        project.stamp(product).unlink(missing_ok=True)
        take_away(product)
        if before == "earlier" or product.kind == "release":
            move_in(product, undisturbed.folder_of(product, EARLIER if before == "earlier" else NOW))
        meet(product, point, action, project)
        assert project.verb(product) == 0, project.said()
        assert project.judge().to_do(product) is None
        assert project.stamp(product).exists()
    assert project.published_bytes() == wanted


def meet(product: Product, point: str, action: str, project: Whole) -> None:
    """Have a verb meet a fault, and see that it leaves no stamp, and nothing that counts before it published."""
    fault = project.fault(product, point, action)
    before = {
        path: path.read_bytes() for path in files_of(product, Path()) if path != product.manifest and path.exists()
    }
    code = project.verb(product)
    if fault.exists():
        fault.unlink()
        assert (code, point) == (0, "publish:1"), project.said()
        assert before == {path: path.read_bytes() for path in before}  # what has the same bytes is not replaced
        return
    assert code == ENDS[action], project.said()
    assert not project.stamp(product).exists()
    assert (project.judge().to_do(product) is None) == (point in ("published", "stamp"))


# -- Snakemake, whose every job ends badly once -----------------------------------------------------------------------

# Besides a job's own ends: its controller is killed with all jobs while it stands there, or the disk fills up under it.
BADLY = list(pairs(POINTS, [*ENDS, "controller", "disk"]))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk | None]:
    """A small disk; None for who may not mount one: there no disk fills up, and jobs are told that one has."""
    if os.geteuid() != 0:
        yield None
        return
    made = Disk(tmp_path / "disk", "300m")
    yield made
    subprocess.run(["umount", "--lazy", str(made.path)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_the_same_command_ends_well_once_every_job_has_ended_badly(
    number: int, undisturbed: Undisturbed, disk: Disk | None, tmp_path: Path
) -> None:
    """Of every other product there is what was made earlier.

    Each run meets what the one before did not come to; the last one finds the disk whole, and no fault.
    """
    folder, faults = (disk.path if disk else tmp_path) / "project", tmp_path / "faults"  # these never on a full disk
    project = undisturbed.copy(folder, EARLIER, faults)
    project.ask(NOW)
    every = project.everything()
    earlier = {one.name for place, one in enumerate(every) if (place + number // len(BADLY)) % 2}
    with contextlib.chdir(project.folder):
        for product in every:
            if product.name not in earlier:
                take_away(product)
    cases = {one.name: BADLY[(7 * place + number) % len(BADLY)] for place, one in enumerate(every)}
    for product in every:
        point, action = cases[product.name]
        if action == "disk" and disk is None:
            action = "full"
        project.fault(product, point, "hold" if action in ("controller", "disk") else action)
    for _ in range(len(every) + 1):
        waiting = project.pending()
        code = run(project, {name: action for name, (_, action) in cases.items()}, disk)
        if waiting == project.pending():
            break
        assert code != 0
    assert code == 0, project.output()[-6000:] + project.logs()
    # Where it has the same bytes as before, nothing is replaced.
    assert all(name in earlier and fault.startswith("publish:1") for name, fault in project.pending().items())
    assert project.published_bytes() == undisturbed.now.published_bytes()
    assert "Nothing to be done" in project.run()


def run(project: Whole, actions: dict[str, str], disk: Disk | None) -> int:
    """Run snakemake once; where a job stands still, kill all that is running, or have the disk be full from then on."""
    running = project.start()
    while running.poll() is None:
        for name in [name for name, fault in project.pending().items() if fault.endswith("held")]:
            if actions[name] == "controller":
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
            else:
                fill(disk)
            (project.faults / name.replace("/", "%")).unlink()
        time.sleep(0.02)
    with contextlib.suppress(AttributeError, FileNotFoundError):
        disk.make_space()
    return running.returncode


# -- all at once ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_storm_leaves_nothing_that_the_same_command_does_not_mend(tmp_path: Path) -> None:
    """Eight kills; `make storm` blows for an hour. Where it fails it keeps the folder."""
    command = [sys.executable, str(ROOT / "tests" / "storm.py"), "--kills", "8", "--seed", "14"]
    run = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-12000:] + run.stderr[-4000:]
    assert int(re.search(r"runs checked (\d+)", run.stdout)[1]) > 0
