"""A folder of images is a dataset: train/CLASS/*.jpg to train on, val/CLASS/* or test/CLASS/* to test on.

What is read: in each class folder, every file whose suffix is one of SUFFIXES in any case, in the order of class
and file name. What is passed over: hidden files (.DS_Store), what systems leave behind (JUNK), whatever lies beside the
class folders (classes.txt), and files of other kinds (Thumbs.db, notes.txt), which are counted. Images that are not
read are refused, wherever in a class folder they lie. Orientation tags are not applied, as in torchvision, but counted.

Tiny ImageNet is read as it is unpacked: train/CLASS/images/*, and val/images/* with labels in val/val_annotations.txt.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

from kd.core.errors import ConfigError, DataError, of_the_machine
from kd.core.files import content_of, kind_of_file, opened
from kd.core.project import here, on_disk
from kd.core.threads import each
from kd.data.arrays import Files, Images, normalisation

log = logging.getLogger("kd")

# Those that torchvision reads, and the other names of JPEG.
SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no decoder that runs a program, as that of EPS does
_OTHER_IMAGES = (
    *(".apng", ".avif", ".dng", ".exr", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl", ".pbm", ".pcx"),
    *(".pnm", ".psd", ".svg", ".tga"),
)
JUNK = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
_ANNOTATIONS = "val_annotations.txt"  # of Tiny ImageNet: a line for each file of val/images, its name and its class
_OTHER_SPLITS = {"train": ("training",), "val": ("valid", "validation", "eval", "dev"), "test": ("testing",)}
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_CONVERTIBLE = {"1", "L", "LA", "P", "PA", "RGB", "RGB+alpha", "RGBA", "CMYK", "YCbCr"}  # 8 bits a channel
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
    names = class_names(train)
    _check_same_classes(train, names, test, class_names(test))
    if streamed:
        (train_files, train_labels), (test_files, test_labels) = (listed(split, names) for split in (train, test))
        provenance = {"source": str(folder), "test": test.name, **_passed_over(train, test, names)}
        at = Files(str(here() / folder), size)
        return Images(train_files, train_labels, test_files, test_labels, names, *_IMAGENET, provenance, at)
    train_images, train_labels, odd, turned = read(train, names, size, convert)
    test_images, test_labels, odd_test, turned_test = read(test, names, size, convert)
    provenance = {"source": str(folder), "test": test.name, "size": size, "pillow": PIL.__version__}
    provenance |= _passed_over(train, test, names)
    if convert:
        provenance["converted"] = dict(sorted((odd + odd_test).items()))
    if turned + turned_test:
        provenance["orientation_not_applied"] = turned + turned_test
        log.warning("%s: %d images have an orientation tag, which is not applied", folder, turned + turned_test)
    return Images(train_images, train_labels, test_images, test_labels, names, *normalisation(train_images), provenance)


# -- what lies where --------------------------------------------------------------------------------------------------


def _splits(folder: Path) -> tuple[Path, Path]:
    layout = "expected train/CLASS/*.jpg and either val/CLASS/* or test/CLASS/*"
    if not on_disk(folder).is_dir():
        raise DataError(
            f"{folder}: no such folder; {layout}; set `datasets: {{NAME: {{folder: PATH}}}}` to where it is"
        )
    if not on_disk(folder / "train").is_dir():
        raise DataError(f"{folder / 'train'}: no such folder; {layout}{_under_another_name(folder, 'train')}")
    tests = [folder / name for name in ("val", "test") if on_disk(folder / name).is_dir()]
    if not tests:
        raise DataError(
            f"{folder}: neither val/ nor test/ is there; {layout}{_under_another_name(folder, 'val', 'test')}"
        )
    if len(tests) > 1:
        tests = [split for split in tests if _is_labelled(split)] or tests[:1]
    if len(tests) > 1:
        raise DataError(f"{folder}: both val/ and test/ are there; {layout}: keep the one that is to be tested on")
    return folder / "train", tests[0]


def _under_another_name(folder: Path, *wanted: str) -> str:
    """Say what to rename where a split is there under a name that others use."""
    for name in wanted:
        for entry in sorted(os.scandir(on_disk(folder)), key=lambda entry: entry.name):
            if entry.is_dir() and entry.name.lower() in (name, *_OTHER_SPLITS[name]):
                return f"; {entry.name}/ is there: rename it to {name}/, or link it: ln -s {entry.name} {folder / name}"
    return ""


def _is_labelled(split: Path) -> bool:
    """Say whether labels are known of a split: its images lie in class folders, or a file names their classes."""
    return on_disk(split / _ANNOTATIONS).is_file() or _folders(split) not in ([], ["images"])


def _folders(split: Path) -> list[str]:
    found = (entry.name for entry in os.scandir(on_disk(split)) if entry.is_dir())
    return sorted(name for name in found if not name.startswith(".") and name not in JUNK)


def class_names(split: Path) -> list[str]:
    """Return the names of the classes of a split, sorted. Raises DataError where there are fewer than two."""
    names = sorted(_annotated(split)) if on_disk(split / _ANNOTATIONS).is_file() else _folders(split)
    if len(names) < 2:
        raise DataError(
            f"{split}: got {len(names)} class folders, expected at least 2: {split.name}/CLASS/*.jpg{_unsorted(split)}"
        )
    return names


def _unsorted(split: Path) -> str:
    """Say how to sort images that lie in no class folder, where there are any."""
    for folder in (split, split / "images"):
        place = on_disk(folder)
        count = sum(e.name.lower().endswith(SUFFIXES) for e in os.scandir(place)) if place.is_dir() else 0
        if count:
            return (
                f"; {count:,} images lie in {folder} without a class: sort them into class folders (those of ImageNet "
                "by torchvision.datasets.ImageNet, which reads its devkit), or give their classes, as Tiny ImageNet "
                f"does, in {split / _ANNOTATIONS}, a line NAME<tab>CLASS for each file of {split / 'images'}"
            )
    return ""


def _annotated(split: Path) -> dict[str, list[str]]:
    """Return the names of the files in `images` by class, as the split's annotations say."""
    path = split / _ANNOTATIONS
    members: dict[str, list[str]] = {}
    for number, line in enumerate(content_of(path).decode("utf-8-sig").splitlines(), start=1):
        name, *rest = line.split("\t")
        if not rest or Path(name).name != name:
            raise DataError(f"{path}: line {number} is {line!r}, expected NAME<tab>CLASS")
        members.setdefault(rest[0], []).append(name)
    return members


def _check_same_classes(train: Path, names: list[str], test: Path, test_names: list[str]) -> None:
    for split, other, only in (
        (train, test, sorted(set(names) - set(test_names))),
        (test, train, sorted(set(test_names) - set(names))),
    ):
        if only:
            more = f" and {len(only) - 5} more" if len(only) > 5 else ""
            raise DataError(
                f"{other / only[0]}: no such class folder, but {split} has {', '.join(only[:5])}{more}; "
                f"give {train.name}/ and {test.name}/ the same class folders"
            )


def _files(folder: Path) -> tuple[list[str], Counter]:
    """Return the paths of the images of one class, sorted by name, and how many other files there are, by suffix."""
    entries = {e.name: e for e in os.scandir(on_disk(folder)) if not e.name.startswith(".") and e.name not in JUNK}
    found = sorted(name for name, entry in entries.items() if _is_image(entry))
    below = [name for name, entry in entries.items() if entry.is_dir() and _holds_images(Path(entry))]
    if below == ["images"] and not found:
        return _files(folder / "images")
    if below:
        raise DataError(f"{folder / min(below)}: images in a folder within a class; move them up, or remove them")
    others = Counter(Path(name).suffix.lower() for name in entries if name not in found and entries[name].is_file())
    lost = {suffix: count for suffix, count in sorted(others.items()) if suffix in _OTHER_IMAGES}
    if lost:
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in lost.items())
        raise DataError(
            f"{folder}: {sum(lost.values()):,} files are no images to kd ({counts}): convert them "
            f"({', '.join(SUFFIXES)}), or remove them"
        )
    if not found:
        raise DataError(
            f"{folder}: no image directly in this class folder; put some there ({', '.join(SUFFIXES)}) or remove it"
        )
    for name in found:
        if not entries[name].is_file():
            raise DataError(f"{folder / name}: {_what_it_is(folder / name)}; replace or remove it")
    return [os.path.join(folder, name) for name in found], others


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()


def _holds_images(place: Path) -> bool:
    return any(found.suffix.lower() in (*SUFFIXES, *_OTHER_IMAGES) for found in place.rglob("[!.]*"))


def _passed_over(train: Path, test: Path, names: list[str]) -> dict:
    """Return what the manifest says of files in class folders that are no images, and say it."""
    others = sum((_members(split, names)[1] for split in (train, test)), Counter())
    if not others:
        return {}
    counts = {suffix or "no suffix": count for suffix, count in sorted(others.items())}
    log.warning("%s: passed over in class folders, as no images: %s", train.parent, counts)
    return {"passed_over": counts}


def _what_it_is(path: Path) -> str:
    """Say of what is neither file nor folder what it is."""
    try:
        return f"not a file but {kind_of_file(on_disk(path).stat().st_mode)}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _members(split: Path, names: list[str]) -> tuple[list[list[str]], Counter]:
    """Return the paths of the images of each class, by name, and how many other files there are, by suffix."""
    if not on_disk(split / _ANNOTATIONS).is_file():
        found = [_files(split / name) for name in names]
        return [paths for paths, _ in found], sum((others for _, others in found), Counter())
    annotated = _annotated(split)
    there, others = _files(split / "images")
    listed = {os.path.join(split, "images", name) for members in annotated.values() for name in members}
    if odd := sorted(listed ^ set(there)):
        where = "named in it, but not there" if odd[0] in listed else "there, but not named in it"
        raise DataError(f"{split / _ANNOTATIONS}: {len(odd):,} images are {where}, the first {odd[0]}")
    return [[os.path.join(split, "images", name) for name in sorted(annotated[of])] for of in names], others


def _labelled(split: Path, names: list[str]) -> tuple[list[str], np.ndarray]:
    """Return the paths of all images of a split, by class and name, and their labels [N]."""
    files, _ = _members(split, names)
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(members) for members in files])
    return [path for members in files for path in members], labels


def listed(split: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return records [N] of a split's images, (name from the folder that holds the split, bytes), and labels [N]."""
    paths, labels = _labelled(split, names)
    sizes = np.array([os.path.getsize(on_disk(path)) for path in paths], np.int64)
    if not sizes.all():
        raise DataError(f"{paths[sizes.argmin()]}: an empty file; replace or remove it")
    encoded = [os.fsencode(path)[len(os.fsencode(split.parent)) + 1 :] for path in paths]
    records = np.empty(len(paths), [("name", f"S{max(map(len, encoded))}"), ("bytes", np.int64)])
    records["name"], records["bytes"] = encoded, sizes
    return records, labels


def files_of(folder: Path, testset: bool = False) -> list[tuple[str, int]]:
    """Return (name from `folder`, bytes) of every image of a folder of images; a test set has no splits."""
    found = []
    for split in [folder] if testset else _splits(folder):
        annotations = [split / _ANNOTATIONS] if on_disk(split / _ANNOTATIONS).is_file() else []
        for path in [*_labelled(split, class_names(split))[0], *annotations]:
            found.append((os.path.relpath(path, folder), os.path.getsize(on_disk(path))))
    return found


# -- decoding ---------------------------------------------------------------------------------------------------------


def read(
    split: Path, names: list[str], size: int, convert: str | None, exact: bool = False
) -> tuple[np.ndarray, np.ndarray, Counter, int]:
    """Return images [N, size, size, 3], labels [N], how many were of which other mode than RGB, how many have a tag.

    `exact` refuses images of another size instead of resizing them.
    """
    paths, labels = _labelled(split, names)
    images = np.empty((len(paths), size, size, 3), np.uint8)

    def decode(index: int) -> tuple[str, bool]:
        mode, turned, pixels = _decode(paths[index], size, convert, exact)
        if pixels is not None:
            images[index] = pixels
        return mode, turned

    # Threads: Pillow lets go of the interpreter while it decodes, and all write into the one array.
    modes, turned = zip(*each(decode, range(len(paths))), strict=True)
    odd = Counter(mode for mode in modes if mode != "RGB")
    if odd and (not convert or not _CONVERTIBLE.issuperset(odd)):
        raise DataError(_refusal(paths, modes, odd))
    return images, labels, odd, sum(turned)


def _refusal(paths: list[str], modes: tuple[str, ...], odd: Counter) -> str:
    deep = [mode for mode in odd if mode not in _CONVERTIBLE]
    first = next(path for path, mode in zip(paths, modes, strict=True) if mode in (deep or odd))
    counts = ", ".join(f"{count:,} {mode}" for mode, count in odd.most_common())
    what = f"more than 8 bits a channel ({', '.join(deep)}), of which kd keeps 8" if deep else "not an RGB image"
    # Of the deep ones `convert` would be refused next.
    fix = "save those with 8 bits a channel (mogrify -depth 8)" if deep else ""
    if set(odd) - set(deep):
        fix = f"{fix}; " * bool(fix) + "set `convert: rgb` beside the folder to turn all into RGB"
    return f"{first}: {what}, the first of {odd.total():,} of {len(paths):,} ({counts}); {fix}, or remove them"


def _decode(path: str, size: int, convert: str | None, exact: bool) -> tuple[str, bool, np.ndarray | None]:
    """Return the mode of an image, whether it has an orientation tag, and its pixels [size, size, 3].

    None in the place of pixels where it is not RGB and may not become so.
    """
    try:
        with opened(path) as file, Image.open(file, formats=FORMATS) as image:
            mode, turned = _mode(image), is_turned(image)
            if mode != "RGB" and (not convert or mode not in _CONVERTIBLE):
                return mode, turned, None
            if exact and image.size != (size, size):
                raise ValueError(f"it has {image.width} x {image.height} pixels, expected {size} x {size}")
            return mode, turned, np.asarray(_square(rgb(image), size))
    except Exception as error:  # what decoders raise on damaged files has no common type
        if known := of_the_machine(error, path):
            raise known from error
        raise DataError(f"{path}: cannot read this image: {error}; replace or remove the file") from error


def is_turned(image: Image.Image) -> bool:
    """Say whether an image has an orientation tag that asks to show it otherwise than its pixels lie."""
    try:
        return image.getexif().get(_ORIENTATION, 1) != 1
    except Exception:  # Pillow's errors have no common type; a damaged tag is no reason to refuse an image
        return False


def _mode(image: Image.Image) -> str:
    """Return the mode of an image that is not decoded yet; of one with 16 bits a channel such as RGB;16."""
    if any("16" in str(tile[3]) for tile in image.tile):  # Pillow calls it RGB, and would keep the upper 8 bits
        return image.mode if ";" in image.mode else f"{image.mode};16"
    return "RGB+alpha" if image.mode == "RGB" and image.has_transparency_data else image.mode


def rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB, what is transparent over black. Raises ValueError where that would lose depth."""
    mode = _mode(image)
    if mode not in _CONVERTIBLE:
        raise ValueError(f"mode {mode} has more than 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)  # Pillow's bilinear antialiases
