"""Verbs that look at a study and change nothing."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kd.cli.forecast import say_work
from kd.cli.options import searches_of, study_of
from kd.core import files
from kd.core.errors import StorageError, itemised
from kd.study import config, products
from kd.study.config import Search
from kd.study.expansion import all_cells, first_trial, taught_by
from kd.study.judge import Judge, replaced, told
from kd.study.paths import parse_cell
from kd.study.values import spelled_noise

_SHOWN = 20  # cells listed of each status; the rest is counted
_NEXT = "he snakemake command of this study makes what is to do; each cell goes on from its state"


def plan(options: argparse.Namespace) -> None:
    """Say what a study will train, what is to do and why; with --cells print every cell."""
    study = study_of(options)
    cells = all_cells(study)
    if options.cells:
        print("\n".join(map(str, cells)))
        return
    print(f"study {study.study}: {study.dataset}, protocol {study.protocol.name}, {study.protocol.epochs} epochs")
    print(f"  seeds {', '.join(map(str, study.seeds))}" + " (one seed; several are a list)" * (len(study.seeds) == 1))
    if study.auto_seeds == config.UNDECIDED:
        print("  these are the first stage of seeds: auto; when they are trained, the same command goes on with more")
    elif study.auto_seeds:
        print(f"  seeds: auto chose these by the spread of the first {config.FIRST}")
    ensembles = sum(cell.is_ensemble for cell in cells)
    teachers = [cell for cell in taught_by(cells) if not cell.is_ensemble]
    epochs = sum(cell.epochs(study.protocol) for cell in cells)
    together = f", also as {ensembles} ensembles" if ensembles else ""
    networks = f"{len(cells) - ensembles} networks to train, {len(teachers)} of them teach{together}"
    print(f"{networks}; {epochs:,} epochs in all")
    judge = Judge.of_study(study)
    say_work(judge, options.calibrate)
    _say_what_is_to_do(judge)
    _say_what_seeds_decide(judge, options.claims)
    _check_room(judge)


def _say_what_seeds_decide(judge: Judge, claims: Path | None) -> None:
    from kd.report.own_claims import read_claims
    from kd.report.planned import claims_of, planned, said

    given = read_claims(claims) if claims else claims_of(judge.study)
    lines = said(planned(judge, given)) if judge.study.experiments else []
    print("".join(f"{line}\n" for line in lines), end="")


def _say_what_is_to_do(judge: Judge) -> None:
    lines = told(judge.all_to_do)
    print("to do:\n" + "\n".join(f"  {line}" for line in lines) if lines else "nothing is to do")
    if warning := replaced(judge):
        print(f"note: {warning}")


def _check_room(judge: Judge) -> None:
    """Say how much disk space the training will take. Raises StorageError if there is less."""
    from kd.machine.room import disk_bytes, shape_of, state_bytes, unknown

    published = {
        shape_of(cell): sum(manifest["sizes"].values())
        for cell in judge.cells
        if (manifest := judge.manifest(products.network(cell))) and manifest["status"] == "ok"
    }
    missing = [parse_cell(one.name) for one in judge.all_to_do if one.kind == "network" and not judge.manifest(one)]
    untried = [one for one in judge.all_to_do if one.kind == "trial" and not judge.manifest(one)]
    missing += [first_trial(judge.study, one.slot[0]) for one in untried]
    disks: dict[int, dict[str, int]] = {}
    for top, size in disk_bytes(missing, judge.study, published).items():
        disks.setdefault(files.disk_of(Path(top)), {})[top] = size
    print(f"{len(missing)} are not trained yet; they take")
    for needed in disks.values():  # results/, banks/ and answers/ may be links to several disks
        listed = ", ".join(f"{_spelled(size)} in {top}/" for top, size in needed.items() if size)
        free = files.free_bytes(Path(next(iter(needed))))
        print(f"  {listed or 'no space'} of {_spelled(free)} that are free")
    if names := unknown(missing, judge.study):
        print(
            f"  and what data, banks and answers of {', '.join(names)} take, which is not known until the data are "
            f"prepared: kd data {names[0]}"
        )
    if state := state_bytes(missing, judge.study):
        print(f"  each cell that runs has up to {_spelled(state)} more in state/, until it is done")
    for needed in disks.values():
        files.demand_room(Path(next(iter(needed))), sum(needed.values()))


def _spelled(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def status(options: argparse.Namespace) -> None:
    """Say which cells are done, running, waiting, stale or failed and why, and what the next command does."""
    from kd.study.controllers import alive
    from kd.study.status import STATUSES, standings

    study = study_of(options)
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


def winner(options: argparse.Namespace) -> None:
    """Print the best setting of a search as an experiment, to paste into a study and train with other seeds."""
    import yaml

    study = study_of(options)
    judge, arms = Judge.of_study(study), searches_of(options, study)
    found = {name: _won(name, search, judge) for name, search in arms.items()}
    if len({files.canonical_json({**one, "loss": None}) for one in found.values()}) == 1:  # one training for all
        found = {options.search: {**next(iter(found.values())), "loss": [one["loss"] for one in found.values()]}}
    print("# The best of many is the luckiest too: train it again with other seeds.")
    print(yaml.safe_dump({"experiments": found}, sort_keys=False), end="")


def _won(name: str, search: Search, judge: Judge) -> dict:
    """Return the winner of a search as an experiment, and print its score."""
    from kd.jobs.search import scored
    from kd.study.search import SCORE, best

    every = judge.trials(name)
    done = [one for one in every if not judge.to_do(one)]
    trials = list(map(scored, done))
    lacking = itemised(judge.refusals(every[0], every))
    if (first := best(trials)) is None:
        raise StorageError(f"search {name}: no trial has a score yet; {files.AGAIN}\n{lacking}")
    if lacking:  # a trial that is damaged may be the best
        print(f"kd: these trials of {name} do not count yet:\n{lacking}", file=sys.stderr)
    setting, score = trials[first]
    _, number, slot = done[first].slot
    chosen, own = search.chosen(setting)
    given = {"teacher": search.teacher and search.teacher[0], "student": search.student, "dataset": search.dataset}
    loss = {chosen.loss: dict(chosen.parameters)} if chosen.parameters else chosen.loss
    given |= {"label_noise": spelled_noise(search.label_noise[0]), "loss": loss}
    given |= {"fraction": search.fraction} if search.fraction < 1 else {}
    given |= {"student_training": dict(own), "chosen_with": search.seed}
    print(f"# search {name}: {len(done)} of {search.rounds * search.batch} trials are done; {SCORE} {score:.2f}")
    print(f"# in round {number}, trial {slot}.")
    return {key: value for key, value in given.items() if value}


def schema(options: argparse.Namespace) -> None:
    """Print the JSON schema of config.yaml; if a study is given, with what its plug-ins add."""
    if options.study_json or options.configfile or options.config:
        study_of(options)
    print(json.dumps(config.schema(), indent=1))
