"""The one training loop: teachers, students and chains differ only in the teacher they are given.

Order and views of an epoch are pure functions of (seed, epoch, example index), nothing in an epoch waits for the
device, and the state can be saved between any two steps: a run that is stopped anywhere and goes on ends with
the same bytes as one that was never stopped (same machine, same threads).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kd.core import signals
from kd.core.errors import Diverged, Terminated
from kd.data.examples import Examples
from kd.losses.objective import Batch, Objective
from kd.losses.spec import Needs
from kd.machine.progress import Progress
from kd.machine.state import State
from kd.models.network import Outputs
from kd.models.output import Output
from kd.train.adamw import AdamW
from kd.train.averages import Averages, fit_statistics
from kd.train.plan import Plan

if TYPE_CHECKING:
    from kd.train.device import Place
    from kd.train.peers import Peers
    from kd.train.teachers import Teacher

log = logging.getLogger("kd")

Row = dict[str, float]


@dataclass
class History:
    """What a run has to show: one row of metrics and one of timings for each finished epoch.

    `train_top1` (%) is of the network after the last epoch, in evaluation mode, on what it learnt from as it is; NaN
    before. That of a row is running: of each batch before its step.
    """

    rows: list[Row] = field(default_factory=list)
    timings: list[Row] = field(default_factory=list)
    train_top1: float = math.nan


def fit(
    network: nn.Module,
    examples: Examples,
    plan: Plan,
    teacher: Teacher | None,
    place: Place,
    state: State,
    history: History,
    name: str = "",
) -> None:
    """Train `network` in place and fill `history`, going on from `state` if there is one.

    Raises Diverged, before anything is saved, when a loss is no longer finite; Terminated, after the state is
    saved, when SIGTERM, SIGINT or SIGUSR1 arrives.
    """
    peers = place.peers
    network.to(place.device, memory_format=torch.channels_last)
    objective = plan.objective.to(place.device)
    forward, output = _runners(network, plan, place)
    examples = examples.to(place.device)
    optimiser = {"sgd": Sgd, "adamw": AdamW}[plan.optimizer]([*network.parameters(), *objective.parameters()], plan)
    steps = math.ceil(len(examples.train) / plan.batch)
    averages = Averages([network, objective], plan, steps)
    position = Position(torch.zeros(5, dtype=torch.float64, device=place.device))
    run = _Run(network, objective, optimiser, averages, position, history, peers)
    _restore(state.load(), run)
    now = torch.zeros((), device=place.device)  # the epoch, as a recorded step can read it
    progress = Progress(name, plan.epochs, steps, peers.is_first)
    progress.at(position.epoch * steps + position.step)

    def adapted(images: Tensor) -> Output:
        return objective.adapted(output(images))

    def step(lr: float | Tensor, *given: Tensor) -> None:
        # For each time that images are shown the examples, then what was fetched of them; where they are mixed, words.
        times = len(plan.grids)
        examined, fetched, words = given[:times], given[times : 2 * times], given[2 * times :]
        index, *others = map(peers.own, examined)
        inputs = list(map(examples.inputs, (index, *others), fetched, plan.grids))
        mixed = plan.mixing.mixed((index, *others), inputs, peers.own(*words)) if plan.mixing else None
        inputs = [mixed.inputs] if mixed else inputs
        seen_as = list(zip(fetched, inputs, strict=False))
        asked = [(*others, *seen_as[1])] if plan.needs.another else [(index, *one) for one in seen_as]
        taught = [teacher.output(*one) for one in asked] if teacher else []

        with place.autocast():
            said = [adapted(images) for images in inputs[: plan.needs.views]]
        said = [one.float() for one in said]

        def lost(index: Tensor) -> Tensor:
            return objective(Batch(tuple(said), tuple(taught), examples.labels[index], index, now))  # [B]

        loss = mixed.of(lost) if mixed else lost(index)
        peers.mean(loss, len(examined[0])).backward()
        peers.average(objective)
        optimiser.step(lr)
        averages.step_ends()
        seen = mixed.larger if mixed else index
        position.add(loss, said[0].logits, examples.labels[seen], examples.truth(seen))

    if plan.recordable:
        step = place.recorded(step)

    def fitted() -> None:
        """Have statistics of batch normalisation that fit the mean weights: of what is learnt from, as it is."""
        index = peers.own(examples.train)
        size = min(plan.batch, len(index))
        batches = examples.plain("train", index[: len(index) // size * size], size)
        with place.autocast():
            fit_statistics(
                (network, objective),
                lambda images: objective.adapted(_said(network, images, plan.needs)),
                itertools.takewhile(lambda _: not arrived or peers.count > 1, batches),
            )
        for each in (network, *objective.children()):
            peers.same_buffers(each)

    def tested() -> Row | None:
        """Measure what would be published now on each part that is held back; None if a signal has arrived."""
        row = {}
        with averages.shown(fitted):
            for part in ("test", *(["heldout"] if len(examples.heldout) else [])):
                measured = evaluate(adapted, examples, part, place, arrived, objective)
                if measured is None:
                    return None
                row |= measured
        return row

    with signals.noted() as arrived, contextlib.closing(progress):
        while position.epoch < plan.epochs:
            epoch, resumed_at = position.epoch, time.monotonic()
            lr = place.scalar(plan.lr_at(epoch))
            shown = plan.shown(epoch, examples.train, examples.labels)
            words = [plan.mixing.draw(plan.seed, epoch, shown[0][0])] if plan.mixing else []
            left = [slice(at * plan.batch, (at + 1) * plan.batch) for at in range(position.step, steps)]
            asked = [(index[batch], view[batch], grid) for batch in left for index, view, grid in shown]
            if position.step == 0:
                objective.epoch_begins(epoch + 1)
            now.fill_(epoch + 1)
            network.train()
            objective.train()

            with contextlib.closing(examples.fetch(asked, peers.own)) as ahead:
                for batch, *fetched in zip(left, *[ahead] * len(shown), strict=True):
                    examined, given = zip(*fetched, strict=True)
                    step(lr, *examined, *given, *(word[batch].to(place.device) for word in words))

                    position.advance(len(examined[0]))
                    progress.at(epoch * steps + position.step)
                    stop, save = peers.agreed(arrived, state.due(epoch_ends=False))
                    if stop or save:
                        position.seconds += time.monotonic() - resumed_at
                        resumed_at = time.monotonic()
                        _save(state, run)
                    if stop:
                        raise _stopped(stop, position)

            position.check_finite(peers)
            for each in (network, *objective.children()):  # what an objective logs is each process's own
                peers.same_buffers(each)
            network.eval()
            objective.eval()
            row = {"epoch": epoch + 1, "lr": plan.lr_at(epoch), **position.means("train", peers)}
            row |= _logged(objective, peers)
            averages.epoch_ends(epoch)
            if plan.evaluates(epoch + 1):
                measured = tested()
                if measured is None:  # as after the last step: what is evaluated is evaluated again
                    position.seconds += time.monotonic() - resumed_at
                    _save(state, run)
                    raise _stopped(arrived[0], position)
                row |= measured
            if not math.isfinite(row.get("test_loss", 0.0)):
                raise Diverged(f"the test loss after epoch {epoch + 1} is {row['test_loss']}")

            seconds = position.seconds + time.monotonic() - resumed_at
            speed = len(examples.train) / seconds
            history.rows.append(row)
            history.timings.append({"epoch": epoch + 1, "seconds": seconds, "images_per_second": speed})
            progress.epoch(row, speed)
            position.next_epoch()
            for sums in objective.logged.values():
                sums.zero_()
            # after the last one always: what comes now is publishing, and a full disk there must not cost the run
            _, save = peers.agreed([], position.epoch == plan.epochs or state.due(epoch_ends=True))
            if save:
                _save(state, run)

        network.eval()
        objective.eval()
        averages.put_in(fitted)
        trained = evaluate(forward, examples, "train", place, arrived)
        if trained is None:  # all of it is evaluated again
            raise _stopped(arrived[0], position)
        history.train_top1 = trained["train_top1"]


def _runners(network: nn.Module, plan: Plan, place: Place) -> tuple[Callable, Callable]:
    """Return what gives the logits of images [B, C, H, W], and what says all of them that the objective looks at.

    Where that is the logits, both run the same graph: one with more outputs is fused in another way, to other bits.
    """
    if plan.needs.student == {"logits"}:
        forward = place.compiled(network, plan.batch)
        return forward, lambda images: Output(forward(images))
    output = place.compiled(Outputs(network, plan.needs.student), plan.batch)
    return (lambda images: output(images).logits), output


def _said(network: nn.Module, images: Tensor, needs: Needs) -> Output:
    return Output(network(images)) if needs.student == {"logits"} else network.outputs(images, needs.student)


def _logged(objective: Objective, peers: Peers) -> Row:
    """Return the means of an epoch that the objective has noted."""
    sums = {name: peers.all_gather(each).sum(0).tolist() for name, each in objective.logged.items()}
    return {name: total / count if count else math.nan for name, (total, count) in sums.items()}


def _stopped(number: int, position: Position) -> Terminated:
    return Terminated(number, f"stopped in epoch {position.epoch + 1}, step {position.step}, the state is saved")


@torch.inference_mode()
def evaluate(
    forward: Callable[[Tensor], Tensor | Output],
    examples: Examples,
    part: str,
    place: Place,
    arrived: Sequence[int] = (),
    objective: Objective | None = None,
) -> Row | None:
    """Return the mean cross-entropy and the top-1 accuracy (%) on `part` of the examples.

    `forward` is a network in evaluation mode, or what runs one: images [B, C, H, W] to logits [B, K]. With an objective
    it gives an Output that is adapted, of which the objective may measure more. None is returned as soon as a signal
    has `arrived`, but not where several processes evaluate: each waits for the others' sums.
    """
    sums = torch.zeros((), dtype=torch.float64, device=place.device)
    split, index, labels = examples.evaluated(part)
    own, size = place.peers.own, place.evaluation_batch
    for inputs, truth in zip(examples.plain(split, own(index), size), own(labels).split(size), strict=True):
        if arrived and place.peers.count == 1:
            return None
        with place.autocast():
            said = forward(inputs)
        said = said.float()
        logits = said.logits if objective else said
        found = {"loss": cross_entropy(logits, truth, reduction="sum"), "top1": (logits.argmax(1) == truth).sum()}
        found |= {name: values.sum() for name, values in objective.measured(said, truth).items()} if objective else {}
        sums = sums + torch.stack(list(found.values())).double()
    means = (place.peers.all_gather(sums).sum(0) / len(labels)).tolist()
    percent = {name: 100 * mean if name.endswith("top1") else mean for name, mean in zip(found, means, strict=True)}
    return {f"{part}_{name}": value for name, value in percent.items()}


@dataclass
class Position:
    """Where a run is: the epoch and the step to do next, and the sums of the epoch so far, on the device."""

    # [5] float64, of this process: losses, right answers; mislabelled examples, answered as labelled, as they truly are
    sums: Tensor
    seen: int = 0  # examples that are in the sums of all processes
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0  # that processes before this one spent on the epoch
    checked: int = 0  # steps whose losses are known to be finite

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, clean: Tensor | None) -> None:
        """Add a step's per-example losses [B] and answers to the sums, without waiting for the device.

        `clean` [B] are the true labels where some of `labels` [B] are wrong.
        """
        answer = logits.detach().argmax(1)
        self.sums[:2] += torch.stack([loss.detach().sum(), (answer == labels).sum()])
        if clean is not None:
            wrong = labels != clean
            self.sums[2:] += torch.stack([wrong, wrong & (answer == labels), wrong & (answer == clean)]).sum(1)

    def advance(self, examples: int) -> None:
        """Go to the next step; `examples` more are in the sums."""
        self.seen += examples
        self.step += 1

    def check_finite(self, peers: Peers) -> None:
        """Raise Diverged, naming the interval of steps, unless every loss so far is finite, in every process."""
        if not peers.all_gather(self.sums).isfinite().all():
            raise Diverged(
                f"the loss is no longer finite: epoch {self.epoch + 1}, steps {self.checked + 1} to {self.step}"
            )
        self.checked = self.step

    def means(self, prefix: str, peers: Peers) -> Row:
        """Return the epoch's mean loss and top-1 accuracy (%) while it was trained.

        Where examples are mislabelled also how many of those (%) were answered with their wrong label, memorised, and
        with their true one, recovered.
        """
        loss, right, mislabelled, memorised, recovered = peers.all_gather(self.sums).sum(0).tolist()
        row = {f"{prefix}_loss": loss / self.seen, f"{prefix}_top1_running": 100 * (right / self.seen)}
        if mislabelled:
            row[f"{prefix}_memorised"] = 100 * memorised / mislabelled
            row[f"{prefix}_recovered"] = 100 * recovered / mislabelled
        return row

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch, self.step, self.seen, self.checked, self.seconds = self.epoch + 1, 0, 0, 0, 0.0
        self.sums.zero_()


class Sgd:
    """SGD with momentum, as torch.optim.SGD computes it, but no decay of 1-D parameters unless asked for.

    Written out because importing torch.optim's machinery takes a second, which is a third of a short cell.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], plan: Plan) -> None:
        # Decayed parameters first: what the decay touches is then a slice.
        self._parameters = sorted(parameters, key=lambda p: p.ndim <= 1)
        self._decayed = sum(p.ndim > 1 or plan.decay_1d for p in self._parameters)
        self._momenta = [torch.zeros_like(p, memory_format=torch.preserve_format) for p in self._parameters]
        self._plan = plan

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Take one step at learning rate `lr` along the gradients, and drop them."""
        plan, decayed = self._plan, self._decayed
        gradients = [p.grad for p in self._parameters]
        if plan.weight_decay:
            torch._foreach_add_(gradients[:decayed], self._parameters[:decayed], alpha=plan.weight_decay)
        torch._foreach_mul_(self._momenta, plan.momentum)
        torch._foreach_add_(self._momenta, gradients)
        if plan.nesterov:
            torch._foreach_add_(gradients, self._momenta, alpha=plan.momentum)
        direction = gradients if plan.nesterov else self._momenta
        if isinstance(lr, Tensor):
            torch._foreach_sub_(self._parameters, torch._foreach_mul(direction, lr))
        else:
            torch._foreach_add_(self._parameters, direction, alpha=-lr)
        for parameter in self._parameters:
            parameter.grad = None

    def state(self) -> list[Tensor]:
        """Return the momenta, one for each parameter."""
        return self._momenta


class _Run(NamedTuple):
    """All that changes while a network is trained: what a state holds."""

    network: nn.Module
    objective: Objective
    optimiser: Sgd | AdamW
    averages: Averages
    position: Position
    history: History
    peers: Peers


def _save(state: State, run: _Run) -> None:
    run.position.check_finite(run.peers)  # promise 5: a state that has diverged is never saved
    gathered = run.peers.all_gather
    content = {
        "network": run.network.state_dict(),
        "objective": run.objective.state_dict(),
        "momenta": run.optimiser.state(),
        "averages": run.averages.state(),
        "generator": torch.get_rng_state(),  # for networks with dropout; order and views need none
        # The sums of each process: added up here, they would end with other last digits.
        "position": {**vars(run.position), "sums": gathered(run.position.sums)},
        "logged": {name: gathered(sums) for name, sums in run.objective.logged.items()},
        "history": vars(run.history),
    }
    with signals.saving():
        if run.peers.is_first:
            state.save(content)
        run.peers.broadcast("saved")  # until then nobody ends: torchrun would end the first, too


@torch.no_grad()
def _restore(saved: dict[str, Any] | None, run: _Run) -> None:
    if saved is None:
        return
    run.network.load_state_dict(saved["network"])
    run.objective.load_state_dict(saved["objective"])
    for own, tensors in ((run.optimiser.state(), saved["momenta"]), (run.averages.state(), saved["averages"])):
        for tensor, value in zip(own, tensors, strict=True):
            tensor.copy_(value)
    torch.set_rng_state(saved["generator"])
    run.position.sums.copy_(saved["position"].pop("sums")[run.peers.rank])
    vars(run.position).update(saved["position"])
    for name, sums in run.objective.logged.items():
        sums.copy_(saved["logged"][name][run.peers.rank])
    vars(run.history).update(saved["history"])
    log.info("going on from epoch %d, step %d", run.position.epoch + 1, run.position.step + 1)
