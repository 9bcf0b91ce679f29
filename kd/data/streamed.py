"""Examples whose images stay in their files: decoded, cropped and resized by worker processes, a few batches ahead.

What is shown of an image depends on its view alone, so training goes on anywhere and ends with the same bytes,
whatever the number of workers.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from kd.core.errors import DataError, OutOfMemory, StorageError, of_the_machine
from kd.core.files import content_of, free_bytes
from kd.data import views
from kd.data.arrays import Dataset
from kd.data.crops import ResizedCrops, box
from kd.data.examples import Asked, Own
from kd.data.folder import FORMATS, is_turned, rgb
from kd.data.randaugment import RandAugment

log = logging.getLogger("kd")

_BILINEAR = Image.Resampling.BILINEAR  # Pillow's antialiases

_SHARED = Path("/dev/shm")  # torch's way from a worker to its parent
_AHEAD = 2  # batches that each worker decodes ahead
_LOOK = 2.0  # seconds between two looks of a worker at whether its parent is still there

Request = tuple[str, np.ndarray, np.ndarray | None]  # train or test, example indices [B], views [B] or the middle


@dataclass(frozen=True)
class StreamedExamples:
    """A streamed dataset as training reads it; `kd.data.examples.Examples` says what is what.

    Labels are on one device, and so are the images that are given. `train` and `heldout` stay in memory.
    """

    stream: Stream
    labels: Tensor
    train: Tensor
    heldout: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    clean: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image as it is shown."""
        return len(self.mean), self.stream.size, self.stream.size

    @property
    def nbytes(self) -> int:
        """Bytes that these examples take of a device: hardly any, their images are not there."""
        return self.labels.nbytes + self.test_labels.nbytes

    def to(self, device: torch.device) -> StreamedExamples:
        """Return the examples with what a step reads on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("labels", "test_labels", "mean", "std")}
        return replace(self, **moved, clean=None if self.clean is None else self.clean.to(device))

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images [B, C, H, W] as a network wants them, float32."""
        return views.normalise(images, self.mean, self.std)

    def fetch(self, batches: Iterable[Asked], own: Own) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the indices [B] of each batch, and this process's part of its images [B, H, W, C] uint8."""
        batches = list(batches)
        requests = [("train", own(index).numpy(), own(view).numpy()) for index, view, _ in batches]
        for (index, view, grid), images in zip(batches, self.stream.read(requests, self._device), strict=True):
            if isinstance(grid, RandAugment):  # of what the worker has cropped
                images = grid.changed(images, own(view).to(self._device))
            yield index.to(self._device, non_blocking=True), images

    def inputs(self, index: Tensor, fetched: Tensor, grid: views.Views) -> Tensor:
        """Return images [B, H, W, C] uint8, `fetched`, as a network wants them: [B, C, H, W]."""
        return self.normalise(fetched.permute(0, 3, 1, 2))

    def plain(self, split: str, index: Tensor, size: int) -> Iterator[Tensor]:
        """Yield the images of `train` or `test` at `index` [N], their middle, as `Examples.plain` does."""
        requests = [(split, some.numpy(), None) for some in index.split(size)]
        for images in self.stream.read(requests, self._device):
            yield self.normalise(images.permute(0, 3, 1, 2))

    def evaluated(self, part: str) -> tuple[str, Tensor, Tensor]:
        """Return of a part the split of its images, indices [N] in memory, labels [N]; see `Examples.evaluated`."""
        if part != "test":
            index = self.heldout if part == "heldout" else self.train
            return "train", index, self.labels[index.to(self._device)]
        return "test", torch.arange(len(self.test_labels)), self.test_labels

    def truth(self, index: Tensor) -> Tensor | None:
        """Return the true labels [B] of examples `index` [B], None where no label is wrong."""
        return None if self.clean is None else self.clean[index]

    @property
    def _device(self) -> torch.device:
        return self.labels.device


class Stream:
    """The images of a streamed dataset, decoded in the order in which they are asked for.

    `workers` processes decode, or the asking one if there are none. They start with the first request and stay, unless
    it is given up before its end.
    """

    def __init__(self, dataset: Dataset, crops: ResizedCrops, workers: int = 0) -> None:
        self.size = dataset.files.size
        self._reader = Reader(dataset, crops)
        self._workers = workers
        self._requests: list[Request] = []
        self._loader: DataLoader | None = None

    def read(self, requests: list[Request], device: torch.device) -> Iterator[Tensor]:
        """Yield the images [B, H, W, C] uint8 of each request on `device`. Raises DataError that names a file."""
        self._requests[:] = requests
        if self._workers:
            self._demand_shared_memory()
        loader, self._loader = self._loader or self._started(device), None
        for images in loader:
            if isinstance(images, Exception):
                try:
                    raise images
                finally:
                    del images  # a cycle with its own traceback would keep the workers from being told to end
            yield images.to(device, non_blocking=True)
        self._loader = loader

    def _demand_shared_memory(self) -> None:
        """Raise StorageError unless all images that are under way at once fit where workers hand them over."""
        most = max((len(index) for _, index, _ in self._requests), default=0) * 3 * self.size**2
        batches = min(len(self._requests), _AHEAD * self._workers + 2)  # decoded ahead, at work, and just done
        if _free_shared_memory() < batches * most:
            raise _no_shared_memory(batches * most, self._workers)

    def _started(self, device: torch.device) -> DataLoader:
        return DataLoader(
            self._reader,
            batch_size=None,  # a request is a batch already
            sampler=self._requests,
            num_workers=self._workers,
            prefetch_factor=_AHEAD if self._workers else None,
            persistent_workers=self._workers > 0,
            worker_init_fn=_heed_the_parent_alone,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # the global one is part of a run's state
        )


def _heed_the_parent_alone(worker: int) -> None:
    """Go on when a cluster or Ctrl-C asks all processes to end: the parent needs its batch to save a state."""
    asked = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)

    def end_with_the_parent() -> None:
        parent = multiprocessing.parent_process().pid
        while os.getppid() == parent:  # one that was killed asks nobody to end
            asked_by = signal.sigtimedwait(asked, _LOOK)
            if asked_by and asked_by.si_pid == parent:  # it may be gone since
                break
        os._exit(0)

    threading.Thread(target=end_with_the_parent, daemon=True).start()


@dataclass(frozen=True)
class Reader:
    """From a request to images: what a worker does."""

    dataset: Dataset
    crops: ResizedCrops

    def __getitem__(self, request: Request) -> Tensor | Exception:
        """Return the images [B, H, W, C] uint8 of a request, or why there are none: what is raised loses its words."""
        part, index, view = request
        size = self.dataset.files.size
        images = np.empty((len(index), size, size, 3), np.uint8)
        try:
            for row, number in enumerate(index):
                image = self.image(part, number)
                images[row] = middle(image, size) if view is None else self.crop(image, int(view[row]))
        except (DataError, OutOfMemory, StorageError) as error:
            return error
        return _handed_over(torch.from_numpy(images))

    def crop(self, image: Image.Image, view: int) -> Image.Image:
        """Return what `view` shows of an image."""
        size = self.dataset.files.size
        shown = image.crop(box(view, *image.size)).resize((size, size), _BILINEAR)
        return ImageOps.mirror(shown) if self.crops.mirrored(view) else shown

    def image(self, part: str, number: int) -> Image.Image:
        """Return an image of `train` or `test`, decoded and RGB. Raises DataError that names its file and the fix."""
        name, expected = getattr(self.dataset, f"{part}_images")[number].item()
        path = os.path.join(self.dataset.files.folder, os.fsdecode(name))
        try:
            content = content_of(path)
            if len(content) != expected:
                raise ValueError(f"it has {len(content):,} bytes, and had {expected:,} when the folder was listed")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if is_turned(image):
                    _say_that_turned(self.dataset.files.folder, path)
                return rgb(image)
        except Exception as error:  # what decoders raise on damaged files has no common type
            if known := of_the_machine(error, path):
                raise known from error
            raise DataError(
                f"{path}: cannot read this image: {error}; put back the file that was listed, or list the folder anew: "
                "remove the manifest.json of this dataset in data/, and run the same command again"
            ) from error


_told: set[str] = set()  # folders of which this process has said that they have images with an orientation tag


def _say_that_turned(folder: str, path: str) -> None:
    """Name the first image with an orientation tag that this process meets: nobody counts them before training."""
    if folder not in _told:
        _told.add(folder)
        log.warning("%s has an orientation tag, which is not applied; nothing is said of others", path)


def _handed_over(images: Tensor) -> Tensor | StorageError:
    """Return images where the parent can read them: in shared memory, if a worker decoded them.

    Here, where one can say that there is no room: the thread that would move them only prints it, and the parent would
    wait for ever.
    """
    worker = get_worker_info()
    try:
        return images if worker is None else images.share_memory_()
    except (OSError, RuntimeError) as error:
        if not any(text in str(error) for text in ("shared memory", "No space left")):
            raise
        return _no_shared_memory(images.nbytes, worker.num_workers)


def _free_shared_memory() -> int:
    return free_bytes(_SHARED)


def _no_shared_memory(needed: int, workers: int) -> StorageError:
    """Return what to say where images find no room to be handed over."""
    return StorageError(
        f"{_SHARED}: the images of {workers} workers need {needed:,} bytes of shared memory, "
        f"{_free_shared_memory():,} bytes are free; enlarge it (docker run --shm-size=1g), or set fewer workers"
    )


def middle(image: Image.Image, size: int) -> Image.Image:
    """Return the middle of an image: size x size pixels after its shorter side became 256 pixels for each 224."""
    width, height = image.size
    short = size * 256 // 224
    width, height = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), _BILINEAR).crop((left, top, left + size, top + size))


def opened(
    dataset: Dataset, pad: int, flip: bool, workers: int, parts: Mapping[str, Tensor]
) -> tuple[ResizedCrops, StreamedExamples]:
    """Return the views of a streamed dataset, and its examples, which `workers` processes will decode."""
    crops = ResizedCrops(flip)
    return crops, StreamedExamples(stream=Stream(dataset, crops, workers), **parts)
