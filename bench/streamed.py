"""The speed of streamed images, compared with Pillow alone: python -m bench.streamed [--rounds N].

It reads random crops of 224 x 224 pixels from made photographs of 500 x 375 pixels, batch after batch. The variants
take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from bench.parts import interleaved
from kd.data.arrays import open_dataset
from kd.data.crops import ResizedCrops
from kd.data.prepare import prepare_dataset
from kd.data.streamed import Request, Stream

IMAGES, BATCH, SIZE = 256, 32, 224
CROPS = ResizedCrops(flip=True)


def main() -> None:
    """Print images a second for each way to read them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder, "images"))
        declared = {"folder": f"{folder}/images", "size": SIZE, "streamed": True}
        prepare_dataset("made", declared, Path(folder, "made"), Path(folder), {})
        dataset = open_dataset(Path(folder, "made"))
        paths = sorted(Path(folder, "images", "train").rglob("*.jpg"))
        variants = {"Pillow alone": lambda: [bare(path) for path in paths]}
        for workers in (0, 1, 2):
            stream = Stream(dataset, CROPS, workers)
            variants[f"{workers} workers"] = lambda stream=stream: list(stream.read(requests(), torch.device("cpu")))
        for name, seconds in interleaved(variants, parser.parse_args().rounds).items():
            print(f"{name:14}{IMAGES / seconds:8.1f} images/s")


def photographs(folder: Path) -> None:
    """Make images of smooth noise, which compresses like photographs, to 40 kB each."""
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        for split in ("train", "val") if number < 2 else ("train",):
            place = folder / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            noise = Image.fromarray(random.integers(0, 256, (375, 500, 3), dtype=np.uint8))
            noise.filter(ImageFilter.GaussianBlur(1)).save(place / f"{number}.jpg")


def bare(path: Path) -> np.ndarray:
    """Read an image and resize a part of it that is as large as an average crop."""
    with Image.open(path) as image:
        return np.asarray(image.crop((50, 20, 420, 300)).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def requests() -> list[Request]:
    """Return the requests of an epoch."""
    index = np.arange(IMAGES)
    views = CROPS.draw(0, 0, torch.arange(IMAGES)).numpy()
    return [("train", index[at : at + BATCH], views[at : at + BATCH]) for at in range(0, IMAGES, BATCH)]


if __name__ == "__main__":
    main()
