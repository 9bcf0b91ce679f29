"""What a network costs to use: counted as its publishers count it, and measured where it answers."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pandas as pd
import pytest
from conftest import prepare, study, train
from made import table as made_table
from made.networks import VECTORS

from kd import models
from kd.core.errors import ConfigError
from kd.measure import inference
from kd.report import table
from kd.report.figures import draw
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
def test_the_table_says_what_inference_costs(project: Path) -> None:
    prepare()
    experiment = {"teacher": "resnet14", "student": "resnet8", "loss": "mse", "figure": "inference"}
    made = study(experiments={"a": experiment}, seeds=[0], protocol={"name": "quick", "epochs": 1, "precision": "fp32"})
    for cell in all_cells(made):
        train(cell.path, made)
    rows = pd.read_csv(io.BytesIO(table.collect(made, Judge.of_study(made))["table.csv"]))
    assert rows["macs"].tolist() == list(map(macs, rows["cell"]))
    assert (rows["milliseconds"] > 0).all()
    assert "resnet14" not in draw("inference", rows, pd.DataFrame())[1]  # names are for people


def test_a_network_whose_cost_was_not_measured_is_not_in_the_figure() -> None:
    rows = made_table.losses()
    some = rows["objective"] == "mse"
    assert "MSE" not in draw("inference", rows.assign(milliseconds=rows["milliseconds"].mask(some)), pd.DataFrame())[1]
    with pytest.raises(ConfigError, match="networks whose costs were measured"):
        draw("inference", rows.drop(columns="milliseconds"), pd.DataFrame())


def macs(path: str) -> int:
    network = models.build(parse_cell(path).stage.network, 10, 1)
    return inference.multiply_accumulates([network], (1, 8, 8))


def test_a_network_of_before_they_were_counted_has_no_multiply_accumulates() -> None:
    manifest = {"realised_rate": 0.0, "epochs": 1, "status": "diverged", "seconds": 1.0, "parameters": 5}
    manifest |= dict.fromkeys(("device", "precision", "compiled", "threads", "code"), "")
    cell = parse_cell("results/digits/quick/resnet8.ce.s0")
    row = table._row("a", cell, {cell: table.Result(cell, manifest, None)}, ())
    assert math.isnan(row["macs"])
    assert table._row("a", cell, {cell: table.Result(cell, manifest | {"macs": 7}, None)}, ())["macs"] == 7
