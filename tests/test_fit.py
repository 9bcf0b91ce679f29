"""The training loop: promise 4, the same answer after any stop, and promise 5, no silent number."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made.fitting import CPU, HEADER, NoState, StopAt, made_examples, network, plan, run, same
from torch import Tensor, nn

from kd import losses, models
from kd.core.errors import Diverged, StorageError, Terminated
from kd.data.examples import Examples
from kd.machine.state import State
from kd.models.output import Output
from kd.train.device import Place
from kd.train.fit import History, Sgd, evaluate, fit


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list]:
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("undisturbed"), plan())


def test_a_network_learns(undisturbed: tuple) -> None:
    _, rows = undisturbed
    assert rows[-1]["test_top1"] > 90
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_the_same_seed_gives_the_same_bytes(undisturbed: tuple, tmp_path: Path) -> None:
    weights, rows = run(tmp_path, plan())
    assert same(weights, undisturbed[0])
    assert rows == undisturbed[1]
    assert not same(run(tmp_path / "other", plan(seed=1))[0], weights)


@pytest.mark.parametrize("step", range(1, 16))  # 5 steps an epoch, the last of 6 examples; 3 epochs
def test_promise_4_stopped_at_every_step_and_resumed_the_bytes_are_equal(
    undisturbed: tuple, tmp_path: Path, step: int
) -> None:
    """Faults 16 to 19: weights, rows, learning rates, each epoch once."""
    with pytest.raises(Terminated) as stopped:
        run(tmp_path, plan(objective=StopAt(step)))
    assert stopped.value.exit_code == 143
    weights, rows = run(tmp_path, plan())
    assert same(weights, undisturbed[0])
    assert rows == undisturbed[1]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict, list]:
    """The fast path of a CPU with a C++ compiler: bf16, compiled."""
    torch.set_num_threads(1)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
    place = Place(torch.device("cpu"), "bf16", compiles=True)
    return place, *run(tmp_path_factory.mktemp("undisturbed"), plan(), place=place)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_promise_4_a_stopped_run_compiled_in_bf16_ends_with_the_same_bytes(compiled: tuple, tmp_path: Path) -> None:
    place, weights, rows = compiled
    assert rows[-1]["test_top1"] > 90
    for _ in range(3):  # within an epoch, after its last batch, and in the next
        torch.compiler.reset()  # as a new process would, the second one with a warm cache
        with pytest.raises(Terminated):
            run(tmp_path, plan(objective=StopAt(4)), place=place)
    torch.compiler.reset()
    again, same_rows = run(tmp_path, plan(), place=place)
    assert same(again, weights)
    assert same_rows == rows


def test_stopped_again_and_again_the_bytes_are_equal(undisturbed: tuple, tmp_path: Path) -> None:
    for _ in range(7):
        with pytest.raises(Terminated):
            run(tmp_path, plan(objective=StopAt(2)))
    weights, rows = run(tmp_path, plan())
    assert same(weights, undisturbed[0])
    assert rows == undisturbed[1]


def mislabelled_examples() -> Examples:
    made = made_examples()
    wrong = made.labels.clone()
    wrong[::4] = 1 - wrong[::4]
    return dataclasses.replace(made, labels=wrong, clean=made.labels)


def test_what_is_memorised_of_wrong_labels_is_what_one_counts_by_hand(tmp_path: Path) -> None:
    made, once = mislabelled_examples(), plan(epochs=1, batch=70)
    _, (row,) = run(tmp_path, once, made)
    shown = once.grid.render(made.images[made.train], once.grid.draw(once.seed, 0, made.train))
    with torch.no_grad():  # one step an epoch: it saw the network as it was drawn
        answer = network().train()(made.normalise(shown)).argmax(1)
    wrong = made.labels != made.clean
    assert wrong.sum() == 18
    assert row["train_memorised"] == 100 * (answer == made.labels)[wrong].double().mean()
    assert row["train_recovered"] == 100 * (answer == made.clean)[wrong].double().mean()
    assert row["train_top1_running"] == pytest.approx(100 * (answer == made.labels).double().mean().item())


def test_train_accuracy_is_of_the_network_after_the_last_epoch_and_the_same_after_a_stop(tmp_path: Path) -> None:
    made, trained, history = mislabelled_examples(), network(), History()
    fit(trained, made, plan(), None, CPU, State(tmp_path, HEADER), history)
    with torch.no_grad():
        answer = trained.eval()(torch.cat([*made.plain("train", made.train, 64)])).argmax(1)
    assert history.train_top1 == 100 * (answer == made.labels[made.train]).double().mean()
    assert history.train_top1 != history.rows[-1]["train_top1_running"]
    again = History()  # from the state after the last epoch: what a stop while it is evaluated leaves
    fit(network(), made, plan(), None, CPU, State(tmp_path, HEADER), again)
    assert vars(again) == vars(history)


def test_wrong_labels_change_what_is_counted_and_stopping_changes_nothing(tmp_path: Path) -> None:
    weights, rows = run(tmp_path / "undisturbed", plan(), mislabelled_examples())
    assert rows[0]["train_memorised"] + rows[0]["train_recovered"] == pytest.approx(100)  # two classes
    for _ in range(3):
        with pytest.raises(Terminated):
            run(tmp_path / "stopped", plan(objective=StopAt(4)), mislabelled_examples())
    again, same_rows = run(tmp_path / "stopped", plan(), mislabelled_examples())
    assert same(again, weights)
    assert same_rows == rows
    # the true labels are only looked at
    unseen = dataclasses.replace(mislabelled_examples(), clean=None)
    without, fewer = run(tmp_path / "unseen", plan(), unseen)
    assert same(without, weights)
    assert fewer == [{key: row[key] for key in fewer[0]} for row in rows]


def test_control_c_saves_and_exits_130_and_signals_are_as_before_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as stopped:
        run(tmp_path, plan(objective=StopAt(3, signal.SIGINT)))
    assert stopped.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "last.pt").exists()


def test_a_damaged_state_falls_back_to_the_generation_before_it(undisturbed: tuple, tmp_path: Path, caplog) -> None:
    """Fault 15."""
    for step in (4, 5):
        with pytest.raises(Terminated):
            run(tmp_path, plan(objective=StopAt(step)))
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[:-100])
    weights, rows = run(tmp_path, plan())
    assert "the generation before it" in caplog.text
    assert same(weights, undisturbed[0])
    assert rows == undisturbed[1]


def test_the_state_of_another_cell_is_refused_with_both_names(tmp_path: Path) -> None:
    """Fault 14."""
    with pytest.raises(Terminated):
        run(tmp_path, plan(objective=StopAt(4)), header={"cell": "another", "fingerprint": "x"})
    with pytest.raises(StorageError, match=r"another.*but this run is.*--fresh"):
        run(tmp_path, plan())


def test_promise_5_a_loss_that_is_not_finite_stops_before_a_save_and_names_steps(tmp_path: Path) -> None:
    """Fault 20."""

    def nan_at(step: int) -> Callable:
        counter = iter(range(1, 1000))
        ce = losses.LOSSES["ce"].function
        return lambda s, t, y: ce(s, t, y) * (math.nan if next(counter) == step else 1.0)

    with pytest.raises(Diverged, match=r"epoch 2, steps 1 to 5"):
        run(tmp_path, plan(objective=nan_at(8)))
    saved = State(tmp_path, HEADER).load()
    assert saved is None or all(tensor.isfinite().all() for tensor in saved["network"].values())


def test_a_signal_after_a_nan_saves_nothing(tmp_path: Path) -> None:
    stop = StopAt(3)
    with pytest.raises(Diverged):
        run(tmp_path, plan(objective=lambda s, t, y: stop(s, t, y) * math.nan))
    assert not (tmp_path / "last.pt").exists()


def test_every_example_is_seen_once_an_epoch_last_partial_batch_included() -> None:
    seen = []

    class Watching:
        def output(self, index: Tensor, view: Tensor, inputs: Tensor) -> Output:
            seen.append(index.tolist())
            return Output(torch.zeros(len(index), 2))

    fit(network(), made_examples(), plan(), Watching(), CPU, NoState(), History())
    assert len(seen) == 15
    for epoch in range(3):
        batches = seen[5 * epoch : 5 * epoch + 5]
        assert [len(batch) for batch in batches] == [16, 16, 16, 16, 6]
        assert sorted(itertools.chain(*batches)) == list(range(70))


def test_the_headline_is_in_every_row_and_held_out_examples_are_not_trained_on() -> None:
    history = History()
    fit(network(), made_examples(heldout=10), plan(), None, CPU, NoState(), history)
    columns = [
        "epoch",
        "lr",
        "train_loss",
        "train_top1_running",
        "test_loss",
        "test_top1",
        "heldout_loss",
        "heldout_top1",
    ]
    assert [list(row) for row in history.rows] == [columns] * 3
    assert [list(row) for row in history.timings] == [["epoch", "seconds", "images_per_second"]] * 3


def test_metrics_are_what_evaluating_the_network_gives() -> None:
    examples, trained, history = made_examples(), network(), History()
    fit(trained, examples, plan(), None, CPU, NoState(), history)
    trained.eval()
    logits = trained(examples.normalise(examples.test_images.permute(0, 3, 1, 2)))
    assert history.rows[-1]["test_top1"] == pytest.approx(
        100 * (logits.argmax(1) == examples.test_labels).double().mean().item()
    )
    assert history.rows[-1]["test_loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, examples.test_labels).item(), rel=1e-5
    )
    again = evaluate(trained, examples, "test", CPU)
    assert again["test_loss"] == history.rows[-1]["test_loss"]


def test_learning_rates_are_a_function_of_the_epoch_alone() -> None:
    """Fault 18."""
    steps = plan(epochs=200, drops=(100, 150), lr=0.1)
    assert [steps.lr_at(e) for e in (0, 99, 100, 149, 150, 199)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3])
    cosine = plan(epochs=100, schedule="cosine", lr=0.2)
    assert cosine.lr_at(0) == 0.2
    assert cosine.lr_at(50) == pytest.approx(0.1)
    early = plan(epochs=10, schedule_epochs=200, drops=(100, 150), lr=0.1)
    assert early.lr_at(9) == 0.1  # a teacher stopped early keeps the schedule of a whole run


@pytest.mark.parametrize(("every", "evaluated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (0, [5])])
def test_a_network_is_evaluated_when_asked_for_and_after_the_last_epoch(every: int, evaluated: list[int]) -> None:
    one, other, history = network(), network(), History()
    fit(one, made_examples(), plan(5, evaluate=every), None, CPU, NoState(), history)
    assert [row["epoch"] for row in history.rows if "test_top1" in row] == evaluated
    assert [row["epoch"] for row in history.rows if "train_top1_running" in row] == [1, 2, 3, 4, 5]
    whole = History()
    fit(other, made_examples(), plan(5), None, CPU, NoState(), whole)
    assert same(one.state_dict(), other.state_dict())
    assert history.rows[-1] == whole.rows[-1]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", [5e-4, 0.0])
@pytest.mark.parametrize("decay_1d", [True, False])
def test_sgd_takes_the_steps_of_torch_s_own_with_decay_of_biases_and_batch_norm_where_asked_for(
    nesterov: bool, decay: float, decay_1d: bool
) -> None:
    ours, theirs = network(), network()
    made = plan(nesterov=nesterov, weight_decay=decay, decay_1d=decay_1d)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in theirs.parameters() if p.ndim <= 1], "weight_decay": decay if decay_1d else 0.0},
    ]
    reference = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=nesterov)
    optimiser = Sgd(ours.parameters(), made)
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 1, 8, 8, generator=generator)
        for net in (ours, theirs):
            net(images).square().mean().backward()
        for group in reference.param_groups:
            group["lr"] = 0.1 / (step + 1)
        reference.step()
        reference.zero_grad()
        optimiser.step(0.1 / (step + 1))
        assert same(ours.state_dict(), theirs.state_dict())


def test_a_teacher_is_frozen_and_in_eval_mode() -> None:
    """Fault 28: running statistics are what a teacher left in training mode changes."""
    from kd.train.teachers import LiveTeacher

    torch.manual_seed(1)
    master = models.build("resnet14", 2, 1)
    before = copy.deepcopy(master.state_dict())
    kl = losses.LOSSES["kl"].function
    made = plan(objective=lambda s, t, y: kl(s, t, y, tau=3.0))
    fit(network(), made_examples(), made, LiveTeacher(master, CPU.device), CPU, NoState(), History())
    assert same(before, master.state_dict())
    assert not any(parameter.requires_grad for parameter in master.parameters())
