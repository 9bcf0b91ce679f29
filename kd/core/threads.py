"""Threads that wait for the disk, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> list[R]:
    """Return what `function` makes of each item, by several threads.

    Where one fails, or a signal arrives, what has not begun is not begun, and what hangs is not waited for.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        made = list(pool.map(function, items))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return made
