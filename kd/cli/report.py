"""Verbs that make table, analyses, figures, verdict and page. Snakemake's rules call them."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path

from kd.cli.options import command_of, study_of
from kd.core import files
from kd.core.errors import ConfigError, nearest
from kd.core.project import on_disk
from kd.jobs import making
from kd.report.figures import ANALYSES, FIGURES
from kd.study import products
from kd.study.cells import REPORTS
from kd.study.config import Study
from kd.study.judge import Judge
from kd.study.products import Product


def collect(options: argparse.Namespace) -> None:
    """Gather the results of a study into one table; refuse missing, damaged, mixed or unfinished results."""

    def gather(study: Study, judge: Judge) -> dict:
        from kd.report import table

        return table.collect(study, judge)

    study = study_of(options)
    _publish(study, products.table(study.study), options.stamp, gather)


def measure(options: argparse.Namespace) -> None:
    """Measure the answers of the networks of an experiment."""

    def measured(study: Study, judge: Judge) -> dict:
        from kd.measure import analyses

        return analyses.measure(study, options.experiment, options.analysis)

    study = study_of(options)
    for word, known in ((options.experiment, study.experiments), (options.analysis, set(ANALYSES.values()))):
        if word not in known:
            raise ConfigError(f"{word!r}: unknown{nearest(word, known)}")
    _publish(study, products.analysis(study.study, options.experiment, options.analysis), options.stamp, measured)


def figure(options: argparse.Namespace) -> None:
    """Draw one figure from a table."""

    def drawn(folder: Path) -> dict:
        from kd.report import page

        width = study_of(options).figures.width if _has_study(options) else "page"
        return page.draw(folder, options.experiment, options.figure, width)

    def product(study: str) -> Product:
        if options.figure not in FIGURES:
            raise ConfigError(f"{options.figure!r}: no such figure{nearest(options.figure, FIGURES)}")
        return products.figure(study, options.experiment, options.figure)

    _from_table(options, product, drawn)


def tables(options: argparse.Namespace) -> None:
    """Write the means of a table with their intervals, and compare all pairs of objectives."""

    def summed(folder: Path) -> dict:
        from kd.report import page

        return page.means_and_comparisons(folder)

    _from_table(options, products.tables, summed)


def verdict(options: argparse.Namespace) -> None:
    """Judge the paper's claims by a study's table, or your own claims by any tidy table."""

    def judged(folder: Path) -> dict:
        from kd.report import verdict

        return verdict.verdict(folder)

    if not options.claims:
        _from_table(options, products.verdict, judged)
        return
    from kd.report.verdict import verdict_on

    folder = options.table.parent / "verdicts" / options.claims.stem
    for name, content in verdict_on(options.table, options.claims).items():
        files.write_atomic(folder / name, content)
    print(f"{folder}/verdict.md")


def report(options: argparse.Namespace) -> None:
    """Write the page of a study: figures, captions, means, environments."""

    def shown(study: Study, judge: Judge) -> dict:
        from kd.report import page

        return page.page(study, Path(REPORTS, study.study), options.command or command_of(options))

    study = study_of(options)
    _publish(study, products.page(study.study), options.stamp, shown)


def _publish(study: Study, product: Product, stamp: Path | None, make: Callable[[Study, Judge], dict]) -> None:
    """Publish in reports/ what `make` returns, unless the product is current."""

    def work(judge: Judge) -> None:
        files.publish(product.folder, make(study, judge), making.about(judge, product), product.manifest)

    making.make(Judge.of_study(study), product, stamp, work)


def _has_study(options: argparse.Namespace) -> bool:
    return bool(options.study_json or options.configfile or options.config)


def _from_table(options: argparse.Namespace, product: Callable[[str], Product], make: Callable[[Path], dict]) -> None:
    """Publish what is made only from a study's table; without a study, write it beside the given table."""
    folder = options.table.parent
    if _has_study(options):
        study = study_of(options)
        if folder != Path(REPORTS, study.study):
            raise ConfigError(f"{options.table}: not the table of study {study.study}; leave the study out to judge it")
        _publish(study, product(study.study), options.stamp, lambda study, judge: make(folder))
        return
    manifest = folder / products.MANIFESTS / "table.json"
    if on_disk(manifest).exists():
        files.verified(folder, at=manifest)
    ours = product(folder.name)
    with contextlib.ExitStack() as held:
        if ours.folder == folder:  # the table lies in a study's folder, where a Snakemake may be at work
            held.enter_context(files.lock(ours.lock))
            making.sweep(ours)
        for name, content in make(folder).items():
            files.write_atomic(folder / name, content)
