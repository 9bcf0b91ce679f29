"""Further test sets: folders CLASS/*.jpg with the classes of a dataset, on which its networks are tested once more.

Their images are read as those of the dataset are. A dataset that is a folder decides how: resized to its size, made RGB
or not, streamed or not. The images of a built-in one must have its size and channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from kd.core.errors import DataError
from kd.core.files import verified
from kd.core.project import here, on_disk
from kd.data.arrays import Dataset, Files, load_array
from kd.data.folder import class_names, listed, read

IMAGES, LABELS = "test_images", "test_labels"
_MOST = 5  # classes named in an error


def read_testset(path: Path, name: str, dataset: Dataset, declared: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Return the images [N, H, W, C] below `path`, or records [N] of streamed ones, and their labels [N].

    `dataset` has this `name`, and is `declared` so by a study. Raises DataError that names the folder or file.
    """
    _demand_classes(path, dataset, name)
    names = list(dataset.class_names)
    if dataset.files:
        return listed(path, names)
    height, width, channels = dataset.test_images.shape[1:]
    if height != width or channels not in (1, 3):
        raise DataError(f"{name}: has images of {height} x {width} x {channels}; allowed are grey or RGB squares")
    convert = "rgb" if channels == 1 else declared.get("convert")
    images, labels, _, _ = read(path, names, height, convert, exact=not declared.get("folder"))
    if channels == 1 and (images != images[..., :1]).any():
        raise DataError(f"{path}: has images in colour, but those of {name} are grey; save them as grey ones")
    return images[..., :channels], labels


def _demand_classes(path: Path, dataset: Dataset, name: str) -> None:
    if not on_disk(path).is_dir():
        raise DataError(f"{path}: no such folder; set it to one with a folder of images for each class of {name}")
    wanted, found = set(dataset.class_names), set(class_names(path))
    for problem, classes in (("lacks", wanted - found), ("has what are none", found - wanted)):
        if classes:
            some = ", ".join(sorted(classes)[:_MOST])
            more = f" and {len(classes) - _MOST} more" if len(classes) > _MOST else ""
            raise DataError(f"{path}: {problem} of the {len(wanted)} class folders of {name}: {some}{more}")


def on_testset(dataset: Dataset, folder: Path, source: str) -> Dataset:
    """Return a dataset with the images of the test set that is published in `folder` in place of its own test images.

    `source` is where its files are now: those of a streamed one are read there. Raises StorageError when it is damaged.
    """
    verified(folder)
    images, labels = (load_array(folder / f"{name}.npy", mapped=name == IMAGES) for name in (IMAGES, LABELS))
    place = here() / Path(source).expanduser()
    files = dataset.files and Files(str(place.parent), dataset.files.size)  # the names in records begin with its own
    return replace(dataset, test_images=images, test_labels=labels, files=files)
