"""Mixup and CutMix: pure functions of (seed, epoch, example), labels by their shares, and a teacher that sees it."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import study, values
from made.fitting import CPU, NoState, made_examples, network, plan
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from kd import losses
from kd.core.errors import ConfigError
from kd.data import views
from kd.data.mixing import Mixing
from kd.data.randaugment import RandAugment
from kd.models.output import Output
from kd.study.config import validate
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.train import lesson, material
from kd.train.fit import History, fit

MANY = torch.arange(20_000)
BOTH = Mixing(0.4, 1.0)


def masks(mixing: Mixing, count: int = 20_000, size: int = 16) -> Tensor:
    return mixing.mask(mixing.draw(0, 0, MANY[:count]), size, size)


@pytest.mark.parametrize("parameter", [0.2, 1.0, 8.0])
def test_mixup_draws_its_share_from_a_symmetric_beta_distribution(parameter: float) -> None:
    share = masks(Mixing(parameter), size=1).flatten().double()
    assert share.mean().item() == pytest.approx(0.5, abs=0.01)
    assert share.var(correction=0).item() == pytest.approx(1 / (4 * (2 * parameter + 1)), rel=0.05)
    fourth = 3 / (16 * (2 * parameter + 1) * (2 * parameter + 3))
    assert (share - 0.5).pow(4).mean().item() == pytest.approx(fourth, rel=0.1)


def test_cutmix_pastes_a_box_whose_area_is_the_share_unless_the_border_cuts_it() -> None:
    mask = masks(Mixing(0.0, 1.0), 4000, 64)[:, 0]
    pasted = mask == 0
    rows, columns = pasted.any(2).sum(1), pasted.any(1).sum(1)
    assert pasted.sum((1, 2)).equal(rows * columns)
    assert ((mask == 0) | (mask == 1)).all()
    within = ~(pasted[:, 0].any(1) | pasted[:, -1].any(1) | pasted[:, :, 0].any(1) | pasted[:, :, -1].any(1))
    assert ((rows - columns).abs() <= 1)[within].all()
    assert (rows == 64).any()
    assert pasted.any(0).all()


def test_where_both_are_given_each_mixes_half_of_the_images() -> None:
    mask = masks(BOTH).flatten(1)
    boxes = ((mask == 0) | (mask == 1)).all(1)
    assert 0.48 < boxes.double().mean() < 0.53
    assert (mask.amin(1) == mask.amax(1))[~boxes].all()


def test_how_images_are_mixed_depends_on_the_example_and_not_on_who_else_is_there() -> None:
    some = MANY[3::7]
    assert BOTH.draw(1, 2, MANY)[some].equal(BOTH.draw(1, 2, some))
    assert len({tuple(BOTH.draw(seed, epoch, some).tolist()) for seed in (0, 1) for epoch in (0, 1)}) == 4
    partners = [BOTH.partners(0, epoch, some) for epoch in (0, 1)]
    assert all(each.sort().values.equal(some) for each in partners)
    assert not partners[0].equal(partners[1])
    assert not partners[0].equal(views.order(0, 0, some))


def test_a_recorded_mask_is_replayed_with_other_words() -> None:
    one, other = BOTH.draw(0, 0, MANY[:50]), BOTH.draw(0, 1, MANY[:50])
    graph = make_fx(lambda word: BOTH.mask(word, 8, 8))(one)
    assert graph(other).equal(BOTH.mask(other, 8, 8))


class Mirror:
    """A teacher that says what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def output(self, index: Tensor, view: Tensor, inputs: Tensor) -> Output:
        self.seen.append(inputs)
        return Output(inputs.flatten(1)[:, :2])


def test_a_step_is_what_one_computes_by_hand_and_the_teacher_sees_the_mixed_images() -> None:
    examples, mirror, history = made_examples(), Mirror(), History()
    made = plan(epochs=1, batch=70, mixing=Mixing(0.4))  # one step an epoch: it saw the network as it was drawn
    fit(network(), examples, made, mirror, CPU, NoState(), history)
    order = views.order(0, 0, examples.train)
    partners = made.mixing.partners(0, 0, examples.train)
    one = examples.inputs(order, made.grid.draw(0, 0, order), made.grid)
    other = examples.inputs(partners, made.grid.draw(0, 0, partners, 1), made.grid)
    share = made.mixing.mask(made.mixing.draw(0, 0, order), 8, 8)[:, 0, 0, 0]
    weight = share[:, None, None, None]
    torch.testing.assert_close(mirror.seen[0], weight * one + (1 - weight) * other)
    ce = losses.LOSSES["ce"].function
    with torch.no_grad():
        said = network().train()(mirror.seen[0])
    lost = share * ce(said, None, examples.labels[order]) + (1 - share) * ce(said, None, examples.labels[partners])
    assert history.rows[0]["train_loss"] == pytest.approx(lost.mean().item(), rel=1e-5)
    larger = torch.where(share >= 0.5, order, partners)
    right = (said.argmax(1) == examples.labels[larger]).double().mean().item()
    assert history.rows[0]["train_top1_running"] == pytest.approx(100 * right)


# -- studies ----------------------------------------------------------------------------------------------------------

CHOSEN = {"teacher": "resnet14", "student": "resnet8", "loss": "mse"}


def protocol(**given: object) -> dict:
    return {**values()["protocol"], **given}


@pytest.mark.parametrize("own", [{"mixup": 0.2}, {"cutmix": 1}, {"randaugment": 9}])
def test_students_of_views_without_end_run_their_teacher_and_others_read_the_bank(own: dict) -> None:
    key, value = next(iter(own.items()))
    made = study(experiments={"a": {**CHOSEN, "student_training": {key: value}}, "b": CHOSEN})
    judge = Judge.of_study(made)
    (bank,) = [one for one in judge.everything if one.kind == "bank"]
    readers = {cell.stage.own for cell in judge.readers(judge._cell(bank))}
    assert readers == {()}
    spelled = f"results/digits/quick/resnet14.ce.s0/resnet8.mse.s0-{key}{value}"
    assert parse_cell(spelled) in judge.cells
    judge = Judge.of_study(study(protocol=protocol(**own), experiments={"a": CHOSEN}))
    assert [one for one in judge.everything if one.kind == "bank"] == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"protocol": protocol(mixup=0.2)}, r"protocol\.mixup: mlkd compares or remembers examples"),
        ({"protocol": protocol(cutmix=1)}, r"protocol\.cutmix: mlkd compares or remembers examples"),
        ({"protocol": protocol(randaugment=9)}, r"protocol\.randaugment: mlkd compares a weak view with a strong one"),
        ({"own": {"mixup": 0.2}}, r"experiments\.a\.student_training: mixup: mlkd compares"),
        ({"loss": "elr", "teacher": None, "protocol": protocol(mixup=0.2)}, r"protocol\.mixup: elr .* remembers"),
    ],
)
def test_what_cannot_be_mixed_or_augmented_is_refused_by_its_key(given: dict, said: str) -> None:
    chosen = {**CHOSEN, "loss": given.get("loss", "mlkd"), "student_training": given.get("own", {})}
    chosen |= {"teacher": None} if "teacher" in given else {}
    chosen = {key: value for key, value in chosen.items() if value}
    with pytest.raises(ConfigError) as refused:
        validate(values(experiments={"a": chosen}, **({"protocol": given["protocol"]} if "protocol" in given else {})))
    assert re.search(said, str(refused.value)), refused.value


def test_the_plan_of_a_cell_has_what_its_recipe_says(project: object) -> None:
    from conftest import prepare, recipe

    prepare()
    own = "randaugment9-mixup0.2-cutmix1"
    cell = parse_cell(f"results/digits/quick/resnet14.ce.s0/resnet8.mse.s0-{own}")
    have = material.prepared(cell, recipe(cell))
    made = lesson.plan_of(cell, cell.protocol_of(study().protocol), have)
    assert made.grid == RandAugment(have.grid, 9)
    assert made.mixing == Mixing(0.2, 1.0)
    assert not cell.reads_banks(study().protocol)
    cell = parse_cell(f"results/digits/quick/resnet14.ce.s0/resnet8.mlkd.s0-{own}")
    with pytest.raises(ConfigError, match=r"protocol\.mixup: mlkd"):
        lesson.plan_of(cell, cell.protocol_of(study().protocol), have)
