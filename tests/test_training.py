"""Recipes: AdamW, warm-up, means of weights, mixed and augmented images; each the same after any stop (promise 4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import study, values
from made.fitting import CPU, HEADER, NoState, StopAt, made_examples, network, plan, run, same
from torch import Tensor, nn

from kd import losses
from kd.core.errors import ConfigError, Terminated
from kd.data.mixing import Mixing
from kd.data.randaugment import RandAugment
from kd.data.views import Grid
from kd.losses.objective import Batch, Objective, Pure
from kd.machine.state import State
from kd.study.config import Protocol, checked
from kd.study.expansion import all_cells
from kd.study.paths import parse_cell
from kd.train import fit as fitting
from kd.train.adamw import AdamW
from kd.train.fit import History, evaluate, fit
from kd.train.plan import Plan

RECIPES = {
    "adamw": {"optimizer": "adamw", "lr": 0.01},
    "warmup": {"warmup": 0.5},
    "ema": {"ema": 0.2},
    "swa": {"swa": 0.7},
    "mixup": {"mixing": Mixing(0.4)},
    "cutmix": {"mixing": Mixing(0.0, 1.0)},
    "mixup and cutmix": {"mixing": Mixing(0.4, 1.0)},
    "randaugment": {"grid": RandAugment(Grid(1, False), 9)},
    "adamw and ema": {"optimizer": "adamw", "lr": 0.01, "ema": 0.2},
}


def straight(kind: str, folder: Path) -> tuple[dict, list]:
    return run(folder, plan(**RECIPES[kind]))


@pytest.mark.parametrize("kind", RECIPES)
def test_promise_4_every_recipe_that_is_stopped_and_resumed_ends_with_the_same_bytes(tmp_path: Path, kind: str) -> None:
    weights, rows = straight(kind, tmp_path / "straight")
    for step in (3, 2, 5):  # within an epoch, at its end, within the next and the last
        with pytest.raises(Terminated):
            run(tmp_path / "stopped", plan(**RECIPES[kind], objective=StopAt(step)))
    again = run(tmp_path / "stopped", plan(**RECIPES[kind]))
    assert same(again[0], weights)
    assert again[1] == rows
    assert not same(weights, run(tmp_path / "plain", plan())[0])


@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.parametrize("number", [2, 3, 4])  # the last is of all that was learnt from, after the last epoch
def test_promise_4_a_mean_of_weights_survives_a_stop_while_it_is_evaluated(
    tmp_path: Path, kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, rows = straight(kind, tmp_path / "straight")
    own, left = evaluate, [number]

    def stopped(forward: Callable, examples: object, part: str, place: object, arrived: list, *rest: object) -> object:
        left[0] -= 1
        if not left[0]:
            arrived.append(15)
        return own(forward, examples, part, place, arrived, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "evaluate", stopped)
        with pytest.raises(Terminated):
            straight(kind, tmp_path / "stopped")
    again = straight(kind, tmp_path / "stopped")
    assert same(again[0], weights)
    assert again[1] == rows


# -- the optimiser ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.05, 0.0])
@pytest.mark.parametrize("decay_1d", [True, False])
def test_adamw_takes_the_steps_of_torch_s_own(decay: float, decay_1d: bool) -> None:
    ours, theirs = network(), network()
    made = plan(optimizer="adamw", betas=(0.8, 0.95), weight_decay=decay, decay_1d=decay_1d)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in theirs.parameters() if p.ndim <= 1], "weight_decay": decay if decay_1d else 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.95))
    optimiser = AdamW(ours.parameters(), made)
    for step in range(5):
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            generator = torch.Generator().manual_seed(step)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            other.grad = parameter.grad.clone()
        for group in reference.param_groups:
            group["lr"] = 0.1 / (step + 1)
        reference.step()
        optimiser.step(0.1 / (step + 1) if step % 2 else torch.tensor(0.1 / (step + 1)))
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
            assert one.grad is None


def test_learning_rates_rise_over_a_share_of_the_epochs_whatever_their_number() -> None:
    long, short = plan(200, warmup=0.05, drops=(100,), lr=0.1), plan(20, warmup=0.05, drops=(10,), lr=0.1)
    assert [long.lr_at(epoch) for epoch in (0, 5, 9, 10, 99)] == pytest.approx([0.1 / 11, 0.6 / 11, 1 / 11, 0.1, 0.1])
    assert [short.lr_at(epoch) for epoch in (0, 1, 9, 10)] == pytest.approx([0.05, 0.1, 0.1, 0.01])
    cosine = plan(100, warmup=0.1, schedule="cosine", lr=0.1)
    assert cosine.lr_at(50) == plan(100, schedule="cosine", lr=0.1).lr_at(50)
    assert cosine.lr_at(0) == pytest.approx(0.1 / 11)


# -- means of weights -------------------------------------------------------------------------------------------------


class Watching(Objective):
    """Cross-entropy; it keeps the weights of a network as they are before each step."""

    def __init__(self, watched: nn.Module) -> None:
        super().__init__()
        self.__dict__["watched"], self.seen = watched, []

    def forward(self, batch: Batch) -> Tensor:
        self.seen.append([parameter.detach().clone() for parameter in self.watched.parameters()])
        return losses.LOSSES["ce"].function(batch.student[0].logits, None, batch.labels)


def averaged(folder: Path, **recipe: float) -> tuple[nn.Module, list[list[Tensor]], History, Plan]:
    """Return a trained network, the weights after each step, and what the run has to show."""
    student, history = network(), History()
    made = plan(objective=(watching := Watching(student)), **recipe)
    fit(student, made_examples(), made, None, CPU, State(folder, HEADER), history)
    last = State(folder, HEADER).load()["network"]
    names = [name for name, _ in student.named_parameters()]
    return student, [*watching.seen[1:], [last[name] for name in names]], history, made


def close(student: nn.Module, means: list[Tensor]) -> None:
    for parameter, mean in zip(student.parameters(), means, strict=True):
        torch.testing.assert_close(parameter.detach(), mean.float(), rtol=1e-4, atol=1e-6)


def test_swa_publishes_the_mean_of_the_weights_after_each_of_the_last_epochs(tmp_path: Path) -> None:
    student, seen, _, _ = averaged(tmp_path, swa=0.7)  # two epochs of three, of five steps each
    close(student, [(one + other) / 2 for one, other in zip(seen[9], seen[14], strict=True)])


def test_ema_publishes_a_mean_over_steps_that_reaches_back_its_share_and_has_no_bias(tmp_path: Path) -> None:
    student, seen, _, _ = averaged(tmp_path, ema=0.2)
    shares = torch.exp(-torch.arange(14.0, -1, -1).double() / 3)  # 0.2 of 15 steps
    shares /= shares.sum()
    close(student, [sum(s * w.double() for s, w in zip(shares, each, strict=True)) for each in zip(*seen, strict=True)])


@pytest.mark.parametrize("recipe", [{"swa": 0.7}, {"ema": 0.2}])
def test_statistics_of_batch_norm_and_the_headline_are_those_of_the_mean_weights(tmp_path: Path, recipe: dict) -> None:
    student, _, history, made = averaged(tmp_path, **recipe)
    examples = made_examples()
    row = evaluate(student, examples, "test", CPU)
    assert {key: history.rows[-1][key] for key in row} == row
    assert history.train_top1 == evaluate(student, examples, "train", CPU)["train_top1"]
    norm, inputs = next(each for each in student.modules() if isinstance(each, nn.BatchNorm2d)), []
    hook = norm.register_forward_hook(lambda module, given, out: inputs.append(given[0].detach()))
    with torch.no_grad():
        for images in examples.plain("train", examples.train[:64], made.batch):
            student.eval()(images)
    hook.remove()
    means = torch.stack([each.mean((0, 2, 3)) for each in inputs]).mean(0)
    variances = torch.stack([each.var((0, 2, 3)) for each in inputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variances, rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1


def test_before_its_last_epochs_and_where_it_stops_early_swa_changes_nothing(tmp_path: Path) -> None:
    _, rows = run(tmp_path / "plain", plan())
    _, averaged_rows = run(tmp_path / "swa", plan(swa=0.5))  # the last two of three
    assert averaged_rows[0] == rows[0]
    assert averaged_rows[2]["test_loss"] != rows[2]["test_loss"]
    assert [row["train_loss"] for row in averaged_rows] == [row["train_loss"] for row in rows]
    stopped = {"epochs": 2, "schedule_epochs": 40}
    assert same(run(tmp_path / "a", plan(**stopped))[0], run(tmp_path / "b", plan(**stopped, swa=0.5))[0])


def test_a_mean_of_weights_changes_neither_training_nor_what_the_objective_holds() -> None:
    class Held(Pure):
        def __init__(self) -> None:
            super().__init__(losses.LOSSES["ce"].function)
            self.register_buffer("steps", torch.zeros(()))
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, batch: Batch) -> Tensor:
            self.steps += 1
            return super().forward(batch) * self.scale.square()

    made, history = Held(), History()
    fit(network(), made_examples(), plan(objective=made, ema=0.2), None, CPU, NoState(), history)
    other, plain = Held(), History()
    fit(network(), made_examples(), plan(objective=other), None, CPU, NoState(), plain)
    assert made.steps == other.steps == 15
    assert [row["train_loss"] for row in history.rows] == [row["train_loss"] for row in plain.rows]
    assert made.scale != other.scale  # what is published beside it, and measured, is the mean


# -- studies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": "adamw"}, r"lr: got 0\.1, which is for sgd and too much for adamw; set lr: 0\.001"),
        ({"ema": 0.1, "swa": 0.1}, "swa: ema is given too"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"betas": [0.9]}, "betas"),
        ({"warmup": 1}, "warmup"),
        ({"randaugment": 31}, "randaugment"),
        ({"mixup": -1}, "mixup"),
    ],
)
def test_what_no_network_can_be_trained_by_is_refused_by_its_key(given: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        checked(Protocol, {"name": "p", **given})


def test_a_stage_has_its_own_optimizer_warm_up_and_mean_of_weights() -> None:
    own = {"optimizer": "adamw", "lr": 0.001, "warmup": [0, 0.05], "ema": 0.01}
    chosen = {"teacher": "resnet14", "student": "resnet8", "loss": "mse", "student_training": own}
    made = study(**values(seeds=[0], experiments={"a": chosen}))
    found = [cell for cell in all_cells(made) if cell.teacher]
    assert [str(cell.stage) for cell in found] == [
        "resnet8.mse.s0-lr0.001-optimizeradamw-ema0.01",
        "resnet8.mse.s0-lr0.001-optimizeradamw-warmup0.05-ema0.01",
    ]
    assert all(parse_cell(cell.path) == cell for cell in found)
    protocol = found[1].protocol_of(made.protocol)
    assert (protocol.optimizer, protocol.lr, protocol.warmup, protocol.ema) == ("adamw", 0.001, 0.05, 0.01)
    assert found[0].protocol_of(made.protocol).copies == 3


def test_a_recipe_without_the_new_keys_is_what_they_were_introduced_with() -> None:
    first = Protocol.since()
    new = ("optimizer", "betas", "warmup", "ema", "swa", "randaugment", "mixup", "cutmix")
    assert {key: first[key] for key in new} == {
        "optimizer": "sgd",
        "betas": [0.9, 0.999],
        "warmup": 0.0,
        "ema": 0.0,
        "swa": 0.0,
        "randaugment": None,
        "mixup": 0.0,
        "cutmix": 0.0,
    }
