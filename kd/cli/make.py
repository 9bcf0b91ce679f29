"""Verbs that make data, networks, and what is said of or by networks. Snakemake's rules call them."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from kd.cli.options import asked, recipe_of, resources_of, search_of, study_of
from kd.core import files
from kd.core.errors import ConfigError, Damaged, Diverged, nearest
from kd.core.startup import keep_memory, start_together
from kd.jobs import lineage, making
from kd.losses.spec import STORED
from kd.study import products
from kd.study.cells import Cell
from kd.study.config import Recipe, Study
from kd.study.expansion import recipe
from kd.study.judge import Judge
from kd.study.needs import Need
from kd.study.paths import parse_cell, parse_dataset, parse_related, parse_selection
from kd.study.products import Product
from kd.study.values import Related


def data(options: argparse.Namespace) -> None:
    """Prepare the images of a dataset, again if the files in its folder have changed."""
    request = asked(options)
    dataset = parse_dataset(options.dataset)
    given = recipe_of(request, dataset)
    product = products.data(dataset.name)
    if (given.declared or {}).get("folder"):
        _discard_if_its_folder_changed(product, given.declared["folder"])
    judge = Judge.of_recipe(given)
    if not making.done(judge, product, options.stamp):
        from kd.jobs import data as job

        job.data(judge, dataset, given, options.stamp)


def _discard_if_its_folder_changed(product: Product, folder: str) -> None:
    from kd.data.prepare import holds_other_files

    with files.lock(product.lock):
        try:
            manifest = files.read_manifest(product.folder)
        except Damaged:
            return
        if manifest and holds_other_files(manifest, folder):
            logging.getLogger("kd").warning("%s: %s holds other files now; it is read anew", product, folder)
            files.discard(product.manifest)


def labels(options: argparse.Namespace) -> None:
    """Make the noisy labels of a dataset."""
    request = asked(options)
    dataset = parse_dataset(options.dataset)
    given = recipe_of(request, dataset)
    judge = Judge.of_recipe(given)
    if not making.done(judge, products.labels(dataset.labelled), options.stamp):
        from kd.jobs import data as job

        job.labels(judge, dataset, given, options.stamp)


def testset(options: argparse.Namespace) -> None:
    """Prepare the images of a further test set of a study, again if the files in its folder have changed."""
    study = study_of(options)
    known = {products.testset(study.dataset, name).name.partition("/")[2]: name for name in study.tests}
    if options.testset not in known:
        raise ConfigError(f"{options.testset!r}: no such test set{nearest(options.testset, known)}")
    name = known[options.testset]
    product = products.testset(study.dataset, name)
    _discard_if_its_folder_changed(product, study.tests[name])
    judge = Judge.of_study(study)
    if not making.done(judge, product, options.stamp):
        from kd.jobs import data as job

        job.testset(judge, name, options.stamp)


def train(options: argparse.Namespace) -> int:
    """Train one cell, or go on with it, and publish it; by hand, after making all that its lineage lacks.

    Snakemake spells out the recipe, or the study, and has made the inputs before. Then the verb makes nothing else.
    """
    request = asked(options)
    cell = parse_cell(options.cell)
    given = recipe_of(request, cell)
    judge = Judge.of_recipe(given)
    product = products.network(cell)
    if not _is_one_of_several() and _undamaged(judge, product) and making.done(judge, product, options.stamp):
        status = judge.manifest(product)["status"]
    else:
        by_hand = not (options.recipe or options.study_json or options.stamp or _is_one_of_several())
        if by_hand and (code := make_what_is_lacking(request, cell, given, _spelled_resources(options))):
            return code
        _prepare_to_train(options)
        start_together(options.processes)
        from kd.jobs import train as job

        status = job.train(judge, cell, given, resources_of(options), options.fresh, options.stamp)
    # torchrun turns every exit code but 0 into 1. So its processes exit with 0 also when the cell diverged.
    return 0 if status == "ok" or _is_one_of_several() else Diverged.exit_code


def make_what_is_lacking(study: Study, cell: Cell, given: Recipe, resources: Sequence[str]) -> int:
    """Say what the lineage of a cell lacks, and make it; return 0, or the exit code of the verb that failed."""
    spelled = json.dumps(recipe(study, cell) | ({"plugins": study.plugins} if study.plugins else {}))
    return lineage.make_what_is_lacking(cell, given, spelled, resources)


def _spelled_resources(options: argparse.Namespace) -> list[str]:
    names = ("threads", "cells_per_gpu", "workers", "processes")
    return [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]


def _undamaged(judge: Judge, product: Product) -> bool:
    """Check every byte of a published network; if it is damaged, make it count as absent and return False."""
    try:
        return judge.to_do(product) is not None or bool(files.verified(product.folder))
    except Damaged as error:
        logging.getLogger("kd").warning("%s; it is trained anew", error)
        with files.lock(product.lock):
            files.discard(product.manifest)
        return False


def _is_one_of_several() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _prepare_to_train(options: argparse.Namespace) -> None:
    if options.as_command:
        keep_memory()


def bank(options: argparse.Namespace) -> None:
    """Store a teacher's outputs for every view that its students will see, if they are still to be trained."""
    request = asked(options) if options.needs else study_of(options)
    cell = parse_cell(options.cell)
    for member in cell.members:
        product = products.bank(member)
        if options.needs:
            given = recipe_of(request, member)
            judge = Judge.of_recipe(given).asked({product: {_need(text) for text in options.needs}})
        else:
            judge = Judge.of_study(request)
            given = judge.recipe_of(member)
            if not judge.needs(product):
                raise ConfigError(f"{cell}: teaches nobody in this study; say whose views with --needs SEED:EPOCHS")
        if not making.done(judge, product, options.stamp):
            _prepare_to_train(options)
            from kd.jobs import bank as job

            job.bank(judge, member, given, judge.needs(product), resources_of(options), options.stamp)


def _need(text: str) -> Need:
    match = re.fullmatch(f"([0-9]{{1,9}}):([0-9]{{1,9}})(?::({'|'.join(STORED)}))?", text)
    if match is None:
        raise ConfigError(f"--needs {text}: expected SEED:EPOCHS, such as 0:200, or 0:200:prelogits")
    return Need(int(match[1]), int(match[2]), match[3] or "logits")


def answers(options: argparse.Namespace) -> None:
    """Store a network's answers to the test set and to a sample of its training examples."""
    request = asked(options)
    cell = parse_cell(options.cell)
    given = recipe_of(request, cell)
    judge = Judge.of_recipe(given)
    if not making.done(judge, products.answers(cell), options.stamp):
        _prepare_to_train(options)
        from kd.jobs import answers as job

        job.answers(judge, cell, given, resources_of(options), options.stamp)


def score(options: argparse.Namespace) -> None:
    """Test a network on the further test sets of a study."""
    study, cell = study_of(options), parse_cell(options.cell)
    judge = Judge.of_study(study)
    if cell not in judge.tested:
        raise ConfigError(f"{cell}: no network of {study.dataset} in study {study.study}, or the study has no tests")
    if not making.done(judge, products.scores(cell), options.stamp):
        _prepare_to_train(options)
        from kd.jobs import score as job

        job.score(judge, cell, resources_of(options), options.stamp)


def select(options: argparse.Namespace) -> None:
    """Let a network choose the examples that its students learn from, because labels may be wrong."""
    request = asked(options)
    cell, by = parse_cell(options.cell), parse_selection(options.selection)
    if cell.is_ensemble:
        raise ConfigError(f"{cell}: is an ensemble, but only one network can select")
    given = recipe_of(request, cell)
    judge = Judge.of_recipe(given)
    if not making.done(judge, products.selection(cell, by), options.stamp):
        _prepare_to_train(options)
        from kd.jobs import select as job

        job.select(judge, cell, by, given, resources_of(options), options.stamp)


def relation(options: argparse.Namespace) -> None:
    """Find how alike a network finds each two classes, for its students whose loss asks for that."""
    request = asked(options)
    cell = parse_cell(options.cell)
    _relate(cell, parse_related(options.relation), recipe_of(request, cell), options, options.stamp)


def _relate(teacher: Cell, by: Related, given: Recipe, options: argparse.Namespace, stamp: Path | None = None) -> None:
    judge = Judge.of_recipe(given)
    if not making.done(judge, products.relation(teacher, by), stamp):
        _prepare_to_train(options)
        from kd.jobs import relation as job

        job.relation(judge, teacher, by, given, resources_of(options), stamp)


def propose(options: argparse.Namespace) -> None:
    """Propose the settings that a round of a search tries, from the scores of the rounds before it."""
    study = study_of(options)
    product = products.proposal(*_slot(study, options))
    judge = Judge.of_study(study)
    if not making.done(judge, product, options.stamp):
        from kd.jobs import search as job

        job.propose(judge, product, options.stamp)


def trial(options: argparse.Namespace) -> int:
    """Train the cell of one setting of a round, or go on with it, and publish its score on held-out examples."""
    study = study_of(options)
    product = products.trial(*_slot(study, options))
    judge = Judge.of_study(study)
    if not _is_one_of_several() and making.done(judge, product, options.stamp):
        return 0
    _prepare_to_train(options)
    start_together(options.processes)
    from kd.jobs import search as job
    from kd.jobs import train as training

    cell = job.cell_of(judge, product)
    given, network = judge.recipe_of(cell), products.network(cell)
    # A network that teaches in the study may be that cell too; of any other nobody asks for a stamp.
    stamped = options.stamp is not None and network in judge.everything
    stamp = Path(network.stamp(str(options.stamp.parents[2]))) if stamped else None
    is_first = os.environ.get("RANK", "0") == "0"
    if is_first and cell.related:  # which relation was not known before the round was proposed, so no rule made it
        _relate(cell.teacher, cell.related, given, options)
    training.train(Judge.of_recipe(given), cell, given, resources_of(options), stamp=stamp)
    if is_first:
        job.trial(judge.again(), product, options.stamp)
    return 0


def _slot(study: Study, options: argparse.Namespace) -> tuple[str, ...]:
    """Return search, round and, of a trial, number as a study has them."""
    search = search_of(options, study)
    if not 1 <= options.round <= search.rounds:
        raise ConfigError(f"round {options.round}: search {options.search} has 1 to {search.rounds}")
    slot = getattr(options, "number", 1)
    if not 1 <= slot <= search.batch:
        raise ConfigError(f"trial {slot}: a round of search {options.search} has 1 to {search.batch}")
    return (options.search, options.round, *([slot] if hasattr(options, "number") else []))


def release(options: argparse.Namespace) -> None:
    """Remove the bank of a teacher when all its students are trained."""
    from kd.study.delete import release_bank

    judge = Judge.of_study(study_of(options))
    for member in parse_cell(options.cell).members:
        product = products.release(member)
        making.make(judge, product, options.stamp, lambda now, member=member: release_bank(products.bank(member)))
