"""What a network costs to use: counted as its publishers count it, and measured where it answers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from conftest import prepare, study, train
from made.networks import VECTORS

from kd import models
from kd.core.errors import DataError
from kd.jobs import answers as jobs_answers
from kd.jobs.places import Resources
from kd.measure import analyses, inference
from kd.report import table
from kd.study.expansion import all_cells
from kd.study.judge import Judge
from kd.study.paths import parse_cell


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "mobilenetv2-half", "shufflenetv1", "shufflenetv2"])
def test_a_network_makes_the_multiply_accumulates_that_its_publishers_count(name: str) -> None:
    network = models.build(name, 100)
    assert inference.multiply_accumulates([network], (3, 32, 32)) == VECTORS["networks"][name]["macs"]
    assert not any(module._forward_hooks for module in network.modules())  # nothing is left behind


def test_several_networks_that_answer_together_cost_their_sum() -> None:
    small, large = (models.build(name, 10, 1) for name in ("resnet8", "wrn-10-2"))
    alone, both = (
        [inference.cost([one], (1, 8, 8)) for one in (small, large)],
        inference.cost([small, large], (1, 8, 8)),
    )
    for key in ("parameters", "macs"):
        assert both[key] == sum(one[key] for one in alone)
    assert 0 < both["milliseconds"] < 10_000


def test_the_time_of_an_image_is_that_of_the_fastest_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([0.5, 0.004, 0.2, *[0.3] * 40])
    monkeypatch.setattr(inference, "_answer", lambda network, shape: next(took))
    assert inference._milliseconds(None, (1, 8, 8)) == pytest.approx(4)
    assert len(list(took)) == 43 - inference._PASSES


@pytest.mark.process
def test_the_table_and_an_analysis_say_what_inference_costs(project: Path) -> None:
    prepare()
    experiment = {"teacher": "resnet14", "student": "resnet8", "loss": "mse", "figure": "inference"}
    made = study(experiments={"a": experiment}, seeds=[0], protocol={"name": "quick", "epochs": 1, "precision": "fp32"})
    judge = Judge.of_study(made)
    cells = all_cells(made)
    for cell in cells:
        train(cell.path, made)
    rows = table.collect(made, judge)["table.csv"].decode().splitlines()
    place = rows[0].split(",").index("macs")
    assert [float(row.split(",")[place]) for row in rows[1:]] == [macs(cell.path) for cell in listed(rows)]
    for cell in cells:
        jobs_answers.answers(judge, cell, judge.recipe_of(cell), Resources())
    frame = analyses.inference_of(analyses.subjects(made, "a")).set_index("cell")
    for cell in cells:
        assert frame.loc[cell.path, "macs"] == macs(cell.path)
        assert frame.loc[cell.path, "milliseconds"] > 0
        assert frame.loc[cell.path, "measured_on"].endswith("threads")

    subjects = list(analyses.subjects(made, "a"))  # with answers of before
    for one in subjects:
        one.about.pop("inference")
    with pytest.raises(
        DataError, match=r"without what inference costs; delete them, run again\n  answers/digits/quick/"
    ):
        analyses.inference_of(subjects)


def listed(rows: list[str]) -> list:
    place = rows[0].split(",").index("cell")
    return [parse_cell(row.split(",")[place]) for row in rows[1:]]


def macs(path: str) -> int:
    network = models.build(parse_cell(path).stage.network, 10, 1)
    return inference.multiply_accumulates([network], (1, 8, 8))


def test_a_network_of_before_they_were_counted_has_no_multiply_accumulates() -> None:
    manifest = {"realised_rate": 0.0, "epochs": 1, "status": "diverged", "seconds": 1.0, "parameters": 5}
    manifest |= dict.fromkeys(("device", "precision", "compiled", "threads", "code"), "")
    cell = parse_cell("results/digits/quick/resnet8.ce.s0")
    row = table._row("a", cell, {cell: table.Result(cell, manifest, None)})
    assert math.isnan(row["macs"])
    assert table._row("a", cell, {cell: table.Result(cell, manifest | {"macs": 7}, None)})["macs"] == 7
