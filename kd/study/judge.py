"""The judge says what is current, or why it is not, and what is to do. It reads manifests and writes nothing.

Snakemake, `kd plan`, `kd status`, `kd verify` and every verb ask it; nothing else decides what is out of date.

A product is *current* if it is complete, if the current code and recipe made it, and if its inputs have not changed.
Complete means: the manifest is intact and its files exist with the sizes that it names; of what people read, the bytes
are checked, too. Data, labels, selections, relations, answers and banks may be deleted: while one is gone, it counts
as what the manifests of the products made from it say of it.

A product is *to do* if it is not current, or if one of its inputs is to do: its verb judges again, and mostly returns
at once. What may be deleted is to do only if something that is to do asks for it.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python

from kd import data
from kd.core import files
from kd.core.code import code_digest
from kd.core.errors import Damaged
from kd.core.project import on_disk
from kd.core.threads import each
from kd.report import figures
from kd.study import adopted, cells, expansion, products, staleness
from kd.study.adopted import Adopted
from kd.study.cells import Cell, DatasetChoice
from kd.study.config import Protocol, Recipe, Study
from kd.study.needs import Need, unmet
from kd.study.paths import parse_cell, parse_dataset, parse_related, parse_selection
from kd.study.products import READ_BY_PEOPLE, SPARED, Product
from kd.study.recipes import UNREADABLE, changed, plain, since
from kd.study.search import SAMPLERS, SCORE

ABSENT = "not made yet"
OTHER_CODE = "made by other code"
# Their recipes depend on a label file, on what is adopted, or on what a round proposes.
_SEEN_ANEW = frozenset({"labels", "table", "trial", "verdict"})
_SLOW_SECONDS = 1e-3  # a slower read means a network file system, on which reading in threads pays
_READERS = 32  # threads for it


class Expected(NamedTuple):
    """What a product would be made from if it were made now."""

    recipe: dict
    code: str
    inputs: tuple[Product, ...] = ()


class Seen(NamedTuple):
    """What lies on the disk: the manifest of a product, or why it has no valid one."""

    manifest: dict | None
    why: str | None = None


class Judge:
    """Says what is current and what is to do, for a study or for the products of one recipe.

    It remembers the manifests that it has read; `again` returns a judge that reads them again.
    """

    def __init__(self, recipe_of: Callable[[Cell | DatasetChoice], Recipe], study: Study | None = None) -> None:
        self.recipe_of, self.study = recipe_of, study
        self._seen: dict[Product, Seen] = {}
        self._reasons: dict[Product, str | None] = {}
        self._to_do: dict[Product, str | None] = {}
        self._expected: dict[Product, Expected] = {}
        self._needs: Mapping[Product, set[Need]] = {}
        self._cell_at: dict[str, Cell] = {}

    @classmethod
    def of_study(cls, study: Study) -> Judge:
        """Return the judge of everything that a study makes."""

        @cache
        def recipe_of(dataset: DatasetChoice, weights: str | None, trains: bool) -> Recipe:
            values = expansion.data_recipe(study, dataset)
            return Recipe.parse(values | expansion.training_recipe(study, weights) if trains else values)

        def find(what: Cell | DatasetChoice) -> Recipe:
            dataset = what if isinstance(what, DatasetChoice) else what.dataset
            weights = None if isinstance(what, DatasetChoice) else what.stages[0].weights
            return recipe_of(replace(dataset, fraction=1.0), weights, what is not dataset)

        return cls(find, study)

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Judge:
        """Return the judge of the products of one recipe: a cell and its lineage, or a dataset."""
        return cls(lambda what: recipe)

    def again(self) -> Judge:
        """Return a judge of the same products that reads all manifests again, but keeps what is expected of them."""
        other = Judge(self.recipe_of, self.study).asked(self._needs)
        # Recipes that depend on files are read again: the files may have changed while a verb waited for its lock.
        other._expected = {one: expected for one, expected in self._expected.items() if one.kind not in _SEEN_ANEW}
        other._cell_at = self._cell_at
        known = {name: self.__dict__[name] for name in ("cells", "students", "everything") if name in self.__dict__}
        other.__dict__ |= known
        return other

    def asked(self, needs: Mapping[Product, set[Need]]) -> Judge:
        """Set what banks must hold; return this judge."""
        self._needs = needs
        return self

    # -- the verdicts -------------------------------------------------------------------------------------------------

    def reason(self, product: Product) -> str | None:
        """Return why a product is not current, in words, or None."""
        if product not in self._reasons:
            self._reasons[product] = self._reason(product)
        return self._reasons[product]

    def to_do(self, product: Product) -> str | None:
        """Return why a product is to do, or None. A product that may be deleted is judged as if it were asked for."""
        if product not in self._to_do:
            self._to_do[product] = self.reason(product) or self._after(product)
        return self._to_do[product]

    def inputs(self, product: Product) -> tuple[Product, ...]:
        """Return what a product is made from."""
        if product.kind not in ("network", "table"):
            return self.expected(product).inputs
        # A study has thousands of networks: do not work out their recipes and code, which only made ones need.
        if product.kind == "table":
            return (*map(products.network, self.cells), *map(products.scores, self.tested))
        cell = self._cell(product)
        led = [cell.teacher] if cell.teacher else cell.members if cell.is_ensemble else []
        return (*_read_data(cell.dataset), *map(products.network, led), *_told_to(cell))

    def asks_for(self, product: Product) -> tuple[Product, ...]:
        """Return what must exist before a product can be made: its inputs, and the banks of its teachers.

        A trial trains its cell itself: it asks for what any cell of its search is made from, which is known before
        anything is proposed.
        """
        if product.kind == "trial":
            search = product.slot[0]
            read = _read_data(expansion.first_trial(self.study, search).dataset)
            led = map(products.network, filter(None, [self.searching[search]]))
            return (products.proposal(*product.slot[:2]), *read, *led)
        return (*self.inputs(product), *self._banks(product))

    def refusals(self, product: Product, inputs: Sequence[Product] = ()) -> list[str]:
        """Return why a product cannot be made now: a line for each of its inputs, or of these, that is not current."""
        judged = inputs or self.inputs(product)
        return [f"{one}: {why}{self._because(one)}" for one in judged if (why := self.to_do(one))]

    def _because(self, product: Product) -> str:
        """Return the first cause further up the lineage, when a product is to do only because of its inputs."""
        first, before = product, self._waits_for(product)
        while self.reason(first) is None and before:
            first, before = before, self._waits_for(before)
        return f" ({first}: {self.reason(first)})" if first != product else ""

    def named(self, product: Product) -> dict[str, dict]:
        """Return the inputs as a manifest names them: by digest; those that may be deleted also by recipe and code."""
        return {one.name: self._record(product, one) for one in self.inputs(product)}

    def manifest(self, product: Product) -> dict | None:
        """Return the manifest of a product, None if it has no valid one."""
        return self._look(product).manifest

    def proof(self, product: Product) -> str | None:
        """Return the proof by which a published product counts as made by the current code, None if it does not."""
        cell = self._cell(product) if product.kind == "network" else None
        return self._adopted.proof(cell, self._look(product).manifest, self.expected(product).code)

    @cached_property
    def unproved(self) -> list[str]:
        """The networks of the study that count as made by the current code without a proof."""
        if not self._adopted.has_unproved:
            return []
        networks = [one for one in map(products.network, self.cells) if self.manifest(one)]
        return [one.name for one in networks if self.proof(one) == adopted.NONE]

    @cached_property
    def _adopted(self) -> Adopted:
        return Adopted.read()

    def same(self, product: Product) -> bool:
        """Say whether a product on the disk is still as this judge saw it."""
        if product.kind == "release":
            return _takes_room(_bank_of(product)) == bool(self.reason(product))
        return _read(product) == self._look(product)

    def made(self, product: Product) -> str | None:
        """Return why a product that was published after this judge looked is not current, or None.

        It reads again only the product and its inputs, which this judge found current before.
        """
        for one in self.inputs(product):
            if product.kind != "release" and not self.same(one) and not (one.kind in SPARED and _is_gone(one)):
                return f"{_role(product, one)} is another now ({one})"
        for one in (product, *([_bank_of(product)] if product.kind == "release" else [])):
            self._seen.pop(one, None)
        for known in (self._reasons, self._expected):
            known.pop(product, None)
        return self.reason(product)

    # -- current ------------------------------------------------------------------------------------------------------

    def _reason(self, product: Product) -> str | None:
        if product.kind == "release":
            return "its bank is there" if _takes_room(_bank_of(product)) else None
        manifest, why = self._look(product)
        if manifest is None:
            return why
        expected = self.expected(product)
        return (
            changed(manifest["recipe"], expected.recipe, since(product.kind, expected.recipe), manifest)
            or self._otherwise(product, manifest, expected.inputs)
            or (self._lacks_views(product, manifest) if product.kind == "bank" else None)
            or (OTHER_CODE if self.proof(product) is None else None)  # last, so that it means: only the code changed
        )

    def _otherwise(self, product: Product, manifest: dict, inputs: Iterable[Product]) -> str | None:
        """Return which input has changed since a product was made, or None."""
        for one in inputs:
            recorded = manifest["inputs"].get(one.name)
            if recorded is None:
                return f"not made from {_role(product, one)}"
            found = self._look(one).manifest
            if found is not None:
                if _digest(product, one, found) != recorded["digest"]:
                    return f"{_role(product, one)} is another now"
            elif one.kind in SPARED:
                then = self.expected(one)
                other = changed(recorded["recipe"], then.recipe, since(one.kind, then.recipe))
                if other or recorded["code"] != then.code:
                    return f"{_role(product, one)}: {other or OTHER_CODE}"
        return None

    def _after(self, product: Product) -> str | None:
        """Return which input a product must wait for, or None."""
        if product.kind == "release":
            return "after its students" if any(map(self.to_do, self.inputs(product))) else None
        one = self._waits_for(product)
        if one is None:
            return None
        # Nobody else tells of the network of a trial, which is no product of the study.
        why = f", {self.to_do(one)}" if (product.kind, one.kind) == ("trial", "network") else ""
        return f"looked at again after {_role(product, one)}{why}"

    def _waits_for(self, product: Product) -> Product | None:
        """Return the first input of a product that is to do, or None."""
        for one in self.inputs(product):
            if one.kind in SPARED and self._look(one).manifest is None:
                continue  # it may be gone; its own inputs, if they matter, are inputs of the product, too
            if self.to_do(one):
                return one
        return None

    def _lacks_views(self, product: Product, manifest: dict) -> str | None:
        if manifest["status"] != "ok":
            return None
        return "lacks views that its students will see" if unmet(manifest, self.needs(product)) else None

    # -- what lies on the disk ----------------------------------------------------------------------------------------

    def _look(self, product: Product) -> Seen:
        if product not in self._seen:
            self._seen[product] = _read(product)
        return self._seen[product]

    def look_at(self, wanted: Sequence[Product]) -> None:
        """Read the manifests of many products; use threads if the first reads are as slow as on a network."""
        first, rest = wanted[:_READERS], wanted[_READERS:]
        began = time.perf_counter()
        for product in first:
            self._look(product)
        if rest and (time.perf_counter() - began) / len(first) > _SLOW_SECONDS:
            self._seen |= zip(rest, each(_read, rest, _READERS), strict=True)

    # -- what would be made now ---------------------------------------------------------------------------------------

    def expected(self, product: Product) -> Expected:
        """Return the recipe, code and inputs with which a product would be made now."""
        if product not in self._expected:
            self._expected[product] = getattr(self, f"_expected_{product.kind}")(product)
        return self._expected[product]

    def _expected_data(self, product: Product) -> Expected:
        dataset = parse_dataset(product.name.partition("/")[2])
        declared = self.recipe_of(dataset).declared or {}
        return Expected(data_recipe(declared), staleness.code_behind_data(dataset.name, declared))

    def _expected_labels(self, product: Product) -> Expected:
        dataset = parse_dataset(product.name.partition("/")[2])
        recipe = labels_recipe(dataset, self.recipe_of(dataset).label_file)
        return Expected(recipe, staleness.code_behind_labels(dataset.noise), (products.data(dataset.name),))

    def _expected_testset(self, product: Product) -> Expected:
        dataset = product.name.partition("/")[2].partition("@")[0]
        return Expected({}, code_digest("kd.data.testsets"), (products.data(dataset),))

    def _expected_network(self, product: Product) -> Expected:
        cell = self._cell(product)
        recipe = self.recipe_of(cell)
        values = {"protocol": _dumped(cell.protocol_of(recipe.protocol)), "objective": _objective(cell.stage.objective)}
        if cell.stage.weights and recipe.weights:
            values["weights"] = recipe.weights.claim
        return Expected(values, staleness.code_behind(cell, recipe.protocol), self.inputs(product))

    def _expected_bank(self, product: Product) -> Expected:
        cell = self._cell(product)
        recipe = self.recipe_of(cell)
        declared = data.source_of(cell.dataset.name, recipe.declared)
        pad, flip = expansion.augmentation(declared, recipe.protocol)
        values = {
            "precision": recipe.protocol.teacher_precision,
            "pad": pad,
            "flip": flip,
            "heldout": recipe.protocol.heldout,
        }
        code = staleness.code_behind_bank(cell, recipe.protocol)
        return Expected(values, code, (products.data(cell.dataset.name), products.network(cell)))

    def _expected_selection(self, product: Product) -> Expected:
        teacher, by = self._cell(product), parse_selection(product.name.rpartition("/")[2])
        values = {"selection": by.name, "amount": by.amount, "heldout": self.recipe_of(teacher).protocol.heldout}
        code = staleness.code_behind_selection(teacher, by)
        # A teacher that learnt from a selection computes its directions from that selection.
        inputs = (*_read_data(teacher.dataset), products.network(teacher), *_selected_for(teacher))
        return Expected(values, code, inputs)

    def _expected_relation(self, product: Product) -> Expected:
        teacher, by = self._cell(product), parse_related(product.name.rpartition("/")[2])
        values = {"relation": by.output, "heldout": self.recipe_of(teacher).protocol.heldout}
        chosen = (products.selection(teacher, by.selection),) if by.selection else ()
        inputs = (*_read_data(teacher.dataset), products.network(teacher), *chosen)
        return Expected(values, staleness.code_behind_relation(teacher), inputs)

    def _expected_proposal(self, product: Product) -> Expected:
        name, number, _ = product.slot
        search = self.study.searches[name]
        recipe = {"space": [[key, *axis] for key, axis in search.axes.axes.items()], "sampler": search.sampler}
        recipe = to_jsonable_python(recipe | {"batch": search.batch, "seed": search.seed, "round": number})
        code = code_digest("kd.study.search", SAMPLERS[search.sampler].module)
        return Expected(recipe, code, tuple(one for one in self.trials(name) if one.slot[1] < number))

    def _expected_trial(self, product: Product) -> Expected:
        proposal, cell = products.proposal(*product.slot[:2]), self.tried(product)
        made_from = (proposal, products.network(cell)) if cell else (proposal,)
        return Expected({"score": SCORE}, "", made_from)

    def setting(self, trial: Product) -> dict | None:
        """Return the setting of a trial; None where its round is not proposed yet, or must be anew."""
        proposal = products.proposal(*trial.slot[:2])
        if self.reason(proposal):
            return None
        return json.loads(files.content_of(Path(f"{proposal}.json")))["settings"][trial.slot[2] - 1]

    def tried(self, trial: Product) -> Cell | None:
        """Return the cell that a trial trains; None where its round is not proposed yet."""
        setting = self.setting(trial)
        return setting and expansion.tried(self.study, trial.slot[0], setting)

    def trials(self, search: str) -> list[Product]:
        """Return every trial of a search, round by round."""
        found = self.study.searches[search]
        slots = itertools.product(range(1, found.rounds + 1), range(1, found.batch + 1))
        return [products.trial(search, *slot) for slot in slots]

    def _expected_release(self, product: Product) -> Expected:
        teacher = self._cell(product)
        trials = [one for name in self.searches_by(teacher) for one in self.trials(name)]
        return Expected({}, "", (*map(products.network, self.readers(teacher)), *trials))

    def _expected_answers(self, product: Product) -> Expected:
        cell = self._cell(product)
        return Expected({}, staleness.code_behind_answers(cell), (*_read_data(cell.dataset), products.network(cell)))

    def _expected_scores(self, product: Product) -> Expected:
        cell = self._cell(product)
        made_from = (*_read_data(cell.dataset), products.network(cell), *self.testsets)
        return Expected({}, staleness.code_behind_scores(cell), made_from)

    def _expected_analysis(self, product: Product) -> Expected:
        experiment, analysis = product.name.rpartition("/")[2].split(".")
        pairs = expansion.measured(self.study, experiment)
        read = dict.fromkeys(cell for pair in pairs for cell in pair if cell)
        return Expected(
            {"analysis": analysis, "pairs": [[str(one), str(other or "")] for one, other in pairs]},
            code_digest("kd.measure.analyses"),
            tuple(made(cell) for cell in read for made in (products.answers, products.network)),
        )

    def _expected_table(self, product: Product) -> Expected:
        rows = expansion.memberships(self.study, self.students)
        recipe = {"rows": [[experiment, cell.path] for experiment, cell in rows]}
        if self.unproved:
            recipe["unproved"] = self.unproved
        if self.study.tests:
            recipe["tests"] = list(self.study.tests)
        return Expected(recipe, code_digest("kd.report.table"), self.inputs(product))

    def _expected_figure(self, product: Product) -> Expected:
        experiment, name = product.name.rpartition("/")[2].split(".")
        inputs = [products.table(self.study.study)]
        if name in figures.ANALYSES:
            inputs.append(products.analysis(self.study.study, experiment, figures.ANALYSES[name]))
        recipe = {"figure": name, "experiment": experiment, "width": self.study.figures.width}
        return Expected(recipe, staleness.code_behind_figure(name), tuple(inputs))

    def _expected_tables(self, product: Product) -> Expected:
        return Expected({}, code_digest("kd.report.means"), (products.table(self.study.study),))

    def _expected_verdict(self, product: Product) -> Expected:
        name, claims = self.study.study, self.study.claims
        recipe = (
            {"claims": [own.model_dump(mode="json") for own in claims]}
            if claims
            else {"published": _report_file("paper/published.csv")}
        )
        if self.study.auto_seeds:
            recipe["auto_seeds"] = self.study.auto_seeds
        if on_disk(path := products.registration(name)).exists():
            recipe["registration"] = files.file_digest(path)
        asked = dict.fromkeys(own.analysis for own in claims if own.analysis)
        inputs = [products.analysis(name, e, analysis) for analysis in asked for e in self.study.measured(analysis)]
        return Expected(recipe, code_digest("kd.report.verdict"), (products.table(name), *inputs))

    def _expected_page(self, product: Product) -> Expected:
        name = self.study.study
        shown = [products.figure(name, *drawn) for drawn in self.study.drawn]
        recipe = {"study": name, "drawn": [list(pair) for pair in self.study.drawn]}
        recipe |= {"experiments": len(self.study.experiments), "protocol": self.study.protocol.model_dump(mode="json")}
        recipe["looks"] = [_report_file(f"page.{kind}") for kind in ("html", "css", "js")]
        inputs = (*shown, products.table(name), products.tables(name), products.verdict(name))
        return Expected(recipe, code_digest("kd.report.page"), inputs)

    def _record(self, product: Product, one: Product) -> dict:
        recorded: dict[str, Any] = {"digest": _digest(product, one, self._look(one).manifest)}
        if one.kind in SPARED:
            recorded |= {"recipe": self.expected(one).recipe, "code": self.expected(one).code}
        return recorded

    def _cell(self, product: Product) -> Cell:
        if product.cell not in self._cell_at:
            self._cell_at[product.cell] = parse_cell(product.cell)
        return self._cell_at[product.cell]

    # -- banks --------------------------------------------------------------------------------------------------------

    def _banks(self, product: Product) -> tuple[Product, ...]:
        if product.kind != "network":
            return ()
        cell = self._cell(product)
        if not cell.reads_banks(self.recipe_of(cell).protocol):
            return ()
        return tuple(map(products.bank, cell.teacher.members))

    def needs(self, bank: Product) -> list[Need]:
        """Return what the students that are to do will read from this bank; if none is to do, what all read."""
        if self.study is None:
            return sorted(self._needs.get(bank, ()))
        students = self.readers(self._cell(bank))
        waiting = [student for student in students if self.to_do(products.network(student))] or students
        return sorted({need for one in waiting for need in one.needs_of_bank(self.study.protocol)})

    # -- all of a study -----------------------------------------------------------------------------------------------

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell of the study, each once, teachers before their students."""
        found = expansion.all_cells(self.study)
        self._cell_at |= {cell.path: cell for cell in found}
        return found

    @cached_property
    def testsets(self) -> tuple[Product, ...]:
        """The further test sets of the study."""
        return tuple(products.testset(self.study.dataset, name) for name in self.study.tests)

    @cached_property
    def tested(self) -> list[Cell]:
        """The cells of the study that its further test sets are for."""
        return [cell for cell in self.cells if self.study.tests and cell.dataset.name == self.study.dataset]

    @cached_property
    def students(self) -> Mapping[Cell, list[Cell]]:
        """Each teacher of the study, with its students."""
        return expansion.taught_by(self.cells)

    def readers(self, teacher: Cell) -> list[Cell]:
        """Return the cells of the study that read the bank of a teacher."""
        return [cell for cell in self.students.get(teacher, ()) if cell.reads_banks(self.study.protocol)]

    def searches_by(self, teacher: Cell) -> list[str]:
        """Return the searches whose trials may read the bank of a teacher."""
        if self.study.protocol.teacher != "bank":
            return []
        return [name for name, cell in self.searching.items() if cell and teacher in cell.members]

    @cached_property
    def searching(self) -> Mapping[str, Cell | None]:
        """For each search of the study the cell that teaches in it."""
        return {name: expansion.searching(self.study, name) for name in self.study.searches}

    @cached_property
    def everything(self) -> tuple[Product, ...]:
        """All products of a study, each once, inputs before what is made from them."""
        study, name = self.study, self.study.study
        teachers = [cell for cell in self.students if not cell.is_ensemble and self.readers(cell)]
        analyses = dict.fromkeys((e, figures.ANALYSES[f]) for e, f in study.drawn if f in figures.ANALYSES)
        found: list[Product] = []
        found += dict.fromkeys(products.data(cell.dataset.name) for cell in self.cells)
        found += dict.fromkeys(products.labels(cell.dataset.labelled) for cell in self.cells if cell.dataset.noise)
        found += self.testsets
        found += dict.fromkeys(one for cell in self.cells for one in (*_told_to(cell), products.network(cell)))
        found += map(products.bank, teachers)
        for search in study.searches:
            for number, trials in itertools.groupby(self.trials(search), lambda one: one.slot[1]):
                found += [products.proposal(search, number), *trials]
        searched = [cell for cell in self.cells if self.searches_by(cell)]
        found += map(products.release, [] if study.keep_banks else dict.fromkeys([*teachers, *searched]))
        found += map(products.answers, expansion.analysed(study))
        found += map(products.scores, self.tested)
        found += [products.analysis(name, *pair) for pair in analyses]
        if not study.experiments:
            return tuple(found)
        found.append(products.table(name))
        found += [products.figure(name, *drawn) for drawn in study.drawn]
        return (*found, products.tables(name), products.verdict(name), products.page(name))

    @cached_property
    def all_to_do(self) -> dict[Product, str]:
        """Return {product: why} of all that is to do; a product that may be deleted only if another asks for it."""
        self.look_at(self.everything)
        found = {one: why for one in self.everything if one.kind not in SPARED and (why := self.to_do(one))}
        asked: dict[Product, None] = {}
        queue = list(found)
        while queue:
            for one in self.asks_for(queue.pop()):
                if one.kind in SPARED and one not in asked:
                    asked[one] = None
                    if why := self.to_do(one):
                        found[one] = why
                        queue.append(one)
        # A deleted input that is made again may differ, so all products that are asked for and read it look again.
        for one in (one for one in self.everything if one in asked and one not in found):
            if back := next((i for i in self.inputs(one) if i in found), None):
                found[one] = f"looked at again after {_role(one, back)}"
        return {one: found[one] for one in self.everything if one in found}

    def is_to_do(self, product: Product) -> bool:
        """Say whether a product of the study is to do.

        It judges the whole study only for a product that may be deleted, because others may ask for it.
        """
        return self.to_do(product) is not None or (product.kind in SPARED and product in self.all_to_do)


def told(to_do: Mapping[Product, str]) -> list[str]:
    """Say what is to do, grouped: `12 networks: lr 0.1 -> 0.05`."""
    counts = Counter((product.kind, why) for product, why in to_do.items())
    order = {kind: place for place, kind in enumerate(products.KINDS)}
    lines = sorted(counts.items(), key=lambda item: order[item[0][0]])
    return [f"{count} {plural(kind, count)}: {why}" for (kind, why), count in lines]


def plural(kind: str, count: int) -> str:
    """Return the name of a kind, in the plural unless `count` is 1."""
    if count == 1 or kind in ("data", "labels", "answers", "scores", "tables"):
        return kind
    return {"analysis": "analyses"}.get(kind, f"{kind}s")


def replaced(judge: Judge) -> str | None:
    """Say that published networks will be replaced because values of their protocol changed, or return None."""
    found: dict[str, int] = defaultdict(int)
    for product in judge.all_to_do:
        manifest = judge.manifest(product) if product.kind == "network" else None
        if manifest and (why := judge.reason(product)):
            made, now = manifest["recipe"]["protocol"], judge.expected(product).recipe["protocol"]
            if changed(made, now, {"protocol": Protocol.since()}, manifest, "protocol"):
                found[why] += 1
    if not found:
        return None
    changes = "; ".join(dict.fromkeys(found))
    name = judge.study.protocol.name
    return (
        f"{sum(found.values())} published networks of protocol {name} will be trained again in the same place "
        f"({changes}); give the protocol another name to keep them"
    )


# -- small things -----------------------------------------------------------------------------------------------------


def _read(product: Product) -> Seen:
    path = product.manifest
    try:
        manifest = files.read_manifest(product.folder, path)
    except Damaged:
        return Seen(None, "its manifest is damaged, or of another version of kd")
    if manifest is None:
        return Seen(None, ABSENT)
    if manifest.get("name") != product.name or manifest.get("kind") != product.kind:
        return Seen(None, f"a copy of {manifest.get('name')}")
    why = files.lacking(product.folder, manifest)
    if why is None and product.kind in READ_BY_PEOPLE:
        for name, digest in manifest["files"].items():
            if files.file_digest(product.folder / name) != digest:
                why = f"{os.path.basename(name)} is damaged"
    return Seen(None, why) if why else Seen(manifest)


def _is_gone(product: Product) -> bool:
    return not on_disk(product.manifest).exists()


def _digest(product: Product, one: Product, manifest: dict) -> str:
    """Return the digest by which `product` names an input. The table names the manifest: it reads numbers from it."""
    if one.kind == "network" and product.kind == "table":
        return manifest["manifest_sha256"]
    return content(manifest)


def content(manifest: dict) -> str:
    """Return the digest of a product's content: the same wherever and whenever it was made."""
    match manifest["kind"]:
        case "data" | "labels":
            return manifest["content"]
        case "network":
            return manifest["files"]["model.safetensors"]
    return files.sha256(files.canonical_json(manifest["files"]).encode())


def data_recipe(declared: Mapping) -> dict:
    """Return the keys of a declared dataset that decide its images: all but the place of its files."""
    return {key: value for key, value in declared.items() if key not in ("folder", "source")}


def labels_recipe(dataset: DatasetChoice, label_file: str | None) -> dict:
    """Return what decides noisy labels, beside the true labels. A label file counts by its content, not its place."""
    noise = dataset.noise
    if noise.kind == "labels":
        path, key = data.label_file(label_file or "")
        found = {"noise": noise.kind, "file": _file_digest(path), "seed": dataset.noise_seed}
        return found | ({"set": key} if key else {})
    return {"noise": noise.kind, "amount": noise.amount, "seed": dataset.noise_seed}


def _file_digest(path: Path) -> str:
    try:
        return files.file_digest(path)
    except OSError:
        return UNREADABLE  # this counts as unchanged


@cache
def _dumped(protocol: Any) -> dict:
    return protocol.model_dump(mode="json")


@cache
def _objective(chosen: Any) -> dict:
    return {"loss": chosen.loss, **{key: plain(value) for key, value in chosen.resolved.items()}}


@cache
def _read_data(dataset: DatasetChoice) -> tuple[Product, ...]:
    """Return the data that a cell learns from."""
    noisy = (products.labels(dataset.labelled),) if dataset.noise else ()
    return (products.data(dataset.name), *noisy)


def _selected_for(cell: Cell) -> tuple[Product, ...]:
    """Return the selection that a cell learns from, if it has one."""
    return (products.selection(cell.teacher, cell.stage.selection),) if cell.stage.selection else ()


def _told_to(cell: Cell) -> tuple[Product, ...]:
    """Return what a teacher publishes for a cell: the selection that it learns from, and how classes are related."""
    return (*_selected_for(cell), *([products.relation(cell.teacher, cell.related)] if cell.related else []))


def _bank_of(product: Product) -> Product:
    return Product("bank", f"{cells.BANKS}/{product.name.partition('/')[2]}")


def _takes_room(bank: Product) -> bool:
    """Say whether a bank has any file: a release that was killed leaves rows without a manifest."""
    try:
        return any(entry.is_file() for entry in os.scandir(on_disk(bank.folder)))
    except FileNotFoundError:
        return False


def _role(product: Product, one: Product) -> str:
    """Say what an input is to a product, such as "its teacher"."""
    if one.kind == "network" and product.kind == "network":
        return "its teacher" if product.name.startswith(f"{one.name}/") else "a member"
    named = {"network": "a network", "data": "its data", "labels": "its labels", "selection": "its selection"}
    named |= {"relation": "its relation between classes"}
    named |= {"trial": "an earlier trial" if product.kind == "proposal" else "a trial", "proposal": "its proposal"}
    return named.get(one.kind, f"the {one.kind}")


@cache
def _report_file(name: str) -> str:
    """Return the digest of a file that kd.report reads, without importing what reads it."""
    return files.file_digest(Path(__file__).parent.parent / "report" / name)
