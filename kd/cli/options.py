"""Read the command line: the study, the recipe, the resources."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kd.core import reproduce
from kd.core.errors import ConfigError, nearest
from kd.core.project import on_disk
from kd.report.seeding import resolved
from kd.study.cells import Cell, DatasetChoice
from kd.study.config import Recipe, Search, Study, merged, validate
from kd.study.expansion import data_recipe, recipe
from kd.study.plain_yaml import parse_yaml, read_yaml
from kd.study.search import LOSS

if TYPE_CHECKING:
    from kd.jobs.places import Resources


def study_of(options: argparse.Namespace) -> Study:
    """Return the study that the command line names, by default the one in config.yaml."""
    if options.study_json:
        return validate(_json("--study-json", options.study_json))
    overlay: dict = {}
    for path in [*options.configfile, *named_study(getattr(options, "study", None))]:
        overlay |= read_yaml(path)
    for pair in options.config:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--config {pair}: expected KEY=VALUE")
        overlay[key] = parse_yaml(value, f"--config {pair}")
    return validate(resolved(merged(overlay)))


def search_of(options: argparse.Namespace, study: Study) -> Search:
    """Return the search that the command line names. Raises ConfigError if the study has none of that name."""
    if options.search not in study.searches:
        raise ConfigError(f"{options.search!r}: no such search{nearest(options.search, study.searches)}")
    return study.searches[options.search]


def searches_of(options: argparse.Namespace, study: Study) -> dict[str, Search]:
    """Return the search that the command line names, or those of each loss into which one with `tune` parts."""
    asked, every = options.search, study.searches
    arms = {name: one for name, one in every.items() if name == f"{asked}_{one.space[LOSS].values[0]}"}
    return arms if arms and asked not in every else {asked: search_of(options, study)}


def command_of(options: argparse.Namespace) -> str:
    """Return the snakemake command of the study that the command line names."""
    if options.study_json:
        return reproduce.command([], json.loads(options.study_json))
    pairs = (pair.partition("=") for pair in options.config)
    named = [*options.configfile, *named_study(getattr(options, "study", None))]
    return reproduce.command(named, {key: parse_yaml(value, key) for key, _, value in pairs})


def named_study(study: str | None) -> list[Path]:
    """Return the file of a study, given by its name or path, in a list; [] for None."""
    if study is None:
        return []
    shipped = Path("workflow/studies", f"{study}.yaml")
    return [shipped if on_disk(shipped).exists() else Path(study)]


def _json(option: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{option} {text[:60]}: not JSON: {error}") from error


def asked(options: argparse.Namespace) -> Study | Recipe:
    """Return the recipe or study on the command line. Call it before you read a name that a plug-in may define."""
    return Recipe.parse(_json("--recipe", options.recipe)) if options.recipe else study_of(options)


def recipe_of(request: Study | Recipe, what: Cell | DatasetChoice) -> Recipe:
    """Return the recipe of `what`: the given one, or the study's. Raises ConfigError if the study has none for it."""
    if isinstance(request, Recipe):
        if isinstance(what, Cell) and request.protocol is None:
            raise ConfigError("--recipe: protocol: missing; a cell needs one")
        return request
    if isinstance(what, DatasetChoice):
        return Recipe.parse(data_recipe(request, what))
    if what.protocol != request.protocol.name:
        raise ConfigError(
            f"{what}: protocol {what.protocol!r} is not the study's ({request.protocol.name}); "
            "name the study that defines it with --configfile"
        )
    return Recipe.parse(recipe(request, what))


def resources_of(options: argparse.Namespace) -> Resources:
    """Return the resources that the command line gives a job."""
    from kd.jobs.places import Resources

    return Resources(options.threads, options.cells_per_gpu, getattr(options, "workers", 0))
