"""Checkpoints that people have: a file in each publisher's format, and what kd refuses, with the reason.

The formats are those of the publishers' saving codes; the weights are a formula's.
"""

from __future__ import annotations

import argparse
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import declared
from made.networks import as_published, filled
from torch import Tensor, nn

from kd import models
from kd.core.errors import DataError
from kd.study.config import Weights
from kd.train.weights import load

State = dict[str, Tensor]
MDISTILLER = "megvii-research/mdistiller"
LATE = {"state": {}, "param_groups": [{"lr": np.float64(1e-4), "params": [0]}]}  # after a decay by numpy
ARGS = argparse.Namespace(arch="resnet20", batch_size=128)


def network(name: str) -> nn.Module:
    return models.build(name, 100)


def weights(name: str, publisher: str | None = None) -> State:
    """Return the weights of a network that a formula fills, under kd's names or a publisher's."""
    state = filled(network(name)).state_dict()
    return as_published(name, publisher, state) if publisher else dict(state)


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def shifted(state: Mapping[str, Tensor]) -> State:
    """Return other weights of the same network."""
    return {name: value + 1 for name, value in state.items()}


def reading(path: Path, name: str, **said: object) -> nn.Module:
    made = network(name)
    load(made, name, Weights(**declared(path, **said)))
    return made


def lightning(state: State) -> dict:
    return {
        "epoch": 3,
        "global_step": 10,
        "pytorch-lightning_version": "2.6",
        "state_dict": prefixed("model.", state) | {"criterion.weight": torch.ones(100)},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": {"lr": 0.1},
    }


def averaged(state: State) -> State:
    return {"n_averaged": torch.tensor(5), **prefixed("module.", state)}


# The network, what the file is called, what it holds, and the key where several parts fit
PUBLISHERS: dict[str, tuple[str, str, Callable[[], object], str | None]] = {
    "RepDistiller": (
        "resnet20",
        "ckpt_epoch_240.pth",
        lambda: {"epoch": 240, "model": weights("resnet20", MDISTILLER), "accuracy": torch.ones(()), "optimizer": LATE},
        None,
    ),
    "RepDistiller, the last epoch": (
        "vgg8",
        "vgg8_last.pth",
        lambda: {"opt": ARGS, "model": weights("vgg8", MDISTILLER), "optimizer": LATE},
        None,
    ),
    "mdistiller": (
        "shufflenetv1",
        "student_best",
        lambda: {"model": weights("shufflenetv1", MDISTILLER)},
        None,
    ),
    "mdistiller, a run": (
        "mobilenetv2-half",
        "latest",
        lambda: {
            "epoch": 240,
            "model": prefixed("module.student.", weights("mobilenetv2-half", MDISTILLER))
            | prefixed("module.teacher.", weights("wrn-16-2", MDISTILLER)),
            "optimizer": LATE,
            "best_acc": torch.ones(()),
        },
        None,
    ),
    "kd_data": (
        "wrn-16-2",
        "seed9999.t1",
        lambda: {"init": shifted(weights("wrn-16-2", "kd_data")), "199": weights("wrn-16-2", "kd_data")},
        "199",
    ),
    "xternalz": (
        "wrn-16-2",
        "model_best.pth.tar",
        lambda: {"epoch": 200, "state_dict": weights("wrn-16-2", MDISTILLER), "best_prec1": 70.1},
        None,
    ),
    "chenyaofo": ("resnet20", "cifar100_resnet20-23dac2f1.pt", lambda: weights("resnet20", MDISTILLER), None),
    "kuangliu": (
        "resnet18-cifar",
        "ckpt.pth",
        lambda: {"net": prefixed("module.", weights("resnet18-cifar", MDISTILLER)), "acc": 95.1, "epoch": 199},
        None,
    ),
    "weiaicunzai": (
        "resnet18-cifar",
        "resnet18-200-regular.pth",
        lambda: weights("resnet18-cifar", "weiaicunzai/pytorch-cifar100"),
        None,
    ),
    "kd-capacity-gap": (
        "resnet50-cifar",
        "checkpoint_a.pth",
        lambda: {"model_state_dict": weights("resnet50-cifar", "umutonuryasar/kd-capacity-gap"), "cfg": {"lr": 0.1}},
        None,
    ),
    "Lightning": ("shufflenetv2", "last.ckpt", lambda: lightning(weights("shufflenetv2", MDISTILLER)), None),
    "torchdistill": (
        "resnet20",
        "cifar10-resnet20.pt",
        lambda: {"model": weights("resnet20", MDISTILLER), "best_value": 91.9, "lr_scheduler": None, "args": ARGS},
        None,
    ),
    "timm": (
        "resnet18",
        "model_best.pth.tar",
        lambda: {
            "epoch": 90,
            "arch": "resnet18",
            "state_dict": shifted(weights("resnet18", "torchvision")),
            "state_dict_ema": weights("resnet18", "torchvision"),
            "args": ARGS,
            "version": 2,
        },
        "state_dict_ema",
    ),
    "torchvision": (
        "resnet18",
        "model_89.pth",
        lambda: {
            "model": weights("resnet18", "torchvision"),
            "model_ema": averaged(shifted(weights("resnet18", "torchvision"))),
            "epoch": 89,
            "args": ARGS,
        },
        "model",
    ),
    "pycls": (
        "resnet20",
        "model_epoch_0100.pyth",
        lambda: {"model_state": weights("resnet20"), "ema_state": shifted(weights("resnet20")), "cfg": "MODEL: {}"},
        "model_state",
    ),
}


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_a_file_of_this_publisher_is_the_network_it_was_trained_as(tmp_path: Path, publisher: str) -> None:
    name, file, made, key = PUBLISHERS[publisher]
    content, wanted = made(), weights(name)
    torch.save(content, tmp_path / file)
    found = reading(tmp_path / file, name, key=key).state_dict()
    assert all(torch.equal(value, wanted[entry]) for entry, value in found.items())
    if key:  # raw or averaged, first or last epoch: a choice is asked for, never taken
        with pytest.raises(DataError, match=rf"several parts are weights of this network: .*'{key}'.*as `key`"):
            reading(tmp_path / file, name)


# -- C1 and C4: names, wrappers and prefixes ---------------------------------------------------------------------------


@pytest.mark.parametrize("publisher", [MDISTILLER, "kd_data"])
def test_c1_a_wrn_of_the_benchmarks_is_read_by_its_publisher_s_names(tmp_path: Path, publisher: str) -> None:
    torch.save(weights("wrn-16-2", publisher), tmp_path / "w.pt")
    found = reading(tmp_path / "w.pt", "wrn-16-2").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in weights("wrn-16-2").items())


def test_c1_a_wrn_that_computes_something_else_is_refused_by_its_names(tmp_path: Path) -> None:
    """torchdistill's: the shapes are kd's, so renaming would load it without a complaint."""
    theirs = weights("wrn-16-2", "torchdistill")
    assert [value.shape for value in theirs.values()] == [value.shape for value in weights("wrn-16-2").values()]
    for content in (theirs, {"model": theirs, "args": ARGS}, {"model": prefixed("module.", theirs)}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(DataError, match=r"torchdistill's WRN: its shapes .* shortcuts read a block's raw input"):
            reading(tmp_path / "w.pt", "wrn-16-2")


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "module.student."])
@pytest.mark.parametrize("wrapper", [None, "net", "model", "state_dict", "model_state_dict"])
def test_c4_wrappers_and_prefixes_are_taken_off(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    given = prefixed(prefix, weights("resnet8"))
    torch.save({wrapper: given, "epoch": 3} if wrapper else given, tmp_path / "w.pt")
    found = reading(tmp_path / "w.pt", "resnet8").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in weights("resnet8").items())


def test_c4_a_model_of_averaged_weights_is_read(tmp_path: Path) -> None:
    torch.save(averaged(weights("resnet8")), tmp_path / "swa.pt")
    found = reading(tmp_path / "swa.pt", "resnet8").state_dict()
    assert torch.equal(found["stem.weight"], weights("resnet8")["stem.weight"])


def test_c4_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"net": None, "acc": 95.1, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"holds no state dict of tensors; it holds net, acc, epoch$"):
        reading(tmp_path / "w.pt", "resnet8")


def test_a_key_may_go_as_deep_as_it_must(tmp_path: Path) -> None:
    """A network that taught one like it: both are in the file of a run."""
    student, teacher = weights("resnet8"), shifted(weights("resnet8"))
    torch.save(
        {"model": prefixed("module.student.", student) | prefixed("module.teacher.", teacher)}, tmp_path / "w.pt"
    )
    found = reading(tmp_path / "w.pt", "resnet8", key="model.module.teacher").state_dict()
    assert torch.equal(found["stem.weight"], teacher["stem.weight"])
    with pytest.raises(DataError, match=r"several parts .*: 'model.module.student', 'model.module.teacher'"):
        reading(tmp_path / "w.pt", "resnet8", key="model")
    with pytest.raises(DataError, match=r"nothing under the key 'modle' can be weights; did you mean 'model'"):
        reading(tmp_path / "w.pt", "resnet8", key="modle")


@pytest.mark.slow
def test_what_is_left_over_without_a_prefix_is_refused(tmp_path: Path) -> None:
    torch.save(weights("resnet8") | {"head.weight": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"unexpected: head\.weight"):
        reading(tmp_path / "w.pt", "resnet8")


@pytest.mark.slow
def test_a_name_that_codes_give_to_two_networks_is_told_apart(tmp_path: Path) -> None:
    """The ResNet-18 of CIFAR codes has another stem than torchvision's."""
    torch.save({"net": weights("resnet18-cifar", MDISTILLER), "acc": 95.1}, tmp_path / "ckpt.pth")
    with pytest.raises(DataError, match=r"under 'net': .*; they are those of a resnet18-cifar$"):
        reading(tmp_path / "ckpt.pth", "resnet18")


# -- C2: what is in a file beside tensors ------------------------------------------------------------------------------


@pytest.mark.parametrize("numpy", ["_core", "core"], ids=["numpy 2", "numpy 1"])
def test_c2_numbers_of_numpy_and_a_command_line_are_read(tmp_path: Path, numpy: str) -> None:
    """The released teachers of RepDistiller: the old format, and learning rates that numpy made."""
    path = tmp_path / "ckpt_epoch_240.pth"
    content = {"model": weights("resnet8"), "opt": ARGS, "optimizer": LATE}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", f"numpy.{numpy}.multiarray".encode()))
    assert torch.equal(reading(path, "resnet8").state_dict()["stem.weight"], weights("resnet8")["stem.weight"])


class Payload:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch ran",))


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "old"])
def test_c2_what_could_run_code_is_named_with_the_way_round(project: Path, old_format: bool) -> None:
    for held, word in ((Payload(), r"posix\.system"), (network("resnet8"), r"kd\.models\.resnet_cifar\.CifarResNet")):
        torch.save({"model": weights("resnet8"), "hook": held}, "w.pt", _use_new_zipfile_serialization=not old_format)
        message = rf"it holds {word}, and reading that could run code\..* state dict alone"
        with pytest.raises(DataError, match=message) as refused:
            reading(Path("w.pt"), "resnet8")
        assert "\\x1b" not in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
    assert not Path("ran").exists()


# -- content decides, not the suffix -----------------------------------------------------------------------------------


def test_the_content_of_a_file_says_what_it_is_and_not_its_suffix(tmp_path: Path) -> None:
    wanted = weights("resnet8")["stem.weight"]
    safetensors.torch.save_file(weights("resnet8"), tmp_path / "model.pth")
    torch.save(weights("resnet8"), tmp_path / "model.safetensors")
    for name in ("model.pth", "model.safetensors"):
        assert torch.equal(reading(tmp_path / name, "resnet8").state_dict()["stem.weight"], wanted)


def test_an_archive_of_checkpoints_says_to_unpack_it(tmp_path: Path) -> None:
    torch.save(weights("resnet8"), tmp_path / "ckpt_epoch_240.pth")
    with tarfile.open(tmp_path / "cifar_teachers.tar", "w") as archive:
        archive.add(tmp_path / "ckpt_epoch_240.pth", "resnet8_vanilla/ckpt_epoch_240.pth")
    with pytest.raises(DataError, match="it is an archive of files: unpack it, and name one of them"):
        reading(tmp_path / "cifar_teachers.tar", "resnet8")
