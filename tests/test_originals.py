"""Published numbers stand beside the measured ones of the same pair, loss and data, and beside no others."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from made.table import cell_row, frame

from kd import losses, models
from kd.report.comparisons import comparisons
from kd.report.originals import in_latex, in_words, known, originals
from kd.report.statistics import paired

PAIR = "wrn-40-2 > wrn-16-2"


def table(
    *objectives: str, noise_rate: float = 0.0, teacher: str = "wrn-40-2", student: str = "wrn-16-2"
) -> pd.DataFrame:
    """A table of teachers, students by these objectives and students alone, for six seeds."""
    rows = []
    for seed in range(6):
        first = (teacher, "ce", seed)
        rows += [cell_row("teachers", (first,), noise_rate), cell_row("pair", ((student, "ce", seed),), noise_rate)]
        rows += [cell_row("pair", (first, (student, one, seed)), noise_rate) for one in objectives]
    return frame(rows)


def found(rows: pd.DataFrame) -> pd.DataFrame:
    return originals(rows, comparisons(rows))


def test_every_published_number_is_of_networks_and_a_loss_that_kd_has() -> None:
    numbers = known()
    assert len(numbers) > 200
    assert all(models.is_network(name) for networks in numbers["networks"] for name in networks.split(" > "))
    assert set(numbers["loss"]) <= set(losses.LOSSES)
    assert numbers["top1"].between(50, 90).all()
    assert not numbers.duplicated(["networks", "loss", "tau", "alpha", "logits", "source"]).any()
    assert (numbers["gain"].isna() == ~numbers["networks"].str.contains(">")).all()  # all students alone are known


def test_a_number_stands_beside_the_mean_of_its_pair_and_loss() -> None:
    rows = table("kl-tau4-alpha0.9", "crd")
    lines = found(rows).set_index("objectives")
    assert lines.loc["ce > kl-tau4-alpha0.9", ["original", "source"]].tolist() == [74.92, "RepDistiller"]
    assert lines.loc["ce > crd", ["original", "n"]].tolist() == [75.48, 6]
    assert sorted(lines.loc["ce", "original"]) == [73.26, 75.61]  # the student alone, and the teacher
    assert lines.loc["ce > crd", "mean"] == pytest.approx(rows.loc[rows["loss"] == "crd", "test_top1"].mean())


def test_a_gain_is_over_the_same_student_without_a_teacher() -> None:
    rows = table("crd")
    line = found(rows).set_index("objectives").loc["ce > crd"]
    assert line["original_gain"] == pytest.approx(75.48 - 73.26)
    own = paired(rows[rows["experiment"] == "pair"], "crd", "ce")
    assert line[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx([own.effect, own.low, own.high])
    assert line["pairs"] == 6


@pytest.mark.parametrize(
    "rows",
    [
        table("kl-tau3"),  # another temperature
        table("kl-tau4-alpha0.9", noise_rate=0.4),
        table("kl-tau4-alpha0.9", student="wrn-16-4"),
        table("kl-tau4-alpha0.9").assign(dataset="cifar10"),
        table("kl-tau4-alpha0.9").assign(fraction=0.1),
    ],
    ids=["hyperparameters", "noise", "pair", "dataset", "fraction"],
)
def test_a_number_stands_beside_nothing_else(rows: pd.DataFrame) -> None:
    assert not found(rows)["objectives"].str.contains(">").any()


def test_a_hyperparameter_that_papers_choose_for_each_pair_may_be_any() -> None:
    objectives = "dkd-rest2", "dkd-rest6"
    assert found(table(*objectives))["original"].tolist().count(76.23) == 2


def test_words_say_both_numbers_both_gains_and_who_published() -> None:
    lines = found(table("crd"))
    (words,) = [line for line in in_words(lines) if line["objectives"] == "CRD"]
    assert words["original"] == "75.48"
    assert words["original_gain"] == "+2.22"
    assert "±" in words["measured"]
    assert "±" in words["gain"]
    assert words["source"] == "RepDistiller; last epoch"
    assert in_latex(lines).count("RepDistiller") == len(lines) + 1  # in the caption, too


def test_a_network_alone_has_no_gain() -> None:
    words = [line for line in in_words(found(table("crd"))) if line["objectives"] == "CE"]
    assert {(line["original_gain"], line["gain"]) for line in words} == {("–", "–")}
    assert all(math.isnan(value) for value in found(table()).gain)
