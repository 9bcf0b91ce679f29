"""Build objectives of registered losses for a test's own logits and maps, without a network."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from kd import losses, models
from kd.losses.objective import Batch, Course, Objective
from kd.models.output import Output

DTYPES = {"f64": (torch.float64, 1e-10), "f32": (torch.float32, 1e-5)}  # {name: (type, tolerance against vectors)}


def vectors(name: str) -> dict:
    """Return the reference values of a file in tests/vectors."""
    return json.loads((Path(__file__).parent.parent / "vectors" / f"{name}.json").read_text())


def logits_of(inputs: dict, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return the student's and the teacher's logits [B, K] and the labels [B] of a vector's inputs."""
    return *(torch.tensor(inputs[key], dtype=dtype) for key in ("student", "teacher")), torch.tensor(inputs["labels"])


def course(
    classes: int,
    epochs: int = 10,
    told: Output | None = None,
    labels: Tensor | None = None,
    relation: Tensor | None = None,
) -> Course:
    """Return a course of examples to which the teacher answers `told`, and between whose classes is this relation."""
    labels = torch.arange(2 * classes) % classes if labels is None else labels
    said = Output(torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(3)))
    shapes = lambda: Output(torch.empty(1, classes), maps=(torch.empty(1, 6, 4, 4),))  # noqa: E731
    given = {"student_shapes": shapes, "teacher_shapes": shapes, "told": lambda more: iter([(told or said, labels)])}
    given["relation"] = lambda: torch.eye(classes) if relation is None else relation
    return Course(0, labels, classes, 4, 5, epochs, lambda: None, lambda: None, **given)


def of_network(name: str, classes: int, epochs: int = 300) -> Course:
    """Return a course whose student is a real network, so that an objective can copy its parts."""
    with torch.device("meta"):
        shapes = models.build(name, classes, 1).outputs(torch.empty(2, 1, 8, 8), ("maps",))

    def student(number: int = 0) -> nn.Module:
        torch.manual_seed(number)
        return models.build(name, classes, 1)

    return dataclasses.replace(course(classes, epochs), student=student, student_shapes=lambda: shapes)


def between(student: str, teacher: str, classes: int = 2, epochs: int = 10) -> Course:
    """Return a course of a student and a teacher by their names, which see images of 8x8 pixels."""
    shapes = [shapes_of(name, classes) for name in (student, teacher)]
    given = {"student_shapes": lambda: shapes[0], "teacher_shapes": lambda: shapes[1]}
    return dataclasses.replace(course(classes, epochs), teacher=lambda: models.build(teacher, classes, 1), **given)


def shapes_of(name: str, classes: int) -> Output:
    """Return the shapes of all that a network says of an image of 8x8 pixels."""
    with torch.device("meta"):
        return models.build(name, classes, 1).eval().outputs(torch.empty(1, 1, 8, 8), ("maps", "edges", "cams"))


def built(name: str, of: Course, **given: object) -> Objective:
    """Return the objective of a registered loss."""
    loss = losses.LOSSES[name]
    return loss.build(of, **loss.resolve(given))


def valued(made: Objective, student: Tensor, teacher: Tensor, labels: Tensor, epoch: float = 100.0) -> tuple:
    """Return (per-example values [B], gradient of their sum [B, K])."""
    leaf = student.detach().clone().requires_grad_()
    values = made(Batch((Output(leaf),), (Output(teacher),), labels, torch.arange(len(labels)), torch.tensor(epoch)))
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


def random_logits(seed: int, batch: int = 6, classes: int = 10, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return logits [batch, classes] of standard deviation 3."""
    return 3 * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def required(name: str) -> dict[str, float]:
    """Return a value for each hyperparameter that has no default."""
    parameters = losses.LOSSES[name].parameters.items()
    return {key: 4.0 for key, parameter in parameters if parameter.default is None and not parameter.optional}


def without_ce(name: str) -> dict[str, float]:
    """Return the hyperparameters that leave cross-entropy out of a loss, as far as it has them."""
    parameters = losses.LOSSES[name].parameters
    return {"alpha": 1.0} if "alpha" in parameters else {"ce": 0.0} if "ce" in parameters else {}


def function_of(name: str, epoch: float = 100.0, epochs: int = 10) -> Callable | None:
    """Return the function of logits of a loss that is one, in an epoch if it follows these; None if it is not."""
    loss = losses.LOSSES[name]
    follows = getattr(loss.build, "function", None)
    return functools.partial(follows, epoch=torch.tensor(epoch), epochs=epochs) if follows else loss.function


def evaluate(
    name: str,
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor | None = None,
    epoch: float = 100.0,
    epochs: int = 10,
    **given: object,
) -> tuple[Tensor, Tensor]:
    """Return (per-example values [B], gradient of their sum [B, K]) of a loss that is a function of logits."""
    labels = torch.zeros(len(student), dtype=torch.long) if labels is None else labels
    leaf, hyper = student.detach().clone().requires_grad_(), losses.LOSSES[name].resolve({**required(name), **given})
    values = function_of(name, epoch, epochs)(leaf, teacher, labels, **hyper)
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]
