"""What a row says of its network: names that readers know and no two objectives share, the order, the lineage."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd.losses import LOSSES
from kd.report.identity import family, identity, objective_name, order
from kd.study.cells import spell_objective
from kd.study.paths import parse_cell
from kd.study.values import LossChoice, imported, loss_choice

PLACE = "results/cifar100/paper"
TEACHER = f"{PLACE}/wrn-28-4.ce.s0"


def said(path: str) -> dict:
    return identity(parse_cell(path))


def taught(by: str) -> LossChoice:
    return parse_cell(f"{TEACHER}/wrn-16-2.{by}.s0").stage.objective


@pytest.mark.parametrize(
    ("by", "name"),
    [
        ("kl-tau3", "KL τ=3"),
        ("kl-tauinf", "KL τ=∞"),
        ("kl-tau3-alpha0.5", "KL τ=3, α=0.5"),
        ("kl-tau0.0001-scaleone", "KL τ=0.0001, scale one"),
        ("kl-tau3.0000001", "KL τ=3.0000001"),
        ("kl-tauinf-weight2", "2·KL τ=∞"),
        ("mse", "MSE"),
        ("mse-weight0.5", "MSE/2"),
        ("mse-reductionsum", "MSE reduction sum"),
        ("smoothl1", "smooth L1 β=1"),
        ("smoothl1-beta0.5", "smooth L1 β=0.5"),
    ],
)
def test_objectives_have_readable_names(by: str, name: str) -> None:
    assert objective_name(taught(by)) == name


def test_what_learnt_from_labels_or_was_imported_is_named_too() -> None:
    assert said(TEACHER)["objective_name"] == "CE"
    assert said(f"{PLACE}/wrn-28-4.weights-tau3.s0")["objective_name"] == "weights tau3"


@st.composite
def objectives(draw: st.DrawFn) -> LossChoice:
    loss = draw(st.sampled_from(["kl", "mse", "smoothl1"]))
    given = {
        name: draw(
            st.sampled_from(spec.options)
            if hasattr(spec, "options")
            else st.floats(spec.low, spec.high) | st.sampled_from([0.5, 1.0, 1 / 3])
        )
        for name, spec in LOSSES[loss].parameters.items()
        if name != "scale"
    }
    return loss_choice(loss, given)


@given(objectives(), objectives())
def test_no_two_objectives_have_one_name(one: LossChoice, other: LossChoice) -> None:
    assert (objective_name(one) == objective_name(other)) == (one == other)


def test_a_grid_holds_all_of_an_objective_fixed_but_tau_and_alpha() -> None:
    assert spell_objective(family(taught("kl-tau3-alpha0.5-scaleone"))) == "kl-scaleone"
    assert family(imported("tau3")) == imported("tau3")


def test_networks_have_readable_names() -> None:
    assert said(f"{TEACHER}/wrn-16-2.mse.s1")["networks_name"] == "WRN-28-4 → WRN-16-2"
    assert said(f"{PLACE}/resnet8x4.ce.s0")["student_name"] == "ResNet8x4"
    assert said(f"{PLACE}/vgg13.ce.s0/mobilenetv2-half.mse.s1")["networks_name"] == "VGG13 → MobileNetV2-half"
    assert said(f"{PLACE}/resnet50-cifar.ce.s0")["student_name"] == "ResNet50-cifar"
    assert said(f"{PLACE}/wrn-28-4.ce.s0+1+2/wrn-16-2.mse.s1")["networks_name"] == "3 × WRN-28-4 → WRN-16-2"
    both = said(f"{PLACE}/wrn-16-4+wrn-28-4.ce.s0-meanprob")
    assert both["student_name"] == "WRN-16-4 + WRN-28-4 (mean of probabilities)"


def test_label_noise_has_a_readable_name() -> None:
    for data, name in [
        ("", "clean labels"),
        ("+asym0.4", "40 % asymmetric label noise"),
        ("+instance0.4", "40 % instance-dependent label noise"),
        ("+labels-h", "labels 'h'"),
    ]:
        assert said(f"results/cifar10{data}/paper/wrn-16-2.ce.s0")["noise_name"] == name


def test_a_student_says_by_what_was_selected_what_it_learnt_from() -> None:
    for ending, name in (
        ("fine", "FINE"),
        ("fineprinted0.7", "FINE as printed 0.7"),
        ("smallloss0.6", "small loss 0.6"),
    ):
        found = said(f"{TEACHER}/wrn-16-2.mse.s0-{ending}")
        assert found["student_name"] == f"WRN-16-2 on {name}"
        assert found["objective_name"] == "MSE"


def test_a_chain_says_who_began_who_taught_and_by_what_it_learnt() -> None:
    chain = said(f"{TEACHER}/wrn-16-4.kl-tau3.s1/wrn-16-2.mse.s2")
    facts = {
        "stages": 3,
        "first": "wrn-28-4",
        "first_loss": "ce",
        "teacher": "wrn-16-4",
        "teacher_cell": f"{TEACHER}/wrn-16-4.kl-tau3.s1",
        "teacher_lineage": "wrn-28-4.ce > wrn-16-4.kl-tau3",
        "teacher_members": 1,
        "teacher_seed": 1,
        "mix": "kl-tau3 + mse",
        "mix_families": "kl + mse",
        "objectives_name": "KL τ=3 → MSE",
    }
    assert {name: chain[name] for name in facts} == facts
    assert said(f"{PLACE}/wrn-28-4.ce.s0+1/wrn-16-2.mse.s2")["teacher_members"] == 2


def test_a_lineage_is_all_but_the_seeds() -> None:
    for path, lineage in [
        (f"{TEACHER}/wrn-16-2.kl-tau3.s1", "wrn-28-4.ce > wrn-16-2.kl-tau3"),
        (f"{TEACHER}-epochs10/wrn-16-2.mse.s1", "wrn-28-4.ce-epochs10 > wrn-16-2.mse"),
        (f"{TEACHER}/wrn-16-2.mse.s1-frac0.1", "wrn-28-4.ce > wrn-16-2.mse-frac0.1"),
        ("results/cifar100+frac0.1/paper/wrn-28-4.ce.s0/wrn-16-2.mse.s1", "wrn-28-4.ce-frac0.1 > wrn-16-2.mse-frac0.1"),
        (f"{PLACE}/wrn-28-4.ce.s3+4-sumlogit/wrn-16-2.mse.s1", "2*wrn-28-4-sumlogit.ce > wrn-16-2.mse"),
    ]:
        assert parse_cell(path).seedless == lineage


def test_objectives_stand_in_order_of_their_numbers_and_infinity_is_last() -> None:
    turned = ["smoothl1", "mse", "kl-tau1-weight10", "kl-tau1-weight2", "kl-tauinf", "kl-tau20", "kl-tau3"]
    turned += ["kl-tau3-alpha0.1", "kl-tau0.5"]
    found = sorted(turned, key=lambda by: order(parse_cell(f"{TEACHER}/wrn-16-2.{by}.s0")))
    assert found == turned[::-1]
    alone, direct = parse_cell(TEACHER), parse_cell(f"{TEACHER}/wrn-16-2.kl-tau3.s0")
    assert order(alone) < order(direct) < order(parse_cell(f"{direct}/wrn-16-2.kl-tau0.5.s0"))
    assert math.inf in order(parse_cell(f"{TEACHER}/wrn-16-2.kl-tauinf.s0"))[1][3]
