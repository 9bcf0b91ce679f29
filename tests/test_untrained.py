"""An untrained teacher: the weights that training begins with, and statistics of the training images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import recipe, study, train, verb
from torch import nn

from kd.report import table, verdict
from kd.report.identity import identity
from kd.study import staleness
from kd.study.expansion import all_cells
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.train.lesson import begun
from kd.train.material import prepared
from kd.train.published import load_network

TEACHER = "results/digits/quick/resnet14.ce.s0-epochs0"
EXPERIMENT = {"teacher": "resnet14", "student": "resnet8", "loss": {"kl": {"tau": 3}}, "teacher_epochs": [0, 2]}


def test_its_path_says_that_no_epoch_trained_it() -> None:
    made = study(experiments={"a": EXPERIMENT}, seeds=[0])
    teachers = [cell.teacher for cell in all_cells(made) if cell.teacher]
    assert [cell.path for cell in teachers] == [TEACHER, TEACHER.replace("epochs0", "epochs2")]
    assert [cell.epochs(made.protocol) for cell in teachers] == [0, 2]
    assert parse_cell(TEACHER) == teachers[0]
    codes = [staleness.code_behind(cell, made.protocol) for cell in teachers]
    assert codes[0] != codes[1]  # the code of a pass over the images is behind the first alone
    student = identity(parse_cell(f"{TEACHER}/resnet8.mse.s0"))
    assert (student["stopped"], student["teacher_lineage"]) == ("0", "resnet14.ce-epochs0")
    assert verdict._kind({"stages": 2, "stopped": "0", "noise": "none"}) == "untrained"  # and not early


def test_it_has_the_first_weights_and_statistics_of_the_training_images_and_teaches(project: Path) -> None:
    made = study(experiments={"a": {**EXPERIMENT, "teacher_epochs": 0}}, seeds=[0])
    assert verb("data", "digits") == 0
    manifest = train(TEACHER, made)
    assert (manifest["status"], manifest["epochs"], manifest["last"]["epoch"]) == ("ok", 0, 0)
    cell = parse_cell(TEACHER)
    have = prepared(cell, recipe(cell, made))
    found, first = load_network(cell, have), begun(cell, have)
    assert all(one.equal(other) for one, other in zip(found.parameters(), first.parameters(), strict=True))

    examples = have.examples
    images = next(examples.plain("train", examples.train[: len(examples.train) // 64 * 64], 10**6))
    seen, norm = [], next(module for module in first.modules() if isinstance(module, nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    first(images)
    mine = next(module for module in found.modules() if isinstance(module, nn.BatchNorm2d))
    torch.testing.assert_close(mine.running_mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        logits = found.eval()(images)
    assert logits.isfinite().all()
    assert logits.abs().max() < 20  # a mean of 0 and a variance of 1 would leave it what it was built with

    student = train(f"{TEACHER}/resnet8.kl-tau3.s0", made)
    assert student["status"] == "ok"
    rows = table.collect(made, Judge.of_study(made))["table.csv"].decode()
    assert re.search(rf"{TEACHER}/resnet8.kl-tau3.s0,", rows)


@pytest.mark.parametrize("given", [-1, 0.5])
def test_fewer_epochs_than_none_are_refused(given: float) -> None:
    with pytest.raises(Exception, match="teacher_epochs"):
        study(experiments={"a": {**EXPERIMENT, "teacher_epochs": given}})
