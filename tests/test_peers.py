"""Several processes train one cell: the same gradients, one who writes, all who stop."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, prepare, read_until
from made.course import built, of_network
from made.fitting import plan
from made.project import SMALL
from made.together import trained

from kd.core.errors import ConfigError
from kd.core.files import verified
from kd.losses import LOSSES
from kd.models import build
from kd.train.lesson import demand_examples, demand_pixels
from kd.train.peers import Team

CELL = "results/digits/quick/resnet8.ce.s0"


def python(*arguments: str) -> subprocess.Popen:
    """Start Python in the working directory, in which kd is not."""
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), "KD_DEVICE": "cpu"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_parts_of_a_batch_are_the_batch() -> None:
    batch = torch.arange(7)
    parts = []
    for rank in range(3):
        team = Team.__new__(Team)  # without the others
        team.rank, team.count = rank, 3
        parts.append(team.own(batch))
    assert [len(part) for part in parts] == [3, 2, 2]
    assert torch.cat(parts).equal(batch)


def test_a_batch_that_cannot_be_shared_is_refused_before_training() -> None:
    demand_examples(100, 32, 2)
    demand_examples(97, 32, 1)
    with pytest.raises(ConfigError, match=r"100 .* batches of 32 leave one of 4, of which 3 processes cannot"):
        demand_examples(100, 32, 3)


@pytest.mark.parametrize(
    ("network", "size", "train", "loss", "fits"),
    [
        ("resnet18", 32, 33, "ce", False),
        ("resnet18", 64, 33, "ce", True),
        ("resnet8", 4, 33, "ce", False),
        ("resnet8", 8, 33, "ce", True),
        ("resnet18", 32, 34, "ce", True),
        ("resnet8", 8, 33, "one", False),  # its gate has one mean over the image
        ("resnet8", 8, 34, "one", True),
    ],
)
def test_a_batch_of_one_that_batch_normalisation_cannot_train_on_is_refused_before_training(
    network: str, size: int, train: int, loss: str, fits: bool
) -> None:
    refused = (
        contextlib.nullcontext()
        if fits
        else pytest.raises(ConfigError, match="33 examples in batches of 32 leave one of 1")
    )
    with refused:
        objective = built("one", of_network(network, 10), tau=3, branches=3) if loss == "one" else LOSSES["ce"].function
        made = plan(batch=32, objective=objective, needs=LOSSES[loss].needs)
        demand_pixels(build(network, 10), made, (3, size, size), train)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ce", "mixed"])
def test_two_processes_take_the_steps_of_one_and_measure_what_it_measures(tmp_path: Path, kind: str) -> None:
    """To float32's last digits, which depend on the order of sums; the last batch is divided 4 to 3."""
    alone, *both = trained(kind), *in_two_processes(tmp_path, kind)
    assert (alone["count"], both[0]["count"]) == (1, 2)
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(both[0]["weights"][name], tensor, rtol=1e-5, atol=1e-6)
        assert both[1]["weights"][name].equal(both[0]["weights"][name])
    for one, other in zip(alone["rows"], both[0]["rows"], strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    assert both[1]["rows"] == both[0]["rows"]


@pytest.mark.slow
def test_two_processes_have_the_same_branches_and_gate_and_measure_the_same_of_them(tmp_path: Path) -> None:
    """Not those of one process: batch normalisation takes its statistics from a part of a batch."""
    one, other = in_two_processes(tmp_path, "one")
    assert all(tensor.equal(other["held"][name]) for name, tensor in one["held"].items())
    assert one["rows"] == other["rows"]
    alone = trained("one")
    assert one["rows"][-1].keys() == alone["rows"][-1].keys() > {"test_ensemble_top1", "test_gate3"}
    assert one["rows"][0]["train_loss"] == pytest.approx(alone["rows"][0]["train_loss"], rel=0.2)


def in_two_processes(folder: Path, kind: str) -> list[dict]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = python(*torchrun, str(ROOT / "tests" / "made" / "together.py"), str(folder), kind)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


# -- a cell -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def digits(project: Path) -> Path:
    study = {**SMALL, "seeds": 0, "protocol": {**SMALL["protocol"], "epochs": 8, "batch": 60}}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    Path("config.yaml").write_text((ROOT / "config.yaml").read_text())
    prepare()
    return project


def train() -> subprocess.Popen:
    return python("-m", "kd", "train", CELL, "--configfile", "study.yaml", "--threads", "2", "--processes", "2")


def finished() -> dict[str, str]:
    run = train()
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    return verified(Path(CELL))["files"]


@pytest.mark.slow
def test_promise_4_two_processes_that_are_stopped_end_with_the_same_bytes(digits: Path) -> None:
    straight = finished()
    assert verified(Path(CELL))["processes"] == 2
    Path("results").rename("straight")

    run = train()
    read_until(run, "epoch 2/8")
    run.send_signal(signal.SIGTERM)  # as Snakemake and SLURM do
    output, _ = run.communicate(timeout=60)
    assert run.returncode != 0
    assert output.count("the state is saved") == 2
    assert not Path(CELL, "manifest.json").exists()

    run = train()
    output = read_until(run, "epoch 4/8")
    assert "going on from epoch" in output
    began = time.monotonic()
    os.kill(children(run.pid)[1], signal.SIGKILL)
    output, _ = run.communicate(timeout=60)
    assert run.returncode != 0
    assert time.monotonic() - began < 45  # it does not wait for who is gone
    # The other one sees it by itself, or torchrun saw it first and ended the other one.
    assert re.search("another process that trained this cell has ended|closing signal SIGTERM", output), output

    again = finished()
    assert {name: again[name] for name in ("model.safetensors", "metrics.csv")} == {
        name: straight[name] for name in ("model.safetensors", "metrics.csv")
    }
    before = Path(CELL, "manifest.json").stat().st_ino
    finished()
    assert Path(CELL, "manifest.json").stat().st_ino == before  # published already: left alone


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout
    return sorted(map(int, found.split()))
