"""Run a function that waits for the disk in several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> list[R]:
    """Return `function(item)` for each item, computed in several threads.

    When one call fails or a signal arrives, no further call begins, and calls that hang are not waited for.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        made = list(pool.map(function, items))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return made
