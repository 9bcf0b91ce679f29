"""How a verb makes a product: look, wait for the lock, look again, judge the inputs, publish, look once more.

Whoever starts a verb, and whatever happened before, it publishes nothing from inputs that are not those of its recipe,
and leaves a stamp only beside what is current.
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

LATENCY = "KD_LATENCY_WAIT"  # seconds that a network file system may take to show what another machine has written
_LOOKS = 5  # a second, while waiting for that


def make(judge: Judge, product: Product, stamp: Path | None, work: Callable[[Judge], object]) -> bool:
    """Have `work` publish a product, unless it is current; return whether it had to. It is given a judge of now.

    Raises StorageError where an input is not what the recipe asks for, or is another when the work is done.
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
    """Say whether a product is current, and leave its stamp where it is. What cost an import need not be imported."""
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
    """Return a judge of now that has found all inputs as they must be; None where there is nothing to make after all.

    Call it while holding the lock of the product. From here on it has no stamp.
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
    """Leave the stamp of what was just published. Call it under the same lock as `begin`, with the judge it gave."""
    files.crash_point("published", product)
    if why := judge.made(product):
        files.discard(product.manifest)  # it says what was there before: with that back, it would count
        raise StorageError(f"{product}: made, and does not count, because {why}; run the same command again")
    files.crash_point("stamp", product)
    if stamp:
        stamps.make(stamp)


def about(judge: Judge, product: Product) -> dict:
    """Return what every manifest says first: what it is of, and what that is made from."""
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
    """Return a judge that has found all inputs of a product, or these, as they must be, after waiting a while for them.

    Raises StorageError that names those that are not.
    """
    deadline = time.monotonic() + float(os.environ.get(LATENCY, "0"))
    while refusals := judge.refusals(product, inputs):
        if time.monotonic() > deadline:
            count = f" ({len(refusals)} of {len(judge.inputs(product))})" if len(refusals) > 1 else ""
            raise StorageError(
                f"{product}: what it is made from is not as it must be{count}; {files.AGAIN}\n{itemised(refusals)}"
            )
        time.sleep(1 / _LOOKS)
        judge = judge.again()
    return judge


def _remove_unnamed(bank: Product, manifest: dict) -> None:
    """Remove the rows and keys of the bank before this one, where whoever published this one ended before it could."""
    for name in (*FILES.values(), "keys"):
        for path in files.below(bank.folder, f"{name}-*.npy"):
            if path.name not in manifest["files"]:
                with files.storage(path, verb="remove"):
                    on_disk(path).unlink(missing_ok=True)
