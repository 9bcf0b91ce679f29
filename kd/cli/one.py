"""Verbs for one network, or a few: what one does by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd.cli.make import make_what_is_lacking
from kd.cli.options import command_of, named_study, recipe_of, resources_of, study_of
from kd.core import files
from kd.core.project import on_disk
from kd.models import canonical
from kd.study.cells import RESULTS
from kd.study.config import DEFAULT
from kd.study.paths import parse_cell
from kd.study.values import WEIGHTS


def _read_plugins(options: argparse.Namespace) -> None:
    """Read the study, if there is one: its plug-ins may define what a path names."""
    if options.configfile or options.config or options.study_json or on_disk(DEFAULT).exists():
        study_of(options)


def show(options: argparse.Namespace) -> None:
    """Show a network: its recipe, numbers, family and files; or the networks in a folder of results/."""
    from kd.study.shown import shown

    _read_plugins(options)
    print("\n".join(shown(Path(options.path))))


def compare(options: argparse.Namespace) -> None:
    """Compare two recipes over all their seeds: paired difference, interval, test and n."""
    from kd.report.compared import compared

    _read_plugins(options)
    print("\n".join(compared(options.a, options.b)))


def export(options: argparse.Namespace) -> None:
    """Write a network to a folder that needs no kd: weights, code, config and model card, as Hugging Face has them."""
    from kd.jobs import export as job

    _read_plugins(options)
    job.export(options.path, options.folder)
    print(f"{options.folder}: README.md says how it is loaded")


def import_(options: argparse.Namespace) -> int:
    """Read a checkpoint that others trained; print what a study must say of it, with the accuracy that is measured."""
    from kd.jobs import foreign

    study = study_of(options)
    own = {key: getattr(options, key) for key in ("key", "mean", "std") if getattr(options, key)}
    claim = foreign.claim_of(options.file, options.name, **own)
    path = f"{RESULTS}/{options.dataset or study.dataset}/{study.protocol.name}/{canonical(options.network)}"
    cell = parse_cell(f"{path}.{WEIGHTS}-{options.name}.s0")
    study = study.model_copy(update={"weights": {options.name: claim}})
    given = recipe_of(study, cell)
    if code := make_what_is_lacking(study, cell, given, []):
        return code
    found = foreign.measured(cell, given, resources_of(options))
    print(foreign.block(cell, claim, found), end="")
    return 0


def prune(options: argparse.Namespace) -> None:
    """Free the disk of what comes back (banks, answers, states), by age or study; print what, and ask first."""
    from kd.study.expansion import all_cells
    from kd.study.prune import prune

    of_study = options.study or options.configfile or options.config or options.study_json
    cells = {cell.path for cell in all_cells(study_of(options))} if of_study else None
    prune(options.kinds, options.days, cells, options.dry_run, options.yes)


def pack(options: argparse.Namespace) -> None:
    """Pack a finished study into one archive for a paper, which needs no kd to be read."""
    from kd.jobs import pack as job

    study = study_of(options)
    file = options.output or Path(f"{study.study}.tar")
    sources = [DEFAULT, *options.configfile, *named_study(options.study), *map(Path, study.plugins)]
    job.pack(study, file, command_of(options), sources, not options.without_weights)
    print(f"{file}: {on_disk(file).stat().st_size / 1e6:,.1f} MB, sha256 {files.file_digest(file)}")
