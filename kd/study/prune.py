"""`kd prune`: free the disk of what comes back where it is needed. No published network is ever touched."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from kd.core import files
from kd.core.errors import Busy, ConfigError, nearest
from kd.core.project import named, on_disk
from kd.study.cells import ANSWERS, BANKS, RELATIONS, RESULTS, STATE
from kd.study.delete import agrees
from kd.study.paths import demand_cell
from kd.study.products import Product

KINDS = {  # what may be freed, and what its loss costs
    "banks": "a teacher answers its students' views again, when one is to be trained",
    "relations": "a teacher relates classes again, when a student that reads it is to be trained",
    "answers": "a network answers again, when a figure that shows them is drawn anew",
    "states": "a training that was stopped begins anew",
}
_DAY = 24 * 3600
_SHOWN = 20  # of each kind; the rest is counted


class Prunable(NamedTuple):
    """A bank, a relation, the answers of a network, or one saved state: where it is, its size and its age."""

    kind: str
    product: Product  # whose lock guards it
    folder: Path
    size: int  # bytes
    days: float  # since it was last written

    def __str__(self) -> str:
        return f"{self.folder}  {self.size / 1e6:,.1f} MB, {self.days:.0f} days old"


def prune(kinds: Collection[str], days: float, cells: Collection[str] | None, dry: bool, yes: bool) -> None:
    """Print what these kinds take of the disk, and free it if the user agrees.

    `days`: only what was written no later than so many days ago. `cells`: only what belongs to these networks (paths);
    None: all. What a process works on is left as it is, and named.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"{kind}: cannot be freed{nearest(kind, KINDS)}")
    found = [one for one in _found(kinds or KINDS) if one.days >= days and (cells is None or one.product.cell in cells)]
    for kind in dict.fromkeys(one.kind for one in found):
        of_kind = sorted((one for one in found if one.kind == kind), key=lambda one: -one.size)
        print(f"{kind}: {len(of_kind)}, {sum(one.size for one in of_kind) / 1e6:,.1f} MB ({KINDS[kind]})")
        rest = [f"... and {len(of_kind) - _SHOWN} more"] if len(of_kind) > _SHOWN else []
        print("\n".join(f"  {line}" for line in [*map(str, of_kind[:_SHOWN]), *rest]))
    if not found:
        print("there is nothing to free")
        return
    print(f"{sum(one.size for one in found) / 1e6:,.1f} MB in all")
    if dry or not (yes or agrees("free it?")):
        print("nothing is freed")
        return
    freed = sum(filter(None, map(_free, found)))
    print(f"freed {freed / 1e6:,.1f} MB")


def _found(kinds: Collection[str]) -> Iterator[Prunable]:
    now = time.time()
    for top, of in ((BANKS, "bank"), (RELATIONS, "relation"), (ANSWERS, "answers")):
        for folder, _, names in os.walk(on_disk(top)) if top in kinds else ():
            product = Product(of, str(named(Path(folder))))
            if names and _is_cell(product.cell):
                yield _measured(top, product, product.folder, names, now)
    for run in files.below(Path(STATE), "**/run-*") if "states" in kinds else ():
        product = Product("network", f"{RESULTS}/{Path(*run.parts[1:-1])}")
        if re.fullmatch("run-[0-9a-f]{12}", run.name) and _is_cell(product.cell):
            yield _measured("states", product, run, os.listdir(on_disk(run)), now)


def _is_cell(path: str) -> bool:
    with contextlib.suppress(ConfigError):
        return bool(demand_cell(path))
    return False


def _measured(kind: str, product: Product, folder: Path, names: Collection[str], now: float) -> Prunable:
    found = [on_disk(folder / name).lstat() for name in names]
    written = max((one.st_mtime for one in found), default=now)
    return Prunable(kind, product, folder, sum(one.st_size for one in found), (now - written) / _DAY)


def _free(one: Prunable) -> int | None:
    """Remove the files of one, but no folder below it, which may be another's; return how many bytes these were."""
    try:
        with files.lock(one.product.lock, wait=False), files.storage(one.folder, verb="remove"):
            if one.kind == "states":
                shutil.rmtree(on_disk(one.folder))
            else:
                files.discard(one.product.manifest)  # first, because what lacks a file must not look complete
                for place in filter(Path.is_file, on_disk(one.folder).iterdir()):
                    place.unlink(missing_ok=True)
    except Busy as error:
        print(f"{one.folder}: left, because {error}")
        return None
    return one.size
