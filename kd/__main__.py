"""kd VERB ...: run every stage of a study by hand; Snakemake calls the same verbs.

kd plan                                                     what a study will train
kd status                                                   where the study stands, and what failed
kd watch                                                    the same, live
kd train results/digits/demo/wrn-10-2.ce.s0/wrn-10-1.mse.s0 train one cell, and first what its lineage lacks
kd train results/... --processes 4                          one cell on four GPUs
kd show results/...                                         its recipe, numbers, family and files
kd compare results/... results/...                          two recipes, paired over their seeds
kd export results/... DIR                                   a network that needs no kd
kd VERB --help                                              what a verb takes, with an example
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import logging
import os
import signal
import sys

if __name__ == "__main__":  # until `main` handles it: else Ctrl-C during imports would print a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Callable, Sequence
from pathlib import Path

from kd import __version__
from kd.cli import completion, keep, look, make, mirror, one, report, watch
from kd.cli.examples import EXAMPLES
from kd.core import project, signals
from kd.core.errors import STOPS, ConfigError, Damaged, Terminated, Unheard, understood
from kd.core.startup import flush, leave, speak_utf8
from kd.study.products import RULES

_LEAST = {"threads": 1, "cells_per_gpu": 0, "processes": 1, "workers": 0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return its exit code: 2 config, 65 diverged, 74 storage, 75 busy, 137 memory, 130, 143 stopped."""
    if arguments is None:
        speak_utf8()
    options = _parser().parse_args(arguments)
    options.as_command = arguments is None
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    # Libraries log only warnings. If several processes train together, only rank 0 logs more (torchrun sets RANK).
    logging.getLogger("kd").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    if arguments is not None:
        return _answer(options)
    try:
        signals.heed()
        logging.raiseExceptions = False  # else a log that cannot be written would print a traceback
        code = _answer(options)
        signals.unheed()
    except Terminated as error:
        signals.caught()
        print(f"kd: {error}", file=sys.stderr)
        flush()
        signals.leave_now(error.exit_code)  # a thread that hangs must not keep the process alive
    if "torch" in sys.modules:
        leave(code)
    return code


def _answer(options: argparse.Namespace) -> int:
    """Run a verb in the project that --directory names."""
    with project.enter(options.directory) if options.directory else contextlib.nullcontext():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    """Run a verb; if it fails, say in one line why."""
    try:
        _demand_counts(options)
        code = options.verb(options) or 0
        sys.stdout.flush()  # here, because a failure at the interpreter's exit could not be reported
        return code
    except BaseException as error:
        known = understood(error)
        # Some code swallows the signal's exception, fails because of that, and blames a file that it could not read.
        if not isinstance(known, STOPS) or isinstance(known, Damaged):
            known = signals.ending() or known
        if not isinstance(known, STOPS):
            raise
        if options.as_command and isinstance(known, Terminated):
            raise known from error
        if isinstance(known, Unheard):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at exit
            return known.exit_code
        with contextlib.suppress(OSError):  # the log may be on the disk that is full
            print(f"kd: {known}", file=sys.stderr)
        return known.exit_code


def _folder(path: str) -> str:
    if not project.on_disk(Path(path).expanduser()).is_dir():
        raise argparse.ArgumentTypeError(f"{path}: no such folder")
    return path


def _demand_counts(options: argparse.Namespace) -> None:
    for name, least in _LEAST.items():
        given = getattr(options, name, least)
        if given < least:
            raise ConfigError(f"--{name.replace('_', '-')} {given}: expected {least} or more")


# -- options ----------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"kd {__version__}")
    parser.add_argument(
        "-d", "--directory", type=_folder, metavar="DIR", help="the project's folder: paths are relative to it"
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(function: Callable, *, study: bool = True) -> argparse.ArgumentParser:
        name, text = function.__name__.rstrip("_"), function.__doc__.splitlines()[0]
        added = verbs.add_parser(
            name,
            help=text,
            description=inspect.cleandoc(function.__doc__),
            epilog=f"example:\n  {EXAMPLES[name]}" if name in EXAMPLES else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(verb=function)
        if study:
            added.add_argument("--configfile", nargs="+", type=Path, default=[], help="overlays of config.yaml")
            added.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="top-level keys, as YAML")
            added.add_argument("--study-json", metavar="JSON", help="the whole study as Snakemake read it")
        if name in RULES.values():
            added.add_argument("--stamp", type=Path, help="file that tells Snakemake that this is done")
        return added

    for function, help in (
        (look.plan, "print the path of every cell"),
        (look.status, "print every cell"),
        (watch.watch, None),
    ):
        added = verb(function)
        added.add_argument("study", nargs="?", help="a file or a name in workflow/studies/; default: config.yaml")
        if help:
            added.add_argument("--cells", action="store_true", help=help)
        if function is look.plan:
            added.add_argument(
                "--claims", type=Path, metavar="FILE", help="YAML file of claims to plan for, instead of the study's"
            )
            added.add_argument(
                "--calibrate", action="store_true", help="train a few steps of each kind of network, to tell the hours"
            )
    added = verb(mirror.mirror)
    added.add_argument("study", nargs="?", help="a file or a name in workflow/studies/; default: config.yaml")
    added.add_argument(
        "--to", nargs=2, required=True, metavar=("TRACKER", "DIR"), help="tensorboard or trackio, and its folder"
    )
    verb(one.show).add_argument("path", help="results/DATASET/PROTOCOL/NETWORK.OBJECTIVE.sSEED/..., or above")
    added = verb(one.compare)
    added.add_argument("a", help="path of a network; all seeds of its recipe count")
    added.add_argument("b", help="path of another one")
    added = verb(one.export)
    added.add_argument("path", help="a network in results/")
    added.add_argument("folder", type=Path, metavar="DIR", help="new folder, or an empty one")
    added = verb(one.import_)
    added.add_argument("file", type=Path, help="safetensors, or a PyTorch checkpoint")
    added.add_argument("name", help="what the study calls these weights")
    added.add_argument("--network", required=True, help="which network they are of, such as wrn-28-4")
    added.add_argument("--dataset", help="what to measure it on; default: the study's")
    added.add_argument("--key", help="where the file has the weights, if several parts of it fit")
    for name in ("mean", "std"):
        added.add_argument(f"--{name}", nargs="+", type=float, help="of each channel, 0 to 1; default: the data's")
    _add_resources(added, trains=False)
    added = verb(keep.verify, study=False)
    added.add_argument("--discard", action="store_true", help="make what is damaged count as absent")
    for function in (make.data, make.labels):
        added = verb(function)
        added.add_argument("dataset", help="such as cifar100 or cifar100+sym0.4")
        added.add_argument("--recipe", metavar="JSON", help="protocol and dataset, instead of config.yaml")
    verb(make.testset).add_argument("testset", help="such as cifar10@fog")
    added = verb(make.score)
    added.add_argument("cell", help="path of a cell: results/DATASET/PROTOCOL/NETWORK.OBJECTIVE.sSEED/...")
    _add_resources(added, trains=False)
    for function in (make.train, make.select, make.relation, make.bank, make.answers):
        added = verb(function)
        added.add_argument("cell", help="path of a cell: results/DATASET/PROTOCOL/NETWORK.OBJECTIVE.sSEED/...")
        added.add_argument("--recipe", metavar="JSON", help="protocol and dataset, instead of config.yaml")
        _add_resources(added, trains=function is make.train)
        if function is make.select:
            added.add_argument("selection", help="as a path spells it, such as fine, fine0.7 or smallloss0.6")
        elif function is make.relation:
            added.add_argument("relation", help="as a path spells it, such as maps, logits or maps-frac0.1-fine")
        elif function is make.train:
            added.add_argument("--fresh", action="store_true", help="discard the saved state")
        elif function is make.bank:
            added.add_argument(
                "--needs",
                nargs="+",
                metavar="SEED:EPOCHS[:prelogits]",
                help="what students need, instead of what the study says",
            )
    for function in (make.propose, make.trial):
        added = verb(function)
        added.add_argument("search", help="its name in the study")
        added.add_argument("round", type=int, help="from 1")
        if function is make.trial:
            added.add_argument("number", type=int, help="of the trial in its round, from 1")
            _add_resources(added)
    verb(look.winner).add_argument("search", help="its name in the study")
    verb(make.release).add_argument("cell", help="path of the teacher's cell")
    added = verb(report.collect)
    added.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="tables to join, such as a/reports/demo")
    added.add_argument("--into", type=Path, metavar="DIR", help="where the table of several folders is written")
    added = verb(report.measure)
    added.add_argument("experiment")
    added.add_argument("analysis", help="measures, classes, densities, planes or limits")
    for function in (report.figure, report.tables, report.verdict):
        added = verb(function)
        added.add_argument("table", type=Path, help="such as reports/demo/table.parquet")
        if function is report.figure:
            added.add_argument("experiment")
            added.add_argument("figure")
        elif function is report.verdict:
            added.add_argument(
                "--claims", type=Path, metavar="FILE", help="YAML file of claims to judge, instead of the study's"
            )
    added = verb(report.preregister)
    added.add_argument("study", nargs="?", help="a file or a name in workflow/studies/; default: config.yaml")
    added.add_argument("--claims", type=Path, metavar="FILE", help="YAML file of claims, instead of the study's")
    verb(report.report).add_argument("--command", help="the snakemake command that the page shows")
    added = verb(keep.adopt, study=False)
    added.add_argument(
        "--cells", type=int, default=1, help="how many of each kind to train again, the cheapest first (default 1)"
    )
    added.add_argument("--unproved", action="store_true", help="also count what cannot be proved; the table says so")
    added = verb(keep.delete, study=False)
    added.add_argument(
        "what",
        help="a cell (results/digits/demo/wrn-10-2.ce.s0), a study (reports/demo) or a search (search/best)",
    )
    added.add_argument("-n", "--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    added.add_argument("-y", "--yes", action="store_true", help="do not ask")
    added = verb(one.prune)
    added.add_argument("kinds", nargs="*", metavar="KIND", help="banks, relations, answers or states; default: all")
    added.add_argument("--days", type=float, default=0, help="only what was not written for so many days")
    added.add_argument("--study", help="only what is of a study: a file, or a name in workflow/studies/")
    added.add_argument("-n", "--dry-run", action="store_true", help="say what would be freed, and free nothing")
    added.add_argument("-y", "--yes", action="store_true", help="do not ask")
    added = verb(one.pack)
    added.add_argument("study", nargs="?", help="a file or a name in workflow/studies/; default: config.yaml")
    added.add_argument("-o", "--output", type=Path, metavar="FILE", help="the archive; default: STUDY.tar")
    added.add_argument("--without-weights", action="store_true", help="leave model.safetensors out")
    added = verb(completion.completion, study=False)
    added.add_argument("shell", choices=["bash", "zsh", "fish"])
    added.set_defaults(parser=parser)
    verb(look.schema)
    return parser


def _add_resources(added: argparse.ArgumentParser, trains: bool = True) -> None:
    added.add_argument("--threads", type=int, default=1, help="CPU threads, workers among them (default 1)")
    added.add_argument("--cells-per-gpu", type=int, default=1, help="cells to share a GPU (default 1; 0: as fit)")
    if trains:
        added.add_argument("--workers", type=int, default=0, help="processes that decode streamed images (default 0)")
        added.add_argument("--processes", type=int, default=1, help="to train together, a GPU each (default 1)")


if __name__ == "__main__":
    sys.exit(main())
