"""A study in Python: `kd.open`, its cells, networks, run and table, from any folder; and losses as functions."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, values
from made.fitting import logits
from made.project import SMALL, Project, jobs_in
from made.starting import STARTER

import kd
import kd.api
import kd.losses
from kd.core import files, project
from kd.core.errors import ConfigError, DataError
from kd.study.config import validate
from kd.study.expansion import all_cells

TEACHER = "results/digits/quick/resnet14.ce.s0"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an empty folder that is no project."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def written(tmp_path: Path, elsewhere: Path) -> Path:
    """A project's folder with a study in config.yaml, and another one below it; nothing is made."""
    folder = tmp_path / "project"
    (folder / "studies").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(values()))
    (folder / "studies/one.yaml").write_text(yaml.safe_dump({"study": "one", "seeds": [7]}))
    return folder


# -- a study ----------------------------------------------------------------------------------------------------------


def test_a_study_is_opened_from_any_folder_and_its_project_found(written: Path, elsewhere: Path) -> None:
    expected = all_cells(validate(values()))
    for path in (written / "config.yaml", "../project/config.yaml"):
        study = kd.open(path)
        assert (study.root, study.cells()) == (written, expected)
    other = kd.open("../project/studies/one.yaml")
    assert other.root == written
    assert {str(cell)[-2:] for cell in other.cells()} == {"s0", "s7"}  # of the teachers, and the students
    assert project.here() == elsewhere
    assert list(elsewhere.iterdir()) == []


def test_a_study_that_is_wrong_or_of_no_project_is_refused(written: Path, tmp_path: Path) -> None:
    (written / "config.yaml").write_text(yaml.safe_dump(values(sedes=[0])))
    with pytest.raises(ConfigError, match="sedes: unknown key"):
        kd.open(written / "config.yaml")
    with pytest.raises(ConfigError, match=r"no config\.yaml in its folder or in one above it"):
        kd.open(tmp_path / "elsewhere/config.yaml")
    assert project.here() == Path.cwd()


def test_a_study_s_file_is_read_again_in_each_call(written: Path) -> None:
    study = kd.open(written / "config.yaml")
    for seeds in ([0, 1], [0, 1, 2]):
        (written / "config.yaml").write_text(yaml.safe_dump(values(seeds=seeds)))
        assert study.cells() == all_cells(validate(values(seeds=seeds)))


def test_what_is_not_made_or_not_of_the_study_is_refused_by_name(written: Path) -> None:
    study = kd.open(written / "config.yaml")
    assert study.figures() == {}
    with pytest.raises(DataError, match=r"reports/small/table: .*\.run\(\)"):
        study.table()
    with pytest.raises(DataError, match=rf"{TEACHER}: .*\.run\(\)"):
        study.network(TEACHER)
    with pytest.raises(DataError, match="data/digits"):
        study.examples(TEACHER)
    with pytest.raises(ConfigError, match="no cell of study small"):
        study.network(TEACHER.replace("s0", "s9"))


@pytest.mark.slow
def test_a_finished_study_gives_its_table_figures_and_networks(finished: Project, elsewhere: Path) -> None:
    study = kd.open(finished.folder / "study.yaml")
    assert study.root == finished.folder
    table = study.table()
    pd.testing.assert_frame_equal(table, pd.read_parquet(finished.folder / "reports/small/table.parquet"))
    figures = study.figures()
    assert figures
    assert all(path.is_absolute() and path.is_file() for path in figures.values())
    for cell in study.cells()[:2]:
        network, examples = study.network(cell), study.examples(cell)
        assert not network.training
        index = torch.arange(len(examples.test_labels))
        with torch.inference_mode():
            said = torch.cat([network(images).argmax(1) for images in examples.plain("test", index, 256)])
        top1 = 100 * (said == examples.test_labels).double().mean().item()
        manifest = files.read_manifest(finished.folder / cell.path)
        assert top1 == pytest.approx(manifest["last"]["test_top1"], abs=0.3)
    assert list(elsewhere.iterdir()) == []


# -- its run ----------------------------------------------------------------------------------------------------------


def test_a_run_is_the_command_that_a_user_would_type(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []
    monkeypatch.setattr(kd.api, "_told", lambda *given: asked.append(given) or 0)
    for name in ("config.yaml", "studies/one.yaml"):
        with pytest.raises(DataError, match="table"):  # because nothing was made
            kd.open(written / name).run("--profile", "slurm", cores=3)
    (first, folder), (other, _) = asked
    assert folder == written
    snakefile = str(Path(kd.__file__).parent.parent / "Snakefile")
    assert first == [
        sys.executable,
        "-m",
        "snakemake",
        *["--profile", "slurm", "--cores", "3", "--snakefile"],
        snakefile,
    ]
    assert other == [*first, "--configfile", str(written / "studies/one.yaml")]


def test_what_a_command_prints_is_heard_and_its_code_returned(tmp_path: Path, capsys) -> None:
    script = "import os, sys; print(os.getcwd()); print('worse', file=sys.stderr); sys.exit(3)"
    assert kd.api._told([sys.executable, "-u", "-c", script], tmp_path) == 3
    assert capsys.readouterr().out == f"{tmp_path}\nworse\n"


def test_an_interrupt_reaches_the_command_which_ends_before_the_call(tmp_path: Path, monkeypatch) -> None:
    script = """
import signal, sys, time
def stop(*_):
    open("saved", "w").close()
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
print("ready", flush=True)
time.sleep(60)
"""

    def interrupted(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kd.api._told([sys.executable, "-c", script], tmp_path)
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
def test_a_run_makes_the_table_and_the_figures(tmp_path: Path, elsewhere: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", STARTER.controller)
    made = Project(tmp_path / "project")
    made.study({**SMALL, "seeds": [0]})
    study = kd.open(made.folder / "study.yaml")
    table = study.run(cores=2)
    assert {str(cell) for cell in study.cells()} == set(table.cell)
    assert all(study.figures().values())


@pytest.mark.slow
@pytest.mark.process
def test_a_run_that_fails_says_what_failed_and_why(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "photos/train/one").mkdir(parents=True)
    photos = values(dataset="photos", datasets={"photos": {"folder": "photos", "size": 8}})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(photos))
    with pytest.raises(kd.api.RunFailed, match=r"exit code 1; what failed:\n  data/photos  refused: photos"):
        kd.open(tmp_path / "config.yaml").run(cores=2)


# -- a module of another workflow --------------------------------------------------------------------------------------

OUTER = """
from kd.study.plain_yaml import read_yaml


module distill:
    snakefile: "{root}/workflow/Snakefile"
    config: read_yaml("study.yaml")
    {more}


use rule * from distill as distill_*


onstart:
    distill.onstart()


rule all:
    default_target: True
    input:
        rules.distill_all.input,
        "best.txt",


rule best:
    input:
        rules.distill_collect.output.files[0],
    output:
        "best.txt",
    shell:
        "wc -l < {{input}} > {{output}}"
"""


def outer(folder: Path, more: str = "") -> Project:
    """A folder with another workflow, which has kd as a module, and a study of one seed."""
    project = Project(folder, copy=False)
    project.study({**SMALL, "seeds": [0]})
    (folder / "Snakefile").write_text(OUTER.format(root=ROOT, more=more))
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    return project


def asked(project: Project, *arguments: str, code: int = 0) -> str:
    ended, output = STARTER.run(["--cores", "2", *arguments], project.folder, {**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended == code, output
    return output


@pytest.mark.slow
@pytest.mark.process
def test_another_workflow_has_kd_as_a_module(tmp_path: Path) -> None:
    jobs, _ = jobs_in(asked(outer(tmp_path), "--dry-run"))
    assert jobs["best"] == 1
    assert jobs["distill_train"] == 4  # a teacher and three students
    assert {"distill_data", "distill_bank", "distill_collect", "distill_figure", "distill_report"} <= set(jobs)


@pytest.mark.slow
@pytest.mark.process
def test_a_module_with_a_prefix_is_refused(tmp_path: Path) -> None:
    said = asked(outer(tmp_path, 'prefix: "below/"'), "--dry-run", code=1)
    assert "kd: a module of kd takes no prefix" in said


@pytest.mark.slow
def test_another_workflow_runs_kd_to_its_table_and_goes_on_from_it(tmp_path: Path) -> None:
    project = outer(tmp_path)
    asked(project)
    assert int((tmp_path / "best.txt").read_text()) == 1 + 3 + 1  # a line of names, the students, the teacher
    assert "Nothing to be done" in asked(project)
    project.study({**SMALL, "seeds": [0, 1]})
    asked(project)
    assert int((tmp_path / "best.txt").read_text()) == 1 + 6 + 1
    assert "localrules directive" not in asked(project, "--dry-run")


@pytest.mark.slow
@pytest.mark.process
def test_the_snakefile_that_the_catalogue_asks_for_is_the_one_at_the_top(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    both = [project.planned(), project.planned("--snakefile", "workflow/Snakefile")]
    assert both[0] == both[1]
    assert both[0][0]["train"] == 7


# -- losses -----------------------------------------------------------------------------------------------------------


def test_a_loss_is_a_function_that_returns_what_training_computes() -> None:
    student, teacher, labels = logits(0, 6), logits(1, 6), torch.arange(6)
    for name, loss in kd.losses.LOSSES.items():
        assert getattr(kd.losses, name) is loss
        if loss.function and name != "normkd":
            given = {key: 3.0 for key, one in loss.parameters.items() if one.default is None and not one.optional}
            expected = loss.function(student, teacher, labels, **loss.resolve(given))
            torch.testing.assert_close(loss(student, teacher, labels, **given), expected, rtol=0, atol=0)
    importlib.import_module("kd.losses.akl")
    assert kd.losses.akl is kd.losses.LOSSES["akl"]  # and not the file, which was imported just now


def test_a_loss_says_what_is_wrong_or_missing() -> None:
    student, teacher = logits(0), logits(1)
    for error, message, call in (
        (ValueError, "tau: required", lambda: kd.losses.kl(student, teacher)),
        (ValueError, "teacher: missing", lambda: kd.losses.mse(student)),
        (ValueError, "labels: missing", lambda: kd.losses.kl(student, teacher, tau=3, alpha=0.5)),
        (TypeError, "a study trains with it", lambda: kd.losses.crd(student, teacher)),
        (AttributeError, "did you mean 'kl'", lambda: kd.losses.kll),
    ):
        with pytest.raises(error, match=message):
            call()


def test_editors_know_every_loss() -> None:
    tree = ast.parse(inspect.getsource(kd.losses))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    named = [target.id for node in block.body if isinstance(node, ast.Assign) for target in node.targets]
    assert named[1:] == [*kd.losses.LOSSES]
    assert Path(kd.__file__).with_name("py.typed").exists()


@pytest.mark.process
def test_importing_kd_and_opening_a_study_load_no_torch(written: Path) -> None:
    code = "import kd, sys; kd.losses.kl; kd.open('config.yaml').cells(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=written, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
