"""The built-in datasets. Each builder returns Images: what was published, byte for byte, and where it came from."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kd.core.errors import DataError, of_the_machine
from kd.core.files import file_digest
from kd.core.project import on_disk
from kd.data.arrays import Images, normalisation


def digits() -> Images:
    """Return scikit-learn's 8x8 digits, the first half to train on and the second to test on, as its own example does.

    Brightness 0 .. 16 becomes 0 .. 255.
    """
    import sklearn
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # [1797, 8, 8, 1]
    labels = bunch.target.astype(np.int64)
    half = len(images) // 2
    return Images(
        images[:half],
        labels[:half],
        images[half:],
        labels[half:],
        [str(digit) for digit in range(10)],
        *normalisation(images[:half]),
        {"source": "sklearn.datasets.load_digits", "scikit-learn": sklearn.__version__},
    )


def cifar10(source: str | Path | None = None, download_root: str | Path = "data") -> Images:
    """Return CIFAR-10 (Krizhevsky 2009) from `source`, or downloaded into `download_root`."""
    return _cifar("cifar10", source, download_root)


def cifar100(source: str | Path | None = None, download_root: str | Path = "data") -> Images:
    """Return CIFAR-100 (Krizhevsky 2009), its fine labels, from `source`, or downloaded into `download_root`."""
    return _cifar("cifar100", source, download_root)


# torchvision states MD5 digests; these are the SHA-256 of the same archives.
_ARCHIVE_SHA256 = {
    "cifar10": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar100": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
}
# Mean and standard deviation of the training pixels as the field writes them. (CIFAR-10's 0.20 is the mean of each
# image's own deviation; that of all pixels is 0.25. Kept, so that runs compare with published ones.)
_NORMALISATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def _cifar(name: str, source: str | Path | None, download_root: str | Path) -> Images:
    from torchvision import datasets

    published = getattr(datasets, name.upper())
    place = Path(source or download_root).expanduser()
    if place.name == published.base_folder and on_disk(place).is_dir():
        place = place.parent
    archive = place if source and not on_disk(place).is_dir() else place / published.filename
    with _explained(name, published, archive):
        if source and on_disk(place / published.base_folder).is_dir():
            return _from_folder(name, published, place, {"source": str(place / published.base_folder)})
        if not source:
            _download(published, archive)
        return _from_archive(name, published, archive)


@contextlib.contextmanager
def _explained(name: str, published: type, archive: Path) -> Iterator[None]:
    """Turn every way to fail into one DataError that names the file and what to do."""
    fix = (
        f"put the archive {published.url} at {archive}, "
        f"or set `datasets: {{{name}: {{source: PATH}}}}` to where it, or its unpacked folder, is"
    )
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; {fix}") from error
    except Exception as error:  # what networks, tar and pickle raise has no common type
        if known := of_the_machine(error, archive):
            raise known from error
        raise DataError(f"{archive}: {type(error).__name__}: {error}; {fix}") from error


def _download(published: type, archive: Path) -> None:
    """Fetch the archive unless it is there and whole."""
    from torchvision.datasets.utils import download_url

    download_url(published.url, on_disk(archive.parent), archive.name, published.tgz_md5)


def _from_archive(name: str, published: type, archive: Path) -> Images:
    """Read an archive once its digests are right: its members are pickles, and nothing else may be unpickled."""
    from torchvision.datasets.utils import check_integrity, extract_archive

    if not on_disk(archive).is_file():
        raise DataError(f"{archive}: no such file")
    sha256 = file_digest(archive)
    if sha256 != _ARCHIVE_SHA256[name] or not check_integrity(on_disk(archive), published.tgz_md5):
        raise DataError(f"{archive}: damaged or not {name}: its sha256 is {sha256}, not {_ARCHIVE_SHA256[name]}")
    with tempfile.TemporaryDirectory(prefix="kd-") as unpacked:  # the archive's own folder may be read-only
        extract_archive(on_disk(archive), unpacked)
        return _from_folder(name, published, Path(unpacked), {"source": str(archive), "sha256": sha256})


def _from_folder(name: str, published: type, root: Path, provenance: dict) -> Images:
    """Read the unpacked dataset below `root`. torchvision unpickles a file only after its MD5 agrees."""
    try:
        train, test = (published(on_disk(root), train=train) for train in (True, False))
    except RuntimeError as error:
        raise DataError(f"{_damaged(published, root)}: missing, damaged or not {name}") from error
    return Images(
        np.ascontiguousarray(train.data),
        np.asarray(train.targets, np.int64),
        np.ascontiguousarray(test.data),
        np.asarray(test.targets, np.int64),
        list(train.classes),
        *_NORMALISATION[name],
        {**provenance, "url": published.url, "md5": published.tgz_md5},
    )


def _damaged(published: type, root: Path) -> Path:
    """Return the first file below `root` that is not as published."""
    from torchvision.datasets.utils import check_integrity

    folder = root / published.base_folder
    files = [*published.train_list, *published.test_list, (published.meta["filename"], published.meta["md5"])]
    return next((folder / file for file, md5 in files if not check_integrity(on_disk(folder / file), md5)), folder)
