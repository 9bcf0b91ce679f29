"""How a cell is trained: its plan, its objective, the weights it begins with."""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Collection

import torch
from torch import nn

from kd import losses, models
from kd.core.errors import ConfigError
from kd.data.mixing import Mixing
from kd.data.randaugment import RandAugment
from kd.losses.objective import Course, Objective, Pure
from kd.models.output import Output
from kd.study.cells import Cell, spell_objective
from kd.study.config import Protocol, demand_agreement
from kd.train.material import Prepared, relation_of
from kd.train.plan import Plan
from kd.train.published import load_network
from kd.train.told import told

log = logging.getLogger("kd")

_CPU = torch.device("cpu")
_OF_THE_PROTOCOL = {"batch", "lr", "momentum", "nesterov", "weight_decay", "decay_1d", "schedule", "gamma"}
_OF_THE_PROTOCOL |= {"optimizer", "betas", "warmup", "ema", "swa"}


def begun(cell: Cell, have: Prepared) -> nn.Module:
    """Return the network of a cell as its training begins."""
    # The seed of the stage alone: students that differ in their loss start from the same weights, in pairs.
    torch.manual_seed(cell.stage.seed)
    return models.build(cell.stage.network, have.classes, have.channels)


def plan_of(cell: Cell, protocol: Protocol, have: Prepared, device: torch.device = _CPU) -> Plan:
    """Return how a cell is trained; where its objective asks what the teacher says, that is run on `device`."""
    loss = losses.LOSSES[cell.stage.objective.loss]
    try:
        demand_agreement(protocol, cell.stage.objective)
    except ValueError as error:
        raise ConfigError(f"protocol.{error}") from None
    return Plan(
        objective=objective_of(cell, course_of(cell, protocol, have, device)),
        needs=loss.needs,
        recordable=loss.recordable,
        grid=have.grid if protocol.randaugment is None else RandAugment(have.grid, protocol.randaugment),
        strong=RandAugment(have.grid) if loss.needs.strong else None,
        mixing=Mixing(protocol.mixup, protocol.cutmix) if protocol.mixup or protocol.cutmix else None,
        seed=cell.stage.seed,
        epochs=cell.epochs(protocol),
        schedule_epochs=protocol.epochs,
        drops=protocol.drops,
        evaluate=0 if protocol.evaluate == "last" else protocol.evaluate,
        **protocol.model_dump(include=_OF_THE_PROTOCOL),
    )


def objective_of(cell: Cell, course: Course) -> Objective:
    """Return the objective of a cell as its training begins; its weights are drawn by the stage's seed."""
    loss, resolved = losses.LOSSES[cell.stage.objective.loss], cell.stage.objective.resolved
    log.info("%s is %s with %s", spell_objective(cell.stage.objective), loss.description, resolved)
    if loss.function:
        return Pure(loss.function, **resolved)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(course.seed)
        return loss.build(course, **resolved)


def course_of(cell: Cell, protocol: Protocol, have: Prepared, device: torch.device = _CPU) -> Course:
    """Return what is known of the training of a cell before its first step."""
    student, teachers = cell.stage.network, cell.teacher.members if cell.teacher else ()
    needs = cell.stage.objective.needs
    teacher = teachers[0] if len(teachers) == 1 else None  # several say logits alone, and have no shapes in common

    def shapes(network: str, names: Collection[str]) -> Output:
        with torch.device("meta"):
            built = models.build(network, have.classes, have.channels).eval()
            return built.outputs(torch.empty(1, *have.examples.shape), names)

    def begun_apart(number: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            network = begun(cell, have)
            for _ in range(number):  # with the weights that the same generator gives next
                network = models.build(student, have.classes, have.channels)
            return network

    return Course(
        seed=cell.stage.seed,
        labels=have.examples.labels,
        classes=have.classes,
        batch=protocol.batch,
        steps=math.ceil(len(have.examples.train) / protocol.batch),
        epochs=cell.epochs(protocol),
        student=begun_apart,
        teacher=(lambda: load_network(teacher, have)) if teacher else None,
        student_shapes=functools.partial(shapes, student, needs.student),
        teacher_shapes=functools.partial(shapes, teacher.stage.network, needs.teacher) if teacher else None,
        told=functools.partial(told, cell.teacher, cell.stage.objective.tau, have, device) if teachers else None,
        relation=functools.partial(relation_of, cell) if cell.related else None,
        train=have.examples.train,
    )


def demand_examples(train: int, batch: int, processes: int) -> None:
    """Raise ConfigError unless each of several processes has two examples, for batch normalisation, of every batch."""
    least = _least(train, batch)
    if processes > 1 and least < 2 * processes:
        raise ConfigError(
            f"protocol.batch: {train} examples in batches of {batch} leave one of {least}, of which {processes} "
            "processes cannot have two each; set another batch, or fewer gpus_per_cell"
        )


def demand_pixels(network: nn.Module, plan: Plan, images: tuple[int, int, int], train: int) -> None:
    """Raise ConfigError unless batch normalisation has two values of each channel in every batch, without computing.

    Of a batch of one image [C, H, W], `images`, it has none to compare where the last maps are of one pixel, nor where
    an adapter of the objective looks at means over the image.
    """
    if _least(train, plan.batch) > 1:
        return
    student, objective = (copy.deepcopy(module).to("meta").train() for module in (network, plan.objective))
    try:
        objective.adapted(student.outputs(torch.empty(1, *images, device="meta"), plan.needs.student))
    except ValueError as error:  # torch's "Expected more than 1 value per channel when training"
        raise ConfigError(
            f"protocol.batch: {train} examples in batches of {plan.batch} leave one of 1, of which this network cannot "
            "learn by this objective (batch normalisation needs two values of each channel); set another batch"
        ) from error


def _least(train: int, batch: int) -> int:
    """Return how many examples the smallest batch of an epoch has."""
    return min(batch, train % batch or batch)
