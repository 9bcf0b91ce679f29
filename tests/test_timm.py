"""Networks of timm: named without importing it, one spelling in paths, and the logits that timm's own gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import declared, prepare, study, train
from hypothesis import given
from hypothesis import strategies as st

from kd import models
from kd.core.errors import ConfigError
from kd.models import timm_names
from kd.study.config import Weights
from kd.study.expansion import all_cells
from kd.study.paths import parse_cell
from kd.train.weights import load

timm = pytest.importorskip("timm", reason="kd[timm] is not installed")

SMALL = "timm:resnet10t"


@given(st.sampled_from(sorted(timm.list_models())))
def test_each_name_of_timm_is_one_name_in_paths_and_can_be_had_back(name: str) -> None:
    spelled = models.canonical(f"timm:{name}")
    assert models.is_network(spelled)
    assert spelled.removeprefix("timm-").replace("-", "_") == name
    cell = parse_cell(f"results/digits/quick/{spelled}.ce.s0/wrn-16-2.kl-tau3.s1")
    assert cell.stages[0].network == spelled


def test_the_names_that_are_read_from_timm_s_sources_are_those_it_registers() -> None:
    assert {name.replace("-", "_") for name in timm_names._known()} == set(timm.list_models())


@pytest.mark.process
def test_a_name_of_timm_is_checked_without_importing_it() -> None:
    check = "import sys, kd.models; kd.models.module_of('timm-vit-tiny-patch16-224'); print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet18x", "timm has none of this name; did you mean 'timm-resnet18'"),
        ("timm:xyzzy", r"network 'timm-xyzzy': timm has none of this name$"),
        ("timm-vit_tiny_patch16_224", "network 'timm-vit_tiny_patch16_224': unknown"),
        ("timm:ResNet18", "network 'timm-ResNet18': unknown"),
    ],
)
def test_an_unknown_name_of_timm_is_refused_with_those_near_it(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        models.module_of(models.canonical(name))


def test_without_timm_its_names_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_names, "_known", frozenset)
    with pytest.raises(ConfigError, match=r"timm is not installed; pip install 'kd\[timm\]'$"):
        models.build("timm-resnet18", 10)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet10t", 64), ("mobilenetv3_small_050", 64), ("vit_tiny_patch16_224", 224)]
)
def test_it_gives_timm_s_logits_and_its_maps(name: str, size: int) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=10).eval()
    torch.manual_seed(0)
    network = models.build(models.canonical(f"timm:{name}"), 10).eval()
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        said = network.outputs(images, ("prelogits", "maps"))
        assert torch.equal(network(images), theirs(images))
        assert torch.equal(said.logits, network(images))
        assert torch.equal(said.prelogits, network.features(images))
        assert [map_.dim() for map_ in said.maps] == [4] * len(said.maps)
    assert len(said.maps) > 3
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_a_checkpoint_of_timm_s_is_read_by_its_names(tmp_path: Path) -> None:
    theirs = timm.create_model("resnet10t", num_classes=10)
    torch.save({"state_dict": theirs.state_dict(), "arch": "resnet10t"}, tmp_path / "last.pth.tar")
    network = models.build("timm-resnet10t", 10)
    load(network, "timm-resnet10t", Weights(**declared(tmp_path / "last.pth.tar")))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.eval()(images), theirs.eval()(images))


def test_what_kd_cannot_use_of_timm_is_refused() -> None:
    with pytest.raises(ConfigError, match="timm:deit_tiny_distilled_patch16_224: its classifier is no linear layer"):
        models.build("timm-deit-tiny-distilled-patch16-224", 10)
    with pytest.raises(ConfigError, match=r"it reads images of \(224, 224\) pixels, these are of \(8, 8\)"):
        models.build("timm-vit-tiny-patch16-224", 10)(torch.zeros(1, 3, 8, 8))
    network = models.build("timm-resnet10t", 10)
    with pytest.raises(ConfigError, match="it does not tell its edges"):
        network.outputs(torch.zeros(1, 3, 32, 32), ("edges",))
    with pytest.raises(ConfigError, match="it cannot be parted at a map"):
        network.head()


@pytest.mark.slow
def test_a_network_of_timm_s_teaches_and_learns(project: Path) -> None:
    prepare()
    experiment = {"teacher": SMALL, "student": ["resnet8", SMALL], "loss": {"kl": {"tau": 3}}, "figure": "dots"}
    made = study(experiments={"a": experiment}, seeds=[0])
    cells = {cell.path: train(cell.path, made)["status"] for cell in all_cells(made)}
    teacher = "results/digits/quick/timm-resnet10t.ce.s0"
    assert cells == dict.fromkeys(
        [teacher, f"{teacher}/resnet8.kl-tau3.s0", f"{teacher}/timm-resnet10t.kl-tau3.s0"], "ok"
    )
