"""Losses against reference values and the laws that tie them together.

Reference values: the vectors (arXiv 1503.02531, 2105.08919), torch, KL in 60 decimal digits. All else is by law.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from decimal import Decimal, localcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made.course import evaluate, function_of, without_ce
from made.fitting import logits

from kd.core.errors import ConfigError
from kd.losses import (
    ENSEMBLES,
    LOSSES,
    Choice,
    Loss,
    Number,
    Whole,
    built,
    correlations,
    decoupled,
    divergences,
    ensembles,
    examplewise,
    features,
    hard,
    module_of,
    powers,
    robust,
    trusting,
)
from kd.losses.kl import LOSSES as KL
from kd.losses.mse import LOSSES as MSE

VECTORS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "vectors").glob("*.json")}
CASES = [
    pytest.param(case.get("loss", "kl"), vector["inputs"][case["inputs"]], case, id=f"{name}-{case['id']}")
    for name, vector in VECTORS.items()
    if name in ("hinton_kd", "mse_logit", "divergences")
    for case in vector["cases"]
]
TEACHERS = VECTORS["ensemble_teacher"]
LN2 = math.log(2)
PURE = {name: loss for name, loss in LOSSES.items() if function_of(name)}
ALONE = [name for name, loss in PURE.items() if not loss.batchwise]  # each example by itself
READ_LABELS = {"dkd", "nkd", "rld", "swap", "sld", "sortkd", "revision", "ofa"}  # also without cross-entropy
ALPHAS = [(name, alpha) for name, loss in PURE.items() if "alpha" in loss.parameters for alpha in (0.0, 1.0)]


def exact_kl(student: list[float], teacher: list[float], tau: float) -> tuple[float, list[float]]:
    """Return tau^2 KL and its gradient from the definition, in 60 digits."""
    with localcontext(prec=60):
        scale = Decimal(tau)
        log_s, log_t = (_log_softmax([Decimal(z) / scale for z in row]) for row in (student, teacher))
        value = sum(t.exp() * (t - s) for s, t in zip(log_s, log_t, strict=True)) * scale * scale
        return float(value), [float(scale * (s.exp() - t.exp())) for s, t in zip(log_s, log_t, strict=True)]


def _log_softmax(row: list[Decimal]) -> list[Decimal]:
    total = sum((z - max(row)).exp() for z in row).ln() + max(row)
    return [z - total for z in row]


# --- reference values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"])
@pytest.mark.parametrize(("name", "inputs", "case"), CASES)
def test_loss_equals_the_vectors_in_value_and_gradient(name, inputs, case, dtype, tolerance):
    """Fault 27: tau squared and the mean over the batch, by values computed elsewhere in float64."""
    student, teacher = (torch.tensor(inputs[key], dtype=dtype) for key in ("student", "teacher"))
    values, gradient = evaluate(name, student, teacher, torch.tensor(inputs["labels"]), **case["params"])
    assert values.shape == (len(student),)
    assert values.dtype == dtype
    assert values.mean().item() == pytest.approx(case["expected"], rel=tolerance)
    expected = torch.tensor(case["gradient"], dtype=dtype)
    torch.testing.assert_close(gradient / len(student), expected, rtol=tolerance, atol=tolerance * expected.abs().max())


def test_kl_and_mse_equal_the_hand_check():
    student, teacher = torch.tensor([[LN2, LN2, 0.0]]).double(), torch.tensor([[2 * LN2, LN2, 0.0]]).double()
    assert evaluate("kl", student, teacher, tau=1)[0].item() == pytest.approx(
        4 / 7 * math.log(10 / 7) + 3 / 7 * math.log(5 / 7), rel=1e-7
    )
    assert evaluate("mse", student, teacher)[0].item() == pytest.approx(LN2**2 / 3, rel=1e-6)
    assert evaluate("kl", student, teacher, tau="inf")[0].item() == pytest.approx(LN2**2 / 9, rel=1e-6)


def test_soft_cross_entropy_is_kl_plus_the_entropy_of_the_teacher():
    vector = VECTORS["hinton_kd"]
    expected, tau = vector["soft_ce_tau4"]["expected"], vector["soft_ce_tau4"]["tau"]
    student, teacher = (torch.tensor(vector["inputs"]["small"][key]).double() for key in ("student", "teacher"))
    log_p = (teacher / tau).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    soft = evaluate("kl", student, teacher, tau=tau)[0] + tau**2 * entropy
    assert soft.mean().item() == pytest.approx(expected, rel=1e-7)  # the vector's logits are exact in float32


def test_ce_equals_torch():
    student, labels = logits(0), torch.tensor([0, 3, 9, 2])
    values, gradient = evaluate("ce", student, None, labels)
    torch.testing.assert_close(values, torch.nn.functional.cross_entropy(student, labels, reduction="none"))
    torch.testing.assert_close(gradient, student.softmax(-1) - torch.nn.functional.one_hot(labels, 10))


def test_smoothl1_equals_torch():
    student, teacher = logits(0, spread=1), logits(1, spread=1)
    for beta in (0.1, 1.0, 3.0):
        values, gradient = evaluate("smoothl1", student, teacher, beta=beta)
        leaf = student.clone().requires_grad_()
        reference = torch.nn.functional.smooth_l1_loss(leaf, teacher, beta=beta, reduction="none").mean(-1)
        torch.testing.assert_close(values, reference.detach())
        torch.testing.assert_close(gradient, torch.autograd.grad(reference.sum(), leaf)[0])


@pytest.mark.parametrize("tau", [0.01, 0.1, 1, 4, 20, 1e2, 1e3, 1e4, 1e5, 1e6])
def test_kl_in_float32_is_right_at_every_temperature(tau):
    student, teacher = logits(0, dtype=torch.float32), logits(1, dtype=torch.float32)
    values, gradient = evaluate("kl", student, teacher, tau=tau)
    exact = [exact_kl(s, t, tau) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    torch.testing.assert_close(values, torch.tensor([value for value, _ in exact]), rtol=1e-5, atol=0)
    expected = torch.tensor([slope for _, slope in exact])
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6 * expected.abs().max())


# --- laws ------------------------------------------------------------------------------------------------------------


def test_kl_tends_to_half_the_variance_at_infinite_tau():
    student, teacher = logits(0), logits(1)
    limit, slope = evaluate("kl", student, teacher, tau="inf")
    difference = student - teacher
    torch.testing.assert_close(limit, difference.var(-1, correction=0) / 2)
    torch.testing.assert_close(slope, (difference - difference.mean(-1, keepdim=True)) / 10)
    errors = []
    for tau in (1e3, 1e4, 1e5):
        values, gradient = evaluate("kl", student, teacher, tau=tau)
        errors.append(((values - limit).abs() / limit).max().item())
        assert (gradient - slope).abs().max() < 100 / tau
    assert errors[0] < 0.02
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)  # the distance falls as 1/tau
    assert errors[2] == pytest.approx(errors[1] / 10, rel=0.1)


def test_mse_is_twice_kl_at_infinite_tau_plus_the_squared_mean_logit():
    student, teacher = logits(0), logits(1)
    mean = (student - teacher).mean(-1)
    limit = evaluate("kl", student, teacher, tau="inf")[0]
    torch.testing.assert_close(evaluate("mse", student, teacher)[0], 2 * (limit + mean.square() / 2))
    summed = evaluate("mse", student, teacher, reduction="sum")[0]
    torch.testing.assert_close(summed / (2 * 10), limit + mean.square() / 2)
    half = evaluate("mse", student, teacher, weight=0.5)[0]
    double = evaluate("kl", student, teacher, tau="inf", weight=2)[0]
    torch.testing.assert_close(2 * half, double + mean.square())


@pytest.mark.parametrize(
    ("name", "factor"), [("reverse_kl", 1.0), ("symmetric_kl", 1.0), ("jensen_shannon", 0.3 * 0.7)]
)
def test_other_divergences_tend_to_half_the_variance_too(name, factor):
    student, teacher = logits(0), logits(1)
    own = {"beta": 0.3} if name == "jensen_shannon" else {}
    limit, slope = evaluate(name, student, teacher, tau="inf", **own)
    expected = evaluate("kl", student, teacher, tau="inf")
    torch.testing.assert_close(limit, factor * expected[0])
    torch.testing.assert_close(slope, factor * expected[1])
    values, gradient = evaluate(name, student, teacher, tau=1e5, **own)
    torch.testing.assert_close(values, limit, rtol=1e-3, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-3)


def test_jensen_shannon_tends_to_zero_at_both_ends_and_divided_by_beta_to_kl():
    small = VECTORS["divergences"]["inputs"]["small"]
    student, teacher = (torch.tensor(small[key]).double() for key in ("student", "teacher"))
    said = VECTORS["divergences"]["limits_on_small"]
    for beta, key in ((1e-6, "JSD(beta=1e-6)/1e-6"), (1 - 1e-6, "JSD(beta=1-1e-6)/1e-6")):
        value = evaluate("jensen_shannon", student, teacher, tau=1, beta=beta)[0].mean().item()
        assert value / 1e-6 == pytest.approx(said[key], rel=1e-7)
    for key, name in (("KL(p||q)", "kl"), ("KL(q||p)", "reverse_kl")):
        assert evaluate(name, student, teacher, tau=1)[0].mean().item() == pytest.approx(said[key], rel=1e-7)
    assert evaluate("jensen_shannon", logits(0), logits(1), tau=0.01)[0].max() <= math.log(2) * 1e-4


def test_symmetric_kl_is_the_mean_of_both_directions_and_soft_cross_entropy_has_the_gradient_of_kl():
    student, teacher = logits(0), logits(1)
    (forward, slope), (reverse, _) = (evaluate(name, student, teacher, tau=2) for name in ("kl", "reverse_kl"))
    torch.testing.assert_close(evaluate("symmetric_kl", student, teacher, tau=2)[0], (forward + reverse) / 2)
    torch.testing.assert_close(evaluate("soft_ce", student, teacher, tau=2)[1], slope)
    torch.testing.assert_close(reverse, evaluate("kl", teacher, student, tau=2)[0])


def test_gradient_over_tau_tends_to_label_matching_as_tau_vanishes():
    student, teacher = logits(0), logits(1)
    one_hot = torch.nn.functional.one_hot
    matching = (one_hot(student.argmax(-1), 10) - one_hot(teacher.argmax(-1), 10)).double()
    torch.testing.assert_close(evaluate("kl", student, teacher, tau=1e-3)[1] / 1e-3, matching)
    torch.testing.assert_close(evaluate("kl", student, teacher, tau=1e-3, scale="tau")[1], matching)


def test_tau_squared_keeps_the_gradient_at_one_scale():
    """Fault 27."""
    student, teacher = logits(0, spread=1), logits(1, spread=1)
    norms = [evaluate("kl", student, teacher, tau=tau)[1].norm().item() for tau in (30, 300, 3000)]
    assert norms == pytest.approx([norms[-1]] * 3, rel=0.05)
    bare = [evaluate("kl", student, teacher, tau=tau, scale="one")[1].norm().item() for tau in (30, 300, 3000)]
    assert bare == pytest.approx([norm / tau**2 for norm, tau in zip(norms, (30, 300, 3000), strict=True)])


@pytest.mark.parametrize("name", ALONE)
def test_values_are_per_example_and_in_the_students_dtype(name):
    student, teacher, labels = logits(0).float(), logits(1).float(), torch.tensor([0, 1, 2, 3])
    values, gradient = evaluate(name, student, teacher, labels)
    alone = torch.cat([evaluate(name, student[[i]], teacher[[i]], labels[[i]])[0] for i in range(4)])
    assert values.shape == (4,)
    assert values.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(values, alone)


@pytest.mark.parametrize(("name", "alpha"), ALPHAS)
def test_alpha_zero_is_plain_ce_and_alpha_one_is_without_ce_bitwise(name, alpha):
    """Fault 29."""
    student, teacher, labels = logits(0).float(), logits(1).float(), torch.tensor([0, 1, 2, 3])
    values, gradient = evaluate(name, student, teacher, labels, alpha=alpha)
    ce, ce_gradient = evaluate("ce", student, None, labels)
    if alpha == 0:
        assert torch.equal(values, ce)
        assert torch.equal(gradient, ce_gradient)
    elif name not in READ_LABELS:
        assert torch.equal(values, evaluate(name, student, teacher, labels.flip(0), alpha=alpha)[0])


@pytest.mark.parametrize("name", [name for name, loss in PURE.items() if loss.needs_teacher])
def test_without_cross_entropy_those_that_trust_the_label_read_it_and_no_others(name):
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 1, 2, 3])
    both = [evaluate(name, student, teacher, one, **without_ce(name))[0] for one in (labels, labels.flip(0))]
    assert both[0].equal(both[1]) == (name not in READ_LABELS)


@pytest.mark.parametrize("name", [name for name, _ in ALPHAS[::2]])
def test_alpha_mixes_ce_and_the_rest_linearly(name):
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 1, 2, 3])
    ce, soft = (evaluate(name, student, teacher, labels, alpha=alpha)[0] for alpha in (0, 1))
    mixed = evaluate(name, student, teacher, labels, alpha=0.3, weight=5)[0]
    torch.testing.assert_close(mixed, 0.7 * ce + 0.3 * 5 * soft)


@pytest.mark.parametrize("name", [name for name, loss in PURE.items() if loss.zero_at_teacher])
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(name):
    teacher = logits(0).float()
    values, gradient = evaluate(name, teacher, teacher, **without_ce(name))
    assert values.abs().max() < 1e-15
    assert gradient.abs().max() < 1e-12


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_loss_is_finite_at_extreme_logits_ties_and_parameters(data):
    """Fault 29: alpha of 0 and 1, tau without end, classes of probability zero."""
    name = data.draw(st.sampled_from(sorted(PURE)))
    extreme = st.sampled_from([0.0, -0.0, 1.0, 1e-30, 88.8, -104.0, 1e4, -1e4]) | st.floats(-1e4, 1e4, width=32)
    student, teacher = (torch.tensor([data.draw(st.lists(extreme, min_size=5, max_size=5))]) for _ in range(2))
    params = {key: data.draw(values(parameter)) for key, parameter in LOSSES[name].parameters.items()}
    if params.get("tau") == math.inf:
        params["scale"] = "tau2"
    loss, gradient = evaluate(name, student, teacher, torch.tensor([data.draw(st.integers(0, 4))]), **params)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert loss.item() >= -1e-3  # rounding of tau^2 at 1e6


def values(parameter: Number | Whole | Choice) -> st.SearchStrategy:
    """Return a strategy of allowed values for five classes, their extremes among them."""
    if isinstance(parameter, Whole):
        return st.integers(parameter.low, min(parameter.high, 4))
    if isinstance(parameter, Choice):
        return st.sampled_from(parameter.options)
    edges = [parameter.low, parameter.high, *([math.inf] if parameter.infinite else [])]
    return st.sampled_from(edges) | st.floats(parameter.low, parameter.high)


@settings(max_examples=50, deadline=None)
@given(st.floats(-100, 100), st.sampled_from([0.5, 4.0, 1e3, math.inf]), st.integers(0, 99))
def test_kl_ignores_a_constant_added_to_the_logits_and_mse_does_not(shift, tau, seed):
    student, teacher = logits(seed), logits(seed + 1)
    moved = evaluate("kl", student + shift, teacher, tau=tau)[0]
    torch.testing.assert_close(moved, evaluate("kl", student, teacher, tau=tau)[0], rtol=1e-6, atol=1e-8)
    mean = (student - teacher).mean(-1)
    growth = evaluate("mse", student + shift, teacher)[0] - evaluate("mse", student, teacher)[0]
    torch.testing.assert_close(growth, shift**2 + 2 * shift * mean, rtol=1e-6, atol=1e-8)


def test_kl_keeps_its_precision_under_autocast():
    student, teacher = logits(0).float(), logits(1).float()
    plain = evaluate("kl", student, teacher, tau=1e4)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(evaluate("kl", student, teacher, tau=1e4)[0], plain)


# --- ensembles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ensemble"), [(name, key) for name in ("kl", "mse") for key in TEACHERS[name]])
def test_ensemble_equals_the_vectors(name, ensemble):
    student, members, tau = torch.tensor(TEACHERS["student"]).double(), torch.tensor(TEACHERS["teachers"]).double(), 4.0
    teacher = ENSEMBLES[ensemble](members, tau)
    params = {"tau": tau} if name == "kl" else {}
    assert evaluate(name, student, teacher, **params)[0].mean().item() == pytest.approx(TEACHERS[name][ensemble], 1e-7)


def test_mean_prob_is_the_arithmetic_mean_of_distributions():
    members = torch.tensor(TEACHERS["teachers"], dtype=torch.float64)
    mixture = (ensembles.mean_prob(members, 4.0) / 4.0).softmax(-1)
    torch.testing.assert_close(mixture, (members / 4.0).softmax(-1).mean(0))
    expected = torch.tensor(TEACHERS["probabilities"]["mean_prob"], dtype=torch.float64)
    torch.testing.assert_close(mixture, expected, rtol=1e-10, atol=0)


def test_geometric_mean_of_distributions_is_the_softmax_of_mean_logits():
    members = torch.tensor(TEACHERS["teachers"], dtype=torch.float64)
    geometric = (members / 4.0).log_softmax(-1).mean(0).softmax(-1)
    combined = (ensembles.mean_logit(members) / 4.0).softmax(-1)
    torch.testing.assert_close(combined, geometric)
    expected = torch.tensor(TEACHERS["probabilities"]["mean_logit"], dtype=torch.float64)
    torch.testing.assert_close(combined, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("tau", [1e-6, 0.1, 1.0, 1e6, math.inf])
def test_mean_prob_of_one_member_is_that_member(tau):
    member = logits(0, spread=1e3).float()
    torch.testing.assert_close(ensembles.mean_prob(member[None], tau), member, rtol=1e-5, atol=1e-4)


def test_mean_prob_tends_to_mean_logit_at_infinite_tau():
    members = torch.stack([logits(seed) for seed in range(3)])
    limit = ensembles.mean_prob(members, math.inf)
    assert torch.equal(limit, ensembles.mean_logit(members))
    torch.testing.assert_close(ensembles.mean_prob(members, 1e5), limit, rtol=0, atol=1e-3)


# --- hyperparameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"), [(3, 3.0), (3.0, 3.0), ("3", 3.0), ("1e-3", 1e-3), ("inf", math.inf), (math.inf, math.inf)]
)
def test_number_has_one_canonical_value(value, expected):
    number = Number(infinite=True).check(value)
    assert type(number) is float
    assert number == expected


def test_minus_zero_is_zero():
    assert str(Number(low=0, high=1).check(-0.0)) == "0.0"


@pytest.mark.parametrize(
    "value", [True, False, None, "three", "", "nan", math.nan, 0, -1, 1e7, "-inf", 10**400, [3], math.inf]
)
def test_number_refuses_what_is_none(value):
    with pytest.raises(ValueError, match="allowed: a number from 1e-06 to 1e\\+06"):
        Number().check(value)


def test_choice_refuses_other_words():
    with pytest.raises(ValueError, match="got 'tau3'; allowed: one of tau2, tau, one"):
        LOSSES["kl"].parameters["scale"].check("tau3")


@pytest.mark.parametrize(("value", "number"), [(3, 3), ("3", 3), (3.0, 3), (-2, -2), ("-2", -2), ("1e1", 10)])
def test_whole_accepts_a_whole_number_and_gives_an_int(value, number):
    found = Whole(low=-5, high=20).check(value)
    assert (found, type(found)) == (number, int)


@pytest.mark.parametrize("value", [2.5, "2.5", 0, 21, True, "nan", "inf", None, "three", 10**400])
def test_whole_refuses_what_is_none(value):
    with pytest.raises(ValueError, match="allowed: a whole number from 1 to 20"):
        Whole(high=20).check(value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tau2": Number(1.0)}, "tau2: the name of a hyperparameter is .* does not end in a digit"),
        ({"Tau": Number(1.0)}, "Tau: the name"),
        ({"tau-max": Number(1.0)}, "tau-max: the name"),
        ({"": Number(1.0)}, ": the name"),
        ({"how": Choice("a-b", ("a-b",))}, "how: 'a-b': a word is"),
        ({"how": Choice("2d", ("2d",))}, "how: '2d': a word is"),
        ({"how": Choice("x.s0", ("x.s0",))}, "how: 'x.s0': a word is"),
        ({"how": Choice("a", ("b", "c"))}, "got 'a'; allowed: one of b, c"),
        ({"tau": Number(0.0)}, "got 0.0; allowed"),
        ({"tau": Number("1")}, "tau: its default '1' is none of its values"),
        ({"tau": Choice("max3", ("max3",)), "taumax": Number(1.0)}, "tau: taumax3 could also be a value of taumax"),
        ({"tau": Number(infinite=True), "taui": Choice("a", ("a", "nf"))}, "tau: tauinf could also be a value of taui"),
    ],
)
def test_a_loss_that_no_path_can_spell_is_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Loss(hard.ce, "", parameters)


def test_bounds_beyond_what_is_spelled_are_refused():
    with pytest.raises(ValueError, match="must be finite; `infinite` allows inf"):
        Number(high=math.inf)
    with pytest.raises(ValueError, match=r"must not exceed 2\*\*53"):
        Whole(low=-(2**60))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("kl", {}, "tau: required"),
        ("kl", {"taau": 4}, "taau: unknown; did you mean 'tau'?"),
        ("kl", {"tau": 0}, "tau: got 0; allowed: a number from 1e-06 to 1e\\+06, or inf"),
        ("kl", {"tau": True}, "tau: got True"),
        ("kl", {"tau": 3, "alpha": 1.1}, "alpha: got 1.1; allowed: a number from 0 to 1"),
        ("kl", {"tau": "inf", "scale": "tau"}, "scale: got 'tau'; at tau = inf only tau2"),
        ("mse", {"tau": 3}, "tau: unknown; known: alpha, ce, reduction, weight"),
        ("ce", {"tau": 3}, "tau: unknown; this loss has no hyperparameters"),
    ],
)
def test_wrong_hyperparameters_are_refused_by_name(name, given, message):
    with pytest.raises(ValueError, match=message):
        LOSSES[name].resolve(given)


def test_hyperparameters_come_in_spelling_order():
    resolved = LOSSES["kl"].resolve({"weight": 2, "tau": "3"})
    assert list(resolved.items()) == [
        ("tau", 3.0),
        ("alpha", 1.0),
        ("scale", "tau2"),
        ("weight", 2.0),
        ("ce", None),
        ("logits", "raw"),
    ]


def test_a_weight_of_ce_of_its_own_takes_the_place_of_one_minus_alpha():
    """RepDistiller: gamma = 1 for CE, alpha = 0.9 for KL."""
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 1, 2, 3])
    for name in ("kl", "mse", "smoothl1"):
        ce, soft = (evaluate(name, student, teacher, labels, alpha=alpha)[0] for alpha in (0, 1))
        for own, alpha in ((1, 0.9), (1, 1), (0, 0.5), (2.5, 0)):
            mixed = evaluate(name, student, teacher, labels, alpha=alpha, ce=own)[0]
            torch.testing.assert_close(mixed, own * ce + alpha * soft)
        (lone,) = {evaluate(name, student, teacher, labels, alpha=0.3, ce=None)[0].sum().item()}
        assert lone == evaluate(name, student, teacher, labels, alpha=0.3)[0].sum().item()


def test_what_is_left_to_the_loss_is_neither_spelled_nor_a_change():
    spec = LOSSES["kl"]
    assert spec.resolve({"tau": 3})["ce"] is None
    assert spec.since["ce"] is None
    assert spec.read("ce1") == ("ce", "1")


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_a_class_that_the_teacher_rules_out_adds_no_nan_to_kl(tau):
    student, teacher = logits(0).clone().requires_grad_(), logits(1).clone()
    teacher[:, 2] = -torch.inf
    value = LOSSES["kl"].function(student, teacher, None, tau=tau)
    q, p = ((one.double() / tau).log_softmax(-1) for one in (student, teacher))
    expected = tau * tau * torch.nn.functional.kl_div(q, p.exp(), reduction="none").sum(-1)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-9)
    (slope,) = torch.autograd.grad(value.sum(), student)
    torch.testing.assert_close(slope.double(), tau * (q.exp() - p.exp()), rtol=1e-5, atol=1e-6)


# --- the registry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_defaults_are_allowed_values(loss: Loss):
    assert loss.description
    for parameter in loss.parameters.values():
        assert parameter.default is None or parameter.check(parameter.default) == parameter.default


def test_no_two_families_share_a_name():
    families = (
        hard,
        divergences,
        decoupled,
        trusting,
        powers,
        examplewise,
        correlations,
        robust,
        built,
        features,
    )
    assert len(LOSSES) == sum(len(module.LOSSES) for module in families) + len(KL) + len(MSE)


def test_family_names_the_module():
    assert [module_of(name) for name in ("ce", "kl", "smoothl1")] == ["kd.losses.hard", "kd.losses.kl", "kd.losses.mse"]
    assert [module_of(name) for name in ("kl_other", "kl_class")] == ["kd.losses.kl", "kd.losses.controls"]
    assert [module_of(name) for name in ("gkl", "wkd_f")] == ["kd.losses.ikl", "kd.losses.wkd"]
    assert [module_of(name) for name in ("dkd", "rld")] == ["kd.losses.decoupled", "kd.losses.trusting"]
    assert [module_of(name) for name in ("at", "crd")] == ["kd.losses.maps", "kd.losses.crd"]
    with pytest.raises(ConfigError, match="loss 'msee': unknown; did you mean 'mse'"):
        module_of("msee")


@pytest.mark.process
def test_registry_imports_without_torch():
    heavy = "import sys, kd.losses; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout == "set()\n"
