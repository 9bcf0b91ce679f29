"""Label files of CIFAR-10N and CIFAR-100N (Wei et al. 2022, arXiv 2110.12088), read without running what is in them.

`CIFAR-10_human.pt` and `CIFAR-100_human.pt` are pickles of arrays, and a pickle can name any function to be called.
Here it can name those alone that spell an array of numbers, and kd's own stand in for them: not even numpy is called.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np

from kd.core.errors import DataError, of_the_machine
from kd.core.files import content_of

_LEGACY = 0x1950A86A20F9469CFC6C  # with which torch.save began before it wrote zip archives


def human_labels(path: Path, key: str, clean: np.ndarray) -> np.ndarray:
    """Return the labels [N] under `key` in a file that also has the true ones; these must be `clean` [N].

    Raises DataError that names the file, what was got and what is allowed.
    """
    held = _read(path)
    beside = "clean_coarse_label" if "coarse" in key else "clean_label"
    for name in (key, beside):
        if name not in held:
            raise DataError(f"{path}: got no {name}; there are {', '.join(map(str, held)) or 'none'}")
    truth = np.asarray(held[beside])
    if truth.shape != clean.shape:
        raise DataError(f"{path}: got {truth.size:,} labels for {len(clean):,} training examples, in dataset order")
    if len(other := np.flatnonzero(truth != clean)):
        first = other[0]
        raise DataError(
            f"{path}: its {beside} is {truth[first]} at example {first}, where the dataset has {clean[first]}, and "
            f"differs in {len(other):,} of {len(clean):,} examples; allowed is the order of the training examples"
        )
    return np.asarray(held[key])


def _read(path: Path) -> dict:
    try:
        content = content_of(path)
        if content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                content = archive.read(name)
        file = io.BytesIO(content)
        held = _Arrays(file).load()
        if held == _LEGACY:  # a version and the machine stand before what was saved
            held = [_Arrays(file).load() for _ in range(3)][-1]
        if not isinstance(held, dict):
            raise ValueError(f"got a {type(held).__name__}")
        return {key: value.values if isinstance(value, _Array) else value for key, value in held.items()}
    except Exception as error:  # what damaged files raise has no common type
        if known := of_the_machine(error, path):
            raise known from error
        raise DataError(f"{path}: cannot read labels: {error}; expected arrays by name, as in CIFAR-10N") from error


class _Array:
    """In the place of an array: what its pickle says that it holds."""

    def __init__(self, *_: object) -> None:
        self.values = np.empty(0, np.int64)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, transposed, held = state
        self.values = np.frombuffer(held, dtype.numpy).reshape(shape, order="F" if transposed else "C")


class _Dtype:
    """In the place of the type of an array's numbers."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch("[biuf][1248]", code):
            raise ValueError(f"got an array of {code!r}, allowed are numbers")
        self._code, self._order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self._order = state[1]

    @property
    def numpy(self) -> np.dtype:
        return np.dtype(self._order + self._code)


def _scalar(dtype: _Dtype, held: bytes) -> object:
    return np.frombuffer(held, dtype.numpy)[0]


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"got bytes as {encoding!r}, allowed is latin1")
    return text.encode("latin1")


_NAMED = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _bytes,  # how pickles of torch.save spell bytes
}


class _Arrays(pickle.Unpickler):
    """Reads plain values and arrays."""

    def find_class(self, module: str, name: str) -> object:
        named = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        if named not in _NAMED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, allowed are arrays of numbers alone")
        return _NAMED[named]
