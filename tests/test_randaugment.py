"""RandAugment: the operations are torchvision's, and a strong view is a pure function of (seed, epoch, example)."""

from __future__ import annotations

import pytest
import torch
from made.fitting import CPU, NoState, made_examples, network, plan
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode
from torchvision.transforms import RandAugment as Reference
from torchvision.transforms.autoaugment import _apply_op

from kd import losses
from kd.data import views
from kd.data.crops import ResizedCrops
from kd.data.randaugment import _OPERATIONS, RandAugment, operated
from kd.data.streamed import StreamedExamples
from kd.losses.objective import Batch, Objective
from kd.losses.spec import Needs
from kd.models.output import Output
from kd.train.fit import History, fit

CROPS = views.Grid(pad=4, flip=True)
STRONG = RandAugment(CROPS)
INDEX = torch.arange(64)


def pictures(size: int, channels: int = 3) -> Tensor:
    """Smooth images [6, size, size, channels] that use a part of the values."""
    noise = torch.rand(6, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = interpolate(noise, size=(size, size), mode="bilinear")
    return (20 + 200 * smooth).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("number", range(len(_OPERATIONS)), ids=_OPERATIONS)
def test_an_operation_is_that_of_torchvision_to_the_rounding_of_a_pixel(number: int, size: int) -> None:
    name = "".join(word.capitalize() for word in _OPERATIONS[number].split("_"))
    name = {"Autocontrast": "AutoContrast"}.get(name, name)
    magnitudes, signed = Reference()._augmentation_space(31, (size, size))[name]
    images = pictures(size)
    for level in (-30, -17, -4, 0, 9, 30):
        magnitude = float(magnitudes[abs(level)]) if magnitudes.ndim else 0.0
        magnitude *= -1 if signed and level < 0 else 1
        given = images.permute(0, 3, 1, 2), name, magnitude, InterpolationMode.NEAREST, None
        expected = _apply_op(*given).permute(0, 2, 3, 1)
        found = operated(images, torch.full((6,), number), torch.full((6,), level))
        far = (found.int() - expected.int()).abs() > 1
        # Which is the nearest pixel is rounding, too, where a whole line lies in the middle between two.
        assert far.double().mean() <= (1 / size if name in ("ShearX", "ShearY", "Rotate") else 0)


def test_grey_images_are_changed_by_all_operations_but_those_of_colour() -> None:
    images = pictures(16, channels=1)
    unchanged = [
        name
        for number, name in enumerate(_OPERATIONS)
        if operated(images, torch.full((6,), number), torch.full((6,), 20)).equal(images)
    ]
    assert unchanged == ["identity", "color"]


def test_a_strong_view_depends_on_the_example_and_not_on_who_else_is_in_the_batch() -> None:
    images = torch.randint(0, 256, (64, 16, 16, 3), dtype=torch.uint8)
    word = STRONG.draw(3, 5, INDEX)
    shown = STRONG.render(images, word)
    assert shown.is_contiguous(memory_format=torch.channels_last)
    some = INDEX[5::7]
    assert STRONG.draw(3, 5, some).equal(word[some])
    assert STRONG.render(images[some], word[some]).equal(shown[some])
    drawn = [STRONG.draw(seed, epoch, INDEX, which) for seed in (0, 1) for epoch in (0, 1) for which in (0, 1)]
    assert len({tuple(each.tolist()) for each in drawn}) == 8


def test_operations_and_magnitudes_are_uniform_and_the_crop_is_that_of_the_weak_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr("kd.data.randaugment.operated", lambda images, *drawn: seen.append(drawn) or images)
    index = torch.arange(20_000)
    images = torch.zeros(len(index), 4, 4, 1, dtype=torch.uint8)
    images[:, 0, 0] = 1
    word = STRONG.draw(0, 0, index)
    assert RandAugment(CROPS, 9).render(images, word).equal(CROPS.render(images, CROPS.draw(0, 0, index)))
    assert len(seen) == 2
    assert all(level.abs().eq(9).all() and 0.48 < level.eq(9).double().mean() < 0.52 for _, level in seen)
    STRONG.render(images, word)
    for operation, _ in seen:
        assert torch.bincount(operation, minlength=14).sub(len(index) / 14).abs().max() < 5 * (len(index) / 14) ** 0.5
    for _, level in seen[2:]:
        counts = torch.bincount(level.abs(), minlength=31).sub(len(index) / 31).abs()
        assert counts.max() < 5 * (len(index) / 31) ** 0.5
    pairs = 14 * seen[2][0] + seen[3][0]
    assert len(pairs.unique()) == 14 * 14


def test_a_view_without_a_magnitude_has_a_grey_square_of_up_to_half_the_side() -> None:
    images = torch.zeros(2000, 12, 12, 1, dtype=torch.uint8)
    word = STRONG.draw(0, 0, torch.arange(2000))
    identity = torch.zeros(2000, 12, 12, 1, dtype=torch.uint8)
    squares = RandAugment(views.Grid(0, False)).changed(identity, word)[..., 0] == 125
    across, down = squares.any(1).sum(1), squares.any(2).sum(1)
    assert squares.sum((1, 2)).equal(across * down)
    assert (across.max(), down.max()) == (6, 6)
    assert 0.1 < (across == 0).double().mean() < 0.2  # one size in seven is none
    assert squares.any(0).all()
    assert not (RandAugment(views.Grid(0, False), 30).changed(images, word) == 125).any()


def test_a_recorded_strong_view_is_replayed_on_other_images() -> None:
    images, word = pictures(16), STRONG.draw(0, 0, torch.arange(6))
    graph = make_fx(lambda *seen: STRONG.changed(*seen))(images, word)
    others, words = images.flip(0).contiguous(), STRONG.draw(0, 1, torch.arange(6))
    assert graph(others, words).equal(STRONG.changed(others, words))


class Watching(Objective):
    """Cross-entropy of the first view; it keeps what the teacher was shown, view by view."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Tensor]] = []

    def forward(self, batch: Batch) -> Tensor:
        self.seen.append([output.logits for output in batch.teacher])
        return losses.LOSSES["ce"].function(batch.student[0].logits, None, batch.labels)


class Mirror:
    """A teacher that says what it was shown."""

    def output(self, index: Tensor, view: Tensor, inputs: Tensor) -> Output:
        return Output(inputs.flatten(1))


def test_the_second_view_of_a_loss_that_compares_is_strong_and_the_first_is_as_ever() -> None:
    examples, watching, grid = made_examples(), Watching(), views.Grid(1, False)
    made = plan(epochs=1, objective=watching, needs=Needs(views=2, strong=True), grid=grid, strong=RandAugment(grid))
    fit(network(), examples, made, Mirror(), CPU, NoState(), History())
    order = views.order(0, 0, examples.train)
    weak, strong = (torch.cat(each) for each in zip(*watching.seen, strict=True))
    expected = examples.inputs(order, grid.draw(0, 0, order), grid)
    assert weak.equal(expected.flatten(1))
    expected = examples.inputs(order, made.strong.draw(0, 0, order, 1), made.strong)
    assert strong.equal(expected.flatten(1))
    plain = examples.inputs(order, grid.draw(0, 0, order, 1), grid).flatten(1)
    assert (strong != plain).any(1).double().mean() > 0.9


def test_streamed_images_are_changed_after_a_worker_has_cropped_them() -> None:
    cropped = pictures(16)
    strong, index = RandAugment(ResizedCrops(True)), torch.arange(6)

    class Made:
        size = 16

        def read(self, requests: list, device: torch.device) -> list[Tensor]:
            assert [list(view) for _, _, view in requests] == [word.tolist(), word.tolist()]
            return [cropped, cropped]

    zero = torch.zeros(6)
    examples = StreamedExamples(Made(), zero, index, index, zero, torch.zeros(3), torch.ones(3))
    word = strong.draw(0, 0, index)
    asked = [(index, word, ResizedCrops(True)), (index, word, strong)]
    (_, weak), (_, changed) = examples.fetch(asked, lambda batch: batch)
    assert weak.equal(cropped)
    assert changed.equal(strong.changed(cropped, word))
    assert not changed.equal(cropped)
