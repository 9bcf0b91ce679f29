"""Remove what dead writers left unfinished, and saved states that no training will go on from."""

from __future__ import annotations

import shutil
from pathlib import Path

from kd.core import files
from kd.core.project import on_disk
from kd.study.products import READ_BY_PEOPLE, Product


def sweep(product: Product) -> None:
    """Remove what dead writers of this product left unfinished. Call it while you hold its lock."""
    files.sweep(product.lock.parent, f"{product.lock.name}*")
    if product.kind == "network":
        for run in states(product):
            files.sweep(run)
    if product.kind not in READ_BY_PEOPLE:
        files.sweep(product.folder)
        return
    files.sweep(product.manifest.parent, product.manifest.name)
    for pattern in product.files:
        files.sweep((product.folder / pattern).parent, Path(pattern).name)


def forget_states(product: Product) -> None:
    """Remove all states of a network that has just been published. Call it while you hold its lock."""
    for run in states(product):
        with files.storage(run, verb="remove"):
            shutil.rmtree(on_disk(run))


def left_by(product: Product, manifest: dict) -> Path | None:
    """Return the state of a published network's training if it still exists; None for any other product."""
    if product.kind != "network":
        return None
    run = state_of(product, manifest["fingerprint"])
    return run if on_disk(run).is_dir() else None


def forget_what_is_published(product: Product, manifest: dict) -> None:
    """Remove the state of the published training, if it still exists. Call it while you hold the product's lock.

    States of other fingerprints stay: training goes on from one if the user changes back to its recipe.
    """
    if run := left_by(product, manifest):
        shutil.rmtree(on_disk(run), ignore_errors=True)


def state_of(product: Product, fingerprint: str) -> Path:
    """Return the folder of a network's state for one fingerprint."""
    return product.lock.parent / f"run-{fingerprint[:12]}"


def states(product: Product) -> list[Path]:
    """Return the folders of all states of a network."""
    return sorted(files.below(product.lock.parent, "run-*"))
