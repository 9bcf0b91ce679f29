"""What a teacher says of all that is learnt from, once, before the first step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kd.models.output import Output
from kd.study.cells import Cell
from kd.study.paths import demand_said
from kd.train.material import Prepared
from kd.train.published import load_network
from kd.train.teachers import LiveTeacher, together

_TOLD = 256  # images at a time


@torch.no_grad()
def told(teacher: Cell, tau: float, have: Prepared, device: torch.device, more: str) -> Iterator[tuple[Output, Tensor]]:
    """Yield what a teacher says, logits and `more`, of the examples learnt from, as images are, with labels [B].

    All is on the CPU. Networks that teach as one are asked at `tau`. Raises ConfigError for what they do not have.
    """
    demand_said(teacher.stage, {more}, teacher)
    voices = [LiveTeacher(load_network(one, have), device, "fp32", {"logits", more}) for one in teacher.members]
    voice, examples = together(voices, teacher, tau), have.examples
    labels = examples.labels[examples.train].split(_TOLD)
    for truth, images in zip(labels, examples.plain("train", examples.train, _TOLD), strict=True):
        yield voice.output(truth, truth, images.to(device)).mapped(Tensor.cpu), truth
