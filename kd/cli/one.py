"""Verbs for one network, or a few: what one does by hand."""

from __future__ import annotations

import argparse
from pathlib import Path


def show(options: argparse.Namespace) -> None:
    """Show a network: its recipe, numbers, family and files; or the networks in a folder of results/."""
    from kd.study.shown import shown

    print("\n".join(shown(Path(options.path))))


def compare(options: argparse.Namespace) -> None:
    """Compare two recipes over all their seeds: paired difference, interval, test and n."""
    from kd.report.compared import compared

    print("\n".join(compared(options.a, options.b)))
