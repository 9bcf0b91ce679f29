"""Verbs that make table, analyses, figures, verdict and page. Snakemake's rules call them."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
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
    """Gather the results of a study into one table; refuse missing, damaged, mixed or unfinished results.

    With folders, join their tables instead: blocks of a study that several machines trained.
    """
    if bool(options.folders) != bool(options.into):
        raise ConfigError("collect: folders need --into, and --into needs folders: kd collect A B --into reports/all")
    if options.folders:
        _join(options.folders, options.into)
        return

    def gather(study: Study, judge: Judge) -> dict:
        from kd.report import table

        return table.collect(study, judge)

    study = study_of(options)
    _publish(study, products.table(study.study), options.stamp, gather)


def _join(folders: Sequence[Path], into: Path) -> None:
    from kd.report import blocks

    blocks.demand_free(into)
    artefacts, rows = blocks.joined(folders)
    for name, content in artefacts.items():
        files.write_atomic(into / name, content)
    for line in blocks.told(folders, rows):
        print(line)
    print(f"{into}/table.parquet")


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

    def drawn(folder: Path, study: Study | None) -> dict:
        from kd.report import page

        return page.draw(folder, options.experiment, options.figure, study.figures.width if study else "page")

    def product(study: str) -> Product:
        if options.figure not in FIGURES:
            raise ConfigError(f"{options.figure!r}: no such figure{nearest(options.figure, FIGURES)}")
        return products.figure(study, options.experiment, options.figure)

    _from_table(options, product, drawn)


def tables(options: argparse.Namespace) -> None:
    """Write the means of a table with their intervals, and compare all pairs of objectives."""

    def summed(folder: Path, study: Study | None) -> dict:
        from kd.report import means

        return means.means_and_comparisons(folder)

    _from_table(options, products.tables, summed)


def verdict(options: argparse.Namespace) -> None:
    """Judge the study's claims by its table, the paper's if it has none, or a file of claims by any tidy table."""

    def judged(folder: Path, study: Study | None) -> dict:
        from kd.report import verdict

        return verdict.verdict(folder, study)

    if not options.claims:
        _from_table(options, products.verdict, judged)
        return
    from kd.report.verdict import VERDICTS, verdict_on

    folder = options.table.parent / VERDICTS / options.claims.stem
    for name, content in verdict_on(options.table, options.claims).items():
        files.write_atomic(folder / name, content)
    print(f"{folder}/verdict.md")


def preregister(options: argparse.Namespace) -> None:
    """Freeze the claims, the rule and the seeds of a study in a file to commit, before its first cell is published."""
    from kd.report.preregister import preregister

    path = preregister(Judge.of_study(study_of(options)), options.claims)
    print(f"{path}\nnext, before anything is trained: git add {path} && git commit -m 'Register {path.stem}'")


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


def _from_table(
    options: argparse.Namespace, product: Callable[[str], Product], make: Callable[[Path, Study | None], dict]
) -> None:
    """Publish what is made only from a study's table; without a study, write it beside the given table."""
    folder = options.table.parent
    if _has_study(options):
        study = study_of(options)
        if folder != Path(REPORTS, study.study):
            raise ConfigError(f"{options.table}: not the table of study {study.study}; leave the study out to judge it")
        _publish(study, product(study.study), options.stamp, lambda study, judge: make(folder, study))
        return
    manifest = folder / products.MANIFESTS / "table.json"
    if on_disk(manifest).exists():
        files.verified(folder, at=manifest)
    ours = product(folder.name)
    with contextlib.ExitStack() as held:
        if ours.folder == folder:  # the table lies in a study's folder, where a Snakemake may be at work
            held.enter_context(files.lock(ours.lock))
            making.sweep(ours)
        for name, content in make(folder, None).items():
            files.write_atomic(folder / name, content)
