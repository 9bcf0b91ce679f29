"""Where a cell runs: one slot of a GPU per cell, threads as told, precision by what the hardware has."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from kd.core.errors import ConfigError
from kd.machine import shares
from kd.train import arithmetic, device


def test_cells_spread_over_gpus_before_they_share_one(project: Path) -> None:
    with contextlib.ExitStack() as held:
        assert [shares.gpu_shares({"GPU-a": 80, "GPU-b": 80}, 0, 2, held) for _ in range(4)] == [[0], [1], [0], [1]]
        assert {path.name.split(".")[0] for path in shares.SHARES.iterdir()} == {"GPU-a", "GPU-b"}


def test_a_cell_takes_as_much_of_a_gpu_as_its_memory_needs(project: Path, monkeypatch) -> None:
    monkeypatch.setattr(shares.time, "sleep", lambda _: pytest.fail("no share is free"))
    with contextlib.ExitStack() as held:  # 48 parts: 24 + 12 + 12
        for need in (40, 20, 15):
            shares.gpu_shares({"GPU-a": 80}, need, shares.AUTO, held)
        with pytest.raises(pytest.fail.Exception):
            shares.gpu_shares({"GPU-a": 80}, 20, shares.AUTO, held)
    with contextlib.ExitStack() as held:  # two cells may share it, but this one needs more than half
        shares.gpu_shares({"GPU-a": 80}, 50, 2, held)
        with pytest.raises(pytest.fail.Exception):
            shares.gpu_shares({"GPU-a": 80}, 1, 2, held)
    with pytest.raises(ConfigError, match="needs"), contextlib.ExitStack() as held:
        shares.gpu_shares({"GPU-a": 80}, 81, shares.AUTO, held)


def test_processes_that_train_together_get_a_gpu_each_all_at_once_or_none(project: Path, monkeypatch) -> None:
    monkeypatch.setattr(shares.time, "sleep", lambda _: pytest.fail("too few are free"))
    two = {"GPU-a": 80, "GPU-b": 80}
    with contextlib.ExitStack() as held:
        assert shares.gpu_shares(two, 0, 1, held, count=2) == [0, 1]
    with contextlib.ExitStack() as held:
        assert shares.gpu_shares(two, 0, 1, held) == [0]
        with pytest.raises(pytest.fail.Exception):
            shares.gpu_shares(two, 0, 1, held, count=2)
        assert shares.gpu_shares(two, 0, 1, held) == [1]  # nothing was kept of the attempt
    with pytest.raises(ConfigError, match="to have 3 GPUs, but 2 are visible"), contextlib.ExitStack() as held:
        shares.gpu_shares(two, 0, 1, held, count=3)


def test_a_cell_waits_for_a_slot_and_takes_the_one_that_is_freed(project: Path, monkeypatch) -> None:
    monkeypatch.setattr(shares, "_POLL_SECONDS", 0.01)
    first, second, waiting = contextlib.ExitStack(), contextlib.ExitStack(), contextlib.ExitStack()
    shares.gpu_shares({"GPU-a": 80, "GPU-b": 80}, 0, 1, first)
    shares.gpu_shares({"GPU-a": 80, "GPU-b": 80}, 0, 1, second)
    got = []
    thread = threading.Thread(target=lambda: got.append(shares.gpu_shares({"GPU-a": 80, "GPU-b": 80}, 0, 1, waiting)))
    thread.start()
    time.sleep(0.1)
    assert not got
    second.close()
    thread.join(5)
    assert got == [[1]]
    first.close()
    waiting.close()


def test_cells_share_a_gpu_at_once_where_the_service_for_that_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not shares.served()
    (tmp_path / "control").touch()
    assert shares.served()


def test_threads_are_as_told_and_the_manifest_says_so(project: Path, monkeypatch) -> None:
    """Fault 24."""
    monkeypatch.setenv("KD_DEVICE", "cpu")
    with device.place("fp32", threads=2) as here:
        assert here.describe()["threads"] == torch.get_num_threads() == 2
        assert {"device", "precision", "python", "torch"} < set(here.describe())


@pytest.mark.slow
@pytest.mark.process
def test_peak_memory_is_the_process_s_own_and_not_that_of_who_started_it() -> None:
    ballast = bytearray(os.urandom(1 << 20) * 600)
    code = "from kd.train.device import *; print(Place(torch.device('cpu'), 'fp32').peak_memory()['host_mib'])"
    peak = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert 50 < peak < len(ballast) >> 20


def test_a_device_that_is_not_there_is_refused_by_name(project: Path, monkeypatch) -> None:
    for name in ("cuda:99", "gpu"):
        monkeypatch.setenv("KD_DEVICE", name)
        with pytest.raises(ConfigError, match=f"KD_DEVICE={name}"), device.place("fp32", 1):
            pass


def test_long_cells_are_compiled_where_there_is_a_compiler_and_short_ones_are_not(tmp_path: Path, monkeypatch) -> None:
    cifar, digits = 200 * 50_000 * 32**2, 20 * 898 * 8**2
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(arithmetic.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(arithmetic.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert arithmetic.compiling_pays(cifar, "auto")
    assert not arithmetic.compiling_pays(digits, "auto")
    assert arithmetic.compiling_pays(digits, "always")
    assert not arithmetic.compiling_pays(cifar, "never")
    assert not arithmetic.compiling_pays(cifar, "auto", processes=2)
    with pytest.raises(ConfigError, match="2 processes train uncompiled; set auto"):
        arithmetic.compiling_pays(cifar, "always", processes=2)
    (tmp_path / "Python.h").unlink()
    assert not arithmetic.compiling_pays(cifar, "auto")
    with pytest.raises(ConfigError, match=r"protocol\.compile: always, but g"):
        arithmetic.compiling_pays(cifar, "always")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_recorded_step_does_what_the_step_does() -> None:
    def trained(record: bool) -> torch.Tensor:
        total = torch.zeros(4, device="cuda")

        def step(add: torch.Tensor, factor: torch.Tensor) -> None:
            total.mul_(factor).add_(add.sum())

        here = device.Place(torch.device("cuda"), "fp32")
        run = here.recorded(step) if record else step
        for number in range(12):  # two shapes in turn, as whole and partial batches come
            run(torch.full((4 - number % 2,), float(number), device="cuda"), here.scalar(0.5))
        return total

    assert trained(record=True).equal(trained(record=False))


def test_auto_precision_is_one_of_the_two_and_fp32_is_kept() -> None:
    cpu = torch.device("cpu")
    assert arithmetic.fastest(cpu) in ("fp32", "bf16")
    assert device._place("cpu", "fp32").precision == "fp32"
    assert device._place("cpu", "auto").precision == arithmetic.fastest(cpu)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_run_in_the_precision_of_the_place(precision: str, dtype: torch.dtype) -> None:
    with device.Place(torch.device("cpu"), precision).autocast():
        assert torch.nn.Linear(4, 4)(torch.ones(2, 4)).dtype == dtype
