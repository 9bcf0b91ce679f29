"""The view bank on disk: a frozen teacher's logits for every view that its students will see, computed once.

The views of an image are finite (kd.data.views) and the teacher does not change, so each of its students, at any
loss, temperature, weight and seed, can read rows instead of running it. Rows are computed in float32 and stored in
float16; what a row is, and which are needed, kd.train.teachers says.

banks/<teacher>/ holds `keys-<digest>.npy` (sorted int64), `rows-<digest>.npy` ([R, K] float16) and a manifest that
says whose logits of which data these are. Students map the files into memory: one copy in the page cache serves all. A
bank grows: rows it has are kept, rows it lacks are added. Losing it costs time only.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kd.core import files
from kd.core.errors import Damaged
from kd.data.arrays import load_array, npy
from kd.data.examples import Examples
from kd.data.views import Grid
from kd.train.device import Place
from kd.train.teachers import FILL_BATCH, LiveTeacher, Need, StoredTeacher, keys_seen

log = logging.getLogger("kd")

_FLUSH_SECONDS = 10.0


@dataclass(frozen=True)
class Identity:
    """Whose logits a bank holds: digests of the teacher's weights, the images, the examples in use and the code."""

    teacher: str
    data: str
    examples: str
    code: str
    precision: str  # that the teacher was run in
    pad: int
    flip: bool


def serves(folder: Path, identity: Identity, need: Iterable[Need]) -> bool:
    """Say whether the bank in `folder` is this teacher's, of these data, whole, and holds every view in `need`."""
    try:
        manifest = files.read_manifest(folder)
    except Damaged:  # it is filled anew
        return False
    return _refusal(manifest, identity, need) is None and files.lacking(folder, manifest) is None


def open_bank(
    folder: Path, identity: Identity, need: Iterable[Need], grid: Grid, device: torch.device
) -> StoredTeacher:
    """Return the bank in `folder`, every byte of it checked: the largest takes a second, which no cell notices.

    Raises Damaged, naming both digests, when it is of another teacher or data, or not what was written.
    """
    manifest = files.read_manifest(folder)
    refusal = _refusal(manifest, identity, need)
    if refusal:
        raise Damaged(f"{folder}: {refusal}; run `kd bank`, or snakemake")
    files.verified(folder)
    keys, rows = (_mapped(folder / manifest[name]) for name in ("keys", "rows"))
    return StoredTeacher(torch.from_numpy(keys).to(device), torch.from_numpy(rows).to(device), grid)


def _refusal(manifest: dict | None, identity: Identity, need: Iterable[Need]) -> str | None:
    """Return why a bank does not serve, or None."""
    if manifest is None:
        return "no bank here"
    wrong = [
        f"{key}: bank {manifest['identity'].get(key)}, expected {value}"
        for key, value in vars(identity).items()
        if manifest["identity"].get(key) != value
    ]
    if wrong:
        return f"this bank is of another teacher, data or code ({'; '.join(wrong)})"
    longest = dict(manifest["holds"])
    missing = [f"seed {seed}, {epochs} epochs" for seed, epochs in need if longest.get(seed, 0) < epochs]
    return f"this bank lacks the views of {'; '.join(missing)}" if missing else None


@torch.no_grad()
def fill(
    folder: Path,
    identity: Identity,
    need: list[Need],
    grid: Grid,
    teacher: nn.Module,
    examples: Examples,
    place: Place,
    about: dict,
) -> dict:
    """Compute the rows that `need` asks for and the bank lacks, and publish the bank with `about`; return its manifest.

    Call it while holding the bank's lock. Goes on where an interrupted call stopped. Memory: one batch; the rows
    are written through a memory map.
    """
    files.sweep(folder)
    before = _still_good(folder, identity)
    holds = _merged(before["holds"] if before else [], need)
    keys = keys_seen(holds, grid, examples.train).numpy()
    tag = _tag(keys, identity)
    filling = _Filling(folder, f"rows-{tag}.npy", (len(keys), _classes(teacher)))
    missing = filling.take(folder, before, keys)

    live, examples = LiveTeacher(teacher, place.device, identity.precision), examples.to(place.device)
    began, passes, batch = time.monotonic(), 0, FILL_BATCH[place.device.type]
    for start in range(filling.done, len(missing), batch):
        at = missing[start : start + batch]
        rows = live.answers(torch.from_numpy(keys[at]).to(place.device), examples, grid)
        filling.put(at, rows.numpy(), start + len(at))
        passes += len(at)
    filling.finish()

    seconds = time.monotonic() - began
    log.info("bank %s: %d rows, %d computed in %.1f s", folder, len(keys), passes, seconds)
    manifest = {
        **about,
        "status": "ok",
        "identity": vars(identity),
        "holds": holds,
        "rows": f"rows-{tag}.npy",
        "keys": f"keys-{tag}.npy",
        "shape": [len(keys), _classes(teacher)],
        "computed": passes,
        "seconds": round(seconds, 3),
        **place.describe(),
        "precision": identity.precision,
    }
    files.write_atomic(folder / manifest["keys"], npy(keys))
    names = manifest["rows"], manifest["keys"]
    manifest["files"] = {name: files.file_digest(folder / name) for name in names}
    manifest["sizes"] = {name: (folder / name).stat().st_size for name in names}
    files.crash_point("publish:1", str(folder))
    manifest = files.write_manifest(folder / files.MANIFEST, manifest)
    _remove_others(folder, names)
    return manifest


def leave_empty(folder: Path, identity: Identity, about: dict) -> None:
    """Publish a bank without rows: that of a teacher that diverged, so that what waits for it goes on."""
    empty = {"status": "diverged", "identity": vars(identity), "holds": [], "files": {}, "sizes": {}}
    files.write_manifest(folder / files.MANIFEST, about | empty)


class _Filling:
    """Rows on their way: a memory-mapped array beside a note of how many of the missing ones are in it.

    The note has a digest of each part that was written: a call that goes on takes no damaged row for a good one.
    """

    def __init__(self, folder: Path, name: str, shape: tuple[int, int]) -> None:
        with files.storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._final = folder / name
        self._partial, self._note = folder / f"filling-{name}", folder / f"filling-{name}.note"
        self._parts = self._written_before(shape)
        self.done = 0
        with files.storage(self._partial, 2 * math.prod(shape)):
            mode = "r+" if self._parts else "w+"
            self._rows = np.lib.format.open_memmap(self._partial, mode=mode, dtype=np.float16, shape=shape)
            _occupy(self._partial)
        self._begin_part()

    def _written_before(self, shape: tuple[int, int]) -> list[tuple[int, str]]:
        """Return (rows so far, digest) of each part that an interrupted call has written."""
        try:
            parts = files.unseal(self._note)[0]["parts"]
            there = load_array(self._partial, mapped=True)
        except Damaged:
            return []
        whole = there.offset + there.nbytes == self._partial.stat().st_size  # else its header is not what was written
        return parts if whole and there.shape == shape and there.dtype == np.float16 else []

    def _begin_part(self) -> None:
        self._digest, self._flushed_at = hashlib.sha256(), time.monotonic()

    def take(self, folder: Path, before: dict | None, keys: np.ndarray) -> np.ndarray:
        """Copy the rows that the bank `before` has; return the positions [M] of those that are missing."""
        missing = np.arange(len(keys))
        if before is not None:
            old_keys, old_rows = _mapped(folder / before["keys"]), _mapped(folder / before["rows"])
            # Searched, not sorted together: eight million keys are 65 MB, and a sort of both would be ten times that.
            found = np.searchsorted(old_keys, keys).clip(max=len(old_keys) - 1)
            kept = old_keys[found] == keys
            places = np.flatnonzero(kept)
            for part in np.array_split(places, max(1, len(places) // 100_000)):
                self._rows[part] = old_rows[found[part]]
            missing = np.flatnonzero(~kept)
        for number, (end, digest) in enumerate(self._parts):
            if hashlib.sha256(self._rows[missing[self.done : end]].tobytes()).hexdigest() != digest:
                log.warning("%s: damaged; its rows from %d on are computed again", self._partial, self.done)
                del self._parts[number:]
                break
            self.done = end
        return missing

    def put(self, at: np.ndarray, rows: np.ndarray, done: int) -> None:
        """Write rows [B, K] at positions `at` [B]; `done` of the missing ones are in from now on."""
        rows = rows.astype(np.float16)
        self._rows[at] = rows
        self._digest.update(rows.tobytes())
        if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            with files.storage(self._partial):
                self._rows.flush()  # rows before the note that counts them
            self._parts.append((done, self._digest.hexdigest()))
            files.seal(self._note, {"parts": self._parts}, b"")
            self._begin_part()

    def finish(self) -> None:
        """Give the rows their final name."""
        with files.storage(self._final):
            self._rows.flush()
            with open(self._partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(self._partial, self._final)
            self._note.unlink(missing_ok=True)


def _occupy(path: Path) -> None:
    """Have the disk set aside all of a file: one that fills up under a memory map kills the process without a word."""
    with open(path, "rb+") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def _tag(keys: np.ndarray, identity: Identity) -> str:
    digest = hashlib.sha256(keys.data)
    digest.update(files.canonical_json(vars(identity)).encode())
    return digest.hexdigest()[:12]


def _merged(holds: Iterable[Need], need: Iterable[Need]) -> list[list[int]]:
    longest: dict[int, int] = {}
    for seed, epochs in [*holds, *need]:
        longest[seed] = max(epochs, longest.get(seed, 0))
    return [[seed, epochs] for seed, epochs in sorted(longest.items())]


def _still_good(folder: Path, identity: Identity) -> dict | None:
    """Return the manifest of a bank that can be added to; one that is damaged, or of something else, is made anew."""
    try:
        manifest = files.read_manifest(folder)
        refusal = _refusal(manifest, identity, [])
        if refusal is None:
            return files.verified(folder)
    except Damaged as error:
        manifest, refusal = {}, str(error)
    if manifest is not None:
        log.info("%s: %s; made anew", folder, refusal)
    return None


def _remove_others(folder: Path, keep: Iterable[str]) -> None:
    for path in folder.glob("*-*.npy*"):
        if path.name not in keep:
            with files.storage(path, verb="remove"):
                path.unlink(missing_ok=True)


def _mapped(path: Path) -> np.ndarray:
    # copy-on-write: never written, but torch wants an array that says it could be
    return np.load(path, mmap_mode="c")


def _classes(teacher: nn.Module) -> int:
    return teacher.classifier.out_features
