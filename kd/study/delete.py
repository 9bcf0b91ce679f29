"""Delete a cell with all cells that it taught, or a study's own files, or a bank that no student needs any more."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from kd.core import files
from kd.core.errors import Busy, ConfigError
from kd.core.project import on_disk
from kd.study.cells import ANSWERS, BANKS, LOGS, RELATIONS, REPORTS, RESULTS, SCORES, SEARCH, SELECTIONS, STATE
from kd.study.paths import demand_cell
from kd.study.products import RELEASED, Product
from kd.study.stamps import TOP
from kd.study.values import NAME

log = logging.getLogger("kd")

# What is published of a cell lies in each of these.
_OF_CELLS = (RESULTS, SELECTIONS, RELATIONS, BANKS, ANSWERS, SCORES)


def delete(what: str, dry: bool = False, yes: bool = False) -> None:
    """Print the size of `what`, a cell with all that it taught or what is a study's own; delete it if the user agrees.

    It takes all locks first, then removes the manifests, so that half-deleted things count as absent, then the rest.
    """
    what = what.rstrip("/")
    trees = _trees(what)
    if not trees:
        print(f"{what}: there is nothing to delete")
        return
    size = sum(place.stat().st_size for tree in trees for place in _files(on_disk(tree)))
    published = [path for tree in trees for path in _manifests(tree)]
    print(f"{what}: {len(published)} published products, {size / 1e6:,.1f} MB, in")
    print("\n".join(f"  {tree}" for tree in trees))
    if what.startswith(f"{RESULTS}/"):
        print("other studies may share these cells")
    if dry or not (yes or agrees("delete them?")):
        print("nothing is deleted")
        return
    with contextlib.ExitStack() as held:
        for product in _locked(trees, published):
            try:
                held.enter_context(files.lock(product, wait=False))
            except Busy as error:
                raise Busy(f"{error}; nothing is deleted") from error
        for manifest in published:
            files.discard(manifest)
        for tree in trees:
            with files.storage(tree, verb="remove"):
                place = on_disk(tree)
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    print("deleted")


def agrees(question: str) -> bool:
    """Ask the user; no terminal means no."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # no terminal, so no answer
        print()
        return False


def release_bank(bank: Product) -> None:
    """Remove a bank, but not its subfolders: they are banks of students that teach. Call it while you hold its lock."""
    size = 0
    files.discard(bank.manifest)  # first, because a bank without its rows must not look complete
    files.crash_point("publish:1", f"{RELEASED}/{bank.name.partition('/')[2]}")
    for place in on_disk(bank.folder).glob("*"):
        if place.is_file():
            size += place.stat().st_size
            place.unlink(missing_ok=True)
    log.info("bank %s: released, %.1f MB", bank, size / 1e6)


def _trees(what: str) -> list[Path]:
    """Return the existing files and folders that belong to a cell or study."""
    top, _, name = what.partition("/")
    if top == RESULTS:
        demand_cell(what)  # checks the form alone, because the plug-in of its network may be gone
        trees = [Path(tree, name) for tree in (*_OF_CELLS, STATE, LOGS, "benchmarks")]
        trees += [Path(top, of, name) for top in (LOGS, "benchmarks") for of in (SELECTIONS, RELATIONS)]
        for ending in (".log", ".bank.log", ".answers.log", ".scores.log", ".release.log"):
            trees.append(Path(LOGS, name + ending))
        trees += [Path("benchmarks", name + ending) for ending in (".tsv", ".bank.tsv", ".answers.tsv", ".scores.tsv")]
        stamped = [f"{tree}/{name}" for tree in (*_OF_CELLS, RELEASED)]
    elif top in (REPORTS, SEARCH) and re.fullmatch(NAME, name):
        trees = [Path(what), Path(LOGS, what), Path("benchmarks", what), Path(STATE, what)]
        stamped = [what]
    else:
        raise ConfigError(
            f"{what}: not a cell ({RESULTS}/...) nor a study's folder ({REPORTS}/STUDY) nor a search's ({SEARCH}/NAME)"
        )
    for question in files.below(Path(TOP), "q-*"):
        trees += [path for one in stamped for path in (question / one, question / f"{one}.stamp")]
    return [tree for tree in trees if on_disk(tree).exists()]


def _files(place: Path) -> Iterable[Path]:
    return filter(Path.is_file, place.rglob("*")) if place.is_dir() else [place]


def _manifests(tree: Path) -> Iterable[Path]:
    if tree.parts[0] in _OF_CELLS:
        yield from files.below(tree, f"**/{files.MANIFEST}")
    elif tree.parts[0] in (REPORTS, SEARCH):
        yield from files.below(tree / "manifests", "**/*.json")


def _locked(trees: Iterable[Path], published: Iterable[Path]) -> list[Path]:
    """Return the locks of all that is deleted: existing lock files, and the locks of published products."""
    found = (path for tree in trees if tree.parts[0] == STATE for path in files.below(tree, "**/*lock"))
    locks = {path for path in found if on_disk(path).is_file()}
    for manifest in published:
        with contextlib.suppress(Exception):  # a damaged manifest names no product
            found = files.read_manifest(manifest.parent, manifest)
            locks.add(Product(found["kind"], found["name"]).lock)
    return sorted(locks)
