"""A study in which every rule has a job, projects to make it in, and faults that a test sets for its jobs."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from kd.core.files import file_digest, lock, sha256
from kd.study import products, stamps
from kd.study.config import Study, merged, validate
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.study.plain_yaml import read_yaml
from kd.study.products import Product
from made.disk import Disk
from made.project import Project
from made.starting import STARTER

# The points of kd.core.files.crash_point that every kind of product passes: two before the work, one halfway, one after
# publishing, and one before the stamp.
POINTS = ("begin", "work", "publish:1", "published", "stamp")
HIDDEN = ("manifest.json", "timings.csv")  # they hold times, so they differ each time
TREES = ("data", "results", "selections", "relations", "search", "banks", "answers", "scores", "reports")


SEARCH = {
    "student": "resnet8",
    "label_noise": {"file": "theirs"},
    "space": {"loss": ["ce"], "weight_decay": [0.001]},
    "rounds": 1,
    "batch": 1,
}


def whole(size: int, **keys: object) -> dict:
    """A study with every rule: images of this size, labels from a file, a further test set, a selection, a relation."""
    return {
        "study": "whole",
        "dataset": "mine",
        "datasets": {"mine": {"folder": "images", "size": size}},
        "label_files": {"theirs": "theirs.npy"},
        "tests": {"again": "images/val"},
        "protocol": {"name": "quick", "epochs": 1, "batch": 64, "precision": "fp32", "heldout": 0.1},
        "seeds": [0],
        "keep_banks": False,
        "experiments": {
            "noisy": {
                "teacher": "resnet14",
                "student": "resnet8",
                "label_noise": {"file": "theirs"},
                "student_selection": {"small_loss": 0.97},
                "loss": ["wkd_l"],
                "figure": ["dots", "fidelity"],
            }
        },
        "searches": {"best": {**SEARCH, "seed": 1000 + size}},  # so that the earlier study proposed something else
        **keys,
    }


NOW, EARLIER = 10, 8  # sizes of the images of two studies; the earlier one left its products


class Whole(Project):
    """A project with the study `whole`."""

    def __init__(self, folder: Path, copy: bool = True, faults: Path | None = None) -> None:
        super().__init__(folder, copy)
        self.faults = faults or folder.with_name(f"{folder.name}.faults")
        self.faults.mkdir(exist_ok=True)
        if copy:
            make_images(folder / "images")
            self.ask(NOW)

    def ask(self, size: int, **keys: object) -> None:
        """Write the study with images of size NOW or EARLIER, and its wrong labels."""
        self.study(whole(size, **keys))
        np.save(self.folder / "theirs.npy", wrong_labels(self.folder / "images", seed=size))

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "KD_FAULTS": str(self.faults)}

    @property
    def values(self) -> dict:
        with contextlib.chdir(self.folder):
            return merged(read_yaml(self.folder / "study.yaml"))

    def judge(self) -> Judge:
        """Return a new judge of the study. Use it in the project's folder."""
        return Judge.of_study(self.asked)

    @property
    def asked(self) -> Study:
        return validate(self.values)

    def everything(self) -> tuple[Product, ...]:
        return self.judge().everything

    def start(self) -> subprocess.Popen:
        """Start Snakemake in a process group of its own and leave it running."""
        python, *arguments = self.command()
        with open(self._log, "wb") as log:
            return subprocess.Popen(
                [STARTER.controller if self.forks else python, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def _log(self) -> Path:
        return self.faults / ".log"

    def output(self) -> str:
        """Return what the last started Snakemake has printed."""
        return self._log.read_text()

    def stamp(self, product: Product) -> Path:
        with contextlib.chdir(self.folder):
            return Path(product.stamp(stamps.question(self.values)))

    # -- faults -------------------------------------------------------------------------------------------------------

    def fault(self, product: Product, point: str, action: str) -> Path:
        """Set a fault for the next process that makes a product; return a file that exists until it happens."""
        path = self.faults / product.name.replace("/", "%")
        path.write_text(f"{point} {action}")
        return path

    def pending(self) -> dict[str, str]:
        """Return {product: fault} of the faults that have not happened yet."""
        found = {}
        for path in self.faults.glob("[!.]*"):
            with contextlib.suppress(FileNotFoundError):  # it has just happened
                found[path.name.replace("%", "/")] = path.read_text()
        return found

    # -- verbs, in processes forked from a server that has imported everything ----------------------------------------

    def verb(self, product: Product, *options: str) -> int:
        """Make a product as its rule does; return the exit code, or minus the signal that killed the process."""
        arguments = [*command(product), "--study-json", json.dumps(self.values)]
        if product.kind == "page":  # the page shows Snakemake's command
            arguments += ["--command", "snakemake --cores all --configfile study.yaml"]
        arguments += ["--stamp", str(self.stamp(product)), *options]
        process = _SERVER.Process(target=_verb, args=(str(self.folder), arguments, str(self.faults)))
        process.start()
        process.join(300)
        assert process.exitcode is not None, f"{arguments} does not end"
        return process.exitcode

    def said(self) -> str:
        """Return what the verbs have printed."""
        return (self.folder / "verbs.log").read_text()

    # -- what is published --------------------------------------------------------------------------------------------

    def published_bytes(self) -> dict[str, str]:
        """Return {file: digest of its content without times} of all published files, which must be equal each time.

        What the search of the other study tried stays in results/ and does not count: nobody asks for it now.
        """
        seed = self.values["searches"]["best"]["seed"]
        tried = re.compile(rf"/resnet8\.ce\.s(?!{seed}-)\d+-weightdecay")
        return {
            str(path.relative_to(self.folder)): _digest(path)
            for tree in TREES
            for path in sorted((self.folder / tree).rglob("*"))
            if path.is_file() and path.name not in HIDDEN and "/manifests/" not in str(path)
            if not tried.search(str(path))
        }


_SECONDS = re.compile(r'(?:data-value="\d+">)?\b\d+(?:\.\d+)? (?:s|min)\b')  # of a page, as said and as sorted by
VARY = ["seconds", "lineage_seconds", "milliseconds", "memory_mib"]  # columns of a table that differ each time


def _digest(path: Path) -> str:
    match path.name:
        case "table.csv":
            return sha256(pd.read_csv(path).drop(columns=VARY).to_csv().encode())
        case "table.parquet":
            return sha256(pd.read_parquet(path).drop(columns=VARY).to_csv().encode())
        case "report.html":
            return sha256(_SECONDS.sub("SECONDS", path.read_text()).encode())
    return file_digest(path)


def command(product: Product) -> list[str]:
    """Return the verb that makes a product, and its arguments."""
    rest = product.name.partition("/")[2]
    last = product.name.rpartition("/")[2]
    words = last.split(".")
    table = f"{product.folder}/table.parquet"
    named = {
        "data": [rest],
        "labels": [rest],
        "testset": [rest],
        "network": [product.name],
        "selection": [product.cell, last],
        "relation": [product.cell, last],
        "bank": [product.cell],
        "release": [product.cell],
        "proposal": ["best", "1"],
        "trial": ["best", "1", "1"],
        "answers": [product.cell],
        "scores": [product.cell],
        "analysis": words,
        "table": [],
        "figure": [table, *words],
        "tables": [table],
        "verdict": [table],
        "page": [],
    }
    return [products.RULES[product.kind], *named[product.kind]]


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "kd.jobs.train",
        "kd.jobs.score",
        "kd.jobs.select",
        "kd.jobs.relation",
        "kd.jobs.search",
        "kd.report.table",
        "kd.report.page",
        "kd.report.verdict",
        "kd.measure.analyses",
        "kd.data.folder",
        "kd.report.figures.dots",
    ]
)


def _verb(folder: str, arguments: list[str], faults: str) -> None:
    from kd.__main__ import main

    os.chdir(folder)
    os.environ["KD_FAULTS"] = faults
    with open("verbs.log", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.exit(main(arguments))


# -- inputs -----------------------------------------------------------------------------------------------------------


def make_images(folder: Path, train: int = 200, test: int = 100) -> None:
    """Write digits as images: train/LABEL/*.png and val/LABEL/*.png."""
    digits = load_digits()
    for number in range(train + test):
        path = folder / ("train" if number < train else "val") / str(digits.target[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15.9).astype(np.uint8)).convert("RGB").save(path)


def wrong_labels(images: Path, seed: int) -> np.ndarray:
    """Return the labels [N] of the images in sorted order, 30 % of them wrong."""
    labels = np.array([int(path.parent.name) for path in sorted(images.glob("train/*/*.png"))])
    wrong = np.random.default_rng(seed).choice(len(labels), round(0.3 * len(labels)), replace=False)
    labels[wrong] = (labels[wrong] + 1) % 10
    return labels


# -- undisturbed ------------------------------------------------------------------------------------------------------


class Undisturbed:
    """The studies `now` and `earlier`, each made without faults, and copies of the banks that they released."""

    def __init__(self, folder: Path, kind: type[Whole] = Whole) -> None:
        self.folder = folder
        self.now, self.earlier = (kind(folder / name, copy=False) for name in ("now", "earlier"))

    def copy(self, to: Path, size: int = NOW, faults: Path | None = None) -> Whole:
        """Return a copy of a finished project, with its stamps, that a test may change."""
        shutil.copytree((self.now if size == NOW else self.earlier).folder, to, symlinks=True)
        return Whole(to, copy=False, faults=faults)

    def folder_of(self, product: Product, size: int) -> Path:
        """Return the folder in which a study of this size left a product."""
        if product.kind in ("bank", "release"):
            return self.kept(size)
        return (self.now if size == NOW else self.earlier).folder

    def kept(self, size: int) -> Path:
        """Return the folder with copies of the banks that a study released."""
        return self.folder / f"kept-{'now' if size == NOW else 'earlier'}"


def make_undisturbed(folder: Path, kind: type[Whole] = Whole) -> Undisturbed:
    """Make both studies of a kind of project."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in (("now", NOW), ("earlier", EARLIER)):
        project = kind(folder / name)
        project.ask(size)
        with contextlib.chdir(project.folder):
            for product in project.everything():
                if product.kind == "release":
                    shutil.copytree("banks", folder / f"kept-{name}" / "banks", dirs_exist_ok=True)
                assert project.verb(product) == 0, project.said()
            assert project.judge().all_to_do == {}, project.judge().all_to_do
    return Undisturbed(folder, kind)


def made_once(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return both studies, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "undisturbed-whole"
    with lock(shared / "undisturbed-whole.lock"):
        if (folder / "made").exists():
            return Undisturbed(folder)
        made = make_undisturbed(folder)
        (folder / "made").touch()
    return made


def take_away(product: Product) -> None:
    """Delete a product; for a release, delete its bank."""
    for path in files_of(product, Path()):
        path.unlink(missing_ok=True)


def move_in(product: Product, source: Path) -> None:
    """Copy a product from another project; for a release, the bank that it would remove."""
    for path in files_of(product, source):
        to = path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)


def files_of(product: Product, root: Path) -> list[Path]:
    """Return the files of a product in a project, its manifest first."""
    if product.kind == "release":
        product = products.bank(parse_cell(product.cell))
    patterns = product.files if product.kind in products.READ_BY_PEOPLE else ("*",)
    found = [path for pattern in patterns for path in (root / product.folder).glob(pattern) if path.is_file()]
    return list(dict.fromkeys([path for path in (root / product.manifest, *found) if path.exists()]))


def fill(disk: Disk) -> None:
    """Fill a disk completely while other processes write to it."""
    with open(disk.path / "ballast", "ab") as file:
        while free := shutil.disk_usage(disk.path).free:
            with contextlib.suppress(OSError):  # another process was faster
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)


# -- rules ------------------------------------------------------------------------------------------------------------


def rules(root: Path) -> set[str]:
    """Return the names of a workflow's rules that have an output."""
    text = "\n".join(path.read_text() for path in (root / "Snakefile", *(root / "workflow" / "rules").glob("*.smk")))
    _, *blocks = re.split(r"^rule ", text, flags=re.MULTILINE)
    return {block.partition(":")[0] for block in blocks if re.search(r"^    output:", block, re.MULTILINE)}
