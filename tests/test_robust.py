"""Losses that stand wrong labels: the vectors, their limits, and what ELR remembers of an example."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import prepare, train, values
from made.course import DTYPES, built, course, random_logits, vectors
from torch import Tensor

from kd.core.errors import ConfigError
from kd.losses import LOSSES
from kd.losses.objective import Batch
from kd.models.output import Output
from kd.study.config import validate
from kd.study.paths import parse_cell
from kd.study.values import loss_choice

VECTORS = vectors("noise_robust")


def each(kind: str) -> list:
    """Return the cases in both precisions; saturated ones in float64 alone, because float32 cannot tell 1 - p there."""
    pairs = [(case, precision) for case in VECTORS[kind] for precision in DTYPES]
    told = [(case, dtype) for case, dtype in pairs if dtype == "f64" or not case["id"].endswith("saturated")]
    return [pytest.param(case, dtype, id=f"{case['id']}-{dtype}") for case, dtype in told]


def valued(name: str, student: Tensor, labels: Tensor, **given: float) -> tuple[Tensor, Tensor]:
    """Return (per-example values [B], gradient of their sum [B, K]) of a loss of labels alone."""
    leaf, loss = student.detach().clone().requires_grad_(), LOSSES[name]
    values = loss.function(leaf, None, labels, **loss.resolve(given))
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


@pytest.mark.parametrize(("case", "precision"), each("cases"))
def test_value_and_gradient_equal_the_vectors(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    inputs = VECTORS["inputs"][case["inputs"]]
    student, labels = torch.tensor(inputs["student"], dtype=dtype), torch.tensor(inputs["labels"])
    values, gradient = valued(case["loss"], student, labels, **case["params"])
    assert values.dtype == dtype
    assert values.mean().item() == pytest.approx(case["expected"], rel=tolerance)
    expected = torch.tensor(case["gradient"], dtype=dtype)
    close = {"rtol": tolerance, "atol": max(1e-14, tolerance * expected.abs().max())}
    torch.testing.assert_close(gradient / len(labels), expected, **close)


STUDENT, LABELS = random_logits(0), torch.tensor([0, 3, 9, 2, 5, 5])


def test_gce_lies_between_ce_and_one_minus_the_probability_of_the_label() -> None:
    ce, slope = valued("ce", STUDENT, LABELS)
    right = (-ce).exp()
    torch.testing.assert_close(valued("gce", STUDENT, LABELS, q=1e-6)[0], ce, rtol=1e-4, atol=0)
    torch.testing.assert_close(valued("gce", STUDENT, LABELS, q=1)[0], 1 - right)
    values, gradient = valued("gce", STUDENT, LABELS, q=0.7)
    assert (values < ce).all()
    torch.testing.assert_close(gradient, right[:, None] ** 0.7 * slope)


def test_gce_is_finite_in_float32_where_the_label_has_no_probability_left() -> None:
    values, gradient = valued("gce", torch.tensor([[0.0, 200.0], [200.0, 0.0]]), torch.tensor([0, 0]))
    torch.testing.assert_close(values, torch.tensor([1 / 0.7, 0.0]))
    assert gradient.isfinite().all()


def test_symmetric_ce_is_its_terms_and_weighs_the_reverse_by_the_log_of_zero() -> None:
    ce, right = valued("ce", STUDENT, LABELS)[0], STUDENT.softmax(-1)[torch.arange(6), LABELS]
    both = valued("symmetric_ce", STUDENT, LABELS, ce=2, rce=3)[0]
    torch.testing.assert_close(both, 2 * ce + 3 * 4 * (1 - right))
    for log_zero in (-4.0, -9.2103):
        reverse = valued("symmetric_ce", STUDENT, LABELS, ce=0, rce=1, log_zero=log_zero)[0]
        torch.testing.assert_close(reverse, -log_zero * (1 - right))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("gce", {"q": 0}, r"gce\.q: got 0; allowed: a number from 1e-06 to 1"),
        ("gce", {"q": 1.5}, r"gce\.q: got 1\.5; allowed"),
        ("symmetric_ce", {"log_zero": 4}, r"symmetric_ce\.log_zero: got 4; allowed: a number from -100 to -1e-06"),
        ("symmetric_ce", {"rce": 0}, r"symmetric_ce\.rce: got 0; allowed"),
        ("elr", {"beta": 1}, r"elr\.beta: got 1; allowed: a number from 0 to 0\.999999"),
        ("elr", {"weight": -1}, r"elr\.weight: got -1; allowed"),
    ],
)
def test_a_hyperparameter_out_of_range_is_refused_with_what_is_allowed(name: str, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_choice(name, given)


def test_they_need_no_teacher_and_a_path_spells_them() -> None:
    for objective in ("gce-q0.5", "symmetric_ce-ce0.1-rce1-log_zero-9.2103", "elr-beta0.7-weight3"):
        path = f"results/cifar10+sym0.5/paper/wrn-16-2.{objective}.s0"
        assert parse_cell(path).path == path
    with pytest.raises(ConfigError, match=r"this recipe's path is .*/wrn-16-2\.elr\.s0"):
        parse_cell("results/cifar10/paper/wrn-28-4.ce.s0/wrn-16-2.elr.s0")


# -- ELR --------------------------------------------------------------------------------------------------------------


def visited(made: torch.nn.Module, student: Tensor, labels: Tensor, index: list[int]) -> tuple[Tensor, Tensor]:
    leaf = student.detach().clone().requires_grad_()
    values = made(Batch((Output(leaf),), (), labels, torch.tensor(index), torch.tensor(1.0)))
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


@pytest.mark.parametrize(("case", "precision"), each("elr"))
def test_elr_equals_the_vectors_over_two_visits_in_value_gradient_and_memory(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    classes = len(case["visits"][0]["student"][0])
    of = course(classes, labels=torch.arange(case["examples"]) % classes)
    made = built("elr", of, **case["params"]).to(dtype)
    for visit in case["visits"]:
        student, labels = torch.tensor(visit["student"], dtype=dtype), torch.tensor(visit["labels"])
        values, gradient = visited(made, student, labels, visit["index"])
        assert values.dtype == dtype
        assert values.mean().item() == pytest.approx(visit["expected"], rel=tolerance, abs=tolerance)  # near 0: a sum
        expected = torch.tensor(visit["gradient"], dtype=dtype)
        close = {"rtol": tolerance, "atol": tolerance * expected.abs().max()}
        torch.testing.assert_close(gradient / len(labels), expected, **close)
        torch.testing.assert_close(made.said, torch.tensor(visit["memory"], dtype=dtype), rtol=tolerance, atol=1e-12)


def test_elr_remembers_by_the_number_of_the_example_and_not_by_its_place_in_a_batch() -> None:
    made = built("elr", course(10), beta=0.9).double()
    visited(made, STUDENT, LABELS, [3, 17, 5, 0, 8, 11])
    there = made.said.abs().sum(-1) > 0
    assert there.nonzero().flatten().tolist() == [0, 3, 5, 8, 11, 17]
    torch.testing.assert_close(made.said[[3, 17, 5, 0, 8, 11]].sum(-1), torch.full((6,), 0.1, dtype=torch.float64))


def test_elr_pulls_towards_what_it_remembers_and_against_a_label_that_differs() -> None:
    made = built("elr", course(2), beta=0.5, weight=7.0).double()
    sure = torch.tensor([[4.0, -4.0]], dtype=torch.float64)  # the student says class 0, the label is 1
    ce = valued("ce", sure, torch.tensor([1]))[1]
    unsure = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
    for _ in range(5):
        visited(made, sure, torch.tensor([1]), [2])
    with_memory, without = visited(made, unsure, torch.tensor([1]), [2])[1], valued("ce", unsure, torch.tensor([1]))[1]
    assert without[0, 0] > 0 > with_memory[0, 0]  # CE lowers the logit of class 0, ELR raises it
    assert ce[0, 0] > 0


def test_elr_is_finite_in_float32_where_memory_and_student_are_both_sure() -> None:
    made = built("elr", course(2), beta=0.9)
    for _ in range(200):
        values, gradient = visited(made, torch.tensor([[60.0, -60.0]]), torch.tensor([0]), [1])
    assert values.isfinite().all()
    assert gradient.isfinite().all()
    assert values.item() == pytest.approx(7 * torch.tensor(2e-4).log().item(), rel=1e-3)


def test_elr_is_refused_where_several_processes_would_each_remember_a_part() -> None:
    chosen = {"student": "resnet8", "loss": ["ce", "elr"]}
    with pytest.raises(ConfigError, match=r"loss: elr compares or remembers examples, .*; set gpus_per_cell: 1"):
        validate(values(gpus_per_cell=2, experiments={"a": chosen}))


@pytest.mark.slow
def test_each_trains_a_cell_with_wrong_labels_and_elr_one_that_sees_a_part(project: Path) -> None:
    prepare("digits+sym0.4")
    for objective in ("gce", "symmetric_ce", "elr"):
        assert train(f"results/digits+sym0.4/quick/resnet8.{objective}.s0")["status"] == "ok"
    assert train("results/digits+sym0.4+frac0.5/quick/resnet8.elr.s0")["status"] == "ok"
