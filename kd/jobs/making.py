"""How a verb makes a product: judge it, wait for the lock, judge it again, judge the inputs, publish, judge the result.

Whoever starts a verb, and whatever happened before, the verb publishes only from the inputs of its recipe, and makes a
stamp only for a product that is current.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kd.core import files
from kd.core.attempts import at_work
from kd.core.errors import Busy, StorageError, itemised
from kd.core.project import on_disk
from kd.study import stamps
from kd.study.judge import Judge
from kd.study.leftovers import forget_what_is_published, left_by, sweep
from kd.study.needs import FILES
from kd.study.products import Product

log = logging.getLogger("kd")

LATENCY = "KD_LATENCY_WAIT"  # seconds that a network file system may take to show a file of another machine
_LOOKS = 5  # a second, during this wait


def make(judge: Judge, product: Product, stamp: Path | None, work: Callable[[Judge], object]) -> bool:
    """Call `work` with a fresh judge to publish a product, unless the product is current; return whether it ran.

    Raises StorageError when an input is not the one that the recipe asks for, or changes during the work.
    """
    if done(judge, product, stamp):
        return False
    with at_work(product.lock):
        now = begin(judge, product, stamp)
        if now is None:
            return False
        work(now)
        end(now, product, stamp)
    return True


def done(judge: Judge, product: Product, stamp: Path | None) -> bool:
    """Say whether a product is current, and if so make its stamp. Verbs ask this before they import torch."""
    if judge.to_do(product):
        return False
    if stamp is None:
        if left_by(product, judge.manifest(product)):
            with contextlib.suppress(Busy, StorageError), files.lock(product.lock, wait=False):
                _settled(judge.again(), product, None)
        return True
    with files.lock(product.lock):
        return _settled(judge.again(), product, stamp)


def begin(judge: Judge, product: Product, stamp: Path | None) -> Judge | None:
    """Check the inputs and remove the stamp; return the judge that checked them, or None if the product is current.

    Call it while you hold the lock of the product.
    """
    judge = judge.again()
    if _settled(judge, product, stamp):
        return None
    judge = with_inputs(judge, product)
    files.crash_point("begin", product)
    if stamp:
        stamps.remove(stamp)
    sweep(product)
    files.crash_point("work", product)
    return judge


def end(judge: Judge, product: Product, stamp: Path | None) -> None:
    """Judge what was just published and make its stamp. Call it under the lock of `begin`, with the judge it returned.

    Raises StorageError when the product is not current, for instance because an input changed during the work.
    """
    files.crash_point("published", product)
    if why := judge.made(product):
        files.discard(product.manifest)  # else it would count again as soon as the old input is back
        raise StorageError(f"{product}: made, but not current, because {why}; run the same command again")
    files.crash_point("stamp", product)
    if stamp:
        stamps.make(stamp)


def about(judge: Judge, product: Product) -> dict:
    """Return the first keys of every manifest: what the product is, and what it is made from."""
    expected = judge.expected(product)
    return {
        "kind": product.kind,
        "name": product.name,
        "recipe": expected.recipe,
        "code": expected.code,
        "inputs": judge.named(product),
    }


def _settled(judge: Judge, product: Product, stamp: Path | None) -> bool:
    if judge.to_do(product):
        return False
    sweep(product)
    if product.kind == "bank":
        _remove_unnamed(product, judge.manifest(product))
    forget_what_is_published(product, judge.manifest(product))
    if stamp:
        stamps.make(stamp)
    log.info("%s is there already", product)
    return True


def with_inputs(judge: Judge, product: Product, inputs: Sequence[Product] = ()) -> Judge:
    """Wait up to KD_LATENCY_WAIT seconds for all inputs of a product, or for these; return the judge that found them.

    Raises StorageError that names the inputs that are not.
    """
    deadline = time.monotonic() + float(os.environ.get(LATENCY, "0"))
    while refusals := judge.refusals(product, inputs):
        if time.monotonic() > deadline:
            count = f" ({len(refusals)} of {len(judge.inputs(product))})" if len(refusals) > 1 else ""
            raise StorageError(f"{product}: its inputs are not current{count}; {files.AGAIN}\n{itemised(refusals)}")
        time.sleep(1 / _LOOKS)
        judge = judge.again()
    return judge


def _remove_unnamed(bank: Product, manifest: dict) -> None:
    """Remove rows and keys of the previous bank: the job that published this one may have died before it did so."""
    for name in (*FILES.values(), "keys"):
        for path in files.below(bank.folder, f"{name}-*.npy"):
            if path.name not in manifest["files"]:
                with files.storage(path, verb="remove"):
                    on_disk(path).unlink(missing_ok=True)
