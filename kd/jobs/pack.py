"""`kd pack`: a study as one archive for a paper, which needs no kd to be read. Equal studies give equal bytes."""

from __future__ import annotations

import io
import platform
import tarfile
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from kd import __version__
from kd.core import files
from kd.core.code import source_of
from kd.core.errors import Damaged, StorageError, itemised
from kd.core.project import on_disk
from kd.core.reproduce import commit
from kd.study.config import Study
from kd.study.judge import Judge, told

MODEL = "model.safetensors"
SUMS = "SHA256SUMS"
_LEFT_OUT = frozenset({"bank", "answers", "release"})  # they come back from the rest
_ABOUT_IT = ("LICENSE*", "LICENCE*", "COPYING*", "CITATION.cff")  # of the project's folder


class Entry(NamedTuple):
    """A file of the archive: its name, its bytes or where these are, and their digest if a manifest has it."""

    name: str
    content: bytes | Path
    digest: str | None = None

    def read(self) -> bytes:
        """Return the bytes. Raises Damaged when they are not those that the manifest names."""
        if isinstance(self.content, bytes):
            return self.content
        with files.storage(self.content, verb="read"):
            content = files.content_of(self.content)
        if self.digest and files.sha256(content) != self.digest:
            raise Damaged(f"{self.content}: damaged; `kd verify` names all that is")
        return content


def pack(study: Study, file: Path, command: str, sources: Iterable[Path], weights: bool) -> None:
    """Write the archive of a study: complete, or not at all.

    `command` is the snakemake command of the study, `sources` the files that it names. Raises StorageError while
    something of the study is to do, and Damaged for a file that is not the published one.
    """
    judge = Judge.of_study(study)
    if judge.all_to_do:
        raise StorageError(f"study {study.study}: not finished; {command}\n{itemised(told(judge.all_to_do))}")
    entries = [*_published(judge, weights), *_beside(sources)]
    entries.append(Entry("README.md", _readme(study, command, entries).encode()))
    entries.sort()
    room = sum(len(one.content) if isinstance(one.content, bytes) else _size(one.content) for one in entries)
    files.demand(file, room)
    files.write_atomic(file, lambda place: _write(place, study.study, entries))


def _size(path: Path) -> int:
    return on_disk(path).stat().st_size


def _write(place: Path, top: str, entries: Iterable[Entry]) -> None:
    sums = []
    with tarfile.TarFile(place, "w", format=tarfile.GNU_FORMAT) as archive:  # the format is a part of the bytes
        for one in entries:
            content = one.read()
            sums.append(f"{files.sha256(content)}  {one.name}\n")
            _add(archive, f"{top}/{one.name}", content)
        _add(archive, f"{top}/{SUMS}", "".join(sums).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)  # its owner is 0 and its time 1970, whoever packs and whenever
    about.size = len(content)
    archive.addfile(about, io.BytesIO(content))


# -- what is packed ---------------------------------------------------------------------------------------------------


def _published(judge: Judge, weights: bool) -> Iterator[Entry]:
    """Yield the manifest and the files of each product that lasts; of data the manifest alone."""
    found = dict.fromkeys(one for one in judge.everything if one.kind not in _LEFT_OUT)
    for product in found:
        manifest = judge.manifest(product)
        if manifest is None:  # data, labels, selections and relations may be deleted
            continue
        yield Entry(str(product.manifest), product.manifest)
        for name, digest in manifest["files"].items() if product.kind not in ("data", "testset") else ():
            if weights or name != MODEL:
                yield Entry(str(product.folder / name), product.folder / name, digest)


def _beside(sources: Iterable[Path]) -> Iterator[Entry]:
    """Yield the reader, the versions, the study's own files, and the project's licence."""
    yield Entry("read.py", source_of("kd.jobs.reader").encode())
    installed = {f"{one.metadata['Name']}=={one.version}" for one in distributions()}
    versions = [f"python=={platform.python_version()}", *sorted(installed, key=str.lower)]
    yield Entry("versions.txt", "".join(f"{line}\n" for line in versions).encode())
    for path in dict.fromkeys(sources):
        yield Entry(f"study/{path.name}", path)
    for pattern in _ABOUT_IT:
        for path in sorted(files.below(Path(), pattern)):
            yield Entry(path.name, path)


def _readme(study: Study, command: str, entries: Iterable[Entry]) -> str:
    names = [one.name for one in entries]
    networks = sum(name.startswith("results/") and name.endswith(files.MANIFEST) for name in names)
    licences = [name for name in names if name.startswith(("LICEN", "COPYING"))]
    has = f"{len(licences)} licence" if licences else "no licence: the project's folder has none"
    weights = any(name.endswith(MODEL) for name in names)
    return f"""# {study.study}

{networks} networks on {study.dataset}, protocol {study.protocol.name}, trained by kd {__version__}; {has}.

    python read.py        # compares every file with {SUMS}, and lists the networks; needs no kd

| what | where |
|---|---|
| table, curves, means, comparisons, verdict, figures, page | reports/{study.study}/ |
| recipe, numbers and digests of each network, its metrics by epoch | results/, a folder for each |
| weights | {"model.safetensors in each of these folders" if weights else "not packed"} |
| what the data are; wrong labels, selections and relations themselves | data/, selections/, relations/ |
| the study, its command and the code | study/; `{command}`; `{commit()}` |
| versions of all packages of the environment that packed this | versions.txt |
"""
