"""kd VERB ...: every stage of a study by hand; Snakemake calls the same verbs.

kd plan                                                     what a study will train
kd status                                                   where it stands, and what failed
kd train results/digits/demo/wrn-10-2.ce.s0                 train one cell, or go on with it
kd train results/digits/demo/wrn-10-2.ce.s0/wrn-10-1.mse.s0 a student of it
kd train results/... --processes 4                          one cell on four GPUs
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import sys

if __name__ == "__main__":  # until `main` heeds it: no traceback through what is being imported
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Callable, Sequence
from pathlib import Path

from kd import __version__
from kd.core import files, signals
from kd.core.errors import STOPS, ConfigError, Damaged, Diverged, StorageError, Terminated, nearest, understood
from kd.core.startup import flush, keep_memory, leave, speak_utf8, start_together
from kd.jobs import making
from kd.report.figures import ANALYSES, FIGURES
from kd.study import products
from kd.study.cells import (
    REPORTS,
    Cell,
    Dataset,
    all_cells,
    cells_of,
    data_recipe,
    parse_cell,
    parse_dataset,
    recipe,
    taught_by,
)
from kd.study.config import Recipe, Study, merged, parse_yaml, read_yaml, schema, validate
from kd.study.judge import Judge, replaced, told
from kd.study.products import Product

_LEAST = {"threads": 1, "cells_per_gpu": 0, "processes": 1, "workers": 0}
_SHOWN = 20  # cells of one status that are listed before the rest is counted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return its exit code: 2 config, 65 diverged, 74 storage, 75 busy, 137 memory, 130, 143 stopped."""
    if arguments is None:
        speak_utf8()
    options = _parser().parse_args(arguments)
    options.as_command = arguments is None
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    # Of the libraries, warnings only, and of processes that train together all but the first (torchrun sets RANK).
    logging.getLogger("kd").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    if arguments is not None:
        return _answer(options)
    try:
        signals.heed()
        logging.raiseExceptions = False  # nor is a log that cannot be written a reason for tracebacks
        code = _answer(options)
        signals.unheed()
    except Terminated as error:
        signals.caught()
        print(f"kd: {error}", file=sys.stderr)
        flush()
        signals.leave_now(error.exit_code)  # a thread that hangs must not keep it alive
    if "torch" in sys.modules:
        leave(code)
    return code


def _answer(options: argparse.Namespace) -> int:
    """Run a verb; say in one line why it could not do what it was asked."""
    try:
        _demand_counts(options)
        return options.verb(options) or 0
    except BaseException as error:
        known = understood(error)
        if not isinstance(known, STOPS):
            known = signals.ending()
        if known is None:
            raise
        if options.as_command and isinstance(known, Terminated):
            raise known from error
        with contextlib.suppress(OSError):  # the disk that the log is on may be the full one
            print(f"kd: {known}", file=sys.stderr)
        return known.exit_code


def _demand_counts(options: argparse.Namespace) -> None:
    for name, least in _LEAST.items():
        given = getattr(options, name, least)
        if given < least:
            raise ConfigError(f"--{name.replace('_', '-')} {given}: expected {least} or more")


# -- verbs ------------------------------------------------------------------------------------------------------------


def plan(options: argparse.Namespace) -> None:
    """Say what a study will train, what is to do and why; cell by cell with --cells."""
    study = _study(options)
    cells = all_cells(study)
    if options.cells:
        print("\n".join(map(str, cells)))
        return
    print(f"study {study.study}: {study.dataset}, protocol {study.protocol.name}, {study.protocol.epochs} epochs")
    for name in study.experiments:
        print(f"  {name:20} {len(cells_of(study, name)):6} cells")
    ensembles = sum(cell.is_ensemble for cell in cells)
    teachers = [cell for cell in taught_by(cells) if not cell.is_ensemble]
    epochs = sum(cell.epochs(study.protocol) for cell in cells)
    together = f", also as {ensembles} ensembles" if ensembles else ""
    networks = f"{len(cells) - ensembles} networks to train, {len(teachers)} of them teach{together}"
    print(f"{networks}; {epochs:,} epochs in all")
    judge = Judge.of_study(study)
    _say_what_is_to_do(judge)
    _check_room(judge)


def _say_what_is_to_do(judge: Judge) -> None:
    lines = told(judge.all_to_do)
    print("to do:\n" + "\n".join(f"  {line}" for line in lines) if lines else "nothing is to do")
    if warning := replaced(judge):
        print(f"note: {warning}")


def _check_room(judge: Judge) -> None:
    """Say what is to be trained will take of the disk. Raises StorageError if it has less."""
    from kd.machine.footprint import disk_bytes

    missing = [parse_cell(one.name) for one in judge.all_to_do if one.kind == "network" and not judge.manifest(one)]
    needed = disk_bytes(missing, judge.study)
    free = files.free_bytes(Path())
    listed = ", ".join(f"{size / 1e9:.2f} GB in {top}/" for top, size in needed.items() if size)
    print(f"{len(missing)} are not trained yet; they take {listed or 'no space'} of {free / 1e9:.1f} GB that are free")
    files.demand_room(Path(), sum(needed.values()))


def status(options: argparse.Namespace) -> None:
    """Say which cells are done, running, waiting, stale or failed and why, and what the next command does."""
    from kd.study.controllers import alive
    from kd.study.status import STATUSES, standings

    study = _study(options)
    judge = Judge.of_study(study)
    cells, others = standings(judge)
    by_status = {name: [cell for cell in cells if cell.status == name] for name in STATUSES}
    if options.cells:
        print("\n".join(f"{cell.status:9}{cell}" for cell in cells))
        return
    print(f"study {study.study}: {len(cells)} cells")
    print("".join(f"  {name:9}{len(members):6}\n" for name, members in by_status.items() if members), end="")
    for name in ("diverged", "stale", "running", "failed"):
        shown = [*by_status[name], *(other for other in others if other.status == name)]
        if shown:
            rest = f"\n  ... and {len(shown) - _SHOWN} more: kd status --cells" if len(shown) > _SHOWN else ""
            print(f"\n{name}\n" + "\n".join(f"  {one}" for one in shown[:_SHOWN]) + rest)
    blocked = sum(bool(cell.detail) for cell in by_status["waiting"])
    if blocked:
        print(f"\nwaiting for a teacher that failed: {blocked}")
    print()
    _say_what_is_to_do(judge)
    if judge.all_to_do:
        print("next: " + ("a Snakemake is at work here; what it gives up, t" if alive() else "t") + _NEXT)


_NEXT = "he snakemake command of this study makes what is to do; each cell goes on from its state"


def verify(options: argparse.Namespace) -> int:
    """Compare every published file with its digest; name what is damaged and how it is rebuilt."""
    from kd.study.controllers import alive
    from kd.study.status import faulty

    count, wrong = faulty()
    damaged = [manifest for manifest, what in wrong if isinstance(what, Damaged)]
    for _, what in wrong:
        print(f"kd: {what}", file=sys.stderr)
    if options.discard:
        for manifest in damaged:
            files.discard(manifest)
    unread = len(wrong) - len(damaged)
    print(f"{count} published products, {len(damaged)} damaged" + (f", {unread} cannot be read" if unread else ""))
    print("a Snakemake is at work here" if alive() else "no Snakemake is at work here")
    if damaged and options.discard:
        print("next: the damaged ones count as absent now; the snakemake command of their study makes them anew")
    elif damaged:
        print("next: `kd verify --discard` makes the damaged ones count as absent; then snakemake makes them anew")
    return StorageError.exit_code if unread or (damaged and not options.discard) else 0


def data(options: argparse.Namespace) -> None:
    """Prepare the images of a dataset, anew where its folder holds other files than it did."""
    asked = _asked(options)
    dataset = parse_dataset(options.dataset)
    given = _recipe(asked, dataset)
    product = products.data(dataset.name)
    if (given.declared or {}).get("folder"):
        _discard_if_its_folder_changed(product, given.declared["folder"])
    judge = Judge.of_recipe(given)
    if not making.done(judge, product, options.stamp):
        from kd.jobs import data as job

        job.data(judge, dataset, given, options.stamp)


def _discard_if_its_folder_changed(product: Product, folder: str) -> None:
    from kd.data.prepare import holds_other_files

    with files.lock(product.lock):
        try:
            manifest = files.read_manifest(product.folder)
        except Damaged:
            return
        if manifest and holds_other_files(manifest, folder):
            logging.getLogger("kd").warning("%s: %s holds other files now; it is read anew", product, folder)
            files.discard(product.manifest)


def labels(options: argparse.Namespace) -> None:
    """Make the noisy labels of a dataset."""
    asked = _asked(options)
    dataset = parse_dataset(options.dataset)
    given = _recipe(asked, dataset)
    judge = Judge.of_recipe(given)
    if not making.done(judge, products.labels(dataset.labelled), options.stamp):
        from kd.jobs import data as job

        job.labels(judge, dataset, given, options.stamp)


def train(options: argparse.Namespace) -> int:
    """Train one cell, or go on with it, and publish it."""
    asked = _asked(options)
    cell = parse_cell(options.cell)
    given = _recipe(asked, cell)
    judge = Judge.of_recipe(given)
    product = products.network(cell)
    if not _is_one_of_several() and _undamaged(judge, product) and making.done(judge, product, options.stamp):
        status = judge.manifest(product)["status"]
    else:
        _prepare_to_train(options)
        start_together(options.processes)
        from kd.jobs import train as job

        status = job.train(judge, cell, given, _resources(options), options.fresh, options.stamp)
    # To torchrun, which makes 1 of every code, a cell that diverged has ended well.
    return 0 if status == "ok" or _is_one_of_several() else Diverged.exit_code


def _undamaged(judge: Judge, product: Product) -> bool:
    """Say whether a published network is, byte by byte, what its manifest says; if not, have it count as absent."""
    try:
        return judge.to_do(product) is not None or bool(files.verified(product.folder))
    except Damaged as error:
        logging.getLogger("kd").warning("%s; it is trained anew", error)
        with files.lock(product.lock):
            files.discard(product.manifest)
        return False


def _is_one_of_several() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _prepare_to_train(options: argparse.Namespace) -> None:
    if options.as_command:
        keep_memory()


def bank(options: argparse.Namespace) -> None:
    """Store the logits of a teacher for every view that its students which are to be trained will see."""
    asked = _asked(options) if options.needs else _study(options)
    cell = parse_cell(options.cell)
    for member in cell.members:
        product = products.bank(member)
        if options.needs:
            given = _recipe(asked, member)
            judge = Judge.of_recipe(given).asked({product: {_need(text) for text in options.needs}})
        else:
            judge = Judge.of_study(asked)
            given = judge.recipe_of(member)
            if not judge.needs(product):
                raise ConfigError(f"{cell}: teaches nobody in this study; say whose views with --needs SEED:EPOCHS")
        if not making.done(judge, product, options.stamp):
            _prepare_to_train(options)
            from kd.jobs import bank as job

            job.bank(judge, member, given, judge.needs(product), _resources(options), options.stamp)


def answers(options: argparse.Namespace) -> None:
    """Write down what a network answers to the test set and to some of what it learnt from."""
    asked = _asked(options)
    cell = parse_cell(options.cell)
    given = _recipe(asked, cell)
    judge = Judge.of_recipe(given)
    if not making.done(judge, products.answers(cell), options.stamp):
        _prepare_to_train(options)
        from kd.jobs import answers as job

        job.answers(judge, cell, given, _resources(options), options.stamp)


def release(options: argparse.Namespace) -> None:
    """Remove the stored logits of a teacher all of whose students are trained."""
    from kd.study.delete import release_bank

    judge = Judge.of_study(_study(options))
    for member in parse_cell(options.cell).members:
        product = products.release(member)
        making.make(judge, product, options.stamp, lambda now, member=member: release_bank(products.bank(member)))


def collect(options: argparse.Namespace) -> None:
    """Gather the results of a study into one table; refuse what is missing, damaged, mixed or half done."""

    def gather(study: Study, judge: Judge) -> dict:
        from kd.report import table

        return table.collect(study, judge)

    study = _study(options)
    _publish(study, products.table(study.study), options.stamp, gather)


def measure(options: argparse.Namespace) -> None:
    """Measure what the networks of an experiment answer."""

    def measured(study: Study, judge: Judge) -> dict:
        from kd.measure import analyses

        return analyses.measure(study, options.experiment, options.analysis)

    study = _study(options)
    for word, known in ((options.experiment, study.experiments), (options.analysis, set(ANALYSES.values()))):
        if word not in known:
            raise ConfigError(f"{word!r}: unknown{nearest(word, known)}")
    _publish(study, products.analysis(study.study, options.experiment, options.analysis), options.stamp, measured)


def figure(options: argparse.Namespace) -> None:
    """Draw one figure from a table."""

    def drawn(folder: Path) -> dict:
        from kd.report import page

        return page.draw(folder, options.experiment, options.figure)

    def product(study: str) -> Product:
        if options.figure not in FIGURES:
            raise ConfigError(f"{options.figure!r}: no such figure{nearest(options.figure, FIGURES)}")
        return products.figure(study, options.experiment, options.figure)

    _from_table(options, product, drawn)


def tables(options: argparse.Namespace) -> None:
    """Write the means of a table, with intervals, and its objectives compared two by two."""

    def summed(folder: Path) -> dict:
        from kd.report import page

        return page.means_and_comparisons(folder)

    _from_table(options, products.tables, summed)


def verdict(options: argparse.Namespace) -> None:
    """Judge the paper's claims by a table, published against measured; or claims of one's own by any tidy table."""

    def judged(folder: Path) -> dict:
        from kd.report import verdict

        return verdict.verdict(folder)

    if not options.claims:
        _from_table(options, products.verdict, judged)
        return
    from kd.report.verdict import verdict_on

    folder = options.table.parent / "verdicts" / options.claims.stem
    for name, content in verdict_on(options.table, options.claims).items():
        files.write_atomic(folder / name, content)
    print(f"{folder}/verdict.md")


def page(options: argparse.Namespace) -> None:
    """Write the page that shows a study: figures, captions, means, environments."""

    def shown(study: Study, judge: Judge) -> dict:
        from kd.report import page as pages

        return pages.page(study, Path(REPORTS, study.study))

    study = _study(options)
    _publish(study, products.page(study.study), options.stamp, shown)


def _publish(study: Study, product: Product, stamp: Path | None, make: Callable[[Study, Judge], dict]) -> None:
    """Publish in reports/ what `make` returns, unless it is current."""

    def work(judge: Judge) -> None:
        files.publish(product.folder, make(study, judge), making.about(judge, product), product.manifest)

    making.make(Judge.of_study(study), product, stamp, work)


def _from_table(options: argparse.Namespace, product: Callable[[str], Product], make: Callable[[Path], dict]) -> None:
    """Publish what is made from a study's table alone; without a study, write it beside a table that is given."""
    folder = options.table.parent
    if options.study_json or options.configfile or options.config:
        study = _study(options)
        if folder != Path(REPORTS, study.study):
            raise ConfigError(f"{options.table}: not the table of study {study.study}; leave the study out to judge it")
        _publish(study, product(study.study), options.stamp, lambda study, judge: make(folder))
        return
    manifest = folder / products.MANIFESTS / "table.json"
    if manifest.exists():
        files.verified(folder, at=manifest)
    ours = product(folder.name)
    with contextlib.ExitStack() as held:
        if ours.folder == folder:  # a study's own, which a Snakemake may be making
            held.enter_context(files.lock(ours.lock))
            making.sweep(ours)
        for name, content in make(folder).items():
            files.write_atomic(folder / name, content)


def adopt(options: argparse.Namespace) -> None:
    """Prove that the code of now trains published networks to the same numbers, so that it need not."""
    from kd.jobs import adopt as job

    job.adopt(options.cells, options.unproved)


def delete(options: argparse.Namespace) -> None:
    """Delete a cell with all that it taught, or what is a study's own; say what and how large, and ask."""
    from kd.study.delete import delete

    delete(options.what, options.dry_run, options.yes)


def print_schema(options: argparse.Namespace) -> None:
    """Print the JSON schema of config.yaml, with what the plug-ins of a study add if one is given."""
    if options.study_json or options.configfile or options.config:
        _study(options)
    print(json.dumps(schema(), indent=1))


# -- options ----------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"kd {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, function: object, *, study: bool = True) -> argparse.ArgumentParser:
        text = (function.__doc__ or "").splitlines()[0]
        added = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(verb=function)
        if study:
            added.add_argument("--configfile", nargs="+", type=Path, default=[], help="overlays of config.yaml")
            added.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="top-level keys, as YAML")
            added.add_argument("--study-json", metavar="JSON", help="the whole study as Snakemake read it")
        if name in products.RULES.values():
            added.add_argument("--stamp", type=Path, help="file that tells Snakemake that this is done")
        return added

    for name, function, help in (
        ("plan", plan, "print the path of every cell"),
        ("status", status, "print every cell"),
    ):
        added = verb(name, function)
        added.add_argument("study", nargs="?", help="a file or a name in workflow/studies/; default: config.yaml")
        added.add_argument("--cells", action="store_true", help=help)
    added = verb("verify", verify, study=False)
    added.add_argument("--discard", action="store_true", help="make what is damaged count as absent")
    for name, function in (("data", data), ("labels", labels)):
        added = verb(name, function)
        added.add_argument("dataset", help="such as cifar100 or cifar100+sym0.4")
        added.add_argument("--recipe", metavar="JSON", help="protocol and dataset, instead of config.yaml")
    for name, function in (("train", train), ("bank", bank), ("answers", answers)):
        added = verb(name, function)
        added.add_argument("cell", help="path of a cell: results/DATASET/PROTOCOL/NETWORK.OBJECTIVE.sSEED/...")
        added.add_argument("--recipe", metavar="JSON", help="protocol and dataset, instead of config.yaml")
        added.add_argument("--threads", type=int, default=1, help="CPU threads, workers among them (default 1)")
        added.add_argument("--cells-per-gpu", type=int, default=1, help="cells to share a GPU (default 1; 0: as fit)")
        if name == "train":
            added.add_argument(
                "--workers", type=int, default=0, help="processes that decode streamed images (default 0)"
            )
            added.add_argument("--processes", type=int, default=1, help="to train together, a GPU each (default 1)")
            added.add_argument("--fresh", action="store_true", help="discard the saved state")
        elif name == "bank":
            added.add_argument("--needs", nargs="+", metavar="SEED:EPOCHS", help="of students, instead of the study's")
    verb("release", release).add_argument("cell", help="path of the teacher's cell")
    verb("collect", collect)
    added = verb("measure", measure)
    added.add_argument("experiment")
    added.add_argument("analysis", help="measures, densities, planes or limits")
    for name, function in (("figure", figure), ("tables", tables), ("verdict", verdict)):
        added = verb(name, function)
        added.add_argument("table", type=Path, help="such as reports/demo/table.parquet")
        if name == "figure":
            added.add_argument("experiment")
            added.add_argument("figure")
        elif name == "verdict":
            added.add_argument(
                "--claims", type=Path, metavar="FILE", help="claims of one's own, YAML, instead of the paper's"
            )
    verb("report", page)
    added = verb("adopt", adopt, study=False)
    added.add_argument("--cells", type=int, default=1, help="to train again of each kind, the cheapest (default 1)")
    added.add_argument("--unproved", action="store_true", help="count what cannot be proved too; the table says so")
    added = verb("delete", delete, study=False)
    added.add_argument(
        "what", help="a cell, such as results/digits/demo/wrn-10-2.ce.s0, or a study, such as reports/demo"
    )
    added.add_argument("-n", "--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    added.add_argument("-y", "--yes", action="store_true", help="do not ask")
    verb("schema", print_schema)
    return parser


def _study(options: argparse.Namespace) -> Study:
    if options.study_json:
        return validate(_json("--study-json", options.study_json))
    overlay: dict = {}
    for path in [*options.configfile, *_named(getattr(options, "study", None))]:
        overlay |= read_yaml(path)
    for pair in options.config:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--config {pair}: expected KEY=VALUE")
        overlay[key] = parse_yaml(value, f"--config {pair}")
    return validate(merged(overlay))


def _named(study: str | None) -> list[Path]:
    """Return the file of a study that is given by its name or path."""
    if study is None:
        return []
    shipped = Path("workflow/studies", f"{study}.yaml")
    return [shipped if shipped.exists() else Path(study)]


def _json(option: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{option} {text[:60]}: not JSON: {error}") from error


def _asked(options: argparse.Namespace) -> Study | Recipe:
    """Return what the command line says. It comes before any name is read: plug-ins may define them."""
    return Recipe.parse(_json("--recipe", options.recipe)) if options.recipe else _study(options)


def _recipe(asked: Study | Recipe, what: Cell | Dataset) -> Recipe:
    if isinstance(asked, Recipe):
        if isinstance(what, Cell) and asked.protocol is None:
            raise ConfigError("--recipe: protocol: missing; a cell needs one")
        return asked
    if isinstance(what, Dataset):
        return Recipe.parse(data_recipe(asked, what))
    if what.protocol != asked.protocol.name:
        raise ConfigError(
            f"{what}: protocol {what.protocol!r} is not the study's ({asked.protocol.name}); "
            "name the study that defines it with --configfile"
        )
    return Recipe.parse(recipe(asked, what))


def _resources(options: argparse.Namespace) -> object:
    from kd.jobs.places import Resources

    return Resources(options.threads, options.cells_per_gpu, getattr(options, "workers", 0))


def _need(text: str) -> tuple[int, int]:
    if not re.fullmatch("[0-9]{1,9}:[0-9]{1,9}", text):
        raise ConfigError(f"--needs {text}: expected SEED:EPOCHS, such as 0:200")
    seed, epochs = map(int, text.split(":"))
    return seed, epochs


if __name__ == "__main__":
    sys.exit(main())
