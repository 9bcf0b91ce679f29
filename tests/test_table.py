"""The tidy table: whole and honest, or refused with the cells named (promises 5 and 7)."""

from __future__ import annotations

import io
import math
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import prepare, resigned, study, train, verb, written

from kd.core import files
from kd.core.errors import DataError
from kd.losses import LOSSES, Loss, Number
from kd.losses.mse import mse
from kd.report import table
from kd.study import expansion, paths
from kd.study.config import Study
from kd.study.judge import Judge

SMALL = study()
TEACHER = "results/digits/quick/resnet14.ce.s0"
STUDENT = f"{TEACHER}/resnet8.kl-tau3.s1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the small study is trained."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare()
        for cell in expansion.all_cells(SMALL):
            train(cell)
    return folder


def collect(made: Study, folder: Path) -> Path:
    return written(table.collect(made, Judge.of_study(made)), folder)


@pytest.fixture
def collected(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(trained)
    return collect(SMALL, tmp_path)


def rewritten(name: str, change: object) -> str:
    """Change a published file of the student and sign it anew, as a careless hand would; return what it held."""
    path = Path(STUDENT, name)
    before = path.read_text()
    path.write_text(change(before))
    resigned(STUDENT)
    return before


def test_epochs_that_were_not_evaluated_are_empty_and_the_last_never_is(project: Path) -> None:
    made = study(protocol={"name": "quick", "epochs": 3, "batch": 64, "precision": "fp32", "evaluate": "last"})
    prepare()
    cell = paths.parse_cell("results/digits/quick/resnet8.ce.s0")
    best = train(cell, made)["best_on_test"]
    read = table._read(made, cell).epochs
    assert read["test_top1"].isna().tolist() == [True, True, False]
    assert read["train_top1_running"].notna().all()
    assert best == {"epoch": 3, "test_top1": read["test_top1"].iloc[-1]}
    text = Path(cell.path, "metrics.csv").read_text()
    with pytest.raises(DataError, match="test_loss is not a finite number"):
        table._check_sound(cell, pd.read_csv(io.StringIO(text)), 3, 1)


@pytest.mark.slow
def test_promise_7_the_headline_is_the_last_epoch_with_the_best_on_test_beside(collected: Path) -> None:
    rows = pd.read_parquet(collected / "table.parquet").set_index("cell")
    row, manifest = rows.loc[STUDENT], files.read_manifest(Path(STUDENT))
    assert (row.networks, row.objectives) == ("resnet14 > resnet8", "ce > kl-tau3")
    assert (row.teacher, row.student, row.objective, row.loss) == ("resnet14", "resnet8", "kl-tau3", "kl")
    assert (row.tau, row.alpha, row.seed, row.teacher_seed, row.stages) == (3.0, 1.0, 1, 0, 2)
    assert (row.noise, row.noise_rate, row.fraction, row.epochs, row.status) == ("none", 0.0, 1.0, 3, "ok")
    assert row.test_top1 == manifest["last"]["test_top1"]
    assert manifest["last"]["epoch"] == 3
    assert row.best_test_top1 == manifest["best_on_test"]["test_top1"]
    assert row.best_test_top1 - row.test_top1 == row.best_gap >= 0


def test_every_hyperparameter_has_its_column_and_what_a_loss_lacks_is_empty(collected: Path) -> None:
    for name in ("table", "curves"):
        rows = pd.read_parquet(collected / f"{name}.parquet").drop_duplicates("cell").set_index("cell")
        assert rows.loc[STUDENT, ["tau", "alpha", "scale", "weight"]].tolist() == [3.0, 1.0, "tau2", 1.0]
        assert rows.loc[TEACHER, ["tau", "alpha", "scale", "weight"]].isna().all()
        assert not {"beta", "reduction"} & set(rows)  # no loss here has them
        assert rows.loc[[TEACHER, STUDENT], "lineage"].tolist() == ["resnet14.ce", "resnet14.ce > resnet8.kl-tau3"]


@pytest.mark.slow
def test_a_hyperparameter_that_bears_the_name_of_another_column_stands_apart(trained, monkeypatch, tmp_path) -> None:
    def tilted(student, teacher, labels, *, gain: float, seed: float) -> object:
        return mse(student, teacher, labels, weight=gain + seed)

    tilted.__module__ = mse.__module__
    monkeypatch.setitem(LOSSES, "tilted", Loss(tilted, "made up", {"gain": Number(), "seed": Number(2.0)}))
    monkeypatch.chdir(trained)
    inside = {"teacher": "resnet14", "student": "resnet8", "loss": ["ce", {"tilted": {"gain": [0.5, 3]}}]}
    made = study(experiments={"inside": inside}, seeds=[0])
    for cell in expansion.all_cells(made):
        train(cell, made)
    collect(made, tmp_path)
    for name in ("table", "curves"):
        rows = pd.read_parquet(tmp_path / f"{name}.parquet").drop_duplicates(["experiment", "cell"])
        rows = rows[rows["objective"] != "ce"]
        assert rows["gain"].tolist() == [0.5, 3.0]
        assert rows["loss.seed"].tolist() == [2.0, 2.0]
        assert rows["seed"].tolist() == [0, 0]
        assert rows["lineage"].tolist() == [f"resnet14.ce > resnet8.tilted-gain{gain}" for gain in ("0.5", "3")]
    named = pd.read_parquet(tmp_path / "table.parquet").set_index("objective")["objective_name"]
    assert named["tilted-gain0.5"] == "TILTED gain=0.5"


def test_rows_stand_in_the_order_in_which_figures_show_them(trained, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(trained)
    turned = {"teacher": "resnet14", "student": "resnet8", "loss": [{"kl": {"tau": 3}}, "ce"]}
    made = study(experiments={"turned": turned})
    collect(made, tmp_path)
    rows = pd.read_parquet(tmp_path / "table.parquet")
    assert rows["objective"].tolist() == ["ce", "ce", "kl-tau3", "kl-tau3", "ce"]  # the last one teaches
    assert rows["seed"].tolist() == [0, 1, 0, 1, 0]


def test_the_seconds_of_a_lineage_are_those_of_a_network_and_of_all_that_led_to_it(collected: Path) -> None:
    rows = pd.read_csv(collected / "table.csv").set_index("cell")
    student, teacher = (rows.loc[[cell]].iloc[0] for cell in (STUDENT, TEACHER))
    assert 0 < teacher.lineage_seconds == teacher.seconds
    assert teacher.memory_mib == files.read_manifest(Path(TEACHER))["memory"]["host_mib"] > 100
    assert math.isnan(teacher.gpu_memory_mib)  # this machine has none, or it was told to use the CPU
    assert student.lineage_seconds == pytest.approx(student.seconds + teacher.seconds)


def test_networks_that_teach_are_an_experiment_of_their_own(collected: Path) -> None:
    rows = pd.read_parquet(collected / "table.parquet")
    assert rows[rows.experiment == "teachers"].cell.tolist() == [TEACHER]
    assert TEACHER not in set(rows[rows.experiment == "losses"].cell)


def test_csv_and_parquet_hold_the_same_and_curves_one_row_an_epoch(collected: Path) -> None:
    for name in ("table", "curves"):
        csv = pd.read_csv(collected / f"{name}.csv", keep_default_na=False, na_values=[""])
        parquet = pd.read_parquet(collected / f"{name}.parquet")
        pd.testing.assert_frame_equal(
            csv.fillna(math.nan), parquet.replace({"": math.nan}), check_dtype=False, check_exact=True
        )
    curves = pd.read_parquet(collected / "curves.parquet")
    assert (curves.groupby(["experiment", "cell"]).epoch.agg(list).map(tuple) == (1, 2, 3)).all()


def test_the_same_results_give_the_same_table_bytes(collected: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = collect(SMALL, tmp_path_factory.mktemp("again"))
    for path in collected.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + text.splitlines()[-1] + "\n", "not one row for each of 3 epochs"),  # fault 19
        (lambda text: "\n".join(text.splitlines()[:-1]) + "\n", "not one row for each of 3 epochs"),
        (lambda text: re.sub(r",[^,\n]+\n$", ",nan\n", text), "test_top1 is not a finite number"),  # fault 21
        (lambda text: re.sub(r",[^,\n]+\n$", ",\n", text), "test_top1 is not a finite number"),
    ],
)
def test_metrics_that_are_not_one_finite_row_an_epoch_stop_the_table(collected: Path, change, message: str) -> None:
    before = rewritten("metrics.csv", change)
    try:
        with pytest.raises(DataError, match=re.escape(STUDENT) + ".*" + message):
            collect(SMALL, collected)
    finally:
        rewritten("metrics.csv", lambda _: before)
    collect(SMALL, collected)


def test_a_cell_of_another_protocol_stops_the_table_with_both_values(collected: Path, capsys) -> None:
    """Fault 23."""
    other = {"name": "quick", "epochs": 3, "batch": 32, "precision": "fp32"}
    assert verb("collect", protocol=other) == 74
    assert f"{STUDENT}: batch 64 -> 32" in capsys.readouterr().err
    assert not Path("reports").exists()


def test_a_cell_that_is_a_copy_of_another_stops_the_table(collected: Path, capsys) -> None:
    """A directory copied by hand would count one network twice."""
    other = Path(STUDENT.replace(".s1", ".s0"))
    kept = shutil.copytree(other, collected / "kept")
    try:
        shutil.copytree(STUDENT, other, dirs_exist_ok=True)
        assert verb("collect") == 74
        assert f"{other}: a copy of {STUDENT}" in capsys.readouterr().err
    finally:
        shutil.copytree(kept, other, dirs_exist_ok=True)


def test_all_bad_cells_are_named_up_to_ten_and_counted(collected: Path, capsys) -> None:
    """Fault 22."""
    many = {"seeds": [10, 11, 12, 13, 14, 15, 16], "teacher_seeds": [5]}
    with pytest.raises(DataError, match=r"(?s)15 of the study's cells.*no result here.*and 5 more") as refused:
        collect(study(**many), collected)
    assert str(refused.value).count("no result here") == 10
    assert verb("collect", **many) == 74
    said = capsys.readouterr().err
    assert "(15 of 15)" in said
    assert said.count("not made yet") == 10
    assert "and 5 more" in said


def test_a_diverged_cell_has_its_row_without_numbers(trained: Path, monkeypatch, tmp_path: Path) -> None:
    """Fault 21: it is there to be counted."""
    monkeypatch.chdir(trained)
    wild = study(protocol={"name": "wild", "epochs": 3, "lr": 1e12, "precision": "fp32"}, seeds=[0])
    for cell in expansion.all_cells(wild):
        train(cell, wild)
    collect(wild, tmp_path)
    rows = pd.read_parquet(tmp_path / "table.parquet")
    assert set(rows.status) == {"diverged"}
    assert rows[["train_loss", "test_loss", "test_top1", "best_test_top1", "best_gap"]].isna().all(axis=None)
