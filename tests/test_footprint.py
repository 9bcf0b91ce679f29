"""What a cell needs of a GPU, by arithmetic that can be done by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import study
from made.fitting import made_examples
from torch import nn

from kd.core import files
from kd.data import source_of
from kd.data.views import Grid
from kd.losses.objective import Objective, Pure
from kd.machine.footprint import _FIXED, _SLACK, _kept_by_a_step, gpu_bytes, weight_bytes
from kd.machine.room import disk_bytes, state_bytes, unknown
from kd.models.network import conv1x1
from kd.models.output import Output
from kd.study.expansion import all_cells, augmentation, taught_by


def test_a_step_of_wrn_16_2_keeps_each_norm_s_input_and_output() -> None:
    batch = 8
    # 16 channels once, 32 four times at 32x32; 64 four times at 16x16; 128 four times at 8x8
    units = 16 * 32**2 + 4 * (32 * 32**2 + 64 * 16**2 + 128 * 8**2)
    activations = 4 * batch * 2 * units
    weights = 3 * 4 * 703_284
    assert abs(_kept_by_a_step("wrn-16-2", 100, (batch, 3, 32, 32)) / (activations + weights) - 1) < 0.03


def test_it_grows_with_the_batch_the_data_and_the_bank() -> None:
    small = made_examples()
    need = gpu_bytes("resnet8", 10, small, batch=16)
    assert need > _FIXED
    assert gpu_bytes("resnet8", 10, small, batch=64) > need
    assert gpu_bytes("resnet8", 10, small, 16, bank=28_000) == need + 28_000
    larger = dataclasses.replace(small, images=torch.zeros(1000, 8, 8, 1, dtype=torch.uint8))
    assert gpu_bytes("resnet8", 10, larger, batch=16) == need + larger.images.nbytes - small.images.nbytes


def test_an_evaluation_holds_the_largest_activation_of_its_batch_several_times() -> None:
    have = made_examples()  # 8x8 pixels; the widest map has 16 channels of them
    alone, bf16, fp32 = (
        gpu_bytes("resnet8", 10, have, 16, evaluated=n, precision=how)
        for n, how in ((0, "fp32"), (1000, "bf16"), (1000, "fp32"))
    )
    assert [bf16 - alone, fp32 - alone] == [times * 1000 * 4 * 16 * 8 * 8 for times in (2, 18)]


def test_what_an_objective_learns_and_remembers_counts_apart_from_the_student() -> None:
    class Contrasting(Objective):
        """A projection, and what it gave of each of 50,000 examples."""

        def __init__(self) -> None:
            super().__init__()
            self.projection = nn.Linear(64, 128, bias=False)
            self.register_buffer("memory", torch.zeros(50_000, 128))

    have = made_examples()
    alone = gpu_bytes("resnet8", 10, have, 16)
    assert gpu_bytes("resnet8", 10, have, 16, objective=Pure(lambda *_: None)) == alone
    learned, held = 4 * 64 * 128, 4 * 50_000 * 128
    assert gpu_bytes("resnet8", 10, have, 16, objective=Contrasting()) == alone + 3 * learned + held


def test_what_the_adapters_of_an_objective_keep_of_a_batch_counts_too() -> None:
    class Widened(Objective):
        """A convolution of the student's last map, 64 channels of 2x2, and its square."""

        def __init__(self) -> None:
            super().__init__()
            self.adapter = conv1x1(64, 256)

        def adapted(self, student: Output) -> Output:
            return student._replace(added=(self.adapter(student.maps[-1]).square(),))

    have, made = made_examples(), Widened().to("meta")
    without, added = (gpu_bytes("resnet8", 10, have, 16, 0, one, ("maps",)) for one in (Pure(lambda *_: None), made))
    kept = 4 * 16 * 256 * 2 * 2  # what is squared; the map is kept for the classifier already
    assert added - without == 3 * 4 * 64 * 256 + _SLACK * kept


def test_a_study_s_weights_and_banks_are_known_before_it_starts(project: Path) -> None:
    small = study()
    cells = all_cells(small)
    sizes = {"resnet14": 4 * 175_258, "resnet8": 4 * 78_042}  # of CIFAR's, as long as the data are unknown
    needed = disk_bytes(cells, small)
    weights = sizes["resnet14"] + 4 * sizes["resnet8"]
    assert abs(needed["results"] / weights - 1) < 0.1  # running statistics of batch norm, other last layer
    views = Grid(*augmentation(source_of("digits", None), small.protocol)).count
    seen = views * (1 - (1 - 1 / views) ** 6)  # two seeds, three epochs each
    assert needed["banks"] == round(898 * seen * (20 + 8))  # kd knows how many digits there are
    prepared(train=1000)
    assert disk_bytes(cells, small)["banks"] == round(1000 * seen * (20 + 8))
    (teacher,) = taught_by(cells)
    bank = Path("banks", teacher.name)
    bank.mkdir(parents=True)
    bank.joinpath("filling-rows-a.npy").write_bytes(bytes(5_000))  # has its room already
    assert disk_bytes(cells, small)["banks"] == round(1000 * seen * (20 + 8)) - 5_000


def test_a_network_takes_as_much_as_one_of_its_shape_that_is_published(project: Path) -> None:
    small = study()
    sizes = {("resnet14", "digits"): 1000, ("resnet8", "digits"): 10}
    assert disk_bytes(all_cells(small), small, sizes)["results"] == 1000 + 4 * 10
    assert disk_bytes(all_cells(small), small, {("resnet8", "digits"): 10})["results"] > 40 + 4 * 170_000


def test_a_bank_that_serves_takes_nothing_and_one_that_grows_is_written_anew(project: Path) -> None:
    small = study()
    cells = all_cells(small)
    fresh = disk_bytes(cells, small)["banks"]
    (teacher,) = taught_by(cells)
    said = {"outputs": {"logits": {"holds": [[0, 3], [1, 3]]}}}
    files.write_manifest(Path("banks", teacher.name, "manifest.json"), said)
    assert disk_bytes(cells, small)["banks"] == 0
    said["outputs"]["logits"]["holds"] = [[0, 3], [7, 3]]
    files.write_manifest(Path("banks", teacher.name, "manifest.json"), said)
    assert disk_bytes(cells, small)["banks"] > fresh  # the views of seed 7 stay beside those of 0 and 1


def test_data_count_until_they_are_prepared(project: Path) -> None:
    noisy = {"teacher": "resnet14", "student": "resnet8", "loss": "mse", "label_noise": {"symmetric": [0.2, 0.4]}}
    made = study(experiments={"e": noisy})
    assert disk_bytes(all_cells(made), made)["data"] == 1797 * (64 + 8) + 2 * 898 * 8
    prepared(train=898)
    assert disk_bytes(all_cells(made), made)["data"] == 2 * 898 * 8
    Path("data/digits+sym0.4").mkdir()
    assert disk_bytes(all_cells(made), made)["data"] == 898 * 8
    cifar = study(dataset="cifar10")
    pixels, archive = 60_000 * (3072 + 8), 170_498_071
    assert disk_bytes(all_cells(cifar), cifar)["data"] == pixels + archive
    here = study(dataset="cifar10", datasets={"cifar10": {"source": "somewhere"}})
    assert disk_bytes(all_cells(here), here)["data"] == pixels


@pytest.mark.parametrize("streamed", [False, True])
def test_a_declared_folder_is_counted_before_it_is_prepared(project: Path, streamed: bool) -> None:
    for split, each in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            Path("mine", split, name).mkdir(parents=True)
            for number in range(each):
                Path("mine", split, name, f"{number}.jpg").write_bytes(b"not decoded here")
    protocol = {
        "name": "quick",
        "epochs": 3,
        "batch": 64,
        **({"crop": "resized", "teacher": "online"} if streamed else {}),
    }
    said = {"folder": "mine", "size": 16, "streamed": streamed}
    mine = study(dataset="mine", datasets={"mine": said}, protocol=protocol)
    needed = disk_bytes(all_cells(mine), mine)
    assert unknown(all_cells(mine), mine) == []
    assert needed["data"] == 14 * (8 + (len("train/cat/0.jpg") + 8 if streamed else 3 * 16**2))
    views, epochs = 2 * 9**2, 6
    rows = 10 * views * (1 - (1 - 1 / views) ** epochs)
    assert needed["banks"] == (0 if streamed else round(rows * (2 * 2 + 8)))


def test_a_running_cell_s_state_is_two_copies_of_weights_and_momenta(project: Path) -> None:
    small = study()
    assert state_bytes(all_cells(small), small) == 2 * 2 * weight_bytes("resnet14", 10)
    assert state_bytes([], small) == 0


def test_what_is_not_known_of_a_folder_s_banks_and_answers_is_named(project: Path) -> None:
    mine = {"dataset": "mine", "datasets": {"mine": {"folder": "nowhere", "size": 32}}}
    unprepared = study(**mine)
    cells = all_cells(unprepared)
    assert disk_bytes(cells, unprepared)["banks"] == 0
    assert unknown(cells, unprepared) == ["mine"]
    prepared(train=1000, name="mine")
    assert disk_bytes(cells, unprepared)["banks"] > 0
    assert unknown(cells, unprepared) == []
    assert unknown(all_cells(study()), study()) == []


def test_answers_count_where_a_figure_shows_them(project: Path) -> None:
    one = {"teacher": "resnet14", "student": "resnet8", "loss": "mse"}
    shown = study(seeds=[0], experiments={"e": {**one, "figure": "fidelity"}})
    prepared(train=50_000)
    rows, row = 100 + 10_000, 4 * 10 + 2 * 64 + 3 * 8
    assert disk_bytes(all_cells(shown), shown)["answers"] == 2 * rows * row  # teacher and student
    hidden = study(seeds=[0], experiments={"e": {**one, "figure": "dots"}})
    assert disk_bytes(all_cells(hidden), hidden)["answers"] == 0


def test_data_that_are_damaged_count_as_unknown(project: Path) -> None:
    """Fault 9: they will be made anew, and until then no plan must fail."""
    small = study()
    before = disk_bytes(all_cells(small), small)
    prepared(train=1000)
    assert disk_bytes(all_cells(small), small) != before
    Path("data/digits/manifest.json").write_text("{")
    assert disk_bytes(all_cells(small), small) == before


def prepared(train: int, name: str = "digits") -> None:
    """Say that the digits are prepared."""
    said = {"counts": {"train": train, "test": 100}, "class_names": list("0123456789")}
    files.write_manifest(Path("data", name, "manifest.json"), said)
