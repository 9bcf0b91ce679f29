"""What `kd show` says of a network (recipe, numbers, family, files), and of a folder above it: the networks in it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kd.core import files
from kd.core.errors import ConfigError, StorageError
from kd.study import products
from kd.study.cells import RESULTS, Cell, spell
from kd.study.config import Recipe
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.study.recipes import made_with

_WIDTH = 110
_MOST = 40  # networks listed of a family; the rest is counted
_MADE = ("device", "precision", "compiled", "threads", "processes", "seconds", "python", "torch", "kd")


def shown(path: Path) -> list[str]:
    """Return what there is to say of a network or of a folder of networks, in lines.

    Raises ConfigError for any other path, and StorageError for a network that is not there, or damaged.
    """
    if path.parts[:1] != (RESULTS,):
        raise ConfigError(f"{path}: not a network; expected {RESULTS}/DATASET/PROTOCOL/NETWORK.OBJECTIVE.sSEED[/...]")
    owner = products.owner(str(path))  # of a file in its folder, too
    if owner is None:
        if found := list(_below(path)):
            return _limited(found, path)
        raise StorageError(f"{path}: no network here; `kd plan --cells` lists those of a study")
    path, cell = Path(owner), parse_cell(owner)
    manifest = files.read_manifest(path)
    if manifest is None:
        raise StorageError(f"{path}: not trained yet; `kd train` with this path trains it")
    blocks = {
        "numbers": _numbers(manifest),
        "recipe": _recipe(cell, manifest),
        "made": [_listed({key: manifest.get(key) for key in _MADE}), _standing(cell, manifest)],
        "family": _family(cell),
        "files": [
            f"{name}  {size:,} bytes  sha256 {manifest['files'][name]}" for name, size in manifest["sizes"].items()
        ],
    }
    return [str(cell), *(line for title, lines in blocks.items() for line in ("", title, *_indented(lines)))]


def _indented(lines: Iterable[str]) -> list[str]:
    """Indent lines, and wrap each at its commas, if it is too long; a line without ", " is never broken."""
    found = []
    for line in lines:
        whole = ", " not in line
        found += [f"  {line}"] if whole else textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    return found


def headline(manifest: Mapping) -> str:
    """Say in a few words what a network reaches: its test accuracy after the last epoch, or that it diverged."""
    return "diverged" if manifest["status"] != "ok" else f"{manifest['last']['test_top1']:.2f} %"


def _numbers(manifest: Mapping) -> list[str]:
    if manifest["status"] != "ok":
        return [f"diverged: {manifest['cause']}"]
    last, best = manifest["last"], manifest["best_on_test"]
    first = f"test top-1 {headline(manifest)}"
    if manifest["epochs"]:  # imported weights and ensembles have none
        first += f" after epoch {last['epoch']}, the last"
        first += f"; best on test {best['test_top1']:.2f} % after epoch {best['epoch']}, which selects nothing"
    others = {"train_top1": manifest.get("train_top1"), **last}
    return [first, ", ".join(f"{key} {value:.6g}" for key, value in others.items() if value is not None)]


def _recipe(cell: Cell, manifest: Mapping) -> list[str]:
    protocol, objective = (dict(manifest["recipe"][key]) for key in ("protocol", "objective"))
    size = f" ({manifest['parameters']:,} parameters, {manifest['macs']:,} multiply-accumulates)"
    lines = [
        f"dataset: {cell.dataset}" + (f" ({manifest['realised_rate']:.1%} wrong labels)" if cell.dataset.noise else ""),
        f"network: {cell.stage.title}{size if 'macs' in manifest else ''}",
        f"objective: {objective.pop('loss')} {_listed(objective)}".strip(),
        f"seed: {'+'.join(map(str, (cell.stage.seed, *cell.stage.more_seeds)))}",
        f"protocol: {protocol.pop('name')}: {_listed(protocol)}",
    ]
    weights = manifest["recipe"].get("weights")
    return lines + ([f"weights: {_listed(weights)}"] if weights else [])


def _listed(values: Mapping) -> str:
    """Spell keys and values as a study does; a key without a value is left out."""
    return ", ".join(f"{key} {_spelled(value)}" for key, value in values.items() if value is not None)


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(spell, value))}]" if isinstance(value, list) else spell(value)


def _standing(cell: Cell, manifest: Mapping) -> str:
    """Say whether a network would come out the same now, by the recipe that made it."""
    try:
        why = Judge.of_recipe(Recipe.parse(made_with(cell, manifest))).to_do(products.network(cell))
    except (ConfigError, KeyError) as error:
        why = f"its recipe is not one of this version ({error})"
    return f"not current by its own recipe: {why}" if why else "current: this code and these inputs make it"


# -- family -----------------------------------------------------------------------------------------------------------


def _family(cell: Cell) -> list[str]:
    """Return the lineage, and what the network taught: one network a line, indented as their folders are."""
    path, lines = Path(cell.path), []
    for depth, stage in enumerate(cell.stages):
        folder = Path(*path.parts[: 4 + depth])
        lines.append(_line(folder, depth) + ("  <- this" if folder == path else ""))
        if stage.is_ensemble:
            members = Cell(cell.dataset, cell.protocol, cell.stages[: depth + 1]).members
            lines += [f"{_line(Path(member.path), depth)}  (a member)" for member in members]
    return [*lines, *_limited(list(_below(path)), path)]


def _limited(lines: list[str], path: Path) -> list[str]:
    rest = [f"... and {len(lines) - _MOST} more: find {path} -name {files.MANIFEST}"] if len(lines) > _MOST else []
    return [*lines[:_MOST], *rest]


def _below(folder: Path) -> Iterator[str]:
    """Yield a line for each network below a folder, indented as their folders are."""
    for path in sorted(one.parent for one in files.below(folder, f"*/**/{files.MANIFEST}")):
        yield _line(path, len(path.parts) - 4)


def _line(path: Path, depth: int) -> str:
    try:
        manifest = files.read_manifest(path)
        said = headline(manifest) if manifest else "not there"
    except StorageError:
        said = "damaged"
    return f"{'  ' * depth}{path.name if depth else path}  {said}"
