"""Networks: their sizes against the protocol and by hand, and what every network promises."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys

import pytest
import torch
from made.networks import multiply_accumulates
from torch import nn

from kd.core.errors import ConfigError
from kd.models import NETWORKS, build, is_network, module_of
from kd.models.network import BatchNorm, average
from kd.train.arithmetic import COMPILER

EXAMPLES = [example for group in NETWORKS for example in group.examples]
# One or two of each family: enough for what all members share
RESIDUAL = ["wrn-10-1", "wrn-16-2", "resnet8", "resnet8x4", "resnet18", "resnet50"]
SAMPLES = [*RESIDUAL, "resnet18-cifar", "vgg8", "mobilenetv2-half", "shufflenetv1", "shufflenetv2"]

# arXiv 2105.08919's networks at 100 classes: parameters, and 10^6 multiply-accumulates per 32x32 image
WRN = {
    "wrn-16-1": (180_916, 26.7),
    "wrn-16-2": (703_284, 101.1),
    "wrn-16-4": (2_772_020, 392.6),
    "wrn-16-6": (6_206_772, None),
    "wrn-28-2": (1_479_220, 214.4),
    "wrn-28-4": (5_872_180, 845.6),
    "wrn-40-2": (2_255_156, 327.6),
    "wrn-40-4": (8_972_340, None),
}
TORCHVISION = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}


def weightless(name: str, classes: int = 100, channels: int = 3) -> nn.Module:
    """Build on the meta device: shapes without storage or arithmetic."""
    with torch.device("meta"):
        return build(name, classes, channels)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def cifar_resnet_by_hand(depth: int, stem: int, width: int, classes: int) -> int:
    """Sum the layers of a CIFAR ResNet: k * k * in * out for convolutions, 2 * channels for batch norms."""
    total = 27 * stem + 2 * stem
    inputs = stem
    for outputs in (16 * width, 32 * width, 64 * width):
        per_block = 2 * (9 * outputs * outputs + 2 * outputs)
        first = 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs
        shortcut = inputs * outputs + 2 * outputs if inputs != outputs else 0
        total += first + shortcut + ((depth - 2) // 6 - 1) * per_block
        inputs = outputs
    return total + inputs * classes + classes


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRN)
def test_wrn_has_the_parameters_and_operations_of_the_protocol(name):
    count, millions = WRN[name]
    network = weightless(name)
    assert parameters(network) == count
    operations = multiply_accumulates(network, torch.empty(1, 3, 32, 32, device="meta"))
    assert millions is None or operations / 1e6 == pytest.approx(millions, abs=0.051)


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_cifar_resnet_has_the_parameters_counted_by_hand(depth):
    assert parameters(weightless(f"resnet{depth}")) == cifar_resnet_by_hand(depth, stem=16, width=1, classes=100)


@pytest.mark.parametrize("depth", [8, 32])
def test_wide_cifar_resnet_has_the_parameters_counted_by_hand(depth):
    assert parameters(weightless(f"resnet{depth}x4")) == cifar_resnet_by_hand(depth, stem=32, width=4, classes=100)


@pytest.mark.parametrize(("name", "count"), [("resnet20", 278_324), ("resnet110", 1_736_564), ("resnet8x4", 1_233_540)])
def test_cifar_resnet_has_the_parameters_of_the_benchmarks(name, count):
    assert parameters(weightless(name)) == count


@pytest.mark.parametrize("name", TORCHVISION)
def test_imagenet_resnet_has_the_parameters_of_torchvision(name):
    assert parameters(weightless(name, classes=1000)) == TORCHVISION[name]


def test_torchvision_weights_load_and_give_the_same_logits():
    import torchvision

    from kd.models.publishers import own_names

    original = torchvision.models.resnet18(num_classes=7).eval()
    network = build("resnet18", classes=7).eval()
    network.load_state_dict(own_names("kd.models.resnet_imagenet", original.state_dict()))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), original(images))


# --- what every network promises -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 8)], ids=["cifar", "digits"])
def test_logits_are_the_classifier_of_the_features_without_reading_a_value(name, channels, size):
    network = weightless(name, classes=10, channels=channels)
    images = torch.empty(2, channels, size, size, device="meta")  # a meta tensor has no values to wait for
    features = network.features(images)
    assert features.shape == (2, network.classifier.in_features)
    assert network.classifier(features).shape == network(images).shape == (2, 10)


@pytest.mark.parametrize("name", SAMPLES)
def test_forward_equals_classifier_of_features(name):
    network, images = build(name, classes=10, channels=1).eval(), torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(images), network.classifier(network.features(images)))


@pytest.mark.parametrize("name", SAMPLES)
def test_channels_last_gives_the_same_logits_and_gradients(name):
    torch.manual_seed(0)
    network, images = build(name, classes=10).double().train(), torch.randn(4, 3, 32, 32).double()
    reference = logits_and_gradients(network, images)
    network.to(memory_format=torch.channels_last)
    found = logits_and_gradients(network, images.contiguous(memory_format=torch.channels_last))
    for expected, got in zip(reference, found, strict=True):
        # A bias that batch norm takes off again has a gradient of rounding errors alone.
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * expected.abs().max().item() + 1e-12)


def logits_and_gradients(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    output = network(images)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), list(network.parameters()))]


@pytest.mark.parametrize("name", SAMPLES)
def test_same_seed_gives_the_same_weights_and_another_seed_others(name):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(name, classes=10).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])


@pytest.mark.parametrize("name", [*RESIDUAL, "resnet18-cifar"])
def test_initial_weights_follow_the_protocol(name):
    torch.manual_seed(0)
    network = build(name, classes=10, channels=1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            outputs, _, height, width = module.weight.shape
            spread = 4 / module.weight.numel() ** 0.5  # four standard errors, and a little
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx((2 / (outputs * height * width)) ** 0.5, rel=spread)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert network.classifier.bias.any() == (not name.startswith("wrn"))


@pytest.mark.parametrize("name", ["vgg8", "mobilenetv2-half"])
def test_initial_weights_of_vgg_and_mobilenet_are_those_of_the_benchmarks(name):
    torch.manual_seed(0)
    network = build(name, classes=10)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            outputs, _, height, width = module.weight.shape
            spread = 4 / module.weight.numel() ** 0.5
            assert module.weight.std().item() == pytest.approx((2 / (outputs * height * width)) ** 0.5, rel=spread)
            assert module.bias is None or not module.bias.any()
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not network.classifier.bias.any()


def test_a_wrn_block_between_widths_takes_the_shortcut_from_the_pre_activated_input():
    block = build("wrn-10-2", classes=10).stage1[0].eval()
    nn.init.zeros_(block.conv2.weight)  # leaves the shortcut alone
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(block(x), block.shortcut(block.norm1(x).relu()))
        same_width = build("wrn-16-1", classes=10).stage1[0].eval()
        nn.init.zeros_(same_width.conv2.weight)
        assert torch.equal(same_width(x), x)


def test_the_first_convolution_is_float32_on_a_cpu_and_hands_on_autocast_s_type():
    torch.manual_seed(0)
    stem, images = build("wrn-10-1", classes=10).stem, torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        output = stem(images)
        assert output.dtype == stem(images.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(output, stem(images).bfloat16())
    assert stem(images).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_as_sums_is_torch_s_batch_norm(dtype, monkeypatch):
    torch.manual_seed(0)
    images = (3 * torch.randn(16, 8, 6, 6) + 5).to(dtype)  # a mean that sums of squares would stumble over
    theirs, own = nn.BatchNorm2d(8), BatchNorm(8)
    for norm in (theirs, own):
        nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
        norm.running_mean.fill_(4.0)
    results = []
    for norm, compiling in ((theirs, False), (own, True)):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        x = images.clone().requires_grad_()
        output = norm(x)
        output.square().mean().backward()
        results.append([output, x.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()])
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-3}
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **tolerance)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_batch_norm_has_the_gradients_of_torch_s() -> None:
    """A compiled backward pass may read a buffer again that the step has moved meanwhile."""
    torch.manual_seed(0)
    images, weights = torch.randn(32, 4, 6, 6).requires_grad_(), torch.randn(32, 8, 6, 6)
    own = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), BatchNorm(8))
    theirs = nn.Sequential(copy.deepcopy(own[0]), nn.BatchNorm2d(8)).double()
    torch.compiler.reset()
    (torch.compile(own, options=COMPILER)(images) * weights).relu().sum().backward()
    got, images.grad = [images.grad, *(one.grad for one in own.parameters()), *own.buffers()], None
    (theirs(images.double()) * weights).relu().sum().backward()
    for right, found in zip(
        [images.grad, *(one.grad for one in theirs.parameters()), *theirs.buffers()], got, strict=True
    ):
        torch.testing.assert_close(found.double(), right.double(), rtol=1e-3, atol=1e-3)


def test_the_mean_over_the_image_is_that_and_its_gradient_has_channels_last():
    x = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    average(x).square().sum().backward()
    torch.testing.assert_close(average(x), x.mean((2, 3)))
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


def test_forward_leaves_its_input_as_it_was():
    for name in SAMPLES:
        images = torch.randn(2, 3, 8, 8)
        kept = images.clone()
        build(name, classes=10)(images)
        assert torch.equal(images, kept)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_belongs_to_one_family(name):
    assert is_network(name)
    assert [group.module for group in NETWORKS if group.numbers(name) is not None] == [module_of(name)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrn-28-5x", "unknown; did you mean 'wrn-28-"),
        ("wrn-29-4", "depth 29 is not 6n \\+ 4 .*; known: wrn-16-1"),
        ("wrn-016-2", "unknown; known: wrn-16-1"),
        ("wrn-16-0", "unknown; known: wrn-16-1"),
        ("wrn-16-2\n", "network 'wrn-16-2\\\\n': unknown"),
        ("resnet21", "unknown; known: resnet101, .*resnet20"),
        ("WRN-40-2", "unknown; did you mean 'wrn-40-2'"),
        ("wrn_40_2", "unknown; did you mean 'wrn-40-2'"),
        ("../../x", "unknown; known: .*resnet101"),
        ("", "unknown; known: .*resnet101"),
    ],
)
def test_unknown_network_is_refused_with_the_nearest_named(name, message):
    assert not is_network(name)
    for refuse in (module_of, lambda name: build(name, classes=10)):
        with pytest.raises(ConfigError, match=message):
            refuse(name)


@pytest.mark.slow
@pytest.mark.process
def test_registry_imports_without_torch_and_a_wrn_without_torchvision():
    check = (
        "import sys, kd.models; print('torch' in sys.modules, kd.models.module_of('resnet50'), 'torch' in sys.modules);"
        "kd.models.build('wrn-10-1', 10); print('torch' in sys.modules, 'torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stdout == "False kd.models.resnet_imagenet False\nTrue False\n"
