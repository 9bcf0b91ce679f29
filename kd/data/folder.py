"""A folder of images is a dataset: train/CLASS/*.jpg to train on, val/CLASS/* or test/CLASS/* to test on.

What is read: in each class folder, every file whose suffix is one of SUFFIXES in any case, in the order of class
and file name. What is passed over: hidden files (.DS_Store), files of any other kind (Thumbs.db, notes.txt), and
whatever lies beside the class folders (classes.txt). Orientation tags are not applied, as in torchvision.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

from kd.core.errors import ConfigError, DataError
from kd.core.files import kind_of_file, opened
from kd.core.threads import each
from kd.data.arrays import Files, Images, normalisation

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")  # no decoder that runs a program, as that of EPS does
_CONVERTIBLE = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # 8 bits a channel
# Mean and standard deviation of ImageNet's training pixels, as all who stream images normalise them, ImageNet's or not.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def image_folder(folder: str | Path, size: int, convert: str | None = None, streamed: bool = False) -> Images:
    """Return the images below `folder` as RGB, size x size pixels.

    An image of another size is cropped to its central square and resized, bilinear with antialiasing. Grey,
    palette, transparent and CMYK images are refused unless `convert` is "rgb", which makes them RGB, transparent
    ones over black. Raises DataError that names the folder or file and the fix.

    `streamed` looks at no image: what is returned is the list of the files. They are decoded when they are needed, at
    any size, all made RGB (kd.data.streamed), and normalised with ImageNet's mean and deviation.
    """
    if convert not in (None, "rgb"):
        raise ConfigError(f"convert: got {convert!r}, allowed is rgb")
    folder = Path(folder).expanduser()
    train, test = _splits(folder)
    names = _class_names(train)
    _check_same_classes(train, names, test, _class_names(test))
    if streamed:
        (train_files, train_labels), (test_files, test_labels) = (_listed(split, names) for split in (train, test))
        provenance = {"source": str(folder), "test": test.name}
        at = Files(str(folder.absolute()), size)
        return Images(train_files, train_labels, test_files, test_labels, names, *_IMAGENET, provenance, at)
    train_images, train_labels, odd = _read(train, names, size, convert)
    test_images, test_labels, odd_test = _read(test, names, size, convert)
    provenance = {"source": str(folder), "test": test.name, "size": size, "pillow": PIL.__version__}
    if convert:
        provenance["converted"] = dict(sorted((odd + odd_test).items()))
    return Images(train_images, train_labels, test_images, test_labels, names, *normalisation(train_images), provenance)


# -- what lies where --------------------------------------------------------------------------------------------------


def _splits(folder: Path) -> tuple[Path, Path]:
    layout = "expected train/CLASS/*.jpg and either val/CLASS/* or test/CLASS/*"
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; {layout}; set `datasets: {{NAME: {{folder: PATH}}}}` to where it is"
        )
    if not (folder / "train").is_dir():
        raise DataError(f"{folder / 'train'}: no such folder; {layout}")
    tests = [folder / name for name in ("val", "test") if (folder / name).is_dir()]
    if len(tests) != 1:
        found = "both val/ and test/ are there" if tests else "neither val/ nor test/ is there"
        raise DataError(f"{folder}: {found}; {layout}: keep the one whose labels are to be tested on")
    return folder / "train", tests[0]


def _class_names(split: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(split) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{split}: got {len(names)} class folders, expected at least 2: {split.name}/CLASS/*.jpg")
    return names


def _check_same_classes(train: Path, names: list[str], test: Path, test_names: list[str]) -> None:
    for here, there, only in (
        (train, test, sorted(set(names) - set(test_names))),
        (test, train, sorted(set(test_names) - set(names))),
    ):
        if only:
            more = f" and {len(only) - 5} more" if len(only) > 5 else ""
            raise DataError(
                f"{there / only[0]}: no such class folder, but {here} has {', '.join(only[:5])}{more}; "
                f"give {train.name}/ and {test.name}/ the same class folders"
            )


def _files(folder: Path) -> list[str]:
    """Return the paths of the images of one class, sorted by name."""
    entries = {entry.name: entry.is_file() for entry in os.scandir(folder) if not entry.is_dir()}
    found = sorted(name for name in entries if name.lower().endswith(SUFFIXES) and not name.startswith("."))
    if not found:
        raise DataError(
            f"{folder}: no image directly in this class folder; put some there ({', '.join(SUFFIXES)}) or remove it"
        )
    for name in found:
        if not entries[name]:
            raise DataError(f"{folder / name}: {_what_it_is(folder / name)}; replace or remove it")
    return [os.path.join(folder, name) for name in found]


def _what_it_is(path: Path) -> str:
    """Say of what is neither file nor folder what it is."""
    try:
        return f"not a file but {kind_of_file(path.stat().st_mode)}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _labelled(split: Path, names: list[str]) -> tuple[list[str], np.ndarray]:
    """Return the paths of all images of a split, by class and name, and their labels [N]."""
    files = [_files(split / name) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(members) for members in files])
    return [path for members in files for path in members], labels


def _listed(split: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return records [N] of a split's images, (name from the folder that holds the split, bytes), and labels [N]."""
    paths, labels = _labelled(split, names)
    sizes = np.array([os.path.getsize(path) for path in paths], np.int64)
    if not sizes.all():
        raise DataError(f"{paths[sizes.argmin()]}: an empty file; replace or remove it")
    encoded = [os.fsencode(path)[len(os.fsencode(split.parent)) + 1 :] for path in paths]
    records = np.empty(len(paths), [("name", f"S{max(map(len, encoded))}"), ("bytes", np.int64)])
    records["name"], records["bytes"] = encoded, sizes
    return records, labels


def files_of(folder: Path) -> list[tuple[str, int]]:
    """Return (name from `folder`, bytes) of every image of a folder of images."""
    found = []
    for split in _splits(folder):
        for path in _labelled(split, _class_names(split))[0]:
            found.append((os.path.relpath(path, folder), os.path.getsize(path)))
    return found


# -- decoding ---------------------------------------------------------------------------------------------------------


def _read(split: Path, names: list[str], size: int, convert: str | None) -> tuple[np.ndarray, np.ndarray, Counter]:
    """Return images [N, size, size, 3], labels [N] and how many images were of which other mode than RGB."""
    paths, labels = _labelled(split, names)
    images = np.empty((len(paths), size, size, 3), np.uint8)

    def decode(index: int) -> str:
        mode, pixels = _decode(paths[index], size, convert)
        if pixels is not None:
            images[index] = pixels
        return mode

    # Threads: Pillow lets go of the interpreter while it decodes, and all write into the one array.
    modes = each(decode, range(len(paths)))
    odd = Counter(mode for mode in modes if mode != "RGB")
    if odd and not convert:
        raise DataError(_refusal(paths, modes, odd))
    return images, labels, odd


def _refusal(paths: list[str], modes: list[str], odd: Counter) -> str:
    first = next(path for path, mode in zip(paths, modes, strict=True) if mode != "RGB")
    counts = ", ".join(f"{count:,} {mode}" for mode, count in odd.most_common())
    return (
        f"{first}: not an RGB image, the first of {odd.total():,} of {len(paths):,} ({counts}); "
        f"set `convert: rgb` beside the folder to turn all into RGB, or remove them"
    )


def _decode(path: str, size: int, convert: str | None) -> tuple[str, np.ndarray | None]:
    """Return the mode of an image and its pixels [size, size, 3]; None when it is not RGB and may not become so."""
    try:
        with opened(path) as file, Image.open(file, formats=FORMATS) as image:
            mode = "RGB+alpha" if image.mode == "RGB" and image.has_transparency_data else image.mode
            if mode != "RGB" and not convert:
                return mode, None
            return mode, np.asarray(_square(rgb(image), size))
    except Exception as error:  # what decoders raise on damaged files has no common type
        raise DataError(f"{path}: cannot read this image: {error}; replace or remove the file") from error


def rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB, what is transparent over black. Raises ValueError where that would lose depth."""
    if image.mode not in _CONVERTIBLE:
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)  # Pillow's bilinear antialiases
