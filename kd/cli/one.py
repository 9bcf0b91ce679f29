"""Verbs for one network, or a few: what one does by hand."""

from __future__ import annotations

import argparse
from pathlib import Path


def show(options: argparse.Namespace) -> None:
    """Show a network: its recipe, numbers, family and files; or the networks in a folder of results/."""
    from kd.study.shown import shown

    print("\n".join(shown(Path(options.path))))
