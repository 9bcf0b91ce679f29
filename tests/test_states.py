"""Whatever state a folder is in, all count alike what is to do, and one run makes it right."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from made.faults import EARLIER, NOW, POINTS, TREES, Undisturbed, Whole, move_in, take_away

from kd.__main__ import main
from kd.study import products
from kd.study.expansion import all_cells
from kd.study.judge import Judge, plural
from kd.study.products import Product

FUTURE = 4e9  # seconds after 1970: 2096


class Wreck:
    """What happens to a project at random, reproducibly."""

    def __init__(self, project: Whole, undisturbed: Undisturbed, chance: random.Random) -> None:
        self.project, self.undisturbed, self.chance = project, undisturbed, chance
        self.story: list[str] = []

    def happens(self) -> None:
        """Have one thing happen."""
        what: Callable[[], object] = self.chance.choice(
            [
                self.a_file_is_deleted,
                self.a_file_is_cut,
                self.a_bit_of_a_manifest_is_flipped,
                self.a_tree_is_deleted,
                self.a_product_is_of_an_earlier_study,
                self.a_product_is_a_copy_of_another,
                self.a_bank_is_there,
                self.times_are_others,
                self.all_is_copied_without_times,
                self.stamps_are_lost_or_too_many,
                self.a_job_was_interrupted,
                self.the_study_was_another,
            ]
        )
        self.story.append(f"{what.__name__}: {what()}")

    def a_file_is_deleted(self) -> Path:
        path = self._a_file()
        path.unlink()
        return path

    def a_file_is_cut(self) -> Path:
        path = self._a_file()
        os.truncate(path, path.stat().st_size // 2)
        return path

    def a_bit_of_a_manifest_is_flipped(self) -> Path:
        path = self._a_product().manifest
        if path.exists():
            content = bytearray(path.read_bytes())
            content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
            path.write_bytes(content)
        return path

    def a_tree_is_deleted(self) -> str:
        tree = self.chance.choice([*TREES, "reports/whole/figures", "reports/whole/manifests", "state", ".snakemake"])
        shutil.rmtree(tree, ignore_errors=True)
        return tree

    def a_product_is_of_an_earlier_study(self) -> Product:
        product = self._a_product()
        take_away(product)
        move_in(product, self.undisturbed.folder_of(product, EARLIER))
        return product

    def a_product_is_a_copy_of_another(self) -> tuple[Product, Product]:
        kind = self.chance.choice(["network", "answers", "figure"])
        one, other = self.chance.sample([made for made in self.project.everything() if made.kind == kind], 2)
        if one.manifest.exists():
            other.manifest.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(one.manifest, other.manifest)
        return one, other

    def a_bank_is_there(self) -> int:
        size = self.chance.choice([NOW, EARLIER])
        shutil.copytree(self.undisturbed.kept(size) / "banks", "banks", dirs_exist_ok=True)
        return size

    def times_are_others(self) -> tuple[str, float]:
        tree, date = self.chance.choice([*TREES, "state", "kd", "images"]), self.chance.choice([0.0, FUTURE])
        for path in Path(tree).rglob("*"):
            os.utime(path, (date, date))
        return tree, date

    def all_is_copied_without_times(self) -> str:
        folder = self.project.folder
        shutil.copytree(folder, f"{folder}.copy", copy_function=shutil.copyfile, symlinks=True)
        for name in os.listdir(folder):
            shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
            shutil.move(f"{folder}.copy/{name}", name)
        return "cp -r"

    def stamps_are_lost_or_too_many(self) -> str:
        stamps = [self.project.stamp(product) for product in self.project.everything()]
        for stamp in self.chance.sample(stamps, len(stamps) // 2):
            if stamp.exists():
                stamp.unlink()
            else:
                stamp.parent.mkdir(parents=True, exist_ok=True)
                stamp.touch()
        return "half of them"

    def a_job_was_interrupted(self) -> tuple[Product, str, str]:
        product, point = self._a_product(), self.chance.choice(POINTS)
        action = self.chance.choice(["kill", "fail", "full"])
        take_away(product)
        fault = self.project.fault(product, point, action)
        self.project.verb(product)  # or it refuses its inputs before
        fault.unlink(missing_ok=True)
        return product, point, action

    def the_study_was_another(self) -> str:
        """A dry run of other values: it leaves stamps, of its own."""
        self.project.ask(EARLIER)
        self.project.run("--dry-run")
        self.project.ask(NOW)
        return "-n"

    def _a_product(self) -> Product:
        return self.chance.choice(self.project.everything())

    def _a_file(self) -> Path:
        trees = [path for tree in TREES for path in Path(tree).rglob("*") if path.is_file()]
        return self.chance.choice(sorted(trees) or [Path("theirs.npy")])


def counted(project: Whole, capsys: pytest.CaptureFixture[str]) -> dict[str, Counter]:
    """Return how many things of each rule are to do, as each of those counts who can be asked."""
    judge = project.judge()
    judged = Counter(products.RULES[product.kind] for product in judge.all_to_do)
    rule_of = {plural(kind, n): rule for kind, rule in products.RULES.items() for n in (1, 2)}
    capsys.readouterr()
    assert main(["plan", "study.yaml"]) == 0
    planned: Counter = Counter()
    for number, kind in re.findall(r"^  (\d+) (\w+): ", capsys.readouterr().out, re.MULTILINE):
        planned[rule_of[kind]] += int(number)
    assert main(["status", "study.yaml"]) == 0
    cells = dict(re.findall(r"^  (\w+) +(\d+)$", capsys.readouterr().out, re.MULTILINE))
    jobs = Counter(re.findall(r"^ *(?:local)?rule (\w+):$", project.run("--dry-run"), re.MULTILINE))
    del jobs["all"]
    left = sum(int(number) for status, number in cells.items() if status not in ("done", "diverged"))
    left -= sum(untrained(judge, product) for product in judge.all_to_do if product.kind == "trial")
    return {"judge": judged, "plan": planned, "snakemake": jobs, "status": Counter({**judged, "train": left})}


def untrained(judge: Judge, trial: Product) -> bool:
    """Say whether status counts the network of this trial as one to train: a trial is a rule of its own."""
    cell = judge.tried(trial)
    return cell is None or (cell not in all_cells(judge.study) and judge.to_do(products.network(cell)) is not None)


def in_some_state(seed: int, undisturbed: Undisturbed, folder: Path) -> tuple[Whole, list[str]]:
    """Return a project in a state that this seed decides, and what happened to it. Call it in no project's folder."""
    chance = random.Random(seed)
    project = undisturbed.copy(folder, chance.choice([NOW, NOW, EARLIER]))
    with contextlib.chdir(folder):
        project.ask(NOW)
        wreck = Wreck(project, undisturbed, chance)
        for _ in range(chance.randint(1, 4)):
            wreck.happens()
    return project, wreck.story


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 3))])
def test_all_count_alike_what_is_to_do_and_verbs_make_it(
    seed: int, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    project, story = in_some_state(seed, undisturbed, tmp_path / "project")
    monkeypatch.chdir(project.folder)
    check_counts(project, capsys, story)
    for product in [one for one in project.everything() if one in project.judge().all_to_do]:
        assert project.verb(product) == 0, f"{story} {project.said()}"
    check_right(project, undisturbed, story)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 103))
def test_whatever_state_a_folder_is_in_one_run_makes_it_right(
    seed: int, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    project, story = in_some_state(seed, undisturbed, tmp_path / "project")
    monkeypatch.chdir(project.folder)
    check_counts(project, capsys, story)
    project.run()
    check_right(project, undisturbed, story)
    assert "Nothing to be done" in project.run()


def check_counts(project: Whole, capsys: pytest.CaptureFixture[str], story: list[str]) -> None:
    before = project.published_bytes()
    counts = counted(project, capsys)
    assert all(count == counts["judge"] for count in counts.values()), f"{story} {counts}"
    assert project.published_bytes() == before  # who asks changes nothing


def check_right(project: Whole, undisturbed: Undisturbed, story: list[str]) -> None:
    assert project.judge().all_to_do == {}, story
    found, wanted = project.published_bytes(), undisturbed.now.published_bytes()
    gone = {name for name in wanted if name not in found}  # what may be gone, where nobody asked for it
    assert all(name.startswith(("data/", "answers/")) for name in gone), story
    assert found == {name: digest for name, digest in wanted.items() if name in found}, story
