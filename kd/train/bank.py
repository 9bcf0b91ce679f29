"""The view bank on disk: what a frozen teacher says of every view that its students will see, computed once.

The views of an image are finite (kd.data.views) and the teacher does not change, so each of its students, at any
loss, temperature, weight and seed, can read rows instead of running it. Rows are computed in float32 and stored in
float16; what a row is, and which are needed, kd.train.teachers says.

banks/<teacher>/ holds rows of each output that students look at: `rows-<digest>.npy`, the logits (float16 [R, K]), and
`prelogits-<digest>.npy` (float16 [R, D]). Each has its sorted keys, `keys-<digest>.npy` (int64 [R]); outputs of the
same views share these. A manifest says whose outputs for which data they are. Students map the files into memory: one
copy in the page cache serves all. A bank grows, each output by itself: rows it has are kept, rows it lacks are added.
Losing it costs time only.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd.core import files
from kd.core.errors import Damaged
from kd.core.project import on_disk
from kd.data.arrays import load_array, npy
from kd.data.examples import Examples
from kd.data.views import Grid
from kd.study.needs import FILES, Need, unmet
from kd.train.device import Place
from kd.train.teachers import FILL_BATCH, LiveTeacher, StoredTeacher, keys_seen

log = logging.getLogger("kd")

_FLUSH_SECONDS = 10.0


@dataclass(frozen=True)
class Identity:
    """Whose outputs a bank holds: digests of the teacher's weights, the images, the examples in use and the code."""

    teacher: str
    data: str
    examples: str
    code: str
    precision: str  # that the teacher was run in
    pad: int
    flip: bool


def serves(folder: Path, identity: Identity, needs: Iterable[Need]) -> bool:
    """Say whether the bank in `folder` is this teacher's, of these data, whole, and meets these needs."""
    try:
        manifest = files.read_manifest(folder)
    except Damaged:  # it is filled anew
        return False
    return _refusal(manifest, identity, needs) is None and files.lacking(folder, manifest) is None


def open_bank(
    folder: Path, identity: Identity, needs: Sequence[Need], grid: Grid, device: torch.device
) -> StoredTeacher:
    """Return what `needs` ask for of the bank in `folder`, every byte checked: the largest takes a second or few.

    Raises Damaged, naming both digests, when it is of another teacher or data, or not what was written.
    """
    manifest = files.read_manifest(folder)
    refusal = _refusal(manifest, identity, needs)
    if refusal:
        raise Damaged(f"{folder}: {refusal}; run `kd bank`, or snakemake")
    parts = {need.output: manifest["outputs"][need.output] for need in needs}
    names = dict.fromkeys(name for part in parts.values() for name in (part["keys"], part["rows"]))
    files.verified(folder, *names)
    read = {name: torch.from_numpy(_mapped(folder / name)).to(device) for name in names}
    return StoredTeacher({output: (read[part["keys"]], read[part["rows"]]) for output, part in parts.items()}, grid)


def _refusal(manifest: dict | None, identity: Identity, needs: Iterable[Need]) -> str | None:
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
    missing = unmet(manifest, needs)
    return f"this bank lacks the views of {'; '.join(map(str, missing))}" if missing else None


@torch.no_grad()
def fill(
    folder: Path,
    identity: Identity,
    needs: Sequence[Need],
    grid: Grid,
    teacher: nn.Module,
    examples: Examples,
    place: Place,
    about: dict,
) -> dict:
    """Compute the rows that `needs` ask for and the bank lacks, and publish the bank with `about`; return its manifest.

    Call it while holding the bank's lock. Goes on where an interrupted call stopped. Memory: one batch; the rows
    are written through memory maps.
    """
    files.sweep(folder)
    before = _still_good(folder, identity)
    outputs, lacked = dict(before), []
    for output in FILES:
        asked = [need[:2] for need in needs if need.output == output]
        if not asked:
            continue
        had = before.get(output)
        holds = _merged(had["holds"] if had else [], asked)
        keys = keys_seen(holds, grid, examples.train).numpy()
        outputs[output] = part = _part(output, holds, keys, identity, teacher)
        if had is None or had["rows"] != part["rows"]:
            lacked.append(_Rows(folder, output, part, keys, had))

    began, passes, batch = time.monotonic(), 0, FILL_BATCH[place.device.type]
    if lacked:
        filling = _Filling(folder, lacked)
        live = LiveTeacher(teacher, place.device, identity.precision, [rows.output for rows in lacked])
        examples = examples.to(place.device)
        for start in range(filling.done, len(filling.keys), batch):
            keys = filling.keys[start : start + batch]
            filling.put(keys, live.answers(torch.from_numpy(keys).to(place.device), examples, grid)._asdict())
            passes += len(keys)
        filling.finish()

    seconds = time.monotonic() - began
    log.info("bank %s: %s, %d views computed in %.1f s", folder, _told(outputs), passes, seconds)
    manifest = {
        **about,
        "status": "ok",
        "identity": vars(identity),
        "outputs": outputs,
        "computed": passes,
        "seconds": round(seconds, 3),
        **place.describe(),
        "precision": identity.precision,
    }
    known = {part["keys"] for part in before.values()}
    for rows in lacked:
        if rows.part["keys"] not in known:
            files.write_atomic(folder / rows.part["keys"], npy(rows.keys))
    names = list(dict.fromkeys(part[kind] for part in outputs.values() for kind in ("rows", "keys")))
    manifest["files"] = {name: files.file_digest(folder / name) for name in names}
    manifest["sizes"] = {name: on_disk(folder / name).stat().st_size for name in names}
    files.crash_point("publish:1", str(folder))
    manifest = files.write_manifest(folder / files.MANIFEST, manifest)
    _remove_others(folder, names)
    return manifest


def _part(output: str, holds: list, keys: np.ndarray, identity: Identity, teacher: nn.Module) -> dict:
    """Return what a manifest says of one output: for whom it is, its files, and the shape [R, D] of its rows."""
    tag, last = _tag(keys, identity), teacher.classifier
    width = last.out_features if output == "logits" else last.in_features
    return {
        "holds": holds,
        "rows": f"{FILES[output]}-{tag}.npy",
        "keys": f"keys-{tag}.npy",
        "shape": [len(keys), width],
    }


def _told(outputs: Mapping[str, dict]) -> str:
    return ", ".join(f"{part['shape'][0]} rows of {output}" for output, part in outputs.items())


def leave_empty(folder: Path, identity: Identity, about: dict) -> None:
    """Publish a bank without rows: that of a teacher that diverged, so that what waits for it goes on."""
    empty = {"status": "diverged", "identity": vars(identity), "outputs": {}, "files": {}, "sizes": {}}
    files.write_manifest(folder / files.MANIFEST, about | empty)


class _Rows:
    """Rows [R, D] of one output on their way: a memory-mapped file, the keys of all rows and those that it lacks."""

    def __init__(self, folder: Path, output: str, part: dict, keys: np.ndarray, before: dict | None) -> None:
        self.output, self.part, self.keys = output, part, keys
        self._final = folder / part["rows"]
        self._partial = folder / f"filling-{part['rows']}"
        self._shape = tuple(part["shape"])
        self.lacking, self._kept = keys, ()
        if before:
            old_keys, old_rows = _mapped(folder / before["keys"]), _mapped(folder / before["rows"])
            # Searched, not sorted together: eight million keys are 65 MB, and a sort of both would be ten times that.
            found = np.searchsorted(old_keys, keys).clip(max=len(old_keys) - 1)
            kept = old_keys[found] == keys
            self.lacking, self._kept = keys[~kept], (np.flatnonzero(kept), old_rows, found[kept])
        self.digest = hashlib.sha256()

    def was_begun(self) -> bool:
        """Say whether an interrupted call has left such a file."""
        try:
            there = load_array(self._partial, mapped=True)
        except Damaged:
            return False
        size = on_disk(self._partial).stat().st_size
        whole = there.offset + there.nbytes == size  # else its header is not what was written
        return whole and there.shape == self._shape and there.dtype == np.float16

    def map(self, mode: str) -> None:
        """Open the file, "r+" or "w+", and copy the rows that the bank of before has."""
        with files.storage(self._partial, 2 * math.prod(self._shape)):
            place = on_disk(self._partial)
            self._rows = np.lib.format.open_memmap(place, mode=mode, dtype=np.float16, shape=self._shape)
            _occupy(place)
        if self._kept:
            places, old_rows, found = self._kept
            for part in np.array_split(np.arange(len(places)), max(1, len(places) // 100_000)):
                self._rows[places[part]] = old_rows[found[part]]

    def lacks(self, keys: np.ndarray) -> np.ndarray:
        """Return which of these, all that are filled in from the first to the last of them, it lacks."""
        first, last = np.searchsorted(self.lacking, (keys[0], keys[-1] + 1))
        return self.lacking[first:last]

    def of(self, keys: np.ndarray) -> np.ndarray:
        """Return the rows of these keys."""
        return self._rows[np.searchsorted(self.keys, keys)]

    def put(self, keys: np.ndarray, said: Tensor) -> None:
        """Write what of `said` [B, D], of all these keys, it lacks."""
        mine = self.lacks(keys)
        rows = said.numpy()[np.searchsorted(keys, mine)]
        self._rows[np.searchsorted(self.keys, mine)] = rows
        self.digest.update(rows.tobytes())

    def flush(self) -> None:
        """Have the disk hold all rows that were put."""
        with files.storage(self._partial):
            self._rows.flush()

    def finish(self) -> None:
        """Give the file its final name."""
        with files.storage(self._final):
            self._rows.flush()
            place = on_disk(self._partial)
            with open(place, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(place, on_disk(self._final))


class _Filling:
    """Rows of several outputs on their way, beside a note of how many of the `keys` that any of them lacks are done.

    The note has digests of each stretch that was written: a call that goes on takes no damaged row for a good one.
    """

    def __init__(self, folder: Path, rows: Sequence[_Rows]) -> None:
        with files.storage(folder):
            on_disk(folder).mkdir(parents=True, exist_ok=True)
        self.keys = functools.reduce(np.union1d, (each.lacking for each in rows))
        self.done = 0
        self._rows = rows
        self._note = folder / f"filling-{'+'.join(each.part['rows'] for each in rows)}.note"
        self._stretches = self._written_before()
        for each in rows:
            each.map("r+" if self._stretches else "w+")
        self._check()
        self._begin_stretch()

    def _written_before(self) -> list[tuple[int, list[str]]]:
        """Return (keys so far, digests) of each stretch that an interrupted call has written."""
        try:
            stretches = files.unseal(self._note)[0]["stretches"]
        except Damaged:
            return []
        return stretches if all(each.was_begun() for each in self._rows) else []

    def _check(self) -> None:
        """Count the stretches that are what was written."""
        for number, (end, digests) in enumerate(self._stretches):
            keys = self.keys[self.done : end]
            found = [hashlib.sha256(each.of(each.lacks(keys)).tobytes()).hexdigest() for each in self._rows]
            if found != digests:
                log.warning("%s: damaged; its rows from %d on are computed again", self._note, self.done)
                del self._stretches[number:]
                break
            self.done = end

    def _begin_stretch(self) -> None:
        self._flushed_at = time.monotonic()
        for each in self._rows:
            each.digest = hashlib.sha256()

    def put(self, keys: np.ndarray, said: Mapping[str, Tensor]) -> None:
        """Write what is said of the next keys [B], for each output [B, D]."""
        for each in self._rows:
            each.put(keys, said[each.output])
        self.done += len(keys)
        if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            for each in self._rows:
                each.flush()  # rows before the note that counts them
            self._stretches.append((self.done, [each.digest.hexdigest() for each in self._rows]))
            files.seal(self._note, {"stretches": self._stretches}, b"")
            self._begin_stretch()

    def finish(self) -> None:
        """Give the files their final names."""
        for each in self._rows:
            each.finish()
        with files.storage(self._note):
            on_disk(self._note).unlink(missing_ok=True)


def _occupy(place: Path) -> None:
    """Have the disk set aside all of a file: one that fills up under a memory map kills the process without a word."""
    with open(place, "rb+") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def _tag(keys: np.ndarray, identity: Identity) -> str:
    digest = hashlib.sha256(keys.data)
    digest.update(files.canonical_json(vars(identity)).encode())
    return digest.hexdigest()[:12]


def _merged(holds: Iterable[Sequence[int]], more: Iterable[Sequence[int]]) -> list[list[int]]:
    longest: dict[int, int] = {}
    for seed, epochs in [*holds, *more]:
        longest[seed] = max(epochs, longest.get(seed, 0))
    return [[seed, epochs] for seed, epochs in sorted(longest.items())]


def _still_good(folder: Path, identity: Identity) -> dict[str, dict]:
    """Return what a manifest says of the outputs that can be added to; what is damaged, or another's, is made anew."""
    good: dict[str, dict] = {}
    try:
        manifest = files.read_manifest(folder)
        if manifest is None:
            return good
        if refusal := _refusal(manifest, identity, []):
            raise Damaged(f"{folder}: {refusal}")
    except Damaged as error:
        log.info("%s; made anew", error)
        return good
    for output, part in manifest["outputs"].items():
        try:
            files.verified(folder, part["rows"], part["keys"])
            good[output] = part
        except Damaged as error:
            log.info("%s; made anew", error)
    return good


def _remove_others(folder: Path, keep: Iterable[str]) -> None:
    for path in files.below(folder, "*-*.npy*"):
        if path.name not in keep:
            with files.storage(path, verb="remove"):
                on_disk(path).unlink(missing_ok=True)


def _mapped(path: Path) -> np.ndarray:
    # copy-on-write: never written, but torch wants an array that says it could be
    return np.load(on_disk(path), mmap_mode="c")
