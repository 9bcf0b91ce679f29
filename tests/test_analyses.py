"""Analyses of a small trained study: who is measured against whom, and what the frames must add up to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import answer, prepare, resigned, study, train, written

from kd.core.errors import ConfigError, DataError
from kd.measure import analyses, answers
from kd.report import figures, table
from kd.study import expansion
from kd.study.expansion import all_cells, cells_of, measured
from kd.study.judge import Judge
from kd.study.paths import parse_cell

TEACHER = "results/digits/quick/resnet14.ce.s0"
MSE = f"{TEACHER}/resnet8.mse.s0"
BASELINE = "results/digits/quick/resnet8.ce.s0"
SMALL = study(
    protocol={"name": "quick", "epochs": 3, "batch": 64, "precision": "fp32"},
    experiments={
        "inside": {
            "teacher": "resnet14",
            "student": "resnet8",
            "loss": ["ce", "mse"],
            "figure": ["fidelity", "densities"],
        }
    },
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the small study is trained, collected, and has its answers and analyses."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare()
        for cell in all_cells(SMALL):
            train(cell, SMALL)
            answer(cell, SMALL)
        written(table.collect(SMALL, Judge.of_study(SMALL)), Path("reports"))
        for name in analyses.ANALYSES:
            measure(name)
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture
def copy(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project that a test may break."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def measure(name: str) -> None:
    written(analyses.measure(SMALL, "inside", name), Path("reports"))


def frame(name: str) -> pd.DataFrame:
    return pd.read_parquet(Path("reports", "analyses", f"inside.{name}.parquet"))


# -- who is measured --------------------------------------------------------------------------------------------------


def pairs(**changes: object) -> list[tuple[str, str]]:
    made = study(experiments={"e": {"teacher": "resnet14", "student": "resnet8", "loss": ["ce", "mse"], **changes}})
    return [(str(cell).removeprefix("results/digits"), str(other or "-")) for cell, other in measured(made, "e")]


def test_students_are_measured_against_their_teacher_and_baselines_against_each() -> None:
    other = TEACHER.replace("s0", "s1")
    assert pairs(seeds=[0], teacher_seeds=[0, 1]) == [
        ("/quick/resnet8.ce.s0", TEACHER),
        ("/quick/resnet8.ce.s0", other),
        ("/quick/resnet14.ce.s0/resnet8.mse.s0", TEACHER),
        ("/quick/resnet14.ce.s1/resnet8.mse.s0", other),
        ("/quick/resnet14.ce.s0", "-"),
        ("/quick/resnet14.ce.s1", "-"),
    ]


def test_no_network_is_measured_against_itself_or_one_of_other_data() -> None:
    assert pairs(student="resnet14", seeds=[0])[0] == ("/quick/resnet14.ce.s0", "-")
    found = dict(pairs(label_noise={"symmetric": [0, 0.4]}, seeds=[0]))
    assert found["/quick/resnet8.ce.s0"] == TEACHER
    assert found["+sym0.4/quick/resnet8.ce.s0"] == TEACHER.replace("digits", "digits+sym0.4")


def test_a_baseline_of_a_fraction_is_measured_against_who_taught_that_fraction() -> None:
    found = pairs(student_fraction=[0.1, 1], seeds=[0])
    assert ("+frac0.1/quick/resnet8.ce.s0", TEACHER) in found


def test_answers_are_wanted_of_experiments_with_an_analysing_figure_alone() -> None:
    assert {cell.path for cell in expansion.analysed(SMALL)} == {cell.path for cell in all_cells(SMALL)}
    assert expansion.analysed(study()) == []


# -- measures ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_network_has_its_row_on_both_splits_with_the_accuracy_of_the_table(here: Path) -> None:
    found = frame("measures")
    names = {cell.path for cell in cells_of(SMALL, "inside")} | {TEACHER}
    assert found.groupby("cell").split.agg(sorted).to_dict() == {name: ["test", "train"] for name in names}
    rows = pd.read_parquet("reports/table.parquet").drop_duplicates("cell").set_index("cell")
    test = found[found.split == "test"].set_index("cell")
    np.testing.assert_allclose(test.top1, rows.test_top1[test.index])
    np.testing.assert_allclose(test.nll, rows.test_loss[test.index], rtol=1e-5)
    assert (test.n == 899).all()
    train = found[found.split == "train"].set_index("cell")
    np.testing.assert_allclose(train.top1 - test.top1[train.index], train.gap)
    shared = ["dataset", "noise", "noise_rate", "fraction", "networks", "objectives", "student", "objective", "seed"]
    assert (test[shared] == rows.loc[test.index, shared]).all(axis=None)


def test_lineages_and_hyperparameters_stand_beside_what_is_measured(here: Path) -> None:
    for name in analyses.ANALYSES:
        found = frame(name).drop_duplicates(["cell", "reference"]).set_index("cell")
        assert found.loc[MSE, ["lineage", "reduction", "weight"]].tolist() == ["resnet14.ce > resnet8.mse", "mean", 1.0]
        assert found.loc[[BASELINE], ["reduction", "weight", "alpha"]].isna().all(axis=None)
        assert found.loc[MSE, "reference_lineage"] == ("" if name == "planes" else "resnet14.ce")
    assert frame("limits")["loss.tau"].isna().all()  # its own tau is another: that of the gradient


def test_a_teacher_has_nothing_to_be_measured_against_and_all_others_have_it(here: Path) -> None:
    test = frame("measures").query("split == 'test'").set_index("cell")
    against = ["agreement", "churn", "kl", "distance", "cka", "reference_logit_mean"]
    assert test.loc[TEACHER, against].isna().all()
    assert test.drop(TEACHER)[against].notna().all(axis=None)
    s, t = (answers.read(parse_cell(path)).test.logits for path in (BASELINE, TEACHER))
    assert test.loc[BASELINE, "distance"] == pytest.approx((s - t).norm(dim=1).mean().item())
    assert test.loc[BASELINE, "agreement"] == pytest.approx(100 * (s.argmax(1) == t.argmax(1)).double().mean().item())
    assert test.loc[MSE, "reference_logit_mean"] == test.loc[TEACHER, "logit_mean"]
    assert (test.reference == "").tolist() == [name == TEACHER for name in test.index]


def test_the_squared_distance_is_that_of_the_logits_up_to_their_means(here: Path) -> None:
    """Var identity on real logits: MSE is 2 KL(inf) and the squared difference of mean logits."""
    s, t = (answers.read(parse_cell(path)).test.logits.double() for path in (MSE, TEACHER))
    centred = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    mse, twice = (s - t).square().mean(), centred.square().mean()
    assert (mse - twice).item() == pytest.approx((s.mean(1) - t.mean(1)).square().mean().item())


def test_classes_add_up_to_the_measures_of_the_whole_test_set(here: Path) -> None:
    found, test = frame("classes"), frame("measures").query("split == 'test'").set_index("cell")
    for cell, own in found.groupby("cell"):
        assert len(own) == 10
        assert own.n.sum() == test.n[cell]
        assert np.average(own.top1, weights=own.n) == pytest.approx(test.top1[cell])
        assert own.top1.min() == pytest.approx(test.worst_class_top1[cell])
        assert np.average(own.churn, weights=own.n) == pytest.approx(test.churn[cell], nan_ok=True)
    assert found[found.cell == TEACHER].churn.isna().all()
    assert found.drop_duplicates("class").class_name.tolist() == list("0123456789")


# -- densities --------------------------------------------------------------------------------------------------------


def test_densities_integrate_to_one_and_share_their_bins(here: Path) -> None:
    found = frame("densities")
    found["mass"] = found.density * (found.high - found.low)
    mass = found.groupby(["cell", "split", "quantity"]).mass.sum().unstack()
    np.testing.assert_allclose(mass[["distance", "prelogit_norm"]].dropna(), 1)
    assert (mass.tld <= 1 + 1e-9).all()  # some may lie outside -10 .. 20
    for _, group in found.groupby("quantity"):
        assert group.groupby("cell").low.agg(lambda lows: tuple(sorted(set(lows)))).nunique() == 1
    tld = found[found.quantity == "tld"]
    assert (tld.low.min(), tld.high.max(), tld.low.nunique()) == (-10, 20, 300)


def test_the_density_of_the_true_logit_difference_above_0_is_the_accuracy(here: Path) -> None:
    found = frame("densities").query("quantity == 'tld' and split == 'test' and low >= -0.001")
    above = (found.density * (found.high - found.low)).groupby(found.cell).sum()
    test = frame("measures").query("split == 'test'").set_index("cell")
    assert (abs(100 * above - test.top1[above.index]) < 0.5).all()  # above 20 there are a few


# -- planes -----------------------------------------------------------------------------------------------------------


def test_planes_hold_three_classes_of_both_splits_and_their_templates(here: Path) -> None:
    found = frame("planes")
    assert set(found["class"]) == {0, 1, 2}
    assert found[["class", "class_name"]].drop_duplicates().class_name.tolist() == ["0", "1", "2"]
    for _, group in found.groupby("cell"):
        assert (group.split == "template").sum() == 3
        assert set(group.split) == {"test", "train", "template"}
        assert group[group.split == "template"].bias.notna().all()
    assert found.groupby(["cell", "split", "class"]).size().max() <= 200


def test_the_borders_on_a_plane_part_the_images_as_the_network_does(here: Path) -> None:
    found = frame("planes").query("cell == @MSE")
    at = found[found.split == "template"].sort_values("class")
    test = found[found.split == "test"]
    seen = test[["x", "y"]].to_numpy() @ at[["x", "y"]].to_numpy().T + at.bias.to_numpy()
    split = answers.read(parse_cell(MSE)).test
    expected = split.logits[split.clean < 3][:, :3].argmax(1).numpy()
    assert (seen.argmax(1) == expected).mean() > 0.99  # but for the rounding of the pre-logits


# -- limits -----------------------------------------------------------------------------------------------------------


def test_real_logits_show_both_limits_and_every_student_a_row_for_each_tau(here: Path) -> None:
    found = frame("limits")
    assert found.groupby("cell").tau.agg(list).map(lambda taus: taus == analyses.TAUS).all()
    assert TEACHER not in set(found.cell)
    assert {0.1, 0.5, 1, 3, 4, 5, 20, 100} <= set(analyses.TAUS)
    hot, cold = found[found.tau == 1000], found[found.tau == 0.01]
    assert (hot.logit_cosine > 0.999).all()
    assert (hot.logit_error < 0.02).all()
    assert (cold.label_cosine > 0.99).all()
    assert (cold.label_error < 0.15).all()


# -- what is refused --------------------------------------------------------------------------------------------------


def test_csv_and_parquet_hold_the_same(here: Path) -> None:
    for name in analyses.ANALYSES:
        csv = pd.read_csv(
            f"reports/analyses/inside.{name}.csv", keep_default_na=False, na_values=[""], dtype={"class_name": str}
        )
        parquet = frame(name).replace({"": np.nan})
        pd.testing.assert_frame_equal(csv, parquet, check_dtype=False, check_exact=True)


def test_every_figure_reads_an_analysis_that_there_is() -> None:
    assert set(figures.ANALYSES.values()) == set(analyses.ANALYSES)
    assert set(figures.ANALYSES) <= set(figures.FIGURES)


def test_missing_damaged_and_strange_answers_are_named(copy: Path) -> None:
    (copy / "answers" / MSE.removeprefix("results/") / "manifest.json").unlink()
    (copy / "answers" / BASELINE.removeprefix("results/") / answers.FILE).write_bytes(b"")
    with pytest.raises(DataError) as refused:
        measure("measures")
    assert "the answers of 2 networks cannot be used; run snakemake" in str(refused.value)
    assert "resnet8.mse.s0: no result here" in str(refused.value)
    assert f"resnet8.ce.s0/{answers.FILE}: damaged" in str(refused.value)
    with pytest.raises(ConfigError, match="did you mean 'planes'"):
        measure("plane")


def test_what_diverged_is_neither_measured_nor_measured_against(copy: Path) -> None:
    for path in (MSE, f"{TEACHER}/resnet8.mse.s1"):
        diverged(path)
    measure("measures")
    assert MSE not in set(frame("measures").cell)
    diverged(TEACHER)
    measure("measures")
    left = frame("measures")
    assert set(left[left.cell == BASELINE].reference) == {""}
    with pytest.raises(DataError, match="limits: no network here has a teacher"):
        measure("limits")


def diverged(path: str) -> None:
    """Make the answers of a network those of one that diverged."""
    resigned(Path("answers", path.removeprefix("results/")), status="diverged")
