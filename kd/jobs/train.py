"""The rule train: it takes a path and publishes a network."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from kd import __version__
from kd.core import files
from kd.core.attempts import at_work
from kd.core.errors import Diverged
from kd.core.project import on_disk
from kd.jobs import making
from kd.jobs.bank import teacher_of
from kd.jobs.places import Resources, place_of
from kd.losses import LOSSES
from kd.losses.objective import Objective
from kd.machine.progress import heard
from kd.machine.state import State
from kd.measure import inference
from kd.study import products
from kd.study.cells import Cell
from kd.study.config import Recipe
from kd.study.judge import Judge
from kd.study.leftovers import forget_states, state_of
from kd.study.recipes import brief, since
from kd.train.device import Place
from kd.train.fit import History, Row, fit
from kd.train.lesson import begun, demand_examples, demand_pixels, plan_of
from kd.train.material import QUALITY, Prepared, prepared
from kd.train.peers import joined
from kd.train.published import MODEL, status_of
from kd.train.untrained import untrained
from kd.train.weights import combined, imported

log = logging.getLogger("kd")

METRICS, TIMINGS = "metrics.csv", "timings.csv"


def train(
    judge: Judge, cell: Cell, recipe: Recipe, resources: Resources, fresh: bool = False, stamp: Path | None = None
) -> str:
    """Train the network of `cell`, going on from its saved state if there is one, and publish it; return its status.

    Imported weights, untrained networks and ensembles are published in the same way, without training. Of an ensemble
    only the names and digests of its members and their joint accuracy are published.

    A cell that is current is left as it is. A cell that diverges is published as diverged. `fresh` discards the state.
    """
    product = products.network(cell)
    with joined() as peers, contextlib.ExitStack() as held:
        now: Judge | None = judge
        if peers.is_first:
            held.enter_context(at_work(product.lock))
            now = making.begin(judge, product, stamp)
        # The other ranks wait here until rank 0 has the lock. Then all do what rank 0 found.
        if not peers.broadcast(now is not None):
            return judge.again().manifest(product)["status"]
        about = making.about(now if peers.is_first else judge.again(), product)
        have = prepared(cell, recipe, workers=resources.workers)
        trains = cell.epochs(recipe.protocol) > 0
        where = place_of(cell, recipe, have, resources, held, peers, trains, _objective_of(cell, recipe, have))
        fingerprint = _fingerprint(about, have, where)
        state = State(state_of(product, fingerprint), {"cell": cell.path, "fingerprint": fingerprint})
        if fresh:
            state.clear()
        history, network, objective, cause = History(), None, None, ""
        try:
            if cell.is_ensemble:
                network = combined(cell, recipe, have, where, history)
            elif cell.stage.weights:
                network = imported(cell, recipe, have, where, history)
            elif not trains:
                network = untrained(cell, recipe, have, where, history)
            else:
                network, objective = _fitted(cell, recipe, have, where, state, history)
        except Diverged as error:
            cause = str(error)
            log.error("%s diverged: %s", cell, cause)
        status = "diverged" if cause else "ok"
        if peers.is_first:
            ended = {"status": status, "cause": cause, "fingerprint": fingerprint, "realised_rate": have.realised_rate}
            if cell.stage.selection:
                chosen = now.manifest(products.selection(cell.teacher, cell.stage.selection))
                ended["selection"] = {key: chosen.get(key) for key in QUALITY}
            machine = where.describe() | {"memory": where.peak_memory(), "kd": __version__}
            machine["published"] = round(time.time(), 3)
            summary = _summary(cell, network, objective, history, have)
            _publish(cell, network, history, about | ended | summary | machine)
            making.end(now, product, stamp)
        return status


def _may_be_taught(cell: Cell) -> bool:
    return cell.teacher is None or status_of(cell.teacher) == "ok"


def _objective_of(cell: Cell, recipe: Recipe, have: Prepared) -> Callable[[], Objective] | None:
    """Return a function that builds the objective of a cell, to measure its GPU memory; None if it has no tensors."""
    if not cell.epochs(recipe.protocol) or not _may_be_taught(cell) or not LOSSES[cell.stage.objective.loss].build:
        return None
    return lambda: plan_of(cell, cell.protocol_of(recipe.protocol), have, torch.device("cuda")).objective


def _fitted(
    cell: Cell, recipe: Recipe, have: Prepared, where: Place, state: State, history: History
) -> tuple[nn.Module, Objective]:
    if not _may_be_taught(cell):
        raise Diverged(f"its teacher {cell.teacher} diverged")
    plan = plan_of(cell, cell.protocol_of(recipe.protocol), have, where.device)
    demand_examples(len(have.examples.train), plan.batch, where.peers.count)
    network = begun(cell, have)
    demand_pixels(network, plan, have.examples.shape, len(have.examples.train))
    copies = cell.protocol_of(recipe.protocol).copies
    _demand_room(cell, nn.ModuleList([network, plan.objective]), state, copies)
    teacher = teacher_of(cell, recipe, have, where) if cell.stage.objective.needs_teacher else None
    with heard(products.network(cell).lock):
        fit(network, have.examples, plan, teacher, where, state, history, str(cell.stage))
    return network, plan.objective


def _demand_room(cell: Cell, network: nn.Module, state: State, copies: int) -> None:
    """Raise StorageError unless the disk has room for two states (each weights and copies) and for the weights.

    Copies are as large as the weights: momenta and the like.
    """
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    saved = on_disk(state.folder).glob("*")  # states of this run, which new ones will replace
    files.demand(state.folder, max(0, 2 * (1 + copies) * weights - sum(place.stat().st_size for place in saved)))
    files.demand(Path(cell.path), weights)


def _fingerprint(about: dict, have: Prepared, where: Place) -> str:
    """Return the digest of all that decides a cell's numbers on one kind of machine; a state is for one fingerprint.

    Keys that have the value of their introduction stay out, so that a new key does not make older states useless.
    """
    recipe = brief(about["recipe"], since("network", about["recipe"]))
    decided = {"precision": where.precision, "compile": "always" if where.compiles else "never"}  # replaces "auto"
    identity = {
        "name": about["name"],
        "recipe": recipe | {"protocol": recipe["protocol"] | decided},
        "code": about["code"],
        "inputs": {name: recorded["digest"] for name, recorded in about["inputs"].items()},
        "examples": have.digests["examples"],
    }
    if where.peers.count > 1:
        identity["processes"] = where.peers.count
    return files.sha256(files.canonical_json(identity).encode())


def _summary(
    cell: Cell, network: nn.Module | None, objective: Objective | None, history: History, have: Prepared
) -> dict:
    """Return a run's results: the last epoch is the headline, the best epoch on test stands beside it.

    The parameters of an objective are not published, so they are counted apart from the network's.
    """
    seconds = sum(timing["seconds"] for timing in history.timings)
    summary = {"epochs": len(history.timings), "seconds": round(seconds, 3)}
    if network is None:
        return summary
    best = max((row for row in history.rows if "test_top1" in row), key=lambda row: row["test_top1"])
    trained = {} if math.isnan(history.train_top1) else {"train_top1": history.train_top1}
    return summary | {
        "last": history.rows[-1],
        **trained,
        "best_on_test": {"epoch": best["epoch"], "test_top1": best["test_top1"]},
        **inference.cost(network if cell.is_ensemble else [network], have.examples.shape),
        "objective_parameters": sum(p.numel() for p in objective.parameters()) if objective else 0,
    }


def _publish(cell: Cell, network: nn.Module | None, history: History, manifest: dict) -> None:
    # A network that diverged has no weights. An ensemble has none of its own: they lie in its members.
    weights = network.state_dict() if network and not cell.is_ensemble else {}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    # These digests change the file when a member changes, so that students see that their teacher changed.
    members = {one.path: manifest["inputs"][one.path]["digest"] for one in cell.members if cell.is_ensemble}
    # Imported weights that normalise images with another mean and std give other answers, so the file names both.
    claimed = manifest["recipe"].get("weights", {})
    sees = {key: claimed[key] for key in ("mean", "std") if claimed.get(key)}
    more = {"members": members} if members else sees
    about = files.canonical_json({"cell": cell.path, **more}) if more else cell.path
    artefacts = {
        # one entry of metadata: the format keeps no order among several, and equal runs give equal bytes
        MODEL: safetensors.torch.save(tensors, {"cell": about}),
        METRICS: _csv(history.rows),
        TIMINGS: _csv(history.timings),
    }
    files.publish(Path(cell.path), artefacts, manifest)
    forget_states(products.network(cell))


def _csv(rows: list[Row]) -> bytes:
    """Spell rows as CSV with the shortest digits that read back as the same number: equal runs give equal bytes.

    An epoch that was not evaluated has empty fields.
    """
    text = io.StringIO()
    if rows:
        columns = list(rows[-1] if len(rows[-1]) > len(rows[0]) else rows[0])
        text.write(",".join(columns) + "\n")
        text.writelines(",".join(repr(row[name]) if name in row else "" for name in columns) + "\n" for row in rows)
    return text.getvalue().encode()
