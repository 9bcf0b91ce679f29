"""Spell durations: one format for the page, the plan, the status and the log."""

from __future__ import annotations


def spelled(seconds: float) -> str:
    """Spell a duration in the largest unit that leaves two digits: 42 s, 2.1 min, 95 min, 3.2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"
    return f"{seconds / 3600:,.1f} h"
