"""A small folder of images, laid out like ImageNet: train/WNID/*.JPEG and val/WNID/*.JPEG, of many sizes and kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n02102040")
SIZES = ((40, 30), (30, 48), (64, 64), (33, 90), (100, 41))  # width, height

PROTOCOL = {
    "name": "quick",
    "epochs": 2,
    "batch": 7,
    "lr": 0.02,
    "crop": "resized",
    "teacher": "online",
    "precision": "fp32",
}


def made_imagenet(folder: Path, train: int = 10, val: int = 5) -> Path:
    """Make `train` and `val` images of each class and return the folder. The brightest colour tells the class."""
    for split, count in (("train", train), ("val", val)):
        for label, wnid in enumerate(WNIDS):
            (folder / split / wnid).mkdir(parents=True)
            for number in range(count):
                image = picture(label, number)
                if (label, number) == (0, 1):
                    image = image.convert("CMYK")  # ImageNet has a few of these,
                if (label, number) == (1, 1):
                    image = image.convert("L")  # some grey images,
                kind = "PNG" if (label, number) == (2, 1) else "JPEG"  # and one PNG file that is named .JPEG
                image.save(folder / split / wnid / f"{wnid}_{number}.JPEG", kind)
    return folder


def picture(label: int, number: int) -> Image.Image:
    """Return noise in which one colour is brighter."""
    width, height = SIZES[number % len(SIZES)]
    pixels = np.random.default_rng(100 * label + number).integers(0, 130, (height, width, 3), dtype=np.uint8)
    pixels[..., label] += 110
    return Image.fromarray(pixels)
