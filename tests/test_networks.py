"""Networks against their publishers' own classes: sizes, shapes of maps, and answers where a formula fills them."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
from made import fitting
from made.networks import VECTORS, filled, formula_images, multiply_accumulates
from torch import nn

from bench import networks as documented
from kd import losses, models
from kd.core.errors import ConfigError
from kd.data.examples import Examples
from kd.data.views import Grid
from kd.losses.objective import Pure
from kd.losses.spec import Needs
from kd.machine.state import State
from kd.models.grouped import GroupedNetwork
from kd.models.network import BatchNorm
from kd.models.output import Output
from kd.models.shuffled import shuffle
from kd.train.fit import History, fit
from kd.train.teachers import LiveTeacher

NETWORKS = VECTORS["networks"]
LARGE = {"wrn-28-10", "wrn-16-8", "wrn-40-4", "resnet101", "resnet152", "resnet50-cifar", "resnet34-cifar"}
GROUPED = ["vgg8", "vgg13", "mobilenetv2-half", "shufflenetv1", "shufflenetv2", "resnet18-cifar", "resnet50-cifar"]
# The eleven pairs of the tables of arXiv 1910.10699 and 2203.08679, teacher and student
PAIRS = {
    "wrn-40-2": ["wrn-16-2", "wrn-40-1", "shufflenetv1"],
    "resnet56": ["resnet20"],
    "resnet110": ["resnet32"],
    "resnet32x4": ["resnet8x4", "shufflenetv1", "shufflenetv2"],
    "vgg13": ["vgg8", "mobilenetv2-half"],
    "resnet50-cifar": ["mobilenetv2-half"],
}


def named(name: str) -> pytest.param:
    return pytest.param(name, marks=pytest.mark.slow if name in LARGE else [])


def test_every_network_of_the_benchmarks_tables_is_one() -> None:
    assert sum(map(len, PAIRS.values())) == 11
    assert all(map(models.is_network, [*PAIRS, *(student for students in PAIRS.values() for student in students)]))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_size_and_the_maps_of_its_publishers(name: str) -> None:
    known = NETWORKS[name]
    with torch.device("meta"):
        network = models.build(name, 100).eval()
        images = torch.empty(1, 3, known["size"], known["size"])
        assert sum(parameter.numel() for parameter in network.parameters()) == known["parameters"]
        said = network.outputs(images, ("prelogits", "maps", "edges"))
        assert [list(map_.shape[1:]) for map_ in said.maps] == known["maps"]
        assert [list(edge.shape[1:]) for edge in said.edges] == known["maps"]
        assert said.prelogits.shape == (1, known["prelogits"])
        assert multiply_accumulates(network, images) == known["macs"]


@pytest.mark.parametrize("name", [named(name) for name in NETWORKS])
@torch.inference_mode()
def test_a_network_filled_by_a_formula_answers_as_its_publishers_do(name: str) -> None:
    known = NETWORKS[name]
    said = answered(name, known["size"])
    near = {"rel": 1e-9, "abs": 1e-10}
    assert said.logits[0, :10].tolist() == pytest.approx(known["logits"], **near)
    assert said.logits.square().sum().item() == pytest.approx(known["logits_squared"], **near)
    assert said.prelogits.sum().item() == pytest.approx(known["prelogits_sum"], **near)
    maps = [map_.square().sum().item() for map_ in said.maps]
    compared = len(maps) - name.startswith("wrn")  # the last map of theirs is before batch norm and ReLU
    assert maps[:compared] == pytest.approx(known["maps_squared"][:compared], **near)


def answered(name: str, size: int) -> Output:
    network = filled(models.build(name, 100).double())
    return network.outputs(formula_images(size), ("prelogits", "maps"))


@pytest.mark.parametrize("name", GROUPED)
def test_a_map_is_what_follows_its_edge_and_ends_in_the_logits(name: str) -> None:
    torch.manual_seed(0)
    network, images = models.build(name, 5).eval(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        said = network.outputs(images, ("prelogits", "maps", "edges"))
        assert all(torch.equal(network.after(edge), map_) for edge, map_ in zip(said.edges, said.maps, strict=True))
        assert any(edge.min() < 0 for edge in said.edges)
        assert torch.equal(network(images), said.logits)
        assert torch.equal(network.head()(said.maps[-2]), said.logits)


@pytest.mark.parametrize("name", GROUPED)
def test_class_activation_maps_mean_the_logits_and_count_a_batch_once(name: str) -> None:
    torch.manual_seed(0)
    network, images = models.build(name, 5).train(), torch.randn(2, 3, 32, 32)
    said = network.outputs(images, ("cams", "edges"))
    logits = said.cams.mean((2, 3)) + network.classifier.bias
    torch.testing.assert_close(logits, said.logits, rtol=1e-4, atol=1e-5)
    counters = [value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")]
    assert all(value == 1 for value in counters)
    if name == "shufflenetv2":
        with pytest.raises(ConfigError, match="no batch normalisation makes all channels of its edges"):
            network.norms()
    else:
        assert [norm.num_features for norm in network.norms()] == [edge.shape[1] for edge in said.edges]


@pytest.mark.parametrize("name", GROUPED)
def test_each_layer_s_batch_norm_is_kd_s_own(name: str) -> None:
    norms = [module for module in models.build(name, 5).modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(norm, BatchNorm) for norm in norms)


def test_a_shuffle_deals_channels_out_as_torch_does() -> None:
    x = torch.randn(2, 12, 3, 3)
    for groups in (1, 2, 3):
        assert torch.equal(shuffle(x, groups), nn.functional.channel_shuffle(x, groups))


def test_vgg_pools_a_fourth_time_in_images_of_64_pixels_alone() -> None:
    network = models.build("vgg8", 5)
    assert isinstance(network, GroupedNetwork)
    for size, last in ((8, 1), (32, 4), (64, 4), (224, 14)):
        assert network.maps(torch.zeros(2, 3, size, size))[0][-1].shape[2] == last


@pytest.mark.slow
@pytest.mark.process
def test_the_documented_networks_are_those_of_the_registry() -> None:
    text = documented.DOC.read_text(encoding="utf-8")
    assert documented.written(text) == text, "python -m bench.networks writes them anew"
    assert all(f"| `{name}` |" in text for family in models.NETWORKS for name in family.examples)


# -- the pairs of the KD benchmarks -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(("teacher", "student"), [(one, other) for one, all in PAIRS.items() for other in all])
def test_each_pair_of_the_benchmarks_trains_on_32x32_images(teacher: str, student: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(24) % 2
    images = torch.randint(0, 150, (24, 32, 32, 3), dtype=torch.uint8, generator=generator)
    images[labels == 1, 8:24, 8:24] += 100
    examples = Examples(
        images=images[:16],
        labels=labels[:16],
        train=torch.arange(16),
        heldout=torch.arange(0),
        test_images=images[16:],
        test_labels=labels[16:],
        mean=torch.full((3,), 0.4),
        std=torch.full((3,), 0.2),
    )
    torch.manual_seed(0)
    taught, teaches = models.build(student, 2), LiveTeacher(models.build(teacher, 2), torch.device("cpu"))
    objective = Pure(functools.partial(losses.LOSSES["kl"].function, tau=4.0, alpha=0.1))
    made = fitting.plan(8, objective=objective, needs=Needs(teacher={"logits"}), grid=Grid(4, True), batch=8, lr=0.01)
    history = History()
    fit(taught, examples, made, teaches, fitting.CPU, State(tmp_path, fitting.HEADER), history)
    found = [row["train_loss"] for row in history.rows]
    assert all(map(math.isfinite, found))
    assert found[-1] < found[0]
