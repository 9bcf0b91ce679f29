"""Wrong labels, each a pure function of (seed, example index, label), so that teacher and students see the same.

Rates are exact: a rate of 0.4 is 40 % wrong labels; kd.data.instance says why not there. (Drawing from all K classes,
as much published code does, is wrong only r (K - 1) / K of the time; flipping class after class flips some examples
back.) The examples are taken in one order per seed, so those wrong at a lower rate are wrong at a higher one, and in
the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd.core.errors import ConfigError, DataError, of_the_machine
from kd.core.files import content_of, opened, publish, sha256
from kd.data import label_file
from kd.data.arrays import check_range, npy
from kd.data.human import human_labels
from kd.data.mix import mix, stream
from kd.data.splits import by_class

_WHICH, _TO = stream("flip"), stream("flip to")
_CONFUSION_UP_TO = 20  # classes: a manifest stays readable

# The pairs of Patrini et al. (2017, arXiv 1609.03683), for the ten class names of CIFAR-10.
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR10_PAIRS = {"truck": "automobile", "bird": "airplane", "cat": "dog", "dog": "cat", "deer": "horse"}

# CIFAR-100's superclasses, each in the order of its fine ids. (Ids 5i .. 5i + 4 are not superclasses.)
CIFAR100_SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}


def symmetric(labels: np.ndarray, rate: float, seed: int, class_names: Sequence[str]) -> np.ndarray:
    """Return labels [N] of which exactly round(rate * N) are wrong, each uniform over the other K - 1 classes."""
    check_rate(rate)
    classes = len(class_names)
    if classes < 2:
        raise DataError(f"label noise: {classes} class leaves no other one to take")
    wrong = _first(np.arange(len(labels)), rate, seed)
    step = 1 + mix(seed, _TO, wrong) % np.uint64(classes - 1)  # 1 .. K - 1: never the label itself
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + step.astype(np.int64)) % classes
    return noisy


def asymmetric(labels: np.ndarray, rate: float, seed: int, class_names: Sequence[str]) -> np.ndarray:
    """Return labels [N]: of each class that has a pair, exactly round(rate * n) of its n examples took that label.

    They are chosen on the clean labels, so cats and dogs trade places at the same rate. Raises DataError as `pairs`.
    """
    return _flipped(labels, rate, seed, pairs(class_names))


def pair(labels: np.ndarray, rate: float, seed: int, class_names: Sequence[str]) -> np.ndarray:
    """Return labels [N]: of each class k exactly round(rate * n) of its n examples became k + 1, the last class 0.

    The pair flips of Co-teaching (Han et al. 2018, arXiv 1804.06872). Above a rate of 1/2 a class's wrong label is its
    most frequent one.
    """
    return _flipped(labels, rate, seed, np.roll(np.arange(len(class_names)), -1))


def _flipped(labels: np.ndarray, rate: float, seed: int, target: np.ndarray) -> np.ndarray:
    """Return labels [N] of which the share `rate` of each class took the label `target` [K] has for it."""
    check_rate(rate)
    noisy = labels.copy()
    for members in by_class(labels, np.arange(len(labels))):
        label = labels[members[0]]
        if target[label] != label:
            noisy[_first(members, rate, seed)] = target[label]
    return noisy


def pairs(class_names: Sequence[str]) -> np.ndarray:
    """Return, for each class [K], the one it is mistaken for, itself when for none; found by class name.

    CIFAR-10: truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse. CIFAR-100: the next class of its
    superclass, circularly. Raises DataError for other class names.
    """
    known = {frozenset(CIFAR10): CIFAR10_PAIRS, frozenset(_cifar100_pairs()): _cifar100_pairs()}
    mistaken = known.get(frozenset(class_names))
    if mistaken is None:
        raise DataError(
            f"asymmetric label noise: no pairs are known for the classes {', '.join(class_names[:5])}, ...; it needs "
            f"the class names of CIFAR-10 ({', '.join(CIFAR10)}) or CIFAR-100 (apple, aquarium_fish, ...); "
            f"use symmetric, or file for labels of your own"
        )
    index = {name: i for i, name in enumerate(class_names)}
    return np.array([index[mistaken.get(name, name)] for name in class_names])


def _cifar100_pairs() -> dict[str, str]:
    members = [names.split() for names in CIFAR100_SUPERCLASSES.values()]
    return {name: names[(i + 1) % len(names)] for names in members for i, name in enumerate(names)}


def check_rate(rate: float) -> None:
    """Raise ConfigError unless a rate of wrong labels lies in 0 to 1."""
    if not 0 <= rate <= 1:
        raise ConfigError(f"label noise: got rate {rate}, allowed is 0 to 1")


def _first(members: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Return the round(rate * n) of `members` [n] that come first in the seed's order."""
    return members[np.argsort(mix(seed, _WHICH, members))[: round(rate * len(members))]]


# -- from a file ------------------------------------------------------------------------------------------------------


def from_file(labels: np.ndarray, path: str | Path, seed: int, class_names: Sequence[str]) -> np.ndarray:
    """Return the labels [N] in a .npy, .npz (key `labels`), .csv or .txt (one integer a line) file; no seed enters.

    Of a published file of human labels a set is named, as `CIFAR-10_human.pt:worse_label`. Raises DataError that names
    the file and what is wrong with it. Nothing in the file is run.
    """
    path, key = label_file(str(path))
    noisy = human_labels(path, key, labels) if key else _read(path)
    if noisy.ndim != 1 or noisy.dtype.kind not in "iu":
        raise DataError(f"{path}: got {noisy.dtype} {noisy.shape}, expected one integer for each training example")
    if len(noisy) != len(labels):
        raise DataError(f"{path}: got {len(noisy):,} labels for {len(labels):,} training examples, in dataset order")
    check_range(noisy, len(class_names), str(path))
    _check_order(labels, noisy, path)
    return noisy.astype(np.int64)


def _check_order(labels: np.ndarray, noisy: np.ndarray, path: Path) -> None:
    """Raise DataError where a file agrees with the true labels [N] as chance does: it tells nothing of them."""
    classes = int(max(labels.max(), noisy.max())) + 1
    one, other = (np.bincount(some, minlength=classes) / len(some) for some in (labels, noisy))
    chance, agreement = float(one @ other), float((labels == noisy).mean())
    deviation = (chance * (1 - chance) / len(labels)) ** 0.5
    if abs(agreement - chance) <= 4 * deviation <= (1 - chance) / 4:  # of a handful of examples nobody can tell
        raise DataError(
            f"{path}: agrees with the true labels in {agreement:.1%} of the examples, as chance would ({chance:.1%}): "
            "the labels stand in another order than the dataset's, or their classes are numbered otherwise; put them "
            f"in the order of the training examples (labels that are random on purpose: symmetric: {1 - chance:.2g})"
        )


def _read_npy(path: Path) -> np.ndarray:
    with opened(path) as file:  # not np.load: it would open an archive or a pickle under this name
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(path: Path) -> np.ndarray:
    with opened(path) as file, np.load(file, allow_pickle=False) as archive:
        return archive["labels"]


def _read_text(path: Path) -> np.ndarray:
    lines = content_of(path).decode("utf-8-sig").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip().removeprefix("-").isdecimal():
            raise ValueError(f"line {number} is {line!r}")
    return np.array([int(line) for line in lines], np.int64)


_READERS = {
    ".npy": (_read_npy, "an int64 array as numpy.save writes it"),
    ".npz": (_read_npz, "an int64 array under the key `labels`, as numpy.savez(path, labels=...) writes it"),
    ".csv": (_read_text, "one integer a line"),
    ".txt": (_read_text, "one integer a line"),
}


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".pt":
        raise DataError(f"{path}: got no set of labels; name it behind a colon, such as {path}:worse_label")
    if path.suffix not in _READERS:
        raise DataError(f"{path}: not a label file: expected {', '.join(_READERS)}; save the labels with numpy.save")
    read, expected = _READERS[path.suffix]
    try:
        return read(path)
    except Exception as error:  # what damaged files raise has no common type
        if known := of_the_machine(error, path):
            raise known from error
        raise DataError(f"{path}: cannot read labels: {error}; expected {expected}") from error


# -- on disk -----------------------------------------------------------------------------------------------------------


def write_labels(folder: Path, noisy: np.ndarray, clean: np.ndarray, about: dict) -> dict:
    """Publish `noisy` labels [N] as `folder`; return its manifest, with the share that is wrong, per class too."""
    wrong = noisy != clean
    manifest = {
        **about,
        "count": len(noisy),
        "wrong": int(wrong.sum()),
        "realised_rate": float(wrong.mean()),
        "realised_rate_by_class": [float(wrong[clean == label].mean()) for label in np.unique(clean)],
        "content": sha256(noisy.tobytes()),
    }
    classes = int(max(noisy.max(), clean.max())) + 1
    if classes <= _CONFUSION_UP_TO:
        counts = np.bincount(clean * classes + noisy, minlength=classes**2)
        manifest["confusion"] = counts.reshape(classes, classes).tolist()  # [clean label][noisy label]
    return publish(folder, {"labels.npy": npy(noisy)}, manifest)
