"""A dataset on disk: uint8 images and int64 labels by example index, with one digest; its parts.

In the place of pixels a streamed dataset has one record for each image, of the file that holds it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from kd.core.errors import Damaged, DataError, of_the_machine
from kd.core.files import AGAIN, MANIFEST, canonical_json, publish, sha256, verified
from kd.core.project import on_disk

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_ALWAYS_CHECKED = 256 << 20  # bytes of a file that is read whole whenever it is opened: half a second at most


@dataclass(frozen=True)
class Files:
    """Where the images of a streamed dataset are, and how many pixels of them are shown: size x size."""

    folder: str
    size: int


@dataclass
class Images:
    """What a builder returns: images [N, H, W, C], labels [N], and how to normalise (in units of 255)."""

    train_images: np.ndarray  # uint8 [N, H, W, C]; or records [N] of `files`
    train_labels: np.ndarray  # int64 [N]
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: list[str]
    mean: tuple[float, ...]  # [C] in [0, 1]
    std: tuple[float, ...]
    provenance: dict = field(default_factory=dict)
    files: Files | None = None


@dataclass(frozen=True)
class Dataset:
    """A published dataset, its images memory-mapped and read-only."""

    train_images: np.ndarray  # uint8 [N, H, W, C]; or records [N] of `files`
    train_labels: np.ndarray  # int64 [N]
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # [C] in [0, 1]
    std: tuple[float, ...]
    digest: str
    files: Files | None = None  # of a streamed dataset

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)


def normalisation(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation [C] of uint8 images [N, H, W, C], in units of 255, from exact sums."""
    mean, std = [], []
    values = np.arange(256)
    for counts in _histograms(images):  # [256]
        n, total, squares = (int(counts @ values**power) for power in range(3))
        mean.append(total / n / 255)
        std.append((n * squares - total**2) ** 0.5 / n / 255)
    return tuple(mean), tuple(std)


def _histograms(images: np.ndarray) -> np.ndarray:
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(images), 1024):  # chunks: the images may be larger than memory
        chunk = np.asarray(images[start : start + 1024])
        for channel, row in enumerate(counts):
            row += np.bincount(chunk[..., channel].ravel(), minlength=256)
    return counts


def write_dataset(images: Images, folder: Path, about: dict) -> dict:
    """Publish `images` as `folder` and return its manifest, which begins with `about`.

    Raises DataError when they contradict themselves.
    """
    _check(images, folder)
    arrays = {name: np.ascontiguousarray(getattr(images, name)) for name in ARRAYS}
    content = {name: _array_digest(array) for name, array in arrays.items()}
    streamed = {}
    if images.files:
        content["size"] = images.files.size  # not the folder: a dataset that is moved is the same dataset
        streamed["streamed"] = vars(images.files)
    manifest = {
        **about,
        "class_names": list(images.class_names),
        "counts": {"train": len(images.train_labels), "test": len(images.test_labels)},
        "shape": list(images.train_images.shape[1:]),
        "mean": list(images.mean),
        "std": list(images.std),
        "provenance": images.provenance,
        **streamed,
        "content": sha256(canonical_json({**content, "mean": images.mean, "std": images.std}).encode()),
    }
    return publish(folder, {f"{name}.npy": npy(array) for name, array in arrays.items()}, manifest)


def npy(array: np.ndarray) -> Callable[[Path], None]:
    """Return the function that writes `array` to the .npy file it is given."""

    def write(place: Path) -> None:
        with open(place, "wb") as file:
            # By Python's own file: numpy, which writes by C's, says of a disk that refuses only how many bytes it took.
            np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)

    return write


def _array_digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.data)
    return digest.hexdigest()


def _check(images: Images, folder: Path) -> None:
    for split in ("train", "test"):
        pixels, labels = getattr(images, f"{split}_images"), getattr(images, f"{split}_labels")
        if not images.files and (
            pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != images.train_images.shape[1:]
        ):
            raise DataError(f"{folder}: {split}_images: got {pixels.dtype} {pixels.shape}, expected uint8 [N, H, W, C]")
        if labels.dtype != np.int64 or labels.shape != pixels.shape[:1]:
            raise DataError(f"{folder}: {split}_labels: got {labels.dtype} {labels.shape} for {len(pixels)} images")
        check_range(labels, len(images.class_names), f"{folder}: {split}_labels")
        if not len(labels):
            raise DataError(f"{folder}: {split}_images: there are none")
    channels = 3 if images.files else images.train_images.shape[-1]
    if not len(images.mean) == len(images.std) == channels:
        raise DataError(
            f"{folder}: mean {images.mean} and std {images.std}: expected one number for each of {channels}"
        )
    if not all(value > 0 for value in images.std):
        raise DataError(f"{folder}: a channel has the same value in every training pixel: std {images.std}")


def check_range(labels: np.ndarray, classes: int, where: str) -> None:
    """Raise DataError naming the first of `labels` [N] that is not one of 0 .. classes - 1."""
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        first = outside[0]
        raise DataError(f"{where}: label {labels[first]} at example {first}: allowed are 0 to {classes - 1}")


def open_dataset(folder: Path, verify: bool = False) -> Dataset:
    """Return the dataset published in `folder`, its files checked against their digests, the largest with `verify`.

    Raises StorageError that names the damaged or missing file.
    """
    folder = Path(folder)
    names = [f"{name}.npy" for name in ARRAYS]
    manifest = verified(folder, *(name for name in names if verify or _is_quickly_read(folder / name)))
    arrays = {name: load_array(folder / f"{name}.npy", mapped="images" in name) for name in ARRAYS}
    for split, count in manifest["counts"].items():
        if arrays[f"{split}_images"].shape != (count, *manifest["shape"]):
            raise Damaged(f"{folder / split}_images.npy: not the {count} images of its manifest; {_rebuild(folder)}")
    mean, std, names = (tuple(manifest[key]) for key in ("mean", "std", "class_names"))
    streamed = manifest.get("streamed")
    listed = Files(**streamed) if streamed else None
    return Dataset(**arrays, class_names=names, mean=mean, std=std, digest=manifest["content"], files=listed)


def _is_quickly_read(path: Path) -> bool:
    place = on_disk(path)
    return "labels" in path.name or not place.exists() or place.stat().st_size <= _ALWAYS_CHECKED


def load_array(path: Path, mapped: bool = False) -> np.ndarray:
    """Return the read-only array in a .npy file of ours. Raises Damaged when it is none, StorageError unread."""
    try:
        array = np.load(on_disk(path), mmap_mode="r" if mapped else None, allow_pickle=False)
    except Exception as error:  # what a damaged file raises has no common type
        if known := of_the_machine(error, path):
            raise known from error
        raise Damaged(f"{path}: {error}; {_rebuild(path.parent)}") from error
    array.flags.writeable = False
    return array


def _rebuild(folder: Path) -> str:
    return f"remove {folder / MANIFEST} and {AGAIN}"


def open_labels(folder: Path) -> np.ndarray:
    """Return the int64 labels [N] published in `folder`, read-only. Raises StorageError when they are damaged."""
    verified(folder)
    return load_array(Path(folder) / "labels.npy")
