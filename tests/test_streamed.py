"""Images that stay in their files: what is listed, what is shown of them, and that nobody can tell by whom."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fill, prepare, recipe, study
from conftest import train as trained
from hypothesis import given
from hypothesis import strategies as st
from made.fitting import StopAt
from made.imagenet import PROTOCOL, SIZES, WNIDS, made_imagenet, picture
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from kd.core import files
from kd.core.errors import ConfigError, DataError, StorageError, Terminated
from kd.data.arrays import open_dataset
from kd.data.crops import RATIO, SHARE, ResizedCrops, box
from kd.data.folder import image_folder
from kd.data.prepare import prepare_dataset, prepare_labels
from kd.data.streamed import Reader, Stream, middle
from kd.jobs.places import Resources
from kd.losses.objective import Pure
from kd.machine.footprint import gpu_bytes
from kd.study.paths import parse_cell
from kd.train import lesson, material

CPU = torch.device("cpu")
SIZE = 16
CROPS = ResizedCrops(flip=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_imagenet(tmp_path / "imagenet")


def listed(folder: Path, size: int = SIZE):
    """Prepare the folder as a streamed dataset and open it."""
    prepared = folder.parent / "data" / "imagenet"
    prepare_dataset("imagenet", {"folder": str(folder), "size": size, "streamed": True}, prepared, folder.parent, {})
    return open_dataset(prepared)


# -- crops ------------------------------------------------------------------------------------------------------------


def views(count: int, seed: int = 0) -> Tensor:
    return CROPS.draw(seed, 0, torch.arange(count))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 3000), st.integers(1, 3000))
def test_a_crop_lies_within_its_image(view: int, width: int, height: int) -> None:
    left, top, right, bottom = box(view, width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@pytest.mark.parametrize(("width", "height"), [(500, 375), (224, 224), (90, 400)])
def test_crops_have_the_distribution_of_torchvision_s(width: int, height: int) -> None:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(SHARE), list(RATIO)) for _ in range(1500)])
    found = np.array([box(view, width, height) for view in views(1500).tolist()])
    left, top, w, h = found[:, 0], found[:, 1], found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    for ours, other in zip((top, left, h, w, w * h, w / h), (*theirs.T, theirs[:, 2] * theirs[:, 3]), strict=False):
        assert ks_2samp(ours, other).pvalue > 0.001


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (99, 4), (4, 99), (1000, 1)])
def test_where_no_try_fits_the_middle_is_shown_as_torchvision_shows_it(width: int, height: int) -> None:
    top, left, h, w = RandomResizedCrop.get_params(torch.empty(3, height, width), list(SHARE), list(RATIO))
    assert {box(view, width, height) for view in views(50).tolist()} == {(left, top, left + w, top + h)}


def test_a_view_is_a_function_of_seed_epoch_and_example_alone() -> None:
    index = torch.arange(100)
    assert CROPS.draw(1, 2, index)[10:20].equal(CROPS.draw(1, 2, index[10:20]))
    drawn = {tuple(CROPS.draw(seed, epoch, index).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(drawn) == 4
    assert 30 < sum(CROPS.mirrored(view) for view in views(100).tolist()) < 70
    assert not any(ResizedCrops(flip=False).mirrored(view) for view in views(100).tolist())


@pytest.mark.parametrize("number", range(len(SIZES)))
def test_what_is_shown_has_the_bytes_of_torchvision_s_functions(folder: Path, number: int) -> None:
    image, reader = picture(1, number), Reader(listed(folder), CROPS)
    for view in views(20).tolist():
        left, top, right, bottom = box(view, *image.size)
        expected = reference.resized_crop(image, top, left, bottom - top, right - left, [SIZE, SIZE])
        expected = reference.horizontal_flip(expected) if CROPS.mirrored(view) else expected
        assert np.array_equal(reader.crop(image, view), expected)
    for size in (7, 16, 28):
        expected = reference.center_crop(reference.resize(image, [size * 256 // 224]), [size, size])
        assert np.array_equal(middle(image, size), expected)


# -- the list ---------------------------------------------------------------------------------------------------------


def test_a_streamed_dataset_holds_names_and_labels_and_no_pixels(folder: Path) -> None:
    dataset = listed(folder)
    assert dataset.class_names == WNIDS
    assert dataset.train_labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert dataset.test_labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    name, size = dataset.train_images[11].item()
    assert name == b"train/n01443537/n01443537_1.JPEG"
    assert size == (folder / name.decode()).stat().st_size
    assert dataset.mean == (0.485, 0.456, 0.406)
    arrays = sum(path.stat().st_size for path in (folder.parent / "data").rglob("*.npy"))
    assert arrays < 4000


def test_a_dataset_that_is_moved_is_the_same_and_one_of_another_size_or_list_is_not(folder: Path) -> None:
    before = listed(folder).digest
    moved = folder.rename(folder.parent / "elsewhere")
    assert listed(moved).digest == before
    assert listed(moved, size=24).digest != before
    picture(0, 3).save(moved / "train" / WNIDS[0] / "new.jpeg")
    assert listed(moved).digest != before


def test_an_empty_file_is_refused_by_name_before_any_training(folder: Path) -> None:
    (folder / "val" / WNIDS[1] / "empty.JPEG").touch()
    with pytest.raises(DataError, match=r"val/n01443537/empty.JPEG: an empty file; replace or remove it"):
        image_folder(folder, SIZE, streamed=True)


def test_labels_of_a_streamed_dataset_can_be_noisy(folder: Path) -> None:
    listed(folder)
    data = folder.parent / "data"
    assert prepare_labels(data / "imagenet", "sym", 0.4, 0, data / "imagenet+sym0.4", {})["wrong"] == 12


# -- the stream -------------------------------------------------------------------------------------------------------


def requests(count: int = 6) -> list:
    index = np.arange(30).reshape(count, -1)
    return [
        *(("train", some, CROPS.draw(0, 0, torch.from_numpy(some)).numpy()) for some in index),
        ("test", index[0], None),
    ]


@pytest.mark.process
def test_workers_change_neither_bytes_nor_order(folder: Path) -> None:
    dataset = listed(folder)
    alone = list(Stream(dataset, CROPS).read(requests(), CPU))
    assert [images.shape for images in alone] == [(5, SIZE, SIZE, 3)] * 7
    assert all(images.dtype == torch.uint8 for images in alone)
    stream = Stream(dataset, CROPS, workers=2)
    for _ in range(2):  # the same processes, asked again
        assert all(a.equal(b) for a, b in zip(alone, stream.read(requests(), CPU), strict=True))
    (rest,) = stream.read(requests()[4:5], CPU)
    assert rest.equal(alone[4])


def test_grey_and_cmyk_images_and_a_png_that_is_called_jpeg_are_read_as_rgb(folder: Path) -> None:
    reader = Reader(listed(folder), CROPS)
    for number in (1, 11, 21):
        assert reader.image("train", number).mode == "RGB"


def test_the_first_orientation_tag_is_told_and_a_damaged_one_is_passed_over(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    damaged = b"Exif\x00\x00no TIFF at all"
    for number, exif in ((0, damaged), (2, tag), (3, tag)):
        picture(0, number).save(folder / "train" / WNIDS[0] / f"{WNIDS[0]}_{number}.JPEG", exif=exif, dpi=(72, 72))
    reader = Reader(listed(folder), CROPS)
    shown = [reader.image("train", number) for number in range(4)]
    assert [image.size for image in shown] == [SIZES[number] for number in range(4)]  # none is turned
    (told,) = [record.getMessage() for record in caplog.records if "orientation" in record.getMessage()]
    assert told.startswith(f"{folder / 'train' / WNIDS[0] / f'{WNIDS[0]}_2.JPEG'} has an orientation tag")


@pytest.mark.process
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_with_the_fix(folder: Path, workers: int) -> None:
    """In training already: what decodes it may be another process."""
    dataset = listed(folder)
    path = folder / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    whole = path.read_bytes()
    for content, said in (
        (whole[:200] + bytes(len(whole) - 200), "cannot read this image"),
        (whole[:-1], "the folder was listed"),
        (None, "No such file"),
    ):
        path.write_bytes(content) if content else path.unlink()
        message = refusal(Stream(dataset, CROPS, workers))
        assert message.startswith(f"{path}: cannot read this image: ")
        assert said in message
        assert "Traceback" not in message
        assert "remove the manifest.json" in message


def refusal(stream: Stream) -> str:
    try:
        list(stream.read(requests(), CPU))
    except DataError as error:  # not kept: with its frames it would keep the workers
        return str(error)
    return ""


def test_an_image_of_16_bits_is_refused(folder: Path) -> None:
    deep = Image.fromarray(np.full((20, 20), 40_000, np.uint16))
    deep.save(folder / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG", "PNG")
    with pytest.raises(DataError, match="more than 8 bits"):
        list(Stream(listed(folder), CROPS).read(requests(), CPU))


# -- training ---------------------------------------------------------------------------------------------------------

TEACHER = "results/imagenet/quick/resnet14.ce.s0"
STUDENT = f"{TEACHER}/resnet8.kl-tau3.s0"


def streamed_study(**changes: object):
    datasets = {"imagenet": {"folder": "imagenet", "size": SIZE, "streamed": True}}
    return study(**{"dataset": "imagenet", "datasets": datasets, "protocol": PROTOCOL, **changes})


@pytest.fixture
def imagenet(project: Path) -> Path:
    """A project with made images, listed."""
    made_imagenet(project / "imagenet")
    prepare("imagenet", made=streamed_study())
    return project


def train(path: str, workers: int = 0, made=None) -> dict:
    return trained(path, made or streamed_study(), Resources(workers=workers))


class StopAll(StopAt):
    """Stop training as a cluster does: every process of the job gets the signal, and those that decode do first."""

    def __call__(self, *arguments: Tensor) -> Tensor:
        if self.left == 1:
            decoding = [str(process.pid) for process in multiprocessing.active_children()]
            subprocess.run(["kill", "-TERM", *decoding] if decoding else ["true"], check=True)
        return super().__call__(*arguments)


@pytest.mark.slow
@pytest.mark.process
def test_promise_4_a_streamed_cell_ends_with_the_same_bytes_whoever_decodes(imagenet, monkeypatch) -> None:
    straight = train(TEACHER, workers=1)["files"]
    shutil.rmtree("results")
    for step, workers in ((3, 2), (2, 0), (1, 2)):  # 5 steps an epoch
        with monkeypatch.context() as patch:
            patch.setattr(lesson, "objective_of", lambda *_, step=step: Pure(StopAll(step)))
            with pytest.raises(Terminated):  # not kept: with its frames it would keep the workers
                train(TEACHER, workers)
    resumed = train(TEACHER, workers=1)["files"]
    assert resumed["model.safetensors"] == straight["model.safetensors"]
    assert resumed["metrics.csv"] == straight["metrics.csv"]


def test_a_student_of_streamed_images_learns_from_a_teacher_that_runs_beside_it(imagenet: Path) -> None:
    train(TEACHER)
    manifest = train(STUDENT)
    assert manifest["status"] == "ok"
    assert manifest["inputs"][TEACHER]["digest"] == files.file_digest(Path(TEACHER, "model.safetensors"))
    assert not Path("banks").exists()


def test_a_held_out_part_is_evaluated_as_the_test_set_is(imagenet: Path) -> None:
    manifest = train(TEACHER, made=streamed_study(protocol={**PROTOCOL, "epochs": 1, "heldout": 0.2}))
    assert set(manifest["last"]) >= {"test_top1", "heldout_top1"}


def test_data_that_were_made_otherwise_than_the_study_says_are_not_trained_on(imagenet: Path) -> None:
    datasets = {"imagenet": {"folder": "imagenet", "size": SIZE, "convert": "rgb"}}
    prepare("imagenet", made=study(dataset="imagenet", datasets=datasets))
    with pytest.raises(StorageError, match=r"data/imagenet: convert rgb -> none"):
        train(TEACHER)
    assert not Path(TEACHER).exists()


def test_no_bank_is_made_of_resized_crops(imagenet: Path) -> None:
    train(TEACHER)
    with pytest.raises(ConfigError, match="set teacher: online"):
        fill(TEACHER, [(0, 2)], streamed_study())


def test_streamed_images_take_no_memory_of_a_gpu(imagenet: Path) -> None:
    have = material.prepared(parse_cell(TEACHER), recipe(TEACHER, streamed_study()))
    assert have.examples.shape == (3, SIZE, SIZE)
    assert have.examples.nbytes == 8 * (30 + 15)
    assert gpu_bytes("resnet8", 3, have.examples, 64) > gpu_bytes("resnet8", 3, have.examples, 16)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"protocol": {**PROTOCOL, "crop": "padded"}},
            r"protocol\.crop: of imagenet, which is streamed, .* crop: resized",
        ),
        ({"protocol": {**PROTOCOL, "teacher": "bank"}}, r"protocol\.teacher: resized crops .* set teacher: online"),
        ({"protocol": {**PROTOCOL, "pad": 4}}, r"protocol\.pad: resized crops are not padded; leave it out"),
        ({"dataset": "digits"}, r"protocol\.crop: .* which digits has none of; set crop: padded"),
        ({"datasets": {"cifar10": {"source": "x", "streamed": True}}}, r"datasets\.cifar10\.streamed: only a folder"),
        ({"workers": -1}, r"workers: .* greater than or equal to 0"),
        ({"gpus_per_cell": 0}, r"gpus_per_cell: .* greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        streamed_study(**changes)
    assert re.search(said, str(refused.value)), refused.value
