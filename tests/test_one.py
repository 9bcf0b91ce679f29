"""ONE: the vectors, what its branches and gate learn, and cells that begin a lineage by it (arXiv 1806.04606)."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import prepare, recipe, study, train, written
from made.course import DTYPES, built, course, of_network, random_logits, vectors
from made.fitting import CPU, HEADER, StopAt, made_examples, network, plan, same
from torch import Tensor, nn
from torch.nn import functional

from kd import losses, models
from kd.core.errors import ConfigError, Terminated
from kd.losses.hard import ce
from kd.losses.objective import Batch
from kd.losses.one import One, ensemble
from kd.machine.footprint import gpu_bytes
from kd.machine.state import State
from kd.models.output import Output
from kd.report import table
from kd.study.expansion import all_cells
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.train import lesson, material
from kd.train.fit import History, fit

VECTORS = vectors("one")
NEEDS = losses.LOSSES["one"].needs


def made(classes: int = 4, **given: object) -> One:
    return built("one", of_network("resnet8", classes), **{"tau": 3, "branches": 3} | given)


def valued(objective: One, branches: Tensor, scores: Tensor | None, labels: Tensor, epoch: float) -> tuple:
    """Return the mean value, and its gradient by the logits of the branches [M, B, K] and by the gate's scores."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in (branches, scores) if leaf is not None]
    first, *others = leaves[0]
    said = Output(first, added=(*others, *leaves[1:]))
    value = objective(Batch((said,), (), labels, labels, torch.tensor(epoch))).mean()
    return value.detach(), *torch.autograd.grad(value, leaves)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["id"])
def test_value_and_gradient_equal_the_vectors(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    branches, scores = (torch.tensor(VECTORS["inputs"][key], dtype=dtype) for key in ("branch_logits", "gate_pre_relu"))
    labels = torch.tensor(VECTORS["inputs"]["labels"])
    value, *gradients = valued(made(), branches, scores, labels, case["epoch"] + 1.0)
    assert value.item() == pytest.approx(case["expected"], rel=tolerance)
    for found, key in zip(gradients, ("grad_branch_logits", "grad_gate_pre_relu"), strict=True):
        expected = torch.tensor(case[key], dtype=dtype)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())
    torch.testing.assert_close(
        ensemble(branches, torch.tensor(VECTORS["gate"], dtype=dtype)),
        torch.tensor(VECTORS["ensemble_logits"], dtype=dtype),
        rtol=tolerance,
        atol=tolerance,
    )


def test_kl_counts_as_published_over_its_share_of_the_epochs_and_to_the_end_of_a_short_run() -> None:
    objective = made()
    for epoch, expected in VECTORS["rampup"].items():
        assert float(objective.rising(torch.tensor(float(epoch) + 1))) == pytest.approx(expected, rel=1e-12)
    short = built("one", of_network("resnet8", 4, epochs=10), tau=3, branches=2)
    counted = [float(short.rising(torch.tensor(float(epoch)))) for epoch in range(1, 11)]
    assert counted[0] == pytest.approx(0.00674, abs=1e-5)
    assert counted == sorted(counted)
    assert counted[3:] == [1.0] * 7  # three epochs of ten
    assert made(rampup=0).rising(torch.tensor(1.0)) == 1.0


def test_equal_branches_have_nothing_to_learn_from_their_ensemble() -> None:
    logits, labels = random_logits(0, 6, 4), torch.arange(6) % 4
    branches, scores = logits.expand(3, -1, -1), random_logits(1, 6, 3)
    value, by_logits, _ = valued(made(), branches, scores, labels, 100.0)
    assert value.item() == pytest.approx(4 * ce(logits, None, labels).mean().item())
    without = valued(made(w=0), branches, scores, labels, 100.0)
    torch.testing.assert_close(by_logits, without[1])


def test_the_ensemble_that_teaches_has_no_gradient_of_the_kl() -> None:
    """The gate learns from cross-entropy alone."""
    branches, scores = random_logits(0, 18, 4).reshape(3, 6, 4), random_logits(1, 6, 3)
    labels = torch.arange(6) % 4
    found, without = (valued(made(w=w), branches, scores, labels, 100.0) for w in (1, 0))
    assert found[2].equal(without[2])
    assert found[2].abs().max() > 0
    assert not found[1].equal(without[1])


def test_a_gate_that_is_a_mean_holds_nothing_and_counts_branches_alike() -> None:
    objective, branches = made(gate="mean"), random_logits(0, 18, 4).reshape(3, 6, 4)
    labels = torch.arange(6) % 4
    value, _ = valued(objective, branches, None, labels, 100.0)
    assert value.item() == pytest.approx(valued(made(), branches, torch.zeros(6, 3), labels, 100.0)[0].item())
    assert {name.split(".")[0] for name, _ in objective.named_parameters()} == {"branches"}


def test_values_and_gradients_are_finite_at_logits_of_60_and_where_all_branches_agree() -> None:
    large = torch.tensor([[60.0, -60.0], [-60.0, 60.0], [0.0, 200.0]])
    for others in (large, -large, torch.zeros(3, 2)):
        for scores in (torch.zeros(3, 3), 60 * torch.eye(3)):
            found = valued(made(2), torch.stack([large, others, large]), scores, torch.tensor([0, 1, 0]), 100.0)
            assert all(each.isfinite().all() for each in found)


# -- branches ---------------------------------------------------------------------------------------------------------


def test_a_resnet32_of_three_branches_has_as_many_parameters_as_published() -> None:
    objective = built("one", of_network("resnet32", 100), tau=3, branches=3)
    plain, more = (sum(p.numel() for p in each.parameters()) for each in (models.build("resnet32", 100, 3), objective))
    assert (round(plain / 1e6, 3), round((plain + more) / 1e6, 3)) == (0.473, 1.193)


def test_branches_begin_with_weights_of_their_own_and_differ_after_training(tmp_path: Path) -> None:
    _, _, objective, student = trained(tmp_path)
    for heads in (
        [network().head(), *made(2).branches],  # as they begin
        [student.head(), *objective.branches],
    ):
        for one_, other in itertools.combinations([head[-1].weight for head in heads], 2):
            assert (one_ - other).abs().max() > 0.01


def trained(folder: Path, kind: type[One] = One, **given: object) -> tuple[dict, list, One, nn.Module]:
    """Train resnet8 by it on made images; return weights, rows, objective and network."""
    hyper = losses.LOSSES["one"].resolve({"tau": 3, "branches": 3} | given)
    torch.manual_seed(7)
    objective, student, history = kind(of_network("resnet8", 2, epochs=3), **hyper), network(), History()
    planned = plan(objective=objective, needs=NEEDS)
    fit(student, made_examples(heldout=10), planned, None, CPU, State(folder, HEADER), history)
    return student.state_dict(), history.rows, objective, student


class WithoutKl(One):
    """The cross-entropies alone, written apart."""

    def forward(self, batch: Batch) -> Tensor:
        said, labels = batch.student[0], batch.labels
        branches, gate = [said.logits, *said.added[:2]], said.added[2].relu().softmax(-1)
        return sum(ce(each, None, labels) for each in (*branches, ensemble(branches, gate)))


def test_w_0_trains_the_bytes_of_a_run_without_the_kl_and_w_1_others(tmp_path: Path) -> None:
    without = trained(tmp_path / "without", WithoutKl)
    none, some = (trained(tmp_path / str(w), w=w) for w in (0, 1))
    assert same(none[0], without[0])
    assert same(none[2].state_dict(), without[2].state_dict())
    assert none[1] == without[1]
    assert not same(some[0], without[0])


def test_what_branches_ensemble_and_gate_say_of_evaluated_images_are_columns(tmp_path: Path) -> None:
    _, rows, objective, student = trained(tmp_path)
    examples = made_examples(heldout=10)
    names = ["branch2_top1", "branch3_top1", "ensemble_top1", "gate1", "gate2", "gate3"]
    columns = [f"{part}_{name}" for part in ("test", "heldout") for name in ("loss", "top1", *names)]
    assert [name for name in rows[0] if name.startswith(("test_", "heldout_"))] == columns
    assert all(sum(row[f"test_gate{n}"] for n in (1, 2, 3)) == pytest.approx(1, abs=1e-6) for row in rows)
    assert rows[0]["test_gate1"] != rows[-1]["test_gate1"]
    with torch.no_grad():
        images = next(iter(examples.plain("test", torch.arange(40), 40)))
        said = objective.eval().adapted(student.eval().outputs(images, {"logits", "maps"}))
    second, third, scores = said.added
    gate = scores.relu().softmax(-1)
    together = sum(g[:, None] * z for g, z in zip(gate.T, (said.logits, second, third), strict=True))
    answers = {"": said.logits, "branch2_": second, "branch3_": third, "ensemble_": together}
    for name, logits in answers.items():
        right = (logits.argmax(1) == examples.test_labels).double().mean().item()
        assert rows[-1][f"test_{name}top1"] == pytest.approx(100 * right)
    for n, mean in enumerate(gate.mean(0).tolist(), 1):
        assert rows[-1][f"test_gate{n}"] == pytest.approx(mean, abs=1e-6)


class Headless(nn.Module):
    """A network that a plug-in might have."""


def test_a_network_that_cannot_be_branched_is_refused() -> None:
    of = dataclasses.replace(course(4), student=lambda number: Headless())
    with pytest.raises(ConfigError, match=r"loss one: got a network, Headless, .*; allowed: kd's own"):
        built("one", of, tau=3, branches=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"branches": 1}, "branches: got 1; allowed: a whole number from 2 to 16"),
        ({"branches": 2.5}, "branches: got 2.5; allowed: a whole number from 2 to 16"),
        ({"gate": "sum"}, "gate: got 'sum'; allowed: one of learned, mean"),
        ({"tau": "inf"}, "tau: got 'inf'; allowed: a number from"),
        ({"rampup": 80}, "rampup: got 80; allowed: a number from 0 to 1"),
    ],
)
def test_what_it_cannot_be_is_refused_with_what_is_allowed(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.LOSSES["one"].resolve({"tau": 3, "branches": 3} | given)


# -- cells ------------------------------------------------------------------------------------------------------------

FIRST = "results/digits/quick/resnet8.one-tau3-branches3.s0"


def test_a_path_spells_it_and_it_begins_a_lineage() -> None:
    cell = parse_cell(FIRST)
    assert cell.stage.objective.resolved == {"tau": 3, "branches": 3, "gate": "learned", "rampup": 0.267, "w": 1}
    assert not cell.reads_banks(study().protocol)
    ablated = parse_cell("results/digits/quick/resnet8.one-tau3-branches2-gatemean-w0.s0/resnet8.mse.s1")
    assert ablated.teacher.stage.objective.resolved["gate"] == "mean"
    for path in (f"{FIRST}/resnet8.one-tau3-branches3.s0", FIRST.replace("-branches3", "-branches3-w1")):
        with pytest.raises(ConfigError, match=f"this recipe's path is {FIRST}"):
            parse_cell(path)
    with pytest.raises(ConfigError, match="branches: got '1'; allowed: a whole number from 2 to 16"):
        parse_cell(FIRST.replace("branches3", "branches1"))


def test_a_study_compares_it_with_networks_that_have_a_teacher_and_lets_it_teach() -> None:
    hyper = {"tau": 3, "branches": 3}
    two = {"teacher": "resnet14", "student": "resnet8", "loss": ["ce", {"kl": {"tau": 3}}, {"one": hyper}]}
    found = [cell.path for cell in all_cells(study(seeds=[0], experiments={"a": two}))]
    assert FIRST in found
    taught = {"teacher": "resnet8", "teacher_loss": {"one": hyper}, "student": "resnet8", "loss": "mse"}
    assert f"{FIRST}/resnet8.mse.s0" in [cell.path for cell in all_cells(study(seeds=[0], experiments={"a": taught}))]
    with pytest.raises(ConfigError, match="branches: required; allowed: a whole number from 2 to 16"):
        study(experiments={"a": {**two, "loss": {"one": {"tau": 3}}}})


@pytest.mark.slow
def test_what_is_published_is_a_plain_network_that_may_teach_and_its_table_has_branches_and_gate(
    project: Path,
) -> None:
    hyper = {"tau": 3, "branches": 3}
    of = {"student": "resnet8", "loss": [{"one": hyper}, {"one": {**hyper, "gate": "mean"}}, "ce"]}
    taught = {"teacher": "resnet8", "teacher_loss": {"one": hyper}, "student": "resnet8", "loss": "mse"}
    made_study = study(seeds=[0], experiments={"a": of, "b": taught})
    prepare()
    manifests = {cell.path: train(cell, made_study) for cell in all_cells(made_study)}
    first = manifests[FIRST]
    plain = models.build("resnet8", 10, 1)
    weights = safetensors.torch.load_file(f"{FIRST}/model.safetensors")
    assert weights.keys() == plain.state_dict().keys()
    plain.load_state_dict(weights)
    assert first["parameters"] == sum(p.numel() for p in plain.parameters())
    head = sum(p.numel() for p in plain.head().parameters())
    assert first["objective_parameters"] == 2 * head + 3 * 32 + 3 + 6
    assert manifests[f"{FIRST}/resnet8.mse.s0"]["objective_parameters"] == 0
    assert manifests[f"{FIRST}/resnet8.mse.s0"]["status"] == "ok"
    epochs = pd.read_csv(f"{FIRST}/metrics.csv")
    names = ["test_branch2_top1", "test_branch3_top1", "test_ensemble_top1", "test_gate1", "test_gate2", "test_gate3"]
    assert set(names) <= set(epochs)
    rows = pd.read_csv(written(table.collect(made_study, Judge.of_study(made_study)), project) / "table.csv")
    rows = rows[rows["experiment"] == "a"].set_index("objective")
    one = rows.loc["one-tau3-branches3"]
    assert one[names].tolist() == epochs[names].iloc[-1].tolist()
    assert (one["branches"], one["gate"], one["w"]) == (3, "learned", 1)
    assert (one["parameters"], one["objective_parameters"]) == (first["parameters"], first["objective_parameters"])
    assert rows.loc["one-tau3-branches3-gatemean", names[3:]].tolist() == pytest.approx([1 / 3] * 3)
    assert rows.loc["ce", names].isna().all()


def test_what_is_published_is_run_by_code_without_kd_to_the_accuracy_that_is_recorded(project: Path) -> None:
    prepare()
    manifest, cell = train(FIRST), parse_cell(FIRST)
    examples = material.prepared(cell, recipe(cell)).examples
    images = torch.cat(list(examples.plain("test", torch.arange(len(examples.test_labels)), 100)))
    weights = safetensors.torch.load_file(f"{FIRST}/model.safetensors")
    logits = resnet8(weights, images)
    right = (logits.argmax(1) == examples.test_labels).double().mean().item()
    assert manifest["last"]["test_top1"] == pytest.approx(100 * right)
    student = models.build("resnet8", 10, 1)
    student.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(student.eval()(images), logits, rtol=1e-4, atol=1e-4)


def resnet8(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Return the logits of a plain ResNet8, written without kd."""

    def convolved(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance, scale, shift = (
            weights[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, scale, shift)

    x = convolved(images, "stem", "norm").relu()
    for block, stride in (("stage1.0", 1), ("stage2.0", 2), ("stage3.0", 2)):
        residual = convolved(x, f"{block}.conv1", f"{block}.norm1", stride).relu()
        residual = convolved(residual, f"{block}.conv2", f"{block}.norm2")
        if stride > 1:
            x = convolved(x, f"{block}.shortcut.0", f"{block}.shortcut.1", stride)
        x = (x + residual).relu()
    return functional.linear(x.mean((2, 3)), weights["classifier.weight"], weights["classifier.bias"])


@pytest.mark.slow
def test_a_stopped_cell_goes_on_to_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare()
    train(FIRST)
    straight = {name: Path(FIRST, name).read_bytes() for name in ("model.safetensors", "metrics.csv")}
    Path("results").rename("straight")
    forward, stop = One.forward, StopAt(20)  # in the second of three epochs

    def stopping(self: One, batch: Batch) -> Tensor:
        stop(batch.student[0].logits, None, batch.labels)
        return forward(self, batch)

    monkeypatch.setattr(One, "forward", stopping)
    with pytest.raises(Terminated):
        train(FIRST)
    assert not Path(FIRST).exists()
    train(FIRST)
    assert {name: Path(FIRST, name).read_bytes() for name in straight} == straight


def test_its_branches_count_in_the_share_of_a_gpu(project: Path) -> None:
    prepare()
    cell = parse_cell(FIRST)
    have = material.prepared(cell, recipe(cell))
    planned = lesson.plan_of(cell, study().protocol, have)
    objective, batch = planned.objective.to("meta"), planned.batch
    plain, more = (gpu_bytes("resnet8", 10, have.examples, batch, 0, held, NEEDS.student) for held in (None, objective))
    last = 4 * batch * 64 * 2 * 2  # bytes of a map of the last group: digits are 8x8
    learned = sum(p.numel() for p in objective.parameters())
    assert more - plain > 3 * 4 * learned + 2 * 6 * last
