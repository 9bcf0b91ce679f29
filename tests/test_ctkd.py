"""Curriculum temperature: the vectors, its schedule, and that theta goes up where the student goes down."""

from __future__ import annotations

import pytest
import torch
from made.course import built, course, random_logits, vectors
from made.fitting import CPU, NoState, made_examples, network, plan
from torch import Tensor

from kd import losses
from kd.losses.objective import Batch, Objective
from kd.models.output import Output
from kd.train.fit import History, fit

VECTORS = vectors("ctkd")


def loss(made: Objective, student: Tensor, teacher: Tensor, epoch: float) -> Tensor:
    labels = torch.zeros(len(student), dtype=torch.long)
    return made(Batch((Output(student),), (Output(teacher),), labels, labels, torch.tensor(epoch))).mean()


def test_value_and_reversed_gradient_of_theta_equal_the_vectors() -> None:
    student, teacher = (torch.tensor(VECTORS["inputs"][key], dtype=torch.float64) for key in ("student", "teacher"))
    for epoch, share in enumerate(VECTORS["reversal_by_epoch"]):
        made = built("ctkd", course(4, epochs=240), alpha=1).double()  # ten epochs of warm-up
        value = loss(made, student, teacher, float(epoch))
        assert value.item() == pytest.approx(VECTORS["expected"], rel=1e-10)
        (slope,) = torch.autograd.grad(value, [made.theta])
        assert slope.item() == pytest.approx(share * VECTORS["gradient_of_theta"], rel=1e-6, abs=1e-12)
        total, count = made.logged["temperature"].tolist()
        assert total / count == pytest.approx(VECTORS["tau"], rel=1e-10)


def test_the_student_s_gradient_is_that_of_kl_at_the_temperature() -> None:
    student, teacher = random_logits(0).requires_grad_(), random_logits(1)
    value = loss(built("ctkd", course(10)).double(), student, teacher, 5.0)
    labels = torch.zeros(6, dtype=torch.long)
    same = losses.LOSSES["kl"].function(student, teacher, labels, tau=VECTORS["tau"], alpha=0.9).mean()
    torch.testing.assert_close(value, same)
    torch.testing.assert_close(*(torch.autograd.grad(each, student)[0] for each in (value, same)))


@pytest.mark.parametrize(("epochs", "warmup", "rises"), [(240, 0.042, 10), (10, 0.042, 1), (100, 0.0, 0)])
def test_the_warm_up_is_a_share_of_the_epochs_and_ends_in_a_short_run_too(
    epochs: int, warmup: float, rises: int
) -> None:
    made = built("ctkd", course(4, epochs=epochs), warmup=warmup)
    found = [float(made.reversal(torch.tensor(float(epoch)))) for epoch in range(1, 13)]
    assert found == sorted(found)
    assert [value == pytest.approx(1) for value in found] == [epoch >= rises for epoch in range(1, 13)]


def test_the_temperature_moves_so_that_the_loss_grows() -> None:
    class Near:
        def output(self, index: Tensor, view: Tensor, inputs: Tensor) -> Output:
            return Output(torch.tensor([[4.0, -4.0]]).expand(len(index), 2) * (1 - 2 * (index % 2))[:, None])

    made, history = built("ctkd", course(2, epochs=4), alpha=1), History()
    student = network()
    fit(student, made_examples(), plan(4, objective=made, lr=0.2), Near(), CPU, NoState(), history)
    temperatures = [row["temperature"] for row in history.rows]
    assert temperatures[-1] != temperatures[0]
    inputs = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    taught = torch.tensor([[4.0, -4.0]]).expand(16, 2)
    made = built("ctkd", course(2, epochs=4), alpha=1)
    before = loss(made, inputs, taught, 4.0)
    (slope,) = torch.autograd.grad(before, [made.theta])
    with torch.no_grad():
        made.theta -= 1e-2 * slope / slope.abs()
    assert loss(made, inputs, taught, 4.0) > before
