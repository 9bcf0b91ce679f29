"""Losses of logits that the field compares: the vectors, and the laws that tie them together and to KL."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import prepare, train, values
from made.course import DTYPES, evaluate, function_of, logits_of, random_logits, vectors, without_ce
from torch import Tensor

from kd.core.errors import ConfigError
from kd.losses import LOSSES
from kd.losses.kl import compared, log_probabilities
from kd.losses.powers import alpha_beta
from kd.losses.trusting import promoted, swapped
from kd.study.config import validate
from kd.study.paths import parse_cell
from kd.study.values import loss_choice

VECTORS = vectors("logit_losses")
NEW = sorted({case["loss"] for case in VECTORS["cases"]} - {"kl"})
WARMED = ("dkd", "gdkd", "rld")
STUDENT, TEACHER, LABELS = random_logits(0), random_logits(1), torch.tensor([0, 3, 9, 2, 5, 5])
RIGHT = TEACHER.argmax(-1)  # labels of which the teacher is sure


def of(name: str, student: Tensor = STUDENT, teacher: Tensor = TEACHER, labels: Tensor = LABELS, **given) -> Tensor:
    """Return the values [B] of a loss without cross-entropy."""
    return evaluate(name, student, teacher, labels, **{**without_ce(name), **given})[0]


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: f"{case['loss']}-{case['id']}")
def test_value_and_gradient_equal_the_vectors(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    student, teacher, labels = logits_of(VECTORS["inputs"][case["inputs"]], dtype)
    # unchecked: of ABKD there are cases with negative powers
    given = {name: parameter.default for name, parameter in LOSSES[case["loss"]].parameters.items()} | case["params"]
    leaf = student.requires_grad_()
    values = function_of(case["loss"], case.get("epoch", 240), 240)(leaf, teacher, labels, **given)
    assert values.shape == labels.shape
    assert values.dtype == dtype
    assert values.mean().item() == pytest.approx(case["expected"], rel=tolerance)
    (gradient,) = torch.autograd.grad(values.mean(), leaf)
    expected = torch.tensor(case["gradient"], dtype=dtype)
    torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance * expected.abs().max())


@pytest.mark.parametrize("name", NEW)
def test_values_and_gradients_are_finite_where_networks_are_sure_or_agree(name: str) -> None:
    teacher = torch.tensor(
        [
            [60.0, -60, 0, 1, 2],
            [-60, 60, 60, -60, 0],
            [0] * 5,
            [0, 200, 0, 0, 0],
            [-200, 0, -1e4, 0, 1],
            [1, 2, 3, 4, 5],
        ]
    )
    given = {"k": 2} if name == "gdkd" else {}
    for student in (teacher, -teacher, teacher.flip(0), torch.zeros(6, 5), 1e-30 * teacher):
        for labels in (torch.arange(6) % 5, teacher.argmax(-1), teacher.argmin(-1)):
            values, gradient = evaluate(name, student, teacher, labels, **given)
            assert values.isfinite().all()
            assert gradient.isfinite().all()


# -- decoupled --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_kl_is_tckd_and_nckd_times_what_the_teacher_leaves_to_the_others(tau: float) -> None:
    target, rest = (of("dkd", tau=tau, target=one, rest=1 - one) for one in (1, 0))
    p_y = (TEACHER / tau).softmax(-1).gather(-1, LABELS[:, None]).squeeze(-1)
    torch.testing.assert_close(target + (1 - p_y) * rest, of("kl", tau=tau))


def test_kl_is_the_parts_of_gdkd_weighed_by_what_the_teacher_gives_to_them() -> None:
    parts = {"groups": 0, "inside": 0, "rest": 0}
    groups, inside, rest = (of("gdkd", tau=2, k=3, **{**parts, one: 1}) for one in parts)
    mass = (TEACHER / 2).softmax(-1).sort(-1, descending=True).values[:, :3].sum(-1)
    torch.testing.assert_close(groups + mass * inside + (1 - mass) * rest, of("kl", tau=2))


def test_gdkd_of_one_class_is_dkd_where_the_teacher_is_right_and_only_there() -> None:
    own = {"tau": 4, "rest": 6}
    one = of("gdkd", k=1, groups=2, **own)
    torch.testing.assert_close(one, of("dkd", labels=RIGHT, target=2, **own))
    assert ((one - of("dkd", target=2, **own)).abs() > 1e-3)[LABELS != RIGHT].all()


def test_gdkd_in_both_directions_is_the_mean_of_the_two() -> None:
    forward, reverse, both = (of("gdkd", direction=one, groups=0) for one in ("forward", "reverse", "both"))
    torch.testing.assert_close(both, (forward + reverse) / 2)
    assert not forward.allclose(reverse)


def test_gdkd_refuses_as_many_classes_as_there_are() -> None:
    with pytest.raises(ConfigError, match="loss gdkd: k: got 10; allowed: a whole number from 1 to 9 of 10 classes"):
        of("gdkd", k=10)


def test_nkd_has_the_gradient_of_a_sure_ce_and_of_nckd() -> None:
    """The teacher's entropies have none."""
    slope = evaluate("nkd", STUDENT, TEACHER, LABELS, ce=0, tau=3, rest=2)[1]
    nckd = evaluate("dkd", STUDENT, TEACHER, LABELS, ce=0, tau=3, target=0, rest=2)[1]
    p_y = TEACHER.softmax(-1).gather(-1, LABELS[:, None])
    torch.testing.assert_close(slope, nckd + p_y * evaluate("ce", STUDENT, None, LABELS)[1])


@pytest.mark.parametrize("name", WARMED)
@pytest.mark.parametrize(("epochs", "warm"), [(240, 20), (10, 1), (1, 1), (100, 8)])
def test_the_warm_up_is_a_share_of_the_epochs_and_leaves_ce_alone(name: str, epochs: int, warm: int) -> None:
    ce, full = evaluate("ce", STUDENT, None, LABELS)[0], of(name)
    for epoch in {1, max(1, warm // 2), warm, epochs}:
        values = evaluate(name, STUDENT, TEACHER, LABELS, epoch, epochs, ce=2)[0]
        torch.testing.assert_close(values, 2 * ce + min(epoch / warm, 1) * full)


# -- logits as they are compared --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kl", "dkd", "rld"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_standardised_logits_have_no_scale_and_no_shift(name: str, scale: float) -> None:
    as_it_is = of(name, tau=2, logits="standardised")
    for student, teacher in ((scale * STUDENT + 5, TEACHER), (STUDENT, scale * TEACHER - 7)):
        torch.testing.assert_close(
            of(name, student, teacher, tau=2, logits="standardised"), as_it_is, rtol=1e-5, atol=1e-7
        )
    assert not of(name, 3 * STUDENT, tau=2).allclose(of(name, tau=2), rtol=1e-2)
    torch.testing.assert_close(compared(STUDENT, "standardised").std(-1), torch.ones(6, dtype=torch.float64))


def test_standardised_kl_at_infinite_tau_says_one_minus_the_correlation() -> None:
    limit = of("kl", tau="inf", logits="standardised")
    correlation = torch.stack([torch.corrcoef(pair)[0, 1] for pair in torch.stack([STUDENT, TEACHER], 1)])
    torch.testing.assert_close(limit, (1 - correlation) * 9 / 10, rtol=1e-5, atol=0)  # deviations are of 9 of 10
    torch.testing.assert_close(of("kl", tau=1e4, logits="standardised"), limit, rtol=1e-3, atol=0)


def test_normkd_is_standardised_kl_times_the_variance_of_the_teacher() -> None:
    standardised = of("kl", tau=2, logits="standardised")
    torch.testing.assert_close(of("normkd", tau=2), TEACHER.var(-1) * standardised, rtol=1e-5, atol=0)


# -- powers -----------------------------------------------------------------------------------------------------------


def ab(a: float, b: float, tau: float = 1.0) -> Tensor:
    return of("abkd", tau=tau, teacher_power=a, student_power=b, weight=1)


def test_abkd_is_kl_reverse_kl_hellinger_and_two_squared_errors_at_its_corners() -> None:
    p, q = (TEACHER.softmax(-1), STUDENT.softmax(-1))
    torch.testing.assert_close(ab(1, 0), of("kl", tau=1))
    torch.testing.assert_close(ab(0, 1), of("reverse_kl", tau=1))
    torch.testing.assert_close(ab(1, 1), (p - q).square().sum(-1) / 2)
    torch.testing.assert_close(ab(0.5, 0.5), 2 * (p.sqrt() - q.sqrt()).square().sum(-1))
    torch.testing.assert_close(ab(0, 0), (p.log() - q.log()).square().sum(-1) / 2)


@pytest.mark.parametrize("pair", [(1, 0), (0, 1), (0.5, 0), (0, 2), (0, 0), (0.5, -0.5), (-0.5, 0.5)])
def test_abkd_is_continuous_at_its_limits(pair: tuple[float, float]) -> None:
    """The released code halves or doubles some of them."""
    p, q = log_probabilities(TEACHER, 1), log_probabilities(STUDENT, 1)
    limit = alpha_beta(p, q, *pair)
    assert (limit > 0).all()
    for step in (1e-4, -1e-4):
        near = alpha_beta(p, q, pair[0] + step, pair[1] + 2 * step)
        torch.testing.assert_close(near, limit, rtol=5e-3, atol=0)


def test_abkd_exchanges_its_powers_where_teacher_and_student_change_places() -> None:
    p, q = log_probabilities(TEACHER, 4), log_probabilities(STUDENT, 4)
    torch.testing.assert_close(alpha_beta(p, q, 0.8, 0.3), alpha_beta(q, p, 0.3, 0.8))


def test_abkd_with_powers_of_zero_is_kl_at_infinite_tau_and_a_squared_mean() -> None:
    """A third arm beside KL at infinite tau and MSE: the mean that is left in is that of normalised logits."""
    gap = STUDENT.log_softmax(-1) - TEACHER.log_softmax(-1)
    torch.testing.assert_close(ab(0, 0) / 10, of("kl", tau="inf") + gap.mean(-1).square() / 2)


def test_ttm_of_power_one_is_kl_and_wttm_counts_an_example_as_its_teacher_is_unsure() -> None:
    assert of("ttm", power=1, weight=1).allclose(of("kl", tau=1))
    torch.testing.assert_close(of("wttm", power=1, weight=1), of("kl", tau=1))
    counted = TEACHER.softmax(-1).pow(0.3).sum(-1)
    torch.testing.assert_close(of("wttm", power=0.3, weight=2), counted * of("ttm", power=0.3, weight=2))
    torch.testing.assert_close(of("ttm", power=0.25, weight=1), of("kl", 4 * STUDENT, tau=4) / 16)


def test_ofa_with_power_one_has_the_gradient_of_kl_without_tau_squared() -> None:
    slope = evaluate("ofa", STUDENT, TEACHER, LABELS, ce=0, tau=2, power=1)[1]
    torch.testing.assert_close(slope, evaluate("kl", STUDENT, TEACHER, LABELS, tau=2, scale="one")[1])


# -- what an example counts, and correlations -------------------------------------------------------------------------


def test_eakd_counts_an_example_of_unsure_networks_more_and_without_gradient() -> None:
    flat = torch.zeros(6, 10, dtype=torch.float64)
    counted = of("eakd") / of("kl", tau=4)
    assert (counted < math.log(10)).all()
    torch.testing.assert_close(
        of("eakd", flat, 1e-3 * TEACHER) / of("kl", flat, 1e-3 * TEACHER, tau=4),
        torch.full((6,), math.log(10), dtype=torch.float64),
        rtol=1e-6,
        atol=0,
    )
    slope = evaluate("eakd", STUDENT, TEACHER, LABELS, alpha=1)[1]
    torch.testing.assert_close(slope, counted[:, None] * evaluate("kl", STUDENT, TEACHER, LABELS, tau=4)[1])


def test_dist_is_zero_where_the_student_is_correlated_and_compares_examples() -> None:
    correlated = 4 * (0.3 * (TEACHER / 4).softmax(-1) + 0.07).log()
    for student in (TEACHER, correlated):
        assert of("dist", student).max() < 2e-4  # left by what is added to what it divides by
    assert of("kl", correlated, tau=4).min() > 0.5
    whole = of("dist", inter=0)
    assert (whole == whole[0]).all()
    torch.testing.assert_close(of("dist", STUDENT[:3], TEACHER[:3], LABELS[:3], intra=0), of("dist", intra=0)[:3])
    assert not of("dist", STUDENT[:3], TEACHER[:3], LABELS[:3], inter=0).allclose(whole[:3])


@pytest.mark.parametrize("name", ["dist", "revision"])
def test_what_compares_the_examples_of_a_batch_is_refused_with_several_processes(name: str) -> None:
    chosen = {"teacher": "resnet14", "student": "resnet8", "loss": name}
    with pytest.raises(ConfigError, match=rf"loss: {name} compares or remembers examples, .*; set gpus_per_cell: 1"):
        validate(values(gpus_per_cell=2, experiments={"a": chosen}))


# -- those that trust the label ---------------------------------------------------------------------------------------


def test_swapping_exchanges_two_logits_and_promoting_keeps_the_order_of_the_others() -> None:
    told, labels = torch.tensor([[5.0, 4.0, 3.0, 9.0, 1.0]]), torch.tensor([1])
    assert swapped(told, labels).tolist() == [[5, 9, 3, 4, 1]]
    assert promoted(told, labels).tolist() == [[4, 9, 3, 5, 1]]
    ties = torch.tensor([[2.0, 7.0, 7.0, 0.0]])
    assert swapped(ties, torch.tensor([3])).tolist() == [[2, 0, 7, 7]]
    assert promoted(ties, torch.tensor([3])).tolist() == [[0, 7, 2, 7]]


@pytest.mark.parametrize("name", ["swap", "sortkd"])
def test_where_the_teacher_is_right_they_are_kl(name: str) -> None:
    assert of(name, labels=RIGHT, tau=2).equal(of("kl", labels=RIGHT, tau=2))
    ranks = (TEACHER.gather(-1, LABELS[:, None]) < TEACHER).sum(-1)
    agree = of("swap", tau=2).isclose(of("sortkd", tau=2))
    assert agree[ranks < 2].all()
    assert not agree[ranks > 1].any()
    assert (ranks > 1).sum() > 0


def test_sld_is_swap_at_six_temperatures_and_later_teaches_itself() -> None:
    each = sum(of("swap", tau=tau) for tau in range(1, 7))
    own = sum(of("swap", STUDENT, STUDENT, tau=tau) for tau in range(1, 7))
    for epochs, last in ((240, 150), (10, 6), (2, 1)):
        torch.testing.assert_close(of("sld", epoch=last, epochs=epochs), each)
        torch.testing.assert_close(of("sld", epoch=last + 1, epochs=epochs), each + own)
    assert of("sld", start=1, epoch=10, epochs=10).equal(of("sld", epoch=1))


def test_rld_wants_the_teachers_sureness_of_the_label_and_reads_nothing_above_it() -> None:
    alone = {"rest": 0, "target_tau": 1}
    torch.testing.assert_close(of("rld", labels=RIGHT, **alone), of("dkd", labels=RIGHT, tau=1, target=1, rest=0))
    torch.testing.assert_close(of("rld", labels=RIGHT, target=0), of("dkd", labels=RIGHT, target=0))
    above = TEACHER.gather(-1, LABELS[:, None]) < TEACHER
    moved = TEACHER + 2 * above
    torch.testing.assert_close(of("rld", teacher=moved, target=0), of("rld", target=0))
    last = TEACHER.argmin(-1)
    values, gradient = evaluate("rld", STUDENT, TEACHER, last, ce=0, target=0)
    assert values.count_nonzero() == gradient.count_nonzero() == 0


def test_revision_learns_logits_where_the_teacher_is_right_and_else_a_mixture() -> None:
    ce, right = evaluate("ce", STUDENT, None, RIGHT)[0], of("revision", labels=RIGHT)
    torch.testing.assert_close(right, ce + 4 * of("mse"))
    wrong = (RIGHT + 1) % 10
    p, q = TEACHER.softmax(-1), STUDENT.softmax(-1)
    trust = 0.8 / (p.amax(-1) - p[torch.arange(6), wrong] + 1)
    target = trust[:, None] * p + (1 - trust[:, None]) * torch.nn.functional.one_hot(wrong, 10)
    torch.testing.assert_close(of("revision", labels=wrong, wrong=3), 3 * (q - target).square().mean(-1))
    half = torch.where(torch.arange(6) < 2, RIGHT, wrong)  # a third of the batch, which counts as much as the rest
    mixed = of("revision", labels=half)
    torch.testing.assert_close(mixed[:2], 3 * right[:2])
    torch.testing.assert_close(mixed[2:], 1.5 * of("revision", labels=wrong)[2:])


# -- hyperparameters and cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("dkd", {"target": -1}, r"dkd\.target: got -1; allowed: a number from 0 to 1e\+06"),
        ("dkd", {"alpha": 1}, r"dkd\.alpha: unknown; known: ce, logits, rest, target, tau, warmup"),
        ("dkd", {"warmup": 20}, r"dkd\.warmup: got 20; allowed: a number from 0 to 1"),
        ("gdkd", {"k": 0}, r"gdkd\.k: got 0; allowed: a whole number from 1"),
        ("gdkd", {"direction": "back"}, r"gdkd\.direction: got 'back'; allowed: one of forward, reverse, both"),
        ("kl", {"tau": 1, "logits": "z"}, r"kl\.logits: got 'z'; allowed: one of raw, standardised"),
        ("abkd", {"student_power": -0.5}, r"abkd\.student_power: got -0\.5; allowed: a number from 0 to 2"),
        ("revision", {"eta": 1.5}, r"revision\.eta: got 1\.5; allowed: a number from 1e-06 to 1"),
        ("sld", {"start": 150}, r"sld\.start: got 150; allowed: a number from 0 to 1"),
        ("normkd", {"alpha": 2}, r"normkd\.alpha: got 2; allowed: a number from 0 to 1"),
    ],
)
def test_a_hyperparameter_out_of_range_is_refused_with_what_is_allowed(name: str, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_choice(name, given)


@pytest.mark.parametrize(
    "objective",
    [
        "dkd-tau2-target9-rest72-logitsstandardised",
        "gdkd-k3-groups2-directionboth",
        "rld-tau2-target_tau3-target2",
        "abkd-teacher_power0-student_power1",
        "eakd-tau2-entropy_tau1-alpha1",
        "kl-tau2-alpha0.9-weight10-logitsstandardised",
    ],
)
def test_a_path_spells_what_a_weight_weighs(objective: str) -> None:
    path = f"results/cifar100/paper/wrn-28-4.ce.s0/wrn-16-2.{objective}.s0"
    assert parse_cell(path).path == path


@pytest.mark.slow
def test_each_trains_a_student_whose_teacher_a_bank_holds(project: Path) -> None:
    prepare()
    teacher = "results/digits/quick/resnet14.ce.s0"
    train(teacher)
    for name in [*NEW, "kl-tau2-logitsstandardised"]:
        assert train(f"{teacher}/resnet8.{name}.s0")["status"] == "ok"
