"""Verbs for one network, or a few: what one does by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd.cli.options import study_of
from kd.core.project import on_disk
from kd.study.config import DEFAULT


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
