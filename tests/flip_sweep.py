"""One bit at a time of all that kd reads is flipped, before each verb that reads it: `python tests/flip_sweep.py`.

What must hold each time: the verb refuses and names what is damaged, or ends as if nothing was: what it makes is, byte
for byte, what it makes undisturbed. `kd verify` must find every one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import random
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from made.supervised import refusal, supervised
from made.tiny import FILES, PUBLISHED, STUDY, TEACHER, VERBS, Folder, Tree, Verb, published, tree
from storage_sweep import part_of, prepared

from kd.__main__ import main as kd
from kd.core import files
from kd.core.errors import KdError, StorageError
from kd.machine import state
from kd.measure.frames import read_frame
from kd.study import controllers, stamps
from kd.study.config import validate
from kd.study.expansion import all_cells
from kd.study.judge import Judge
from kd.study.products import owner
from kd.train.teachers import LiveTeacher

SMALL = (
    4096  # bytes; of a smaller file every byte is flipped in the whole sweep, of a larger one as many bits as these:
)
MANY = 500
PRESENCE = "state/controllers/elsewhere-1.json"  # of a Snakemake that is at work
OURS = (*PUBLISHED, "state")


@dataclass
class Reader:
    """Something that reads: what it does, the folder that it finds and the one that it leaves."""

    name: str
    work: Callable[[], int]
    before: Tree
    strict: bool = False  # every damage must be found
    code: int = 0
    said: str = ""
    after: dict = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Flip:
    """One bit of one file."""

    reader: str
    path: str
    byte: int
    bit: int


class Sweep:
    """The readers, each with its folder before and after it."""

    def __init__(self, folder: Path, draws: bool) -> None:
        self.folder = Folder(folder)
        self.readers: dict[str, Reader] = {}
        content: Tree = dict(FILES)
        for verb in VERBS:
            if (verb.draws and not draws) or verb.name in _NO_READERS:
                continue
            before, content = content, self._after(verb, content)
            self._add(verb.name, verb, before, strict=verb.name == "verify")
            if not verb.reads_only and "by hand" not in verb.name:
                self._add(f"{verb.name}, again", verb, content)
            if verb.name == "fill a bank":
                self._add("go on filling a bank", verb, self._interrupted(verb, before, _in_the_third_batch))
            if verb.name == "train a student":
                self._add("go on with a student", verb, self._interrupted(verb, before, _as_it_is_published))
            if verb.name == "grow a bank":
                self.rows = _rows(content)
            if verb.name == "verify":
                whole = content
        failed = next(path for path in self.readers["go on with a student"].before if path.endswith("lock.json"))
        noted = whole | {failed: self.readers["go on with a student"].before[failed]}
        (status,) = (verb for verb in VERBS if verb.name == "status")
        self._add("status of what failed", status, noted)
        self._add_function("stamps are projected", _project, whole)
        copied = {path.replace("/tiny/", "/copy/"): text for path, text in whole.items() if path in _COPIED}
        for verb in VERBS:
            if "by hand" in verb.name and not (verb.draws and not draws):
                arguments = tuple(word.replace("/tiny/", "/copy/") for word in verb.arguments)
                self._add(f"{verb.name}, of a copy", Verb(verb.name, arguments), copied)
        for name, values in (("a second Snakemake", STUDY), ("another Snakemake", _OTHER)):
            self._add_function(name, lambda values=values: _enter(values), _with_a_controller(whole))

    def _after(self, verb: Verb, before: Tree) -> Tree:
        self.folder.put(before)
        code, said = _called(lambda: kd(list(verb.arguments)), self.folder.path)
        assert code == 0, f"{verb.name}\n{said}"
        return tree(self.folder.path)

    def _interrupted(
        self, verb: Verb, before: Tree, interruption: Callable[[], contextlib.AbstractContextManager]
    ) -> Tree:
        self.folder.put(before)
        with interruption():
            assert _called(lambda: kd(list(verb.arguments)), self.folder.path)[0] == 130, verb.name
        return tree(self.folder.path)

    def _add(self, name: str, verb: Verb, before: Tree, strict: bool = False) -> None:
        self._add_function(name, lambda: kd(list(verb.arguments)), before, strict)

    def _add_function(self, name: str, work: Callable[[], int], before: Tree, strict: bool = False) -> None:
        reader = self.readers[name] = Reader(name, work, before, strict)
        self.folder.put(before)
        ended = supervised(work, self.folder.path)
        opened = {call.path for call in ended.calls if call.kind in ("openr", "openw")}
        reader.reads = sorted(path for path in opened if before.get(path) and path.split("/")[0] in OURS)
        self.folder.put(before)
        reader.code, reader.said = _called(work, self.folder.path)
        reader.after = published(tree(self.folder.path))

    def problem(self, flip: Flip) -> str | None:
        """Return what is wrong when a reader meets a flipped bit, or None."""
        reader = self.readers[flip.reader]
        self.folder.put(reader.before)
        damaged = bytearray(reader.before[flip.path])
        damaged[flip.byte] ^= 1 << flip.bit
        self.folder.write(flip.path, bytes(damaged))
        code, said = _called(reader.work, self.folder.path)
        if "Traceback" in said:
            return said
        if code != reader.code or (reader.code and said != reader.said):
            if code not in (2, 74):
                return f"exit {code}\n{said}"
            return None if any(name in said for name in _names(flip.path)) else f"no file is named\n{said}"
        if reader.strict:
            return f"not found\n{said}"
        found = tree(self.folder.path)
        if other := self._other_rows(found):
            return f"rows of a bank are other than they must be: {other}\n{said}"
        left, wanted = found.pop(flip.path, None), dict(reader.after)
        if left == bytes(damaged):
            wanted.pop(flip.path, None)  # nobody was misled by it
        elif left is not None:
            found[flip.path] = left
        found = published(found)
        paths = (
            path for path in {**wanted, **found} if not path.startswith("banks/")
        )  # one may hold less than another
        other = [path for path in paths if wanted.get(path) != found.get(path)]
        if other:
            return f"these are other than they must be: {other}\n{said}"
        if reader.name in _TELL and said != reader.said and "damaged" not in said:
            return f"it says something else\n{said}"
        return None

    def _other_rows(self, content: Tree) -> list[tuple[str, int]]:
        """Return the outputs and keys of the published bank under which other rows stand than the teacher's."""
        rows = _rows(content)
        return [key for key in rows if not np.allclose(rows[key], self.rows[key], rtol=2**-9, atol=1e-3)]

    def flips(self, generator: random.Random, most: int | None) -> Iterator[list[Flip]]:
        """Return the flips of each reader and file: of all that are to be made, at `most` so many."""
        for reader in self.readers.values():
            for path in reader.reads:
                size = len(reader.before[path])
                every = range(size) if size < SMALL else [generator.randrange(size) for _ in range(MANY)]
                chosen = every if most is None or len(every) <= most else generator.sample(every, most)
                yield [Flip(reader.name, path, byte, generator.randrange(8)) for byte in chosen]


def gates(sweep: Sweep, generator: random.Random) -> tuple[int, int, list[str]]:
    """Flip a bit of every byte of all files that bear their own digest before what reads them, whoever asks.

    Return how many bits of how many files were flipped, and what was taken. So every byte is flipped in minutes: what a
    verb does with a refusal is the same for each of them, and that is swept by a sample.
    """
    sealed = {(path, reader.before[path]) for reader in sweep.readers.values() for path in reader.reads}
    sealed = sorted(one for one in sealed if one[0].endswith((".json", ".note", ".pt", ".parquet")))
    flipped, taken = 0, []
    for path, content in sealed:
        size = len(content)
        at = range(size) if size < SMALL else sorted(generator.sample(range(size), min(MANY, size)))
        for byte in at:
            damaged = bytearray(content)
            damaged[byte] ^= 1 << generator.randrange(8)
            flipped += 1
            try:
                _read(path, bytes(damaged), sweep.folder)
            except StorageError:
                continue
            if path.endswith(".parquet") and bytes(content[: byte + 16]).find(b"kd_sha256", max(0, byte - 11)) >= 0:
                continue  # the name under which its digest stands: nothing that anybody reads
            taken.append(f"{path}, byte {byte}")
    return flipped, len(sealed), taken


def _read(path: str, content: bytes, folder: Folder) -> None:
    if path.split("/")[0] in PUBLISHED and path.endswith(".json"):
        files.parsed_manifest(content, Path(path))
        return
    folder.write("damaged", content)
    (read_frame if path.endswith(".parquet") else files.unseal)(folder.path / "damaged")


_NO_READERS = ("discard", "delete a cell", "delete a study")  # they remove: what `verify` finds, and what they are told
_TELL = ("plan", "status", "status of what failed", "a second Snakemake", "another Snakemake")
# Without their manifests.
_COPIED = [f"reports/tiny/{name}.parquet" for name in ("table", "curves", "analyses/noisy.measures")]
_OTHER = {**STUDY, "protocol": {**STUDY["protocol"], "lr": 0.05}}


def _rows(content: Tree) -> dict[tuple[str, int], np.ndarray]:
    """Return the rows of the published bank by output and key; none where it is damaged, so that nobody takes them."""
    folder = f"banks/{TEACHER.partition('/')[2]}"
    try:
        manifest = files.parsed_manifest(content[f"{folder}/{files.MANIFEST}"], Path(folder))
    except (KeyError, StorageError):
        return {}
    held = {name: content.get(f"{folder}/{name}", b"") for name in manifest["files"]}
    if any(files.sha256(written) != manifest["files"][name] for name, written in held.items()):
        return {}
    found = {}
    for output, part in manifest["outputs"].items():
        keys, rows = (np.load(io.BytesIO(held[part[name]])) for name in ("keys", "rows"))
        found |= {(output, key): row for key, row in zip(keys.tolist(), rows, strict=True)}
    return found


def _called(work: Callable[[], int], folder: Path) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = work()
        except BaseException:
            code = 1
            traceback.print_exc()
    return code, re.sub(r"of [\d.]+ .B that are free", "", said.getvalue())  # others write on this disk, too


def _names(path: str) -> Iterator[str]:
    """Return the words by which a message can name a file: its own, or what it is of."""
    yield path
    if product := owner(path):
        yield product
    if "/manifests/" in path:
        yield path.replace("/manifests/", "/").removesuffix(".json")


# -- readers that are no verbs, and interruptions ---------------------------------------------------------------------


def _project() -> int:
    judge = Judge.of_study(validate(STUDY))
    stamps.project(judge, "state/stamps/q-projected")
    return 0


def _with_a_controller(content: Tree) -> Tree:
    study = validate(STUDY)
    said = controllers._presence(study, all_cells(study)) | {"pid": 1, "host": "elsewhere"}
    with tempfile.TemporaryDirectory() as folder:
        files.seal(Path(folder, "said"), said, b"")
        return content | {PRESENCE: Path(folder, "said").read_bytes()}


def _enter(values: dict) -> int:
    """Start beside a Snakemake that makes STUDY."""
    study = validate(values)
    with files.lock(Path(PRESENCE)):
        try:
            controllers.enter(study, all_cells(study)).close()
        except KdError as error:
            print(f"kd: {error}")
            return error.exit_code
    return 0


@contextlib.contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _in_the_third_batch() -> contextlib.AbstractContextManager:
    answers, calls = LiveTeacher.answers, itertools.count(1)

    def interrupted(*arguments: object) -> torch.Tensor:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return answers(*arguments)

    return _replaced(LiveTeacher, "answers", interrupted)


def _as_it_is_published() -> contextlib.AbstractContextManager:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    return _replaced(files, "publish", interrupted)


def main() -> int:
    """Sweep; return 1 where a flip shows something wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, help="flips of each reader and file; by default all, which takes 70 hours")
    parser.add_argument("--seconds", type=float, help="make no flip after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--part", type=part_of, default=slice(None), metavar="K/N", help="the K-th of N parts of the flips"
    )
    parser.add_argument("--readers", nargs="+", help="only these")
    parser.add_argument("--quick", action="store_true", help="without readers that draw, which take most of the time")
    options = parser.parse_args()
    print(f"kd of {Path(state.__file__).parent}")
    if why := refusal():
        print(why)
        return 77
    logging.getLogger().addHandler(logging.NullHandler())
    with prepared() as project:
        sweep = Sweep(project, draws=not options.quick)
        began, generator = time.monotonic(), random.Random(options.seed)
        pairs = sweep.flips(generator, options.most)
        pairs = [flips for flips in pairs if not options.readers or flips[0].reader in options.readers]
        generator.shuffle(pairs)
        flipped, count, taken = gates(sweep, generator)
        print(f"{flipped} bits of {count} files with a digest of their own: {len(taken)} taken {taken[:5]}", flush=True)
        made, wrong, bad = Counter(), len(taken), Counter()
        rounds = itertools.chain.from_iterable(itertools.zip_longest(*pairs))
        for flip in [flip for flip in rounds if flip is not None][options.part]:
            if options.seconds and time.monotonic() - began > options.seconds:
                break
            made[flip.reader, flip.path] += 1
            if problem := sweep.problem(flip):
                wrong += 1
                bad[flip.reader, flip.path] += 1
                if bad[flip.reader, flip.path] <= 2:
                    print(f"WRONG {flip}\n{problem}\n", flush=True)
        for reader in sweep.readers:
            for path in sweep.readers[reader].reads:
                print(f"{made[reader, path]:6} flips, {bad[reader, path]} wrong: {reader} reads {path}")
    print(f"{made.total()} flips of {len(pairs)} pairs in {time.monotonic() - began:.0f} s, {wrong} wrong")
    return 1 if wrong or not made else 0


if __name__ == "__main__":
    sys.exit(main())
