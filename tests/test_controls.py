"""Controls: KL to what a teacher knows of classes, and to its answer for another image of the same class."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import prepare, study, train
from made.course import built, course, evaluate, random_logits, valued
from made.fitting import CPU, NoState, made_examples, network, plan
from torch import Tensor

from kd.core.errors import ConfigError
from kd.data.classmates import classmates
from kd.losses import LOSSES
from kd.losses.controls import class_means
from kd.models.output import Output
from kd.train.fit import History, fit

CLASSES = 5
LABELS = torch.arange(40) % CLASSES
TAUS = [0.5, 1.0, 4.0, 20.0, math.inf]


def told(logits: Tensor) -> list[tuple[Output, Tensor]]:
    return [(Output(logits[part]), LABELS[part]) for part in (slice(0, 13), slice(13, 40))]


# -- another image of the class ---------------------------------------------------------------------------------------


def test_each_example_has_another_of_its_class_and_each_is_had_once() -> None:
    labels = torch.randint(0, 7, (500,), generator=torch.Generator().manual_seed(0))
    some = torch.arange(500)[3::2]
    mates = classmates(0, 0, some, labels)
    assert labels[mates].equal(labels[some])
    assert (mates != some).all()
    assert mates.sort().values.equal(some)


def test_the_other_example_follows_from_seed_epoch_and_example_alone() -> None:
    labels = torch.arange(300) % 3
    some = torch.arange(300)
    shuffled = some[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    assert classmates(2, 5, some, labels)[shuffled].equal(classmates(2, 5, shuffled, labels))
    draws = {tuple(classmates(seed, epoch, some, labels).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(draws) == 4


def test_over_epochs_every_other_example_of_the_class_answers_alike_often() -> None:
    labels, some = torch.zeros(6, dtype=torch.long), torch.arange(6)
    counts = sum(classmates(0, epoch, some, labels)[0] == torch.arange(6) for epoch in range(3000))
    assert counts[0] == 0
    assert (counts[1:] - 600).abs().max() < 100  # 4.5 standard deviations


def test_an_example_that_has_its_class_alone_has_itself() -> None:
    assert classmates(0, 0, torch.tensor([4, 2, 0]), torch.tensor([1, 0, 0, 0, 1])).tolist() == [0, 2, 4]


class Mirror:
    """A teacher that says which example and view it was asked about, and what it was shown."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def output(self, index: Tensor, view: Tensor, inputs: Tensor) -> Output:
        self.asked.append((index, view, inputs))
        return Output(torch.stack([index, view], 1).float())


def test_the_teacher_is_asked_about_the_other_image_in_that_images_own_view() -> None:
    examples, teacher, seen = made_examples(), Mirror(), []

    def watched(student: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
        seen.append((student.shape, taught, labels))
        return student.square().mean(-1)

    made = plan(epochs=1, objective=watched, needs=LOSSES["kl_other"].needs)
    fit(network(), examples, made, teacher, CPU, NoState(), History())
    mates, views, inputs = (torch.cat(parts) for parts in zip(*teacher.asked, strict=True))
    order = made.shown(0, examples.train, examples.labels)[0][0]
    assert mates.equal(classmates(0, 0, order, examples.labels))
    assert views.equal(made.grid.draw(0, 0, mates))  # a bank of plain KL has them
    assert inputs.equal(examples.inputs(mates, views, made.grid))
    assert torch.cat([labels for _, _, labels in seen]).equal(examples.labels[order])
    assert torch.cat([taught for _, taught, _ in seen])[:, 0].long().equal(mates)
    assert all(shape[0] == len(labels) for shape, _, labels in seen)


# -- class means ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", TAUS)
def test_class_means_are_the_mean_of_the_teachers_probabilities(tau: float) -> None:
    logits = random_logits(0, 40, CLASSES)
    found = class_means(told(logits), CLASSES, tau)
    for label in range(CLASSES):
        own = logits[label == LABELS]
        if math.isinf(tau):
            torch.testing.assert_close(found[label], own.mean(0), rtol=1e-12, atol=1e-12)
        else:
            expected = (own / tau).softmax(-1).mean(0)
            torch.testing.assert_close((found[label] / tau).softmax(-1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tau", TAUS)
def test_class_means_are_kl_where_the_teacher_says_one_thing_of_a_class(tau: float) -> None:
    each, student, labels = (
        random_logits(1, CLASSES, CLASSES),
        random_logits(2, CLASSES, CLASSES),
        torch.arange(CLASSES),
    )
    made = built("kl_class", course(CLASSES, told=Output(each[LABELS]), labels=LABELS), tau=tau, alpha=0.7)
    values, gradient = valued(made, student, torch.full_like(student, math.nan), labels)
    expected, expected_gradient = evaluate("kl", student, each, labels, tau=tau, alpha=0.7)
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tau", TAUS)
def test_the_gradient_of_class_means_is_the_mean_of_those_of_every_image(
    tau: float,
) -> None:
    logits, student = random_logits(3, 40, CLASSES), random_logits(4, 1, CLASSES)
    made = built("kl_class", course(CLASSES, told=Output(logits), labels=LABELS), tau=tau)
    label = torch.tensor([2])
    found = valued(made, student, student, label)[1]
    each = [evaluate("kl_other", student, one[None], label, tau=tau)[1] for one in logits[LABELS == 2]]
    torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=1e-9, atol=1e-11)


def test_a_class_that_the_teacher_rules_out_or_that_nobody_has_makes_nothing_infinite() -> None:
    logits = torch.zeros(40, CLASSES + 1)
    logits[:, 0], logits[:, -1] = 1e4, -1e4
    made = built("kl_class", course(CLASSES + 1, told=Output(logits), labels=LABELS), tau=1)
    values, gradient = valued(made, torch.randn(CLASSES, CLASSES + 1), torch.empty(0), torch.arange(CLASSES))
    assert values.isfinite().all()
    assert gradient.isfinite().all()


# -- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_controls_read_the_bank_of_kl_and_end_as_with_a_teacher_that_runs(project) -> None:
    """Rows of a bank are exact to float16."""
    rows = {}
    for place in ("bank", "online"):
        made = study(protocol={"name": place, "epochs": 1, "batch": 64, "precision": "fp32", "teacher": place})
        prepare(made=made)
        teacher = f"results/digits/{place}/resnet14.ce.s0"
        train(teacher, made)
        for name in ("kl", "kl_other", "kl_class"):
            manifest = train(f"{teacher}/resnet8.{name}-tau3.s0", made)
            assert manifest["status"] == "ok"
            rows[place, name] = manifest["last"]["train_loss"]
    for name in ("kl", "kl_other", "kl_class"):
        assert rows["bank", name] == pytest.approx(rows["online", name], rel=1e-2)
    assert len({rows["bank", name] for name in ("kl", "kl_other", "kl_class")}) == 3


def test_mixed_images_have_no_one_class_that_another_could_be_of() -> None:
    arm = {"teacher": "resnet14", "student": "resnet8", "loss": {"kl_other": {"tau": 3}}}
    with pytest.raises(ConfigError, match="mixup: kl_other compares or remembers examples"):
        study(protocol={"name": "p", "mixup": 0.2}, experiments={"a": arm})


def test_class_means_need_no_more_of_a_teacher_than_one_pass() -> None:
    asked, of = [], course(CLASSES)
    built("kl_class", dataclasses.replace(of, told=lambda more: asked.append(more) or of.told(more)), tau=3)
    assert asked == ["logits"]
