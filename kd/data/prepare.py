"""From a name in a study to published arrays: what the data stage runs."""

from __future__ import annotations

import inspect
from pathlib import Path

from kd.core.errors import ConfigError, DataError, nearest
from kd.core.files import publish, sha256
from kd.core.project import on_disk
from kd.data import NOISES, load, source_of
from kd.data.arrays import npy, open_dataset, write_dataset
from kd.data.noise import write_labels


def prepare_dataset(name: str, declared: dict | None, folder: Path, download_root: Path, about: dict) -> dict:
    """Publish dataset `name` as `folder` and return its manifest, which begins with `about`.

    `declared` is what the study says of it: {folder, size, convert} for an image folder, {source} for a local copy
    of a built-in dataset, None for one that is downloaded into `download_root` or comes with a library.
    """
    declared = {key: value for key, value in (declared or {}).items() if value is not None}
    source = source_of(name, declared)
    downloads = {"download_root": download_root} if source.downloads else {}
    build = load(source.function)
    try:
        inspect.signature(build).bind(**declared, **downloads)
    except TypeError as error:
        allowed = ", ".join(key for key in inspect.signature(build).parameters if key not in downloads) or "nothing"
        raise ConfigError(f"datasets.{name}: {error}; what may stand there: {allowed}") from error
    listing = {"listing": listed(Path(declared["folder"]).expanduser())} if declared.get("folder") else {}
    return write_dataset(build(**declared, **downloads), folder, about | {"declared": declared} | listing)


def holds_other_files(manifest: dict, folder: str) -> bool:
    """Say whether a folder of images, where it is there, holds other files than what is published was made from."""
    path, testset = Path(folder).expanduser(), manifest["kind"] == "testset"
    return "listing" in manifest and on_disk(path).is_dir() and listed(path, testset) != manifest["listing"]


def listed(folder: Path, testset: bool = False) -> str:
    """Return a digest of the list of files of a folder of images, or of a test set: their names and sizes."""
    from kd.data.folder import files_of  # and with it Pillow

    found = (f"{size} {name}" for name, size in files_of(folder, testset))
    return sha256("\n".join(found).encode(errors="surrogateescape"))


def prepare_testset(name: str, source: str, dataset: Path, declared: dict | None, folder: Path, about: dict) -> dict:
    """Publish test set `name`, the images below `source`, as `folder`; return its manifest, which begins with `about`.

    `dataset` is where the dataset is published that it is for, `declared` what the study says of that dataset. Raises
    DataError that names the test set, the folder or file, and the fix.
    """
    from kd.data.testsets import IMAGES, LABELS, read_testset  # and with it Pillow

    path = Path(source).expanduser()
    try:
        images, labels = read_testset(path, dataset.name, open_dataset(dataset), declared or {})
        listing = listed(path, testset=True)
    except DataError as error:
        raise DataError(f"tests.{name}: {error}") from error
    manifest = about | {"count": len(labels), "declared": {"folder": source}, "listing": listing}
    return publish(folder, {f"{IMAGES}.npy": npy(images), f"{LABELS}.npy": npy(labels)}, manifest)


def prepare_labels(
    dataset_folder: Path, kind: str, rate_or_path: float | str, seed: int, folder: Path, about: dict
) -> dict:
    """Publish the training labels of a prepared dataset under noise `kind` as `folder`; return the manifest.

    `kind` is a key of NOISES; `rate_or_path` is a rate, or the file to read the labels from.
    """
    if kind not in NOISES:
        raise ConfigError(f"label noise {kind!r}: no such kind{nearest(kind, NOISES)}")
    dataset, noise = open_dataset(dataset_folder), NOISES[kind]
    if noise.sees_images and dataset.files:
        raise DataError(
            f"label noise {noise.name}: got streamed images, which it would have to decode all at once; allowed is a "
            "dataset that is not streamed"
        )
    seen = (dataset.train_images,) if noise.sees_images else ()
    noisy = load(noise.function)(dataset.train_labels, rate_or_path, seed, dataset.class_names, *seen)
    return write_labels(folder, noisy, dataset.train_labels, about)
