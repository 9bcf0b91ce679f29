"""kd VERB ...: every stage of a study by hand; Snakemake calls the same verbs.

kd plan                                                     what a study will train
kd status                                                   where it stands, and what failed
kd train results/digits/demo/wrn-10-2.ce.s0                 train one cell, or go on with it
kd train results/digits/demo/wrn-10-2.ce.s0/wrn-10-1.mse.s0 a student of it
kd train results/... --processes 4                          one cell on four GPUs
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from kd import __version__
from kd.cells import (
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
from kd.config import Recipe, Study, merged, parse_yaml, read_yaml, schema, validate
from kd.errors import ConfigError, Diverged, KdError, StorageError, Terminated, understood
from kd.files import MANIFEST, demand, free_bytes
from kd.startup import keep_memory, leave, start_together

_LEAST = {"threads": 1, "cells_per_gpu": 0, "processes": 1, "workers": 0}
_SHOWN = 20  # cells of one status that are listed before the rest is counted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return its exit code: 2 config, 65 diverged, 74 storage, 75 busy, 137 memory, 130, 143 stopped."""
    options = _parser().parse_args(arguments)
    if arguments is None and options.verb in (train, bank, answers):
        keep_memory()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    # Of the libraries, warnings only, and of processes that train together all but the first (torchrun sets RANK).
    logging.getLogger("kd").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    if arguments is None:
        signal.signal(signal.SIGTERM, _terminate)  # in the training loop its own handler takes over
    try:
        _demand_counts(options)
        code = options.verb(options) or 0
    except BaseException as error:
        known = understood(error)
        if not isinstance(known, KdError):
            raise
        print(f"kd: {known}", file=sys.stderr)
        code = known.exit_code
    if arguments is None and "torch" in sys.modules:
        leave(code)
    return code


def _demand_counts(options: argparse.Namespace) -> None:
    for name, least in _LEAST.items():
        given = getattr(options, name, least)
        if given < least:
            raise ConfigError(f"--{name.replace('_', '-')} {given}: expected {least} or more")


def _terminate(number: int, frame: object) -> None:
    raise Terminated(number, "terminated")


# -- verbs ------------------------------------------------------------------------------------------------------------


def plan(options: argparse.Namespace) -> None:
    """Say what a study will train, cell by cell with --cells."""
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
    _check_room(study, cells)


def _check_room(study: Study, cells: list) -> None:
    """Say what the cells that are not published will take of the disk. Raises StorageError if it has less."""
    from kd.footprint import disk_bytes

    missing = [cell for cell in cells if not Path(cell.path, MANIFEST).exists()]
    needed = disk_bytes(missing, study)
    free = free_bytes(Path())
    listed = ", ".join(f"{size / 1e9:.2f} GB in {top}/" for top, size in needed.items() if size)
    print(f"{len(missing)} are not trained yet; they take {listed or 'no space'} of {free / 1e9:.1f} GB that are free")
    demand(Path(), sum(needed.values()))


def status(options: argparse.Namespace) -> None:
    """Say which cells are done, running, waiting, stale or failed and why, and what the next command does."""
    from kd.status import STATUSES, controller_lives, standings

    study = _study(options)
    cells, others = standings(study)
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
    print("\n" + _next(by_status, controller_lives()))


def _next(by_status: dict[str, list], controller: bool) -> str:
    missing = {name: len(by_status[name]) for name in ("waiting", "failed", "stale", "running")}
    if not any(missing.values()):
        return "next: nothing is left to train; snakemake draws what is missing or out of date"
    counts = ", ".join(f"{count} {name}" for name, count in missing.items() if count)
    if controller:
        return f"next: a Snakemake is at work here ({counts}); what it gives up, the same command tries again"
    return f"next: the snakemake command of this study trains what is not done ({counts}); each goes on from its state"


def verify(options: argparse.Namespace) -> int:
    """Compare every published file with its digest; name what is damaged and how it is rebuilt."""
    from kd.status import controller_lives, damaged, discard

    count, wrong = damaged()
    for folder, what in wrong:
        print(f"kd: {what}", file=sys.stderr)
        if options.discard:
            discard(folder)
    print(f"{count} published folders, {len(wrong)} damaged")
    print("a Snakemake is at work here" if controller_lives() else "no Snakemake is at work here")
    if wrong and options.discard:
        print("next: the damaged ones count as absent now; the snakemake command of their study makes them anew")
    elif wrong:
        print("next: `kd verify --discard` makes the damaged ones count as absent; then snakemake makes them anew")
    return StorageError.exit_code if wrong and not options.discard else 0


def data(options: argparse.Namespace) -> None:
    """Prepare the images of a dataset."""
    from kd import stages

    dataset = parse_dataset(options.dataset)
    stages.data(dataset, _recipe(options, dataset))


def labels(options: argparse.Namespace) -> None:
    """Make the noisy labels of a dataset."""
    from kd import stages

    dataset = parse_dataset(options.dataset)
    stages.labels(dataset, _recipe(options, dataset))


def train(options: argparse.Namespace) -> int:
    """Train one cell, or go on with it, and publish it."""
    cell = parse_cell(options.cell)
    recipe = _recipe(options, cell)
    start_together(options.processes)
    from kd import stages

    manifest = stages.train(cell, recipe, _resources(options), options.fresh)
    # To torchrun, which makes 1 of every code, a cell that diverged has ended well.
    return 0 if manifest["status"] == "ok" or "TORCHELASTIC_RUN_ID" in os.environ else Diverged.exit_code


def bank(options: argparse.Namespace) -> None:
    """Store the logits of a teacher for every view that its students will see."""
    from kd import stages

    cell = parse_cell(options.cell)
    needs = [_need(text) for text in options.needs]
    stages.bank_of(cell, _recipe(options, cell), needs, _resources(options))


def answers(options: argparse.Namespace) -> None:
    """Write down what a network answers to the test set and to some of what it learnt from."""
    from kd import stages

    cell = parse_cell(options.cell)
    stages.answers_of(cell, _recipe(options, cell), _resources(options))


def release(options: argparse.Namespace) -> None:
    """Remove the stored logits of a teacher."""
    from kd import stages

    stages.release(parse_cell(options.cell))


def collect(options: argparse.Namespace) -> None:
    """Gather the results of a study into one table; refuse what is missing, damaged, mixed or half done."""
    from kd import table

    study = _study(options)
    table.collect(study, Path(REPORTS, study.study))


def measure(options: argparse.Namespace) -> None:
    """Measure what the networks of an experiment answer."""
    from kd import analyses

    study = _study(options)
    analyses.measure(study, options.experiment, options.analysis, Path(REPORTS, study.study, "analyses"))


def figure(options: argparse.Namespace) -> None:
    """Draw one figure from a table."""
    from kd import report

    report.draw(options.table.parent, options.experiment, options.figure)


def tables(options: argparse.Namespace) -> None:
    """Write the means of a table, with intervals, and its objectives compared two by two."""
    from kd import report

    report.write_means(options.table.parent)
    report.write_comparisons(options.table.parent)


def verdict(options: argparse.Namespace) -> None:
    """Judge the paper's claims by a table: published against measured."""
    from kd import verdict as judgement

    judgement.write(options.table.parent)


def page(options: argparse.Namespace) -> None:
    """Write the page that shows a study: figures, captions, means, environments."""
    from kd import report

    study = _study(options)
    report.write_page(study, Path(REPORTS, study.study))


def print_schema(options: argparse.Namespace) -> None:
    """Print the JSON schema of config.yaml."""
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
            added.add_argument("--needs", nargs="+", required=True, metavar="SEED:EPOCHS", help="of its students")
    verb("release", release, study=False).add_argument("cell", help="path of the teacher's cell")
    verb("collect", collect)
    added = verb("measure", measure)
    added.add_argument("experiment")
    added.add_argument("analysis", help="measures, densities, planes or limits")
    for name, function in (("figure", figure), ("tables", tables), ("verdict", verdict)):
        added = verb(name, function, study=False)
        added.add_argument("table", type=Path, help="such as reports/demo/table.parquet")
        if name == "figure":
            added.add_argument("experiment")
            added.add_argument("figure")
    verb("report", page)
    verb("schema", print_schema, study=False)
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


def _recipe(options: argparse.Namespace, what: Cell | Dataset) -> Recipe:
    if options.recipe:
        given = Recipe.parse(_json("--recipe", options.recipe))
        if isinstance(what, Cell) and given.protocol is None:
            raise ConfigError("--recipe: protocol: missing; a cell needs one")
        return given
    study = _study(options)
    if isinstance(what, Dataset):
        return Recipe.parse(data_recipe(study, what))
    if what.protocol != study.protocol.name:
        raise ConfigError(
            f"{what}: protocol {what.protocol!r} is not the study's ({study.protocol.name}); "
            "name the study that defines it with --configfile"
        )
    return Recipe.parse(recipe(study, what))


def _resources(options: argparse.Namespace) -> object:
    from kd.stages import Resources

    return Resources(options.threads, options.cells_per_gpu, getattr(options, "workers", 0))


def _need(text: str) -> tuple[int, int]:
    if not re.fullmatch("[0-9]{1,9}:[0-9]{1,9}", text):
        raise ConfigError(f"--needs {text}: expected SEED:EPOCHS, such as 0:200")
    seed, epochs = map(int, text.split(":"))
    return seed, epochs


if __name__ == "__main__":
    sys.exit(main())
