"""WKD-L and WKD-F: the vectors, Sinkhorn's convergence, and what the class relation says (arXiv 2412.08139)."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import safetensors.torch
import sklearn.datasets
import torch
from conftest import prepare, recipe, relate, study, train
from made.course import DTYPES, built, course, logits_of, random_logits, valued, vectors
from made.fitting import CPU, HEADER, made_examples, network, plan, same
from torch import Tensor, nn

from kd import models
from kd.core.errors import ConfigError
from kd.losses import wkd
from kd.losses.hard import ce
from kd.losses.objective import Batch, Objective
from kd.losses.spec import Needs
from kd.losses.wkd import distance_of_statistics
from kd.machine.state import State
from kd.models.output import Output
from kd.study.paths import parse_cell
from kd.train import lesson, material
from kd.train.fit import History, fit
from kd.train.relating import class_features, kernel_alignment
from kd.train.teachers import LiveTeacher

VECTORS = vectors("wkd")
LOGITS, NOTHING_DECAYS = {"relation": "logits"}, {"decay": 0}


def made(classes: int, dtype: torch.dtype = torch.float64, cost: object = None, **given: object) -> Objective:
    """Return WKD-L with the cost matrix of the vectors, or another."""
    objective = built("wkd_l", course(classes), **LOGITS, **given)
    objective.cost = torch.tensor(VECTORS["cost"] if cost is None else cost, dtype=dtype)
    return objective


def distance(objective: Objective, student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    leaf = student.detach().clone().requires_grad_()
    values = objective.distance(leaf, teacher, labels)
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["id"])
def test_value_and_gradient_equal_the_vectors(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    student, teacher, labels = logits_of(VECTORS["inputs"][case["inputs"]], dtype)
    objective = made(4, dtype, **NOTHING_DECAYS, **case["params"])
    if case["params"]["iterations"] > 1000 and precision == "f32":
        tolerance = 1e-4  # rounding errors of 2,000 products
    if case["loss"] == "transport":  # of all classes
        leaf = student.clone().requires_grad_()
        p, q = ((logits / 2).softmax(-1) for logits in (teacher, leaf))
        even = torch.full_like(p, 0.25)
        values = wkd.transport(q, p, objective.cost, even, 0.05, case["params"]["iterations"])
        gradient = torch.autograd.grad(values.sum(), leaf)[0]
    else:  # the vectors are without cross-entropy
        leaf = student.clone().requires_grad_()
        hard = ce(leaf, None, labels)
        values, gradient = valued(objective, student, teacher, labels)
        values, gradient = values - hard.detach(), gradient - torch.autograd.grad(hard.sum(), leaf)[0]
    assert values.mean().item() == pytest.approx(case["expected"], rel=tolerance)
    expected = torch.tensor(case["gradient"], dtype=dtype)
    torch.testing.assert_close(gradient / len(labels), expected, rtol=tolerance, atol=tolerance * expected.abs().max())


def test_alignment_and_cost_equal_the_vectors_and_are_symmetric_with_an_empty_diagonal() -> None:
    features = [torch.tensor(each, dtype=torch.float64) for each in VECTORS["class_features"]]
    found = kernel_alignment(features)
    torch.testing.assert_close(found, torch.tensor(VECTORS["alignment"], dtype=torch.float64), rtol=1e-10, atol=1e-12)
    cost = built("wkd_l", course(4, relation=found), **LOGITS).cost
    torch.testing.assert_close(cost, torch.tensor(VECTORS["cost"], dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert cost.equal(cost.T)
    assert cost.diagonal().count_nonzero() == 0


def test_ten_thousand_iterations_approach_the_exact_optimum_and_ten_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = VECTORS["exact_tau2"]
    few, many = (whole(0.05, iterations) for iterations in (10, 10_000))
    assert few < exact < many  # ten have not moved all of the mass; an entropic plan costs more than the best
    assert many - exact < 0.8 * (exact - few)
    monkeypatch.setattr(wkd, "_EPS", 1e-200)  # with which no mass is lost where the kernel is narrow
    assert whole(0.005, 10_000) == pytest.approx(exact, rel=0.01)
    assert abs(whole(0.005, 10) - exact) > 0.1 * exact


def whole(regularisation: float, iterations: int) -> float:
    """Return the mean distance over all classes, at tau 2, of the vectors' logits."""
    student, teacher, _ = logits_of(VECTORS["inputs"]["small"])
    cost, even = torch.tensor(VECTORS["cost"], dtype=torch.float64), torch.full_like(student, 0.25)
    p, q = ((logits / 2).softmax(-1) for logits in (teacher, student))
    return wkd.transport(q, p, cost, even, regularisation, iterations).mean().item()


def test_the_label_s_class_and_its_cost_play_no_part_in_the_distance() -> None:
    student, teacher, labels = logits_of(VECTORS["inputs"]["small"])
    values, gradient = distance(made(4), student, teacher, labels)
    moved = student.clone()
    moved[torch.arange(3), labels] += 5
    torch.testing.assert_close(distance(made(4), moved, teacher, labels)[0], values)
    assert gradient[torch.arange(3), labels].count_nonzero() == 0
    for n, label in enumerate(labels.tolist()):  # as if there were no such class
        others = [k for k in range(4) if k != label]
        cost = torch.tensor(VECTORS["cost"], dtype=torch.float64)[others][:, others]
        wide = torch.zeros(4, 4, dtype=torch.float64)
        wide[:3, :3] = cost
        alone = [torch.cat([logits[[n]][:, others], torch.zeros(1, 1).double()], 1) for logits in (student, teacher)]
        found = distance(made(4, cost=wide.tolist()), *alone, torch.tensor([3]))[0]
        torch.testing.assert_close(found, values[[n]])


@pytest.mark.parametrize(("epochs", "begins"), [(240, 150), (10, 6), (2, 1), (1, 0)])
def test_the_distance_falls_to_nothing_in_the_last_share_of_the_epochs(epochs: int, begins: int) -> None:
    objective = built("wkd_l", course(4, epochs), **LOGITS)
    counted = [float(objective.falling(torch.tensor(float(epoch)))) for epoch in range(1, epochs + 1)]
    assert counted[:begins] == [1.0] * begins
    assert counted[-1] == pytest.approx(0, abs=1e-7)
    falling = [
        (1 + math.cos(math.pi * (epoch - begins) / (epochs - begins))) / 2 for epoch in range(begins, epochs + 1)
    ]
    assert counted[begins:] == pytest.approx(falling[1:], abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "least"), [([0, 0, 1, 1, 1, 3, 3], "class 2 has 0"), ([0, 0, 1, 1, 2], "class 2 has 1")]
)
def test_a_class_of_too_few_examples_is_an_error_that_names_it(labels: list[int], least: str) -> None:
    told = Output(torch.randn(len(labels), max(labels) + 1))
    with pytest.raises(ConfigError, match=f"relation between classes: {least} training examples"):
        class_features([(told, torch.tensor(labels))], max(labels) + 1, "logits")


def test_classes_of_which_all_is_alike_cost_something_and_no_nan() -> None:
    found = kernel_alignment([torch.ones(3, 2), torch.ones(3, 2), torch.arange(6.0).view(3, 2)])
    assert found.isfinite().all()
    assert found.diagonal().equal(torch.ones(3))


@pytest.mark.slow
def test_a_class_of_digits_that_is_split_at_random_costs_least_to_move_between_its_halves() -> None:
    """By maps, whose rows are pixels; by logits, whose rows are images in any order, the halves are strangers."""
    said, labels = digits_of_a_trained_network()
    smallest, nearest = {}, {}
    for relation in ("maps", "logits"):
        found = [split(said, labels, label, relation) for label in range(10)]
        smallest[relation], nearest[relation] = (sum(each) for each in zip(*found, strict=True))
    assert nearest["maps"] == 10
    assert smallest["maps"] >= 7  # of all pairs of classes
    assert nearest["logits"] <= 6


def split(said: Output, labels: Tensor, label: int, relation: str) -> tuple[bool, bool]:
    """Say whether the halves of a class are the nearest of all pairs of classes, and each other's nearest."""
    half = (torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) < 0.5) & (labels == label)
    features = class_features([(said, labels.masked_fill(half, 10))], 11, relation)
    alike = kernel_alignment(features).fill_diagonal_(-1)
    return bool(alike[10, label] == alike.max()), bool(alike[10].argmax() == label)


def digits_of_a_trained_network() -> tuple[Output, Tensor]:
    """Return what a network says of digits of 16x16 pixels, after six epochs; its last maps are 4x4."""
    digits = sklearn.datasets.load_digits()
    labels = torch.tensor(digits.target[:1200])
    images = nn.functional.interpolate(torch.tensor(digits.images[:1200, None]).float() / 16, scale_factor=2)
    torch.manual_seed(0)
    trained = models.build("resnet8", 10, 1)
    sgd = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
    for _ in range(6):
        for batch in torch.randperm(len(images)).split(64):
            sgd.zero_grad()
            nn.functional.cross_entropy(trained(images[batch]), labels[batch]).backward()
            sgd.step()
    with torch.no_grad():
        return trained.eval().outputs(images, ("maps",)), labels


def test_a_constant_cost_trains_other_bytes(tmp_path: Path) -> None:
    trained = []
    for cost in (VECTORS["cost"], [[float(i != j) for j in range(4)] for i in range(4)]):
        torch.manual_seed(1)
        teacher, student = (models.build(name, 4, 1) for name in ("resnet8x4", "resnet8"))
        planned = plan(objective=made(4, torch.float32, cost), needs=Needs())
        examples = dataclasses.replace(made_examples(), labels=torch.arange(70) % 4)
        state = State(tmp_path / str(len(trained)), HEADER)
        fit(student, examples, planned, LiveTeacher(teacher, CPU.device), CPU, state, History())
        trained.append(student.state_dict())
    assert not same(*trained)


# -- WKD-F ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", VECTORS["maps"], ids=lambda case: case["id"])
def test_the_distance_of_statistics_equals_the_vectors(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    student, teacher = (torch.tensor(case[who], dtype=dtype) for who in ("student", "teacher"))
    values = distance_of_statistics(student, teacher, case["mean"], case["grid"])
    assert values.mean().item() == pytest.approx(case["expected"], rel=tolerance)


def test_a_student_that_is_its_teacher_has_no_distance_where_nothing_is_adapted() -> None:
    objective = built("wkd_f", course(4))
    objective.adapter = nn.Identity()
    said = Output(random_logits(0, 3, 4, torch.float32), maps=(torch.rand(3, 6, 4, 4),))
    labels = torch.tensor([0, 1, 2])
    values = objective(Batch((objective.adapted(said),), (said,), labels, labels, torch.tensor(1.0)))
    assert values.equal(ce(said.logits, None, labels))


def test_the_gradient_reaches_the_student_s_first_layer_and_never_the_teacher() -> None:
    torch.manual_seed(0)
    student, teacher = network(), models.build("resnet8x4", 2, 1)
    said, shown = (one.outputs(torch.rand(4, 1, 8, 8), ("maps",)) for one in (student, teacher))
    of = dataclasses.replace(course(2), student_shapes=lambda: said, teacher_shapes=lambda: shown)
    objective, labels = built("wkd_f", of), torch.zeros(4, dtype=torch.long)
    taught = LiveTeacher(teacher, CPU.device, says={"maps"}).output(labels, labels, torch.rand(4, 1, 8, 8))
    values = objective(Batch((objective.adapted(said),), (taught,), labels, labels, torch.tensor(1.0)))
    (values - ce(said.logits, None, labels)).sum().backward()
    assert next(student.parameters()).grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("grid", [3, 4])
def test_a_grid_that_does_not_part_the_maps_is_refused(grid: int) -> None:
    with pytest.raises(ConfigError, match=f"grid: got {grid}; the student's last map of 4x4 does not part"):
        built("wkd_f", course(4), grid=grid)


# -- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_of_another_family_learns_and_an_ensemble_says_its_common_logits_and_has_no_maps(
    project: Path,
) -> None:
    prepare()
    teacher = "results/digits/quick/resnet8.ce.s0"
    for cell in (teacher, "results/digits/quick/resnet8.ce.s1", f"{teacher}+1"):
        train(cell)
    relate(f"{teacher}/wrn-10-1.wkd_l.s0")
    for taught in (f"{teacher}/wrn-10-1.wkd_l.s0", f"{teacher}/wrn-10-1.wkd_f.s0"):
        assert train(taught)["status"] == "ok"
        weights = safetensors.torch.load_file(f"{taught}/model.safetensors")
        assert weights.keys() == models.build("wrn-10-1", 10, 1).state_dict().keys()
    common = f"{teacher}+1/resnet8.wkd_l-relationlogits.s0"
    relate(common)
    assert train(common)["status"] == "ok"
    with pytest.raises(ConfigError, match=r"resnet8\.ce\.s0\+1 is an ensemble, which does not have the maps"):
        parse_cell(f"{teacher}+1/resnet8.wkd_l.s0")


def test_what_a_teacher_says_is_told_of_all_that_is_learnt_from(project: Path) -> None:
    prepare()
    train("results/digits/quick/resnet8.ce.s0")
    cell = parse_cell("results/digits/quick/resnet8.ce.s0/resnet8.wkd_l.s0")
    held = material.prepared(cell, recipe(cell))
    told = list(lesson.course_of(cell, study().protocol, held).told("maps"))
    labels = torch.cat([truth for _, truth in told])
    assert labels.equal(held.examples.labels[held.examples.train])
    right = torch.cat([said.logits.argmax(1) for said, _ in told]) == labels
    assert right.float().mean() > 0.3  # of three epochs
    assert told[0][0].maps[-1].shape[1:] == (64, 2, 2)
