"""What the lineage of a cell lacks, and making it first: `kd train` by hand, as Snakemake does for a study.

Each thing is made by the verb that its rule calls, in a process of its own, with the recipe spelled out. A student
fills the bank of its teacher itself, so banks are not among these things.
"""

from __future__ import annotations

from collections.abc import Sequence

from kd.core.errors import Diverged, StorageError
from kd.core.project import here
from kd.core.startup import run_verb
from kd.study import products
from kd.study.cells import Cell
from kd.study.config import Recipe
from kd.study.judge import Judge, plural
from kd.study.products import RULES, Product


def lacking(judge: Judge, product: Product) -> dict[Product, str]:
    """Return {what must be made before a product: why}, inputs before what is made from them.

    Nothing where something published would have to be replaced: the verb then refuses, and names it.
    """
    found: dict[Product, str] = {}
    published: list[Product] = []

    def visit(one: Product) -> None:
        if one in found or not (why := judge.to_do(one)):
            return
        for before in judge.inputs(one):
            visit(before)
        if judge.manifest(one) is None:
            found[one] = why
        elif judge.reason(one):
            published.append(one)

    for before in judge.inputs(product):
        visit(before)
    return {} if published else found


def make_what_is_lacking(cell: Cell, recipe: Recipe, spelled: str, resources: Sequence[str]) -> int:
    """Say what a cell lacks, and make it; return 0, or the exit code of the verb that failed.

    `spelled` is the recipe as JSON, with its plug-ins; `resources` are the words of the command line for `kd train`.
    A teacher that diverges is made. Raises StorageError when a thing is out of date as soon as it is made.
    """
    product, judge = products.network(cell), Judge.of_recipe(recipe)
    if to_do := lacking(judge, product):
        it = "it is" if len(to_do) == 1 else "they are"
        print(f"{product} lacks {len(to_do)} {plural('thing', len(to_do))}; {it} made first:")
        print("\n".join(f"  {one}: {why}" for one, why in to_do.items()))
    count = len(to_do)
    while to_do:
        one = next(iter(to_do))
        print(f"[{max(1, count + 1 - len(to_do))}/{count}] {one}")
        code = run_verb([*_arguments(one, resources), "--recipe", spelled], here())
        if code not in (0, Diverged.exit_code):
            return code
        judge = judge.again()
        to_do = lacking(judge, product)
        if why := to_do.get(one):
            raise StorageError(f"{one}: made, but not current, because {why}; run the same command again")
    return 0


def _arguments(product: Product, resources: Sequence[str]) -> list[str]:
    """Return the verb that makes a product, and its arguments without the recipe."""
    verb, last = RULES[product.kind], product.name.rpartition("/")[2]
    if product.kind == "network":
        return [verb, product.cell, *resources]
    return [verb, product.cell, last] if product.kind in ("selection", "relation") else [verb, last]
