"""A flipped bit in anything that kd reads is refused by name or changes nothing (promise 5)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from made.sweeps import swept

from kd.core import files
from kd.core.errors import StorageError
from kd.measure.frames import frame_files, read_frame


def _manifest(path: Path) -> Callable[[Path], object]:
    files.write_manifest(path, {"kind": "network", "last": {"test_top1": 14.01}, "files": {"a": "0" * 64}})
    return lambda path: files.read_manifest(path.parent, path)


def _state(path: Path) -> Callable[[Path], object]:
    files.seal(path, {"cell": "results/a", "fingerprint": "0" * 64}, bytes(range(256)))
    return files.unseal


def _table(path: Path) -> Callable[[Path], object]:
    frame = pd.DataFrame({"cell": ["a", "b"], "lineage": "c", "test_top1": [14.01, float("nan")], "seed": [0, 1]})
    path.write_bytes(frame_files(frame, "table")["table.parquet"])
    return read_frame


@pytest.mark.slow
@pytest.mark.parametrize("write", [_manifest, _state, _table])
def test_every_bit_of_a_file_that_bears_its_own_digest_counts(tmp_path: Path, write: Callable) -> None:
    """Fault 9: what a reader gets from a file with one other bit is the same as before, or a refusal by name."""
    path = tmp_path / "file"
    read = write(path)
    content, whole = path.read_bytes(), repr(read(path))
    refused = 0
    with open(path, "r+b", buffering=0) as file:  # in its place: a file that is written anew waits for the disk
        for place in range(8 * len(content)):
            byte, bit = divmod(place, 8)
            os.pwrite(file.fileno(), bytes([content[byte] ^ 1 << bit]), byte)
            try:
                assert repr(read(path)) == whole, f"byte {byte}, bit {bit}"
            except StorageError as error:
                assert str(path) in str(error)
                refused += 1
            os.pwrite(file.fileno(), content[byte : byte + 1], byte)
    assert refused > 7.9 * len(content) - 100  # of a table the name of the key under which the digest stands counts not


@pytest.mark.slow
def test_no_verb_takes_a_flipped_bit_for_what_was_there() -> None:
    """Fault 9: as many bits of each file as there is time; `make storm` flips eight of each before each reader."""
    assert " flips of " in swept("flip_sweep.py", "--seconds", "20")
