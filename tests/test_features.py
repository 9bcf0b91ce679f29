"""Losses of features: the vectors, gradients, networks of two families, and what each refuses."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import prepare, train, values
from made.course import DTYPES, between, built, vectors
from made.fitting import CPU
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from kd import losses, models
from kd.core.errors import ConfigError
from kd.losses import features, maps, matching, relations, review
from kd.losses.crd import contrast
from kd.losses.decoupled import dkd
from kd.losses.hard import ce
from kd.losses.kl import kl
from kd.losses.objective import Batch, Objective
from kd.losses.ofd import margins, partial_distance
from kd.losses.sdd import regions, weighted
from kd.models.output import Output
from kd.study.config import validate
from kd.train.teachers import LiveTeacher

NAMES = tuple(features.LOSSES)
SMALL = {"sdd": {"finest": 2}, "sdd_dkd": {"finest": 2}, "crd": {"negatives": 16}}  # maps of 2x2 places, 20 examples
FEATURES, REVIEW, OFD, CRD, SDD = (vectors(name) for name in ("feature_maps", "reviewkd", "ofd", "crd", "sdd"))
LABELS = torch.tensor([0, 1, 0, 1])


def made(name: str, student: str = "resnet8", teacher: str = "resnet8x4", **given: object) -> Objective:
    return built(name, between(student, teacher), **{**SMALL.get(name, {}), **given})


def tensors(given: object, dtype: torch.dtype = torch.float64) -> object:
    """Return the same, lists of numbers as leaves of a graph."""
    if isinstance(given, dict):
        return {name: tensors(each, dtype) for name, each in given.items()}
    return torch.tensor(given, dtype=dtype, requires_grad=True)


def compare(found: Tensor, expected: object, tolerance: float) -> None:
    expected = torch.tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max())


def output(**given: object) -> Output:
    return Output(torch.empty(0), **given)


# -- the vectors ------------------------------------------------------------------------------------------------------


def gap(name: str, key: str, **given: object) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what a loss of weight 1 makes of the only map, or of the pre-logits, of student and teacher."""
    objective = built(name, between("resnet8", "resnet8x4"), **given)
    said = {"maps": lambda each: output(maps=(each,)), "prelogits": lambda each: output(prelogits=each)}[key]
    return lambda student, teacher: objective.gap(said(student), said(teacher))


GAPS = {
    "fitnet": matching.distance,
    "at": gap("at", "maps"),
    "sp": gap("sp", "maps"),
    "rkd": gap("rkd", "prelogits"),
    "pkt": gap("pkt", "prelogits"),
    "cc": relations.correlation,
    "vid": lambda student, teacher: maps.unlikeliness(student.relu(), teacher, torch.full((2,), 5.0).to(student)),
}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", FEATURES["cases"], ids=lambda case: case["loss"])
def test_a_distance_of_features_equals_the_vectors_in_value_and_gradient(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    student, teacher = (tensors(FEATURES["inputs"][case["inputs"]][who], dtype) for who in ("student", "teacher"))
    if case["loss"] == "ofd":
        found = partial_distance(student, teacher, torch.tensor(case["margin"], dtype=dtype))
    else:
        found = GAPS[case["loss"]](student, teacher)
    assert found.shape == (3,)
    compare(found.mean(), case["expected"], tolerance)
    compare(torch.autograd.grad(found.mean(), student)[0], case["gradient"], tolerance)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", FEATURES["cam_cases"], ids=lambda case: case["id"])
def test_class_activation_maps_equal_the_vectors_in_value_and_both_gradients(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    given = tensors(FEATURES["cam_inputs"][case["inputs"]], dtype)
    said, taught = (
        torch.einsum("kc,bchw->bkhw", given[f"{who}_classifier_weight"], given[f"{who}_map"])
        for who in ("student", "teacher")
    )
    objective = built("catkd", of_size(8), **case["params"])
    found = objective.gap(output(cams=said), output(cams=taught)).mean()
    compare(found, case["expected"], tolerance)
    asked = [given["student_map"], given["student_classifier_weight"]]
    for gradient, name in zip(torch.autograd.grad(found, asked), ("gradient", "weight_gradient"), strict=True):
        compare(gradient, case[name], tolerance)


def of_size(side: int) -> object:
    """Return a course of networks whose last maps have side x side places."""
    shapes = output(cams=torch.empty(1, 2, side, side))
    given = {"student_shapes": lambda: shapes, "teacher_shapes": lambda: shapes}
    return dataclasses.replace(between("resnet8", "resnet8x4"), **given)


@pytest.mark.parametrize("case", REVIEW["hcl"], ids=lambda case: case["id"])
def test_the_hierarchical_context_loss_equals_the_vectors(case: dict) -> None:
    student, teacher = ([tensors(one) for one in case["inputs"][f"{who}_maps"]] for who in ("student", "teacher"))
    found = sum(review.context_distance(*pair) for pair in zip(student, teacher, strict=True)).mean()
    compare(found, case["expected"], 1e-10)
    for gradient, expected in zip(torch.autograd.grad(found, student), case["grad_student_maps"], strict=True):
        compare(gradient, expected, 1e-10)


PARTS = {
    "conv1": "narrow.0.weight",
    "bn1_weight": "narrow.1.weight",
    "bn1_bias": "narrow.1.bias",
    "att_weight": "gates.weight",
    "att_bias": "gates.bias",
    "conv2": "widen.0.weight",
    "bn2_weight": "widen.1.weight",
    "bn2_bias": "widen.1.bias",
}


def fusion(weights: dict) -> nn.Module:
    """Return a fusion with weights of the vectors."""
    middle, inputs = len(weights["conv1"]), len(weights["conv1"][0])
    one = review.Fusion(inputs, middle, len(weights["conv2"]), "att_weight" in weights).double()
    for name, value in weights.items():
        part = one.get_parameter(PARTS[name])
        part.data = torch.tensor(value, dtype=torch.float64).view_as(part)
    return one


def compare_parts(one: nn.Module, expected: dict) -> None:
    for name, gradient in expected.items():
        part = one.get_parameter(PARTS[name])
        compare(part.grad.flatten(), torch.tensor(gradient, dtype=torch.float64).flatten().tolist(), 1e-8)


def test_a_fusion_equals_the_vectors_in_all_gradients() -> None:
    case = REVIEW["fusion"]
    given, one = case["inputs"], fusion(case["inputs"]["weights"])
    student, deeper, teacher = (tensors(given[k]) for k in ("student_map", "residual_from_deeper", "teacher_map"))
    out, left = one(student, deeper, teacher.shape[2:])
    compare(out, case["expected_output"], 1e-10)
    compare(left, case["expected_residual"], 1e-10)
    found = review.context_distance(out, teacher).mean()
    compare(found, case["expected"], 1e-10)
    found.backward()
    compare(student.grad, case["grad_student_map"], 1e-8)
    compare(deeper.grad, case["grad_residual"], 1e-8)
    compare_parts(one, case["grad_weights"])


def test_a_chain_of_fusions_equals_the_vectors_in_all_gradients() -> None:
    case = REVIEW["chain"]
    given = case["inputs"]
    fusions = [fusion(weights) for weights in given["weights_deep_to_shallow"]]
    student = [tensors(one) for one in given["student_maps_deep_to_shallow"]]
    teacher = [tensors(one) for one in reversed(given["teacher_maps_shallow_to_deep"])]
    outs = review.fused(fusions, student, [(size, size) for size in case["sizes"]])
    for out, expected in zip(outs, case["outputs"], strict=True):
        compare(out, expected, 1e-10)
    found = sum(review.context_distance(*pair) for pair in zip(outs, teacher, strict=True)).mean()
    compare(found, case["expected"], 1e-10)
    found.backward()
    for one, expected in zip(student, case["grad_student_maps_deep_to_shallow"], strict=True):
        compare(one.grad, expected, 1e-8)
    for one, expected in zip(fusions, case["grad_weights_deep_to_shallow"], strict=True):
        compare_parts(one, expected)


def test_margins_and_the_distance_of_stages_equal_the_vectors() -> None:
    case = OFD["stages"]
    student, teacher, weights, biases = (tuple(map(tensors, each)) for each in case["inputs"].values())
    objective = made("ofd")
    for n, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        found = margins(weight, bias)
        compare(found, case["margins"][n], 1e-10)
        setattr(objective, f"margin{n}", found)
    found = objective.gap(output(added=student), output(edges=teacher)).mean()
    compare(found, case["expected"], 1e-10)
    for gradient, expected in zip(torch.autograd.grad(found, student), case["grad_student_maps"], strict=True):
        compare(gradient, expected, 1e-10)


def test_a_connector_and_a_larger_map_of_the_teacher_equal_the_vectors() -> None:
    case = OFD["connector"]
    given = tensors(case["inputs"])
    margin = margins(given["teacher_bn_weight"], given["teacher_bn_bias"])
    compare(margin, case["margins"], 1e-10)
    connector = matching.regressor(2, 3).double()
    connector[0].weight.data, connector[1].weight.data, connector[1].bias.data = (
        given["connector"][name].data for name in ("conv", "bn_weight", "bn_bias")
    )
    found = partial_distance(connector(given["student_map"]), given["teacher_map_before_relu"], margin).mean()
    compare(found, case["expected"], 1e-10)
    found.backward()
    compare(given["student_map"].grad, case["grad_student_map"], 1e-8)
    for part, name in zip(connector.parameters(), ("conv", "bn_weight", "bn_bias"), strict=True):
        compare(part.grad, case["grad_connector"][name], 1e-8)


def test_two_steps_of_crd_equal_the_vectors_in_values_gradients_and_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    given, params = CRD["inputs"], CRD["params"]
    shapes = [output(prelogits=torch.empty(1, width)) for width in (2, 3)]
    of = dataclasses.replace(
        between("resnet8", "resnet8x4"),
        labels=torch.arange(6) % 2,
        student_shapes=lambda: shapes[0],
        teacher_shapes=lambda: shapes[1],
    )
    named = {"negatives": params["K"], "tau": params["tau"], "dimensions": params["d"], "weight": 1}
    objective = built("crd", of, momentum=params["momentum"], **named).double()
    for who in ("student", "teacher"):
        getattr(objective, f"{who}_memory").copy_(tensors(given[f"{who}_memory"]).detach())
        for part in ("weight", "bias"):
            getattr(objective, who).get_parameter(part).data = tensors(given[f"embed_{who}"][part]).data
    for step in CRD["steps"]:
        asked = torch.tensor(step["contrast_index"])
        assert asked[:, 0].tolist() == step["index"]
        monkeypatch.setattr(objective, "others", lambda batch, asked=asked: asked[:, 1:])
        said, taught = (tensors(step[f"{who}_feature"]) for who in ("student", "teacher"))
        logits, labels, index = torch.zeros(2, 2).double(), torch.tensor([0, 1]), torch.tensor(step["index"])
        batch = Batch((Output(logits, said),), (Output(logits, taught),), labels, index, torch.tensor(1.0))
        objective.zero_grad()
        found = (objective(batch) - math.log(2)).mean()
        compare(found, step["expected"], 1e-10)
        compare(objective.scales, step["Z"], 1e-10)
        found.backward()
        compare(said.grad, step["grad_student_feature"], 1e-10)
        for who in ("student", "teacher"):
            compare(getattr(objective, f"{who}_memory"), step[f"{who}_memory_after"], 1e-10)
            for part in ("weight", "bias"):
                gradient = getattr(objective, who).get_parameter(part).grad
                compare(gradient, step[f"grad_embed_{who}"][part], 1e-10)


def test_the_contrast_of_given_scores_equals_the_vectors() -> None:
    case = CRD["contrast"]
    scores = torch.tensor(case["scores"], dtype=torch.float64)
    found = contrast(scores.log(), (scores.shape[1] - 1) / case["examples"]).mean()
    compare(found, case["expected"], 1e-10)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", SDD["cases"], ids=lambda case: f"{case['loss']}-{case['inputs']}")
def test_the_distillation_of_regions_equals_the_vectors(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    given = SDD["inputs"][case["inputs"]]
    leaf, taught = (tensors(given[f"{who}_region_logits"], dtype) for who in ("student", "teacher"))
    labels = torch.tensor(given["labels"])
    said, taught = leaf.mT, taught.mT.detach()
    pair = said.flatten(0, 1), taught.flatten(0, 1)
    if case["loss"] == "sdd":
        each = kl(*pair, labels, tau=4.0)
    else:
        weights = {"tau": 4.0, "target": 1.0, "rest": 8.0, "warmup": 0, "ce": 0, "logits": "raw"}
        each = dkd(*pair, labels.repeat_interleave(said.shape[1]), epoch=torch.tensor(1), epochs=1, **weights)
    found = weighted(each.view(said.shape[:2]), taught, labels).mean()
    compare(found, case["expected"], tolerance)
    compare(torch.autograd.grad(found, leaf)[0], case["gradient"], tolerance)


# -- laws -------------------------------------------------------------------------------------------------------------


def said_by(network: nn.Module, name: str, images: Tensor, who: str) -> Output:
    return network.outputs(images, getattr(losses.LOSSES[name].needs, who)).float()


@functools.cache
def network(name: str, who: str = "student") -> nn.Module:
    """Return a network, the same each time; a teacher is frozen."""
    torch.manual_seed(0)
    return models.build(name, 2, 1)


@functools.cache
@torch.no_grad()
def shapes(name: str) -> Output:
    return network(name).eval().outputs(torch.rand(1, 1, 32, 32), ("maps", "edges", "cams"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("student", "teacher"), [("resnet8", "wrn-10-1"), ("wrn-10-1", "resnet8x4"), ("resnet18", "resnet8")]
)
def test_the_gradient_reaches_the_first_layer_of_any_family_and_never_the_teacher(
    name: str, student: str, teacher: str
) -> None:
    learner, master, images = network(student), network(teacher, "teacher"), torch.rand(4, 1, 32, 32)
    learner.zero_grad()
    given = {"student_shapes": lambda: shapes(student), "teacher_shapes": lambda: shapes(teacher)}
    of = dataclasses.replace(between(student, teacher), teacher=lambda: master, **given)
    small = {**SMALL, "catkd": {"resolution": 1}, "sdd": {"finest": 1}, "sdd_dkd": {"finest": 1}}  # resnet18's is 1x1
    objective = built(name, of, **small.get(name, {}))
    taught = LiveTeacher(master, CPU.device, says=losses.LOSSES[name].needs.teacher).output(LABELS, LABELS, images)
    said = said_by(learner.train(), name, images, "student")
    batch = Batch((objective.adapted(said),), (taught,), LABELS, torch.arange(4), torch.tensor(1.0))
    found = objective(batch)
    assert found.shape == (4,)
    soft = found if name == "sdd" else found - ce(said.logits, None, LABELS)
    soft.sum().backward()
    assert next(learner.parameters()).grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in master.parameters())
    assert all(parameter.grad is not None for parameter in objective.parameters())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("crd", "vid")])
def test_a_student_that_is_its_teacher_has_no_distance_where_nothing_is_adapted(name: str) -> None:
    objective = built(name, between("resnet8", "resnet8"), **SMALL.get(name, {}))
    said = said_by(network("resnet8").eval(), name, torch.rand(4, 1, 8, 8), "student")
    edges = said.edges or said.maps
    if name == "cc":
        objective.teacher = objective.student
    if name == "reviewkd":
        edges = said.prelogits[:, :, None, None], *reversed(said.edges)
    adapted = said._replace(added=edges if name != "fitnet" else (said.maps[1],))
    found = objective(Batch((adapted,), (said,), LABELS, torch.arange(4), torch.tensor(1.0)))
    share = 0.1 if name == "sdd" else 1.0
    torch.testing.assert_close(found, share * ce(said.logits, None, LABELS), rtol=1e-5, atol=1e-5)


def test_vid_is_least_where_the_map_is_the_teacher_s_and_the_variance_what_is_left() -> None:
    taught = torch.randn(5, 3, 4, 4).double()
    least = maps.unlikeliness(taught, taught, torch.full((3,), 0.2).double())
    assert least.allclose(torch.tensor(math.log(0.2) / 2).double())
    off = taught + 0.5
    found = {var: maps.unlikeliness(off, taught, torch.full((3,), var).double()).mean() for var in (0.2, 0.25, 0.3)}
    assert min(found, key=found.get) == 0.25


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_example_has_a_finite_loss(name: str) -> None:
    objective = made(name).eval()  # batch normalisation of one value per channel is refused before training
    said, taught = (
        said_by(network(one, who).eval(), name, torch.rand(1, 1, 8, 8), who)
        for one, who in (("resnet8", "student"), ("resnet8x4", "teacher"))
    )
    batch = Batch((objective.adapted(said),), (taught,), LABELS[:1], torch.tensor([3]), torch.tensor(1.0))
    found = objective(batch)
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), said.logits)[0].isfinite().all()


@pytest.mark.parametrize("name", ["reviewkd", "sdd_dkd"])
@pytest.mark.parametrize(("epochs", "warm"), [(240, 20), (10, 1), (1, 1)])
def test_a_warm_up_is_a_share_of_the_epochs(name: str, epochs: int, warm: int) -> None:
    objective = built(name, between("resnet8", "resnet8x4", epochs=epochs), **SMALL.get(name, {}))
    said, taught = (
        said_by(network(one, who).eval(), name, torch.rand(4, 1, 8, 8), who)
        for one, who in (("resnet8", "student"), ("resnet8x4", "teacher"))
    )
    said, hard = objective.adapted(said), ce(said.logits, None, LABELS)

    def counted(epoch: float) -> float:
        batch = Batch((said,), (taught,), LABELS, torch.arange(4), torch.tensor(epoch))
        return (objective(batch) - hard).sum().item()

    whole = counted(float(warm))
    assert counted(warm + 1.0) == whole
    assert counted(1.0) == pytest.approx(whole / warm, rel=1e-4)


def test_maps_that_are_averaged_equal_torch_s_and_small_ones_stay() -> None:
    given = torch.randn(2, 3, 8, 8)
    for size in ((4, 4), (2, 2), (3, 3), (8, 8)):
        torch.testing.assert_close(matching.pooled(given, size), adaptive_avg_pool2d(given, size))
    assert matching.pooled(given, (16, 16)) is given


@pytest.mark.parametrize("name", ["wrn-10-1", "resnet8", "resnet18"])
def test_the_mean_of_activation_maps_and_the_bias_are_the_logits_and_regions_their_parts(name: str) -> None:
    classifier = network(name).classifier
    nn.init.normal_(classifier.bias)
    size = 128 if name == "resnet18" else 16
    said = network(name).eval().outputs(torch.rand(2, 1, size, size), ("cams",))
    torch.testing.assert_close(said.cams.mean((2, 3)) + classifier.bias, said.logits)
    found = regions(said, 4)
    assert found.shape == (2, 21, 2)
    last = said.maps[-1]
    corner = classifier(last[:, :, :2, 2:].mean((2, 3)))  # the second of 2x2, row by row
    torch.testing.assert_close(found[:, 2], corner)
    torch.testing.assert_close(found[:, 1:5].mean(1), said.logits)


def test_the_margins_of_a_teacher_are_those_of_what_feeds_its_last_activations() -> None:
    """What a batch normalisation puts out has its bias and weight for mean and deviation, wherever it stands."""
    torch.manual_seed(0)
    for name in ("wrn-10-1", "resnet8", "resnet18"):
        assert [norm.num_features for norm in network(name).norms()] == [edge.shape[1] for edge in shapes(name).edges]
    wide = models.build("wrn-10-1", 2, 1).train()
    for norm in wide.norms():
        nn.init.normal_(norm.bias)
    said = wide.outputs(torch.rand(8, 1, 8, 8), ("edges",))
    for norm, edge in zip(wide.norms(), said.edges, strict=True):
        torch.testing.assert_close(edge.mean((0, 2, 3)), norm.bias, rtol=0, atol=1e-5)
    weight, bias = torch.tensor([1.0, -2.0, 0.0, 0.0, 0.1]), torch.tensor([0.3, -0.5, -0.7, 0.2, 9.0])
    sampled = torch.randn(400_000, 2) * weight[:2] + bias[:2]
    expected = [column[column < 0].mean().item() for column in sampled.unbind(1)]
    assert margins(weight, bias).tolist() == pytest.approx([*expected, -0.7, 0.0, -0.3], rel=1e-2, abs=1e-9)


# -- CRD --------------------------------------------------------------------------------------------------------------


def of_three_classes(negatives: int = 400) -> Objective:
    labels, train = torch.arange(30) % 3, torch.arange(5, 28)
    of = dataclasses.replace(between("resnet8", "resnet8x4", 3), labels=labels, train=train)
    return built("crd", of, negatives=negatives)


def asking(index: Tensor, epoch: float, labels: Tensor) -> Batch:
    return Batch((), (), labels, index, torch.tensor(epoch))


def test_the_others_of_crd_are_all_examples_of_other_classes_that_are_learnt_from() -> None:
    objective, index = of_three_classes(), torch.tensor([5, 6, 7, 12])
    labels = index % 3
    found = objective.others(asking(index, 1.0, labels))
    for row, label in zip(found, labels, strict=True):
        assert set(row.tolist()) == {number for number in range(5, 28) if number % 3 != label}
    again = of_three_classes().others(asking(index.flip(0), 1.0, labels.flip(0))).flip(0)
    assert found.equal(again)  # in whatever order they stand
    assert not found.equal(objective.others(asking(index, 2.0, labels)))
    assert len({tuple(row[:8].tolist()) for row in found}) == 4
    share = found[0].bincount(minlength=28).float().std() / found[0].bincount(minlength=28).float().mean()
    assert share < 1


def test_crd_remembers_its_own_batch_alone_at_unit_length_and_keeps_its_constants() -> None:
    objective = of_three_classes(8)
    before = objective.student_memory.clone()
    index = torch.tensor([6, 9])

    def step(seed: int) -> None:
        torch.manual_seed(seed)
        said = Output(torch.zeros(2, 3), torch.randn(2, 64))
        taught = Output(torch.zeros(2, 3), torch.randn(2, 256))
        objective(Batch((said,), (taught,), index % 3, index, torch.tensor(1.0)))

    step(0)
    scales = objective.scales.clone()
    assert (scales > 0).all()
    step(1)
    assert objective.scales.equal(scales)
    changed = (objective.student_memory != before).any(1).nonzero().squeeze(1)
    assert changed.equal(index)
    assert objective.teacher_memory[index].norm(dim=1).allclose(torch.ones(2))


def test_crd_of_one_class_is_refused() -> None:
    of = dataclasses.replace(between("resnet8", "resnet8x4"), labels=torch.zeros(9, dtype=torch.long))
    with pytest.raises(ConfigError, match="crd: all examples are of one class"):
        built("crd", of)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("fitnet", {"layer": 4}, "fitnet: layer: got 4; a network has 3 groups; allowed: 1 to 3"),
        (
            "catkd",
            {"resolution": 3},
            "resolution: got 3; the student's last map has 2x2 places; allowed: up to 2",
        ),
        ("sdd", {"finest": 4}, "sdd: finest: got 4; the student's last map has 2x2 places; allowed: up to 2"),
    ],
)
def test_what_the_networks_cannot_give_is_refused(name: str, given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(name, **given)


def test_networks_that_say_nothing_of_margins_or_of_places_are_refused() -> None:
    class Other(nn.Module):
        """A network of a user's own."""

    of = dataclasses.replace(between("resnet8", "resnet8x4"), teacher=Other)
    with pytest.raises(ConfigError, match="got a teacher, Other, that has no `norms`"):
        built("ofd", of)
    shapes = output(prelogits=torch.empty(1, 12), maps=(torch.empty(1, 3, 2, 2),))
    with pytest.raises(ConfigError, match="the teacher's pre-logits are not the mean of its last map"):
        built("catkd", dataclasses.replace(of, teacher_shapes=lambda: shapes))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("sdd", {"finest": 6}, "finest: got 6; allowed: a power of 2"),
        ("at", {"weight": 0}, "weight: got 0; allowed: a number from 1e-06"),
        ("crd", {"tau": 0.001}, "tau: got 0.001; allowed: a number from 0.02"),
        ("reviewkd", {"warmup": 2}, "warmup: got 2; allowed: a number from 0 to 1"),
        ("catkd", {"cams": "no"}, "cams: got 'no'; allowed: one of raw, unit"),
    ],
)
def test_a_hyperparameter_out_of_range_is_refused_by_name(name: str, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.LOSSES[name].resolve(given)


@pytest.mark.parametrize("name", ["sp", "rkd", "pkt", "cc", "crd"])
def test_what_couples_or_remembers_examples_is_refused_in_several_processes(name: str) -> None:
    chosen = {"teacher": "resnet14", "student": "resnet8", "loss": name}
    with pytest.raises(ConfigError, match="set gpus_per_cell: 1"):
        validate(values(gpus_per_cell=2, experiments={"a": chosen}))


# -- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_of_another_family_learns_and_what_it_learnt_by_is_not_published(project: Path) -> None:
    prepare()
    teacher = "results/digits/quick/resnet8.ce.s0"
    train(teacher)
    for loss in ("reviewkd", "crd-negatives32"):
        taught = f"{teacher}/wrn-10-1.{loss}.s0"
        assert train(taught)["status"] == "ok"
        weights = safetensors.torch.load_file(f"{taught}/model.safetensors")
        assert weights.keys() == models.build("wrn-10-1", 10, 1).state_dict().keys()
    assert len(list(Path("banks").rglob("manifest.json"))) == 1  # CRD reads pre-logits, ReviewKD runs the teacher


@pytest.mark.parametrize("name", ["mobilenetv2-half", "shufflenetv2"])
def test_a_network_that_widens_its_last_map_before_the_mean_has_activation_maps(name: str) -> None:
    of = dataclasses.replace(between("resnet8", "resnet8x4"), teacher_shapes=lambda: shapes(name))
    built("catkd", of)
    assert shapes(name).cams.shape[:2] == shapes(name).logits.shape
