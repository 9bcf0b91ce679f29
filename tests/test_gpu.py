"""On a GPU: `pytest -m gpu`, and where nothing but torch is installed, `pytest --noconftest tests/test_gpu.py`.

They import of kd what trains, and no configuration, so that they run where there is no Snakemake.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.worker import Unrecorded
from kd import losses, models
from kd.core.errors import Terminated
from kd.data.examples import Examples
from kd.data.views import Grid
from kd.losses.objective import Pure
from kd.losses.spec import Needs
from kd.machine.state import State
from kd.study.needs import Need
from kd.train import bank
from kd.train.device import Place, place
from kd.train.fit import History, fit
from kd.train.plan import Plan
from kd.train.teachers import LiveTeacher, StoredTeacher, keys_seen

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

GRID = Grid(4, True)
KL = functools.partial(losses.LOSSES["kl"].function, tau=3.0)


@pytest.fixture(params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Work in an empty folder, on one GPU, and leave the choice of kernels as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_DEVICE", "cuda:0")
    # Read when the first product makes its handle, so for all tests of this process.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)


def examples(n: int = 1100, tests: int = 200) -> Examples:
    """Noise in one of three colours, more of it or less, ten classes: 8 whole batches an epoch and a partial one."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(n + tests) % 10
    images = torch.randint(0, 150, (n + tests, 32, 32, 3), dtype=torch.uint8, generator=generator)
    for label in range(10):
        images[labels == label, :, :, label % 3] += 25 * (1 + label // 3)
    half, quarter = torch.full((3,), 0.4), torch.full((3,), 0.25)
    none = torch.arange(0)
    return Examples(images[:n], labels[:n], torch.arange(n), none, images[n:], labels[n:], half, quarter)


def plan(epochs: int = 4, objective: object = losses.LOSSES["ce"].function) -> Plan:
    return Plan(
        objective=Pure(objective),
        needs=Needs(),
        grid=GRID,
        seed=0,
        epochs=epochs,
        schedule_epochs=4,
        batch=128,
        lr=0.05,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        schedule="multistep",
        drops=(2,),
        gamma=0.1,
    )


def network(name: str = "wrn-10-1") -> nn.Module:
    torch.manual_seed(0)
    return models.build(name, 10, 3)


def trained(where: Place, folder: Path, teacher: object = None, made: Plan | None = None) -> tuple[dict, list]:
    student, history = network(), History()
    made = made or plan(objective=KL if teacher else losses.LOSSES["ce"].function)
    fit(student, examples(), made, teacher, where, State(folder, {"cell": "made"}), history)
    return student.state_dict(), history.rows


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return how far apart two networks' weights are, as a share of their length."""
    both = [torch.cat([one[name].double().flatten().cpu() for name in a]) for one in (a, b)]
    return float((both[0] - both[1]).norm() / both[1].norm())


def stopped_and_resumed(where: Place, folder: Path) -> tuple[dict, list]:
    """Stop in the second and in the third epoch, at a whole and at a partial batch, and go on to the end."""
    for step in (13, 26):  # of 9 an epoch
        state = Interrupted(folder, step)
        student, history = network(), History()
        with pytest.raises(Terminated):
            fit(student, examples(), plan(), None, where, state, history)
    return trained(where, folder)


class Interrupted(State):
    """A state that, asked for the n-th time within epochs whether to save, has this process sent a signal."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, {"cell": "made"})
        done = self.load()
        self.left = step - (done["position"]["epoch"] * 9 + done["position"]["step"] if done else 0)

    def due(self, epoch_ends: bool) -> bool:
        self.left -= not epoch_ends
        if not epoch_ends and self.left == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return False


# -- the same answer --------------------------------------------------------------------------------------------------


def test_a_stopped_run_ends_where_a_straight_one_ends_within_the_tolerance(precision: str, tmp_path: Path) -> None:
    """README, promise 4: on a GPU, within what two straight runs differ by."""
    with place(precision, 1) as where:
        straight, rows = trained(where, tmp_path / "straight")
        again, _ = trained(where, tmp_path / "again")
        resumed, resumed_rows = stopped_and_resumed(where, tmp_path / "resumed")
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    assert resumed_rows[-1]["train_loss"] == pytest.approx(rows[-1]["train_loss"], rel=0.1)
    assert distance(resumed, straight) <= max(3 * distance(again, straight), 1e-2)


def test_with_deterministic_kernels_it_ends_with_the_same_bits(precision: str, tmp_path: Path) -> None:
    with place(precision, 1, deterministic=True) as where:
        straight, rows = trained(where, tmp_path / "straight")
        again, _ = trained(where, tmp_path / "again")
        resumed, resumed_rows = stopped_and_resumed(where, tmp_path / "resumed")
    assert distance(again, straight) == 0
    assert distance(resumed, straight) == 0
    assert resumed_rows == rows


def test_a_recorded_run_takes_the_steps_of_one_that_launches_each_kernel(precision: str, tmp_path: Path) -> None:
    with place(precision, 1, deterministic=True) as where:
        recorded, _ = trained(where, tmp_path / "recorded")
        launched, _ = trained(Unrecorded(where.device, precision), tmp_path / "launched")
    assert distance(recorded, launched) <= 1e-3


def test_compiled_it_learns_the_same(precision: str, tmp_path: Path) -> None:
    with place(precision, 1) as where:
        _, eager = trained(where, tmp_path / "eager")
        _, compiled = trained(Place(where.device, precision, compiles=True), tmp_path / "compiled")
    assert compiled[0]["train_loss"] == pytest.approx(eager[0]["train_loss"], rel=0.05)
    assert compiled[-1]["train_loss"] == pytest.approx(eager[-1]["train_loss"], rel=0.1)


def test_a_gpu_takes_the_steps_of_a_cpu(tmp_path: Path) -> None:
    """In fp32, over one epoch: later the last digits grow."""
    with place("fp32", 1, deterministic=True) as where:
        gpu, gpu_rows = trained(where, tmp_path / "gpu", made=plan(epochs=1))
    cpu, cpu_rows = trained(Place(torch.device("cpu"), "fp32"), tmp_path / "cpu", made=plan(epochs=1))
    assert distance(gpu, cpu) < 1e-2
    assert gpu_rows[0]["train_loss"] == pytest.approx(cpu_rows[0]["train_loss"], rel=1e-2)


def test_views_are_the_same_bits_on_every_device() -> None:
    index = torch.arange(10_000)
    assert GRID.draw(3, 7, index).equal(GRID.draw(3, 7, index.cuda()).cpu())
    have, view = examples(), GRID.draw(0, 0, torch.arange(100))
    rendered = GRID.render(have.images[:100], view)
    assert rendered.equal(GRID.render(have.images[:100].cuda(), view.cuda()).cpu())


# -- the bank ---------------------------------------------------------------------------------------------------------


def filled(folder: Path, where: Place, precision: str = "fp32") -> StoredTeacher:
    identity = bank.Identity("t", "d", "e", "c", precision, GRID.pad, GRID.flip)
    bank.fill(folder, identity, [Need(0, 4)], GRID, network("wrn-16-2"), examples(), where, {})
    return bank.open_bank(folder, identity, [Need(0, 4)], GRID, where.device)


def test_a_student_of_the_bank_learns_what_one_of_the_network_beside_it_learns(tmp_path: Path) -> None:
    with place("fp32", 1, deterministic=True) as where:
        stored, _ = trained(where, tmp_path / "stored", filled(tmp_path / "bank", where))
        live, _ = trained(where, tmp_path / "live", LiveTeacher(network("wrn-16-2"), where.device))
    assert distance(stored, live) < 2e-2  # rows are kept in float16


@pytest.mark.parametrize(("teacher_precision", "tolerance"), [("fp32", 1e-3), ("tf32", 1e-2), ("bf16", 5e-2)])
def test_rows_are_what_a_cpu_computes(tmp_path: Path, teacher_precision: str, tolerance: float) -> None:
    cpu = Place(torch.device("cpu"), "fp32")
    with place("fp32", 1) as where:
        found = filled(tmp_path / "gpu", where, teacher_precision)
    expected = filled(tmp_path / "cpu", cpu)
    keys = keys_seen([(0, 4)], GRID, torch.arange(1100))
    index, view = keys // GRID.count, keys % GRID.count
    ours, theirs = found.output(index.cuda(), view.cuda()).logits.cpu(), expected.output(index, view).logits
    assert float((ours - theirs).norm() / theirs.norm()) < tolerance


# -- a whole study ----------------------------------------------------------------------------------------------------

TAUGHT = "results/digits/short/wrn-10-2.ce.s0/wrn-10-1.kl-tau3.s0"
CHAIN = f"{TAUGHT}/resnet8.kl-tau3.s0"
STUDY = {
    "study": "gpu",
    "dataset": "digits",
    "protocol": {"name": "short", "epochs": 20, "batch": 64, "precision": "fp32", "deterministic": True},
    "seeds": [0],
    "experiments": {"chain": {"path": ["wrn-10-2", "wrn-10-1", "resnet8"], "loss": {"kl": {"tau": 3}}}},
}


def kd(folder: Path, *words: str, device: str = "cuda:0") -> subprocess.Popen:
    """Start a verb in a folder that holds this study and no Snakefile."""
    pytest.importorskip("pydantic")
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(json.dumps(STUDY))
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "KD_DEVICE": device}
    command = [sys.executable, "-m", "kd", *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> str:
    _, said = process.communicate()
    assert process.returncode == 0, said
    return said


def metrics(folder: Path, cell: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / cell / "metrics.csv").read_text().splitlines()))


def test_a_chain_by_verbs_learns_what_it_learns_on_a_cpu(tmp_path: Path) -> None:
    ended(kd(tmp_path / "gpu", "train", CHAIN))
    ended(kd(tmp_path / "cpu", "train", CHAIN, device="cpu"))
    for cell in (CHAIN.split("/wrn-10-1")[0], TAUGHT, CHAIN):
        ours, theirs = (metrics(tmp_path / where, cell) for where in ("gpu", "cpu"))
        assert float(ours[0]["train_loss"]) == pytest.approx(float(theirs[0]["train_loss"]), rel=0.05)
        assert float(ours[-1]["test_top1"]) == pytest.approx(float(theirs[-1]["test_top1"]), abs=3)
        manifest = json.loads((tmp_path / "gpu" / cell / "manifest.json").read_text())
        assert manifest["device"] == torch.cuda.get_device_name(0)
        assert manifest["memory"]["gpu_mib"] > 0


def test_a_verb_that_is_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    ended(kd(tmp_path / "straight", "train", CHAIN))
    ended(kd(tmp_path / "stopped", "train", TAUGHT))
    process = kd(tmp_path / "stopped", "train", CHAIN)
    for line in process.stderr:
        if "epoch 2/20" in line:
            process.send_signal(signal.SIGTERM)
            break
    process.communicate()
    assert process.returncode == 143
    assert "going on from epoch" in ended(kd(tmp_path / "stopped", "train", CHAIN))
    for name in ("metrics.csv", "model.safetensors"):
        straight, stopped = ((tmp_path / where / CHAIN / name).read_bytes() for where in ("straight", "stopped"))
        assert straight == stopped


# -- memory, and the benchmark ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", ["wrn-16-2", "wrn-16-4"])
def test_what_a_cell_is_computed_to_need_of_a_gpu_is_what_it_takes(
    student: str, precision: str, tmp_path: Path
) -> None:
    pytest.importorskip("pydantic")
    from kd.machine.footprint import gpu_bytes

    have = examples(20_000, tests=2_000)
    torch.cuda.empty_cache()  # of the tests before
    with place(precision, 1) as where:
        torch.cuda.reset_peak_memory_stats()
        fit(network(student), have, plan(epochs=1), None, where, State(tmp_path / "state", {}), History())
        _, total = torch.cuda.mem_get_info()
    need = gpu_bytes(student, 10, have, 128, evaluated=where.evaluation_batch, precision=precision)
    taken = torch.cuda.max_memory_reserved() + (500 << 20)  # and CUDA's context
    print(f"{student} {precision}: {taken >> 20} MiB taken, {need >> 20} computed")
    assert taken < need < 0.2 * total


def test_the_benchmark_writes_what_it_measured(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "bench.gpu",
        "--parts",
        "bank",
        "roofline",
        "--rounds",
        "2",
        "--out",
        str(tmp_path),
    ]
    subprocess.run([*command, "--networks", "wrn-16-2"], cwd=ROOT, check=True)
    assert "part,variant,value,unit" in (tmp_path / "gpu.csv").read_text()
    assert (tmp_path / "gpu_kernels.csv").stat().st_size > 500
