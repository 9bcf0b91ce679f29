"""The verb that writes shell completion."""

from __future__ import annotations

import argparse
from pathlib import Path

_PATHS = ("a", "b", "cell", "file", "folder", "path", "study", "table", "what")  # arguments that are paths


def completion(options: argparse.Namespace) -> None:
    """Print what completes kd's verbs, options and paths in a shell: bash, zsh or fish."""
    import shtab

    for verb in options.parser._subparsers._group_actions[0].choices.values():
        for action in verb._actions:
            if action.dest in _PATHS or action.type is Path:
                action.complete = shtab.FILE
    print(shtab.complete(options.parser, options.shell))
