"""Verbs for what is already published: check it, keep it under new code, delete it."""

from __future__ import annotations

import argparse
import sys

from kd.core import files
from kd.core.errors import Damaged, StorageError


def verify(options: argparse.Namespace) -> int:
    """Compare every published file with its digest; name what is damaged and say how to rebuild it."""
    from kd.study.controllers import alive
    from kd.study.status import faulty

    count, wrong = faulty()
    damaged = [manifest for manifest, what in wrong if isinstance(what, Damaged)]
    for _, what in wrong:
        print(f"kd: {what}", file=sys.stderr)
    if options.discard:
        for manifest in damaged:
            files.discard(manifest)
    unread = len(wrong) - len(damaged)
    print(f"{count} published products, {len(damaged)} damaged" + (f", {unread} cannot be read" if unread else ""))
    print("a Snakemake is at work here" if alive() else "no Snakemake is at work here")
    if damaged and options.discard:
        print("next: the damaged ones count as absent now; the snakemake command of their study makes them anew")
    elif damaged:
        print("next: `kd verify --discard` makes the damaged ones count as absent; then snakemake makes them anew")
    return StorageError.exit_code if unread or (damaged and not options.discard) else 0


def adopt(options: argparse.Namespace) -> None:
    """Prove that the current code gives published networks the same numbers, so that they need not be retrained."""
    from kd.jobs import adopt as job

    job.adopt(options.cells, options.unproved)


def delete(options: argparse.Namespace) -> None:
    """Delete a cell with all cells that it taught, or what is a study's or search's own; print what, and ask first."""
    from kd.study.delete import delete

    delete(options.what, options.dry_run, options.yes)
