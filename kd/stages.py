"""The stages of a study that compute, one function each: a product in, its published folder out.

What is made, and whether, the judge says (kd.making); here each checks what it reads against its digests, and publishes
whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kd import __version__, answers, bank, files, kernels, losses, making, models, products
from kd.attempts import at_work
from kd.cells import ANSWERS, DATA, Cell, Dataset, augmentation, code_behind_bank, spell_objective
from kd.config import Protocol, Recipe
from kd.data import source_of
from kd.data.arrays import hold_out, open_dataset, subset
from kd.data.examples import Examples
from kd.data.noise import open_labels
from kd.data.prepare import prepare_dataset, prepare_labels
from kd.data.views import Grid, Views
from kd.device import Place, compiling_pays, place, processor
from kd.errors import ConfigError, Diverged, StorageError
from kd.fit import History, Plan, Row, Teacher, fit
from kd.footprint import gpu_bytes
from kd.judge import Judge
from kd.leftovers import forget_states, state_of
from kd.peers import ALONE, Peers, joined
from kd.products import Product
from kd.state import State
from kd.teachers import Ensemble, LiveTeacher, Need
from kd.weights import at_epoch_0, load, measure

log = logging.getLogger("kd")

MODEL, METRICS, TIMINGS = "model.safetensors", "metrics.csv", "timings.csv"


@dataclass(frozen=True)
class Resources:
    """What a cell may use of the machine."""

    threads: int = 1  # of all its processes, those that decode images among them
    cells_per_gpu: int = 1  # 0: as many as fit into its memory
    workers: int = 0  # that decode streamed images for each process that trains


# -- data -------------------------------------------------------------------------------------------------------------


def data(judge: Judge, dataset: Dataset, recipe: Recipe, stamp: Path | None = None) -> None:
    """Prepare the images and labels of a dataset in data/NAME."""
    product = products.data(dataset.name)

    def prepare(judge: Judge) -> None:
        about = making.about(judge, product)
        prepare_dataset(dataset.name, recipe.declared, product.folder, Path(DATA, "downloads"), about)

    making.make(judge, product, stamp, prepare)


def labels(judge: Judge, dataset: Dataset, recipe: Recipe, stamp: Path | None = None) -> None:
    """Make the noisy training labels of a dataset in data/NAME+NOISE."""
    product = products.labels(dataset.labelled)
    amount = recipe.label_file or dataset.noise.amount

    def prepare(judge: Judge) -> None:
        kind, seed = dataset.noise.kind, dataset.noise_seed
        prepare_labels(Path(DATA, dataset.name), kind, amount, seed, product.folder, making.about(judge, product))

    making.make(judge, product, stamp, prepare)


@dataclass(frozen=True)
class Prepared:
    """A cell's data, opened: the examples, what they are, and the digests of all that was read."""

    examples: Examples
    clean: np.ndarray  # [N] the training labels before label noise
    class_names: tuple[str, ...]
    realised_rate: float  # of wrong labels
    channels: int
    grid: Views
    digests: dict[str, str]

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)


def prepared(cell: Cell, recipe: Recipe, fraction: float | None = None, workers: int = 0) -> Prepared:
    """Open the data that `cell` learns from, memory-mapped, or another `fraction` of them.

    Where they are streamed, `workers` processes will decode them. Raises StorageError when they are damaged or not
    there.
    """
    source = source_of(cell.dataset.name, recipe.declared)
    protocol = recipe.protocol
    dataset = open_dataset(Path(DATA, cell.dataset.name))
    if (dataset.files is not None) != (protocol.crop == "resized"):
        raise StorageError(
            f"{DATA}/{cell.dataset.name}: was made when the study said otherwise whether it is streamed; run "
            f"`kd data {cell.dataset.name}`, or snakemake"
        )
    if dataset.files:  # read where the study says that they are now
        folder = str(Path(recipe.declared["folder"]).expanduser().absolute())
        dataset = dataclasses.replace(dataset, files=dataclasses.replace(dataset.files, folder=folder))
    given = open_labels(Path(DATA, cell.dataset.labelled)) if cell.dataset.noise else dataset.train_labels
    realised_rate = float((given != dataset.train_labels).mean())
    # Chosen by the clean labels: the same examples are held out, or left out, at every noise and fraction.
    train, heldout = hold_out(dataset.train_labels, protocol.heldout)
    train = subset(dataset.train_labels, cell.fraction if fraction is None else fraction, among=train)
    parts = {
        "labels": _tensor(given),
        "train": _tensor(train),
        "heldout": _tensor(heldout),
        "test_labels": _tensor(dataset.test_labels),
        "mean": torch.tensor(dataset.mean),
        "std": torch.tensor(dataset.std),
        "clean": _tensor(dataset.train_labels) if cell.dataset.noise else None,
    }
    pad, flip = augmentation(source, protocol)
    if dataset.files:
        from kd.data.streamed import ResizedCrops, Stream, StreamedExamples  # and with it Pillow

        grid = ResizedCrops(flip)
        examples = StreamedExamples(stream=Stream(dataset, grid, workers), **parts)
    else:
        grid = Grid(pad, flip)
        images, test_images = _tensor(dataset.train_images), _tensor(dataset.test_images)
        examples = Examples(images=images, test_images=test_images, **parts)
    digests = {"data": dataset.digest, "labels": _digest(given), "examples": _digest(train)}
    names, channels = dataset.class_names, examples.shape[0]
    return Prepared(examples, dataset.train_labels, names, realised_rate, channels, grid, digests)


# -- train ------------------------------------------------------------------------------------------------------------


def train(
    judge: Judge, cell: Cell, recipe: Recipe, resources: Resources, fresh: bool = False, stamp: Path | None = None
) -> str:
    """Train the network of `cell`, going on from its state if there is one, and publish it; return its status.

    Weights that come from a file are checked and published in the same way, after no epoch; so is an ensemble, of
    which nothing but its members' names, digests and common accuracy is published.

    A cell that is current is left as it is. A cell that diverges is published as diverged. `fresh` discards the state.
    """
    product = products.network(cell)
    with joined() as peers, contextlib.ExitStack() as held:
        now: Judge | None = judge
        if peers.is_first:
            held.enter_context(at_work(product.lock))
            now = making.begin(judge, product, stamp)
        # The others wait for the lock here. What they find then is what the first finds.
        if not peers.told(now is not None):
            return judge.again().manifest(product)["status"]
        about = making.about(now if peers.is_first else judge.again(), product)
        have = prepared(cell, recipe, workers=resources.workers)
        where = _place(cell, recipe, have, resources, held, peers, trains=cell.epochs(recipe.protocol) > 0)
        fingerprint = _fingerprint(about, have, where)
        state = State(state_of(product, fingerprint), {"cell": cell.path, "fingerprint": fingerprint})
        if fresh:
            state.clear()
        history, network, cause = History(), None, ""
        try:
            if cell.is_ensemble:
                network = _combined(cell, recipe, have, where, history)
            elif cell.stage.weights:
                network = _imported(cell, recipe, have, where, history)
            else:
                network = _fitted(cell, recipe, have, where, state, history)
        except Diverged as error:
            cause = str(error)
            log.error("%s diverged: %s", cell, cause)
        status = "diverged" if cause else "ok"
        if peers.is_first:
            ended = {"status": status, "cause": cause, "fingerprint": fingerprint, "realised_rate": have.realised_rate}
            machine = where.describe() | {"memory": where.peak_memory(), "kd": __version__}
            _publish(cell, network, history, about | ended | _summary(network, history) | machine)
            making.end(now, product, stamp)
        return status


def _place(
    cell: Cell,
    recipe: Recipe,
    have: Prepared,
    resources: Resources,
    held: contextlib.ExitStack,
    peers: Peers = ALONE,
    trains: bool = True,
) -> Place:
    """Hold a place where `cell` is trained, or teaches, until `held` closes."""
    protocol, need = recipe.protocol, 0
    threads = max(1, resources.threads // peers.count - resources.workers)
    if torch.cuda.is_available():
        banks = len(cell.teacher.members) if cell.teacher and protocol.teacher == "bank" else 0
        rows = round(banks * have.grid.count * len(have.examples.train) / cell.stage.fraction) if banks else 0
        batch = math.ceil(protocol.batch / peers.count)
        need = max(gpu_bytes(network, have.classes, have.examples, batch, rows) for network in cell.stage.networks)
    where = held.enter_context(
        place(protocol.precision, threads, resources.cells_per_gpu, need, peers, protocol.deterministic)
    )
    pixels = math.prod(have.examples.shape[1:]) * len(have.examples.train) * cell.epochs(protocol)
    compiles = trains and compiling_pays(pixels, protocol.compile, peers.count)
    if compiles:
        held.enter_context(kernels.kept(processor()))
    return dataclasses.replace(where, compiles=compiles)


def _fingerprint(about: dict, have: Prepared, where: Place) -> str:
    """Return the digest of all that decides a cell's numbers on one kind of machine: a state is of one fingerprint."""
    decided = {"precision": where.precision, "compile": "always" if where.compiles else "never"}  # what auto became
    identity = {
        "name": about["name"],
        "recipe": about["recipe"] | {"protocol": about["recipe"]["protocol"] | decided},
        "code": about["code"],
        "inputs": {name: recorded["digest"] for name, recorded in about["inputs"].items()},
        "examples": have.digests["examples"],
    }
    if where.peers.count > 1:
        identity["processes"] = where.peers.count
    return files.sha256(files.canonical_json(identity).encode())


def _status_of(cell: Cell) -> str:
    return files.verified(Path(cell.path), MODEL)["status"]


def _fitted(cell: Cell, recipe: Recipe, have: Prepared, where: Place, state: State, history: History) -> nn.Module:
    if cell.teacher and _status_of(cell.teacher) != "ok":
        raise Diverged(f"its teacher {cell.teacher} diverged")
    plan = _plan(cell, recipe.protocol, have.grid)
    _demand_examples(len(have.examples.train), plan.batch, where.peers.count)
    # The seed of the stage alone: students that differ in their loss start from the same weights, in pairs.
    torch.manual_seed(cell.stage.seed)
    network = models.build(cell.stage.network, have.classes, have.channels)
    _demand_room(cell, network, state)
    teacher = _teacher(cell, recipe, have, plan, where) if cell.teacher else None
    fit(network, have.examples, plan, teacher, where, state, history, str(cell.stage))
    return network


def _demand_examples(train: int, batch: int, processes: int) -> None:
    """Raise ConfigError unless each of several processes has two examples, for batch normalisation, of every batch."""
    least = min(batch, train % batch or batch)
    if processes > 1 and least < 2 * processes:
        raise ConfigError(
            f"protocol.batch: {train} examples in batches of {batch} leave one of {least}, of which {processes} "
            "processes cannot have two each; set another batch, or fewer gpus_per_cell"
        )


def _demand_room(cell: Cell, network: nn.Module, state: State) -> None:
    """Raise StorageError unless the disk has room for the cell's states (two, weights and momenta) and its weights."""
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    saved = sum(path.stat().st_size for path in state.folder.glob("*"))  # of this run alone: it will be replaced
    files.demand(state.folder, max(0, 4 * weights - saved))
    files.demand(Path(cell.path), weights)


def _imported(cell: Cell, recipe: Recipe, have: Prepared, where: Place, history: History) -> nn.Module:
    """Return the network with its declared weights; `history` has what it reaches as the row of epoch 0."""
    if recipe.weights is None:
        raise ConfigError(f"{cell}: this recipe does not say what the weights {cell.stage.weights!r} are")
    network = models.build(cell.stage.network, have.classes, have.channels)
    load(network, cell.stage.network, recipe.weights)
    history.rows.append(measure(network, have.examples, where, recipe.weights))
    return network


def _combined(cell: Cell, recipe: Recipe, have: Prepared, where: Place, history: History) -> nn.Module:
    """Return the members of an ensemble; `history` has what they reach together as the row of epoch 0."""
    for member in cell.members:
        if _status_of(member) != "ok":
            raise Diverged(f"its member {member} diverged")
    networks = nn.ModuleList(load_network(member, have) for member in cell.members)
    # As it teaches: in the teachers' precision, its probabilities those of tau = 1.
    voices = [LiveTeacher(network, where, recipe.protocol.teacher_precision) for network in networks]
    teacher = Ensemble(voices, cell.stage.ensemble)
    history.rows.append(at_epoch_0(lambda inputs: teacher.logits(None, None, inputs), have.examples, where))
    return networks


def _plan(cell: Cell, protocol: Protocol, grid: Grid) -> Plan:
    return Plan(
        objective=_objective(cell),
        grid=grid,
        seed=cell.stage.seed,
        epochs=cell.epochs(protocol),
        schedule_epochs=protocol.epochs,
        drops=protocol.drops,
        **protocol.model_dump(include={"batch", "lr", "momentum", "nesterov", "weight_decay", "schedule", "gamma"}),
    )


def _objective(cell: Cell) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    loss, resolved = losses.LOSSES[cell.stage.objective.loss], cell.stage.objective.resolved
    log.info("%s is %s with %s", spell_objective(cell.stage.objective), loss.description, resolved)
    return functools.partial(loss.function, **resolved)


def _summary(network: nn.Module | None, history: History) -> dict:
    """Return a run's results: the last epoch is the headline, the best on test stands beside it."""
    seconds = sum(timing["seconds"] for timing in history.timings)
    summary = {"epochs": len(history.timings), "seconds": round(seconds, 3)}
    if network is None:
        return summary
    best = max(history.rows, key=lambda row: row["test_top1"])
    return summary | {
        "last": history.rows[-1],
        "best_on_test": {"epoch": best["epoch"], "test_top1": best["test_top1"]},
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def _publish(cell: Cell, network: nn.Module | None, history: History, manifest: dict) -> None:
    # A network that diverged has no weights to give; those of an ensemble are its members'.
    weights = network.state_dict() if network and not cell.is_ensemble else {}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    # By these digests the file, and so whoever is taught, knows when a member is another.
    members = {one.path: manifest["inputs"][one.path]["digest"] for one in cell.members if cell.is_ensemble}
    about = files.canonical_json({"cell": cell.path, "members": members}) if members else cell.path
    artefacts = {
        # one entry of metadata: the format keeps no order among several, and equal runs give equal bytes
        MODEL: safetensors.torch.save(tensors, {"cell": about}),
        METRICS: _csv(history.rows),
        TIMINGS: _csv(history.timings),
    }
    files.publish(Path(cell.path), artefacts, manifest)
    forget_states(products.network(cell))


def _csv(rows: list[Row]) -> bytes:
    """Spell rows as CSV, the shortest digits that read back as the same number: equal runs give equal bytes."""
    text = io.StringIO()
    if rows:
        text.write(",".join(rows[0]) + "\n")
        text.writelines(",".join(map(repr, row.values())) + "\n" for row in rows)
    return text.getvalue().encode()


# -- bank -------------------------------------------------------------------------------------------------------------


def bank_of(
    judge: Judge, teacher: Cell, recipe: Recipe, needs: list[Need], resources: Resources, stamp: Path | None = None
) -> None:
    """Fill the bank of `teacher` with every view that students with these (seed, epochs) will see."""
    if recipe.protocol.crop == "resized":
        raise ConfigError("protocol.crop: resized crops are without number, no bank holds them; set teacher: online")
    product = products.bank(teacher)
    making.with_inputs(judge, product)  # before its data are opened
    with contextlib.ExitStack() as held:
        # The place before the lock, as students take them: the other way round each could wait for the other.
        where = _place(teacher, recipe, _behind_bank(teacher, recipe), resources, held, trains=False)
        making.make(judge, product, stamp, lambda now: _fill(now, product, teacher, recipe, needs, where))


def _fill(now: Judge, product: Product, teacher: Cell, recipe: Recipe, needs: list[Need], where: Place) -> None:
    """Publish a bank that holds these views, and those it held. Call it while holding its lock."""
    have = _behind_bank(teacher, recipe)
    about, identity = making.about(now, product), _bank_identity(teacher, recipe, have)
    if _status_of(teacher) != "ok":
        log.error("%s diverged: its bank is empty, and its students will be published as diverged", teacher)
        bank.leave_empty(product.folder, identity, about)
    else:
        network = load_network(teacher, have)
        bank.fill(product.folder, identity, needs, have.grid, network, have.examples, where, about)


def _behind_bank(cell: Cell, recipe: Recipe) -> Prepared:
    """Return the data of a bank: all that any student may be given a part of."""
    return prepared(cell, recipe, cell.dataset.fraction)


def _teacher(cell: Cell, recipe: Recipe, have: Prepared, plan: Plan, where: Place) -> Teacher:
    """Return what answers for the teacher of `cell`."""
    have = have if cell.stage.fraction == 1 else _behind_bank(cell, recipe)
    voices = [_voice(member, recipe, have, plan, where) for member in cell.teacher.members]
    if not cell.teacher.is_ensemble:
        return voices[0]
    return Ensemble(voices, cell.teacher.stage.ensemble, cell.stage.objective.resolved.get("tau", 1.0))


def _voice(teacher: Cell, recipe: Recipe, have: Prepared, plan: Plan, where: Place) -> Teacher:
    """Return what answers for one network; a bank that lacks the views, or is another's, is filled first."""
    if recipe.protocol.teacher == "online":
        return LiveTeacher(load_network(teacher, have), where, recipe.protocol.teacher_precision)
    product, needs = products.bank(teacher), [(plan.seed, plan.epochs)]
    identity = _bank_identity(teacher, recipe, have)
    judge = Judge.of_recipe(recipe).asked({product: set(needs)})
    if not bank.serves(product.folder, identity, needs):
        with at_work(product.lock):
            if not bank.serves(product.folder, identity, needs):  # else another process filled it while this one waited
                _fill(judge, product, teacher, recipe, needs, where)
    try:
        return bank.open_bank(product.folder, identity, needs, have.grid, where.device)
    except StorageError as error:  # damaged: it costs time only
        log.warning("%s; the bank is filled anew", error)
        with at_work(product.lock):
            files.discard(product.manifest)
            _fill(judge, product, teacher, recipe, needs, where)
        return bank.open_bank(product.folder, identity, needs, have.grid, where.device)


def _bank_identity(teacher: Cell, recipe: Recipe, have: Prepared) -> bank.Identity:
    return bank.Identity(
        teacher=files.verified(Path(teacher.path), MODEL)["files"][MODEL],
        data=have.digests["data"],
        examples=have.digests["examples"],
        code=code_behind_bank(teacher, recipe.protocol),
        precision=recipe.protocol.teacher_precision,
        **vars(have.grid),
    )


def load_network(cell: Cell, have: Prepared) -> nn.Module:
    """Return the published network of `cell`, its weights checked against the manifest's digest."""
    files.verified(Path(cell.path), MODEL)
    network = models.build(cell.stage.network, have.classes, have.channels)
    try:
        network.load_state_dict(safetensors.torch.load_file(Path(cell.path, MODEL)))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise StorageError(f"{Path(cell.path, MODEL)}: not the weights of a {cell.stage.network}: {error}") from error
    return network


# -- answers ----------------------------------------------------------------------------------------------------------


def answers_of(judge: Judge, cell: Cell, recipe: Recipe, resources: Resources, stamp: Path | None = None) -> None:
    """Publish what the network of `cell` answers, for its analyses. A network that diverged has no answers."""
    product = products.answers(cell)

    def write(judge: Judge) -> None:
        have, status = prepared(cell, recipe), _status_of(cell)
        about = making.about(judge, product) | {"status": status, "class_names": list(have.class_names)}
        about["realised_rate"] = have.realised_rate
        tensors, in_fp32 = {}, dataclasses.replace(where, precision="fp32")
        if status == "ok":
            networks = [load_network(member, have) for member in cell.members]
            tensors = answers.answered(networks, cell.stage.ensemble, have.examples, have.clean, in_fp32)
        content = safetensors.torch.save(tensors, {"cell": cell.path})
        files.publish(Path(ANSWERS, cell.name), {answers.FILE: content}, about | in_fp32.describe())

    making.with_inputs(judge, product)
    with contextlib.ExitStack() as held:
        # The place before the lock, as for banks.
        where = _place(cell, recipe, prepared(cell, recipe), resources, held, trains=False)
        making.make(judge, product, stamp, write)


# -- small things -----------------------------------------------------------------------------------------------------


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # memory-mapped read-only, and never written
        return torch.from_numpy(array)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
