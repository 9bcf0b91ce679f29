"""What is measured of answers: against scikit-learn and autograd where they have it, else by the laws it obeys."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made.fitting import logits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor

from kd.losses.hard import ce
from kd.losses.kl import half_variance, kl
from kd.measure import measures

seeds = st.integers(0, 10_000)


def features(seed: int, n: int = 60, d: int = 8) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, d: int = 8) -> Tensor:
    return torch.linalg.qr(features(seed, d, d)).Q


def labels(seed: int, n: int = 60, classes: int = 5) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


# -- one network ------------------------------------------------------------------------------------------------------


def test_accuracy_and_likelihood_equal_scikit_learn() -> None:
    z, y = logits(0, 200), labels(1, 200, 10)
    p = z.softmax(-1).numpy()
    assert measures.right(z, y).double().mean().item() == accuracy_score(y, p.argmax(1))
    assert ce(z, None, y).mean().item() == pytest.approx(log_loss(y, p, labels=range(10)))


def test_accuracy_and_churn_by_class_are_those_of_hand_counted_answers() -> None:
    z = torch.eye(4)[[0, 1, 3, 3, 3]]  # answers 0, 1, 3, 3, 3
    names, top1, counts = measures.top1_by_class(z, torch.tensor([0, 0, 0, 3, 3]))
    assert (names.tolist(), counts.tolist()) == ([0, 3], [3, 2])
    assert top1.tolist() == pytest.approx([1 / 3, 1])
    others = torch.eye(4)[[0, 2, 3, 3, 1]]
    assert measures.churn_by_class(z, others, torch.tensor([0, 0, 0, 3, 3])).tolist() == pytest.approx([1 / 3, 1 / 2])


def test_entropy_and_confidence_of_equal_and_of_certain_logits() -> None:
    z = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1000.0, 0.0, 0.0, 0.0]])
    assert measures.entropy(z).tolist() == pytest.approx([math.log(4), 0])
    assert measures.confidence(z).tolist() == pytest.approx([0.25, 1])


def test_calibration_error_of_labels_drawn_from_probabilities_is_sampling_error() -> None:
    z = logits(3, 40_000, 10, spread=2)
    y = torch.multinomial(z.softmax(-1), 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    # 15 bins of about 2,700 examples: each mean is off by at most sqrt(0.25 / 2,700) = 0.01 on average
    assert measures.calibration_error(z, y) < 0.01
    assert measures.calibration_error(4 * z, y) > 0.1


def test_calibration_error_equals_the_hand_check() -> None:
    # confidences 0.6, 0.8 (both right) and 0.9 (wrong): three bins of one example each
    p = torch.tensor([[0.6, 0.4], [0.8, 0.2], [0.9, 0.1]]).double()
    expected = (abs(1 - 0.6) + abs(1 - 0.8) + abs(0 - 0.9)) / 3
    assert measures.calibration_error(p.log(), torch.tensor([0, 0, 1])) == pytest.approx(expected)
    # in one bin all of them count together
    assert measures.calibration_error(p.log(), torch.tensor([0, 0, 1]), bins=1) == pytest.approx(2.3 / 3 - 2 / 3)


def test_a_certain_and_right_network_is_calibrated() -> None:
    z = 1000 * torch.eye(4)
    assert measures.calibration_error(z, torch.arange(4)) == 0
    assert measures.calibration_error(z, (torch.arange(4) + 1) % 4) == 1


@given(seeds)
def test_the_true_logit_difference_is_positive_where_the_answer_is_right(seed: int) -> None:
    z, y = logits(seed, 50), labels(seed, 50, 10)
    difference = measures.true_logit_difference(z, y)
    assert ((difference > 0) == measures.right(z, y)).all()
    others = [max(v for k, v in enumerate(row) if k != c) for row, c in zip(z.tolist(), y.tolist(), strict=True)]
    assert difference.tolist() == pytest.approx([row[c] - o for row, c, o in zip(z.tolist(), y, others, strict=True)])


@given(seeds)
def test_the_scatter_ratio_does_not_depend_on_place_direction_and_scale(seed: int) -> None:
    x, y = features(seed), labels(seed)
    ratio = measures.scatter_ratio(x, y)
    moved = 3 * x @ rotation(seed + 1) + features(seed + 2, 1)
    assert measures.scatter_ratio(moved, y) == pytest.approx(ratio)
    assert measures.scatter_ratio(x, 7 * y + 2) == pytest.approx(ratio)  # names of classes mean nothing


def test_the_scatter_ratio_is_that_of_linear_discriminant_analysis() -> None:
    x, y = features(0), labels(1)
    found = LinearDiscriminantAnalysis(solver="eigen", store_covariance=True).fit(x, y)
    within = np.trace(found.covariance_) * len(x)
    total = np.trace(np.cov(x.T, bias=True)) * len(x)
    assert measures.scatter_ratio(x, y) == pytest.approx(within / (total - within))


def test_classes_that_are_points_have_no_scatter() -> None:
    y = labels(0)
    assert measures.scatter_ratio(features(0, 5)[y], y) == pytest.approx(0, abs=1e-12)


# -- a student and its teacher ----------------------------------------------------------------------------------------


def test_a_copy_of_the_teacher_agrees_everywhere_and_surprises_nobody() -> None:
    z = logits(0, 50)
    assert measures.agree(z, z + 3).all()
    assert measures.surprise(z + 3, z).tolist() == pytest.approx([0] * 50, abs=1e-12)
    assert (measures.surprise(z, logits(1, 50)) > 0).all()


@given(seeds)
def test_cka_does_not_depend_on_place_direction_and_scale(seed: int) -> None:
    x, y = features(seed), features(seed + 1, d=5)
    alignment = measures.linear_cka(x, y)
    assert 0 <= alignment <= 1
    assert measures.linear_cka(y, x) == pytest.approx(alignment)
    assert measures.linear_cka(-2 * x @ rotation(seed) + 5, y) == pytest.approx(alignment)
    assert measures.linear_cka(x, x @ rotation(seed)) == pytest.approx(1)


def test_cka_equals_its_definition_by_kernels() -> None:
    """Kornblith et al., arXiv 1905.00414, eq. 4, with linear kernels and HSIC = tr(K H L H)."""
    x, y = features(0), features(1, d=5)
    centre = torch.eye(60, dtype=torch.float64) - 1 / 60
    k, l = x @ x.T, y @ y.T  # noqa: E741 (as in the paper)

    def hsic(one: Tensor, other: Tensor) -> float:
        return (one @ centre @ other @ centre).trace().item()

    assert measures.linear_cka(x, y) == pytest.approx(hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l)))


def test_half_the_mse_is_kl_at_infinite_tau_and_half_the_squared_mean_logit() -> None:
    s, t = logits(0), logits(1)
    mean = s.mean(-1) - t.mean(-1)
    torch.testing.assert_close((s - t).square().mean(-1) / 2, half_variance(s, t) + mean.square() / 2)


# -- three classes on a plane -----------------------------------------------------------------------------------------


@given(seeds)
def test_points_of_the_plane_keep_their_distances_and_templates_their_sides(seed: int) -> None:
    templates = features(seed, 3)
    basis = measures.plane(templates)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2, dtype=torch.float64))
    points = features(seed + 1, 20, 3).softmax(-1) @ templates
    torch.testing.assert_close(torch.cdist(points @ basis.T, points @ basis.T), torch.cdist(points, points))
    first, second, third = (templates @ basis.T).tolist()
    assert first[1] == pytest.approx(second[1])
    assert second[0] > first[0]
    assert third[1] > first[1]


def test_the_place_on_the_plane_decides_between_the_three_classes() -> None:
    templates, points = features(0, 3), features(1)
    basis = measures.plane(templates)
    inside = points @ basis.T @ (templates @ basis.T).T
    whole = points @ templates.T
    torch.testing.assert_close(inside - inside[:, :1], whole - whole[:, :1])


# -- the gradient of KL and its limits --------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.1, 1, 3, 20, 1000])
def test_the_gradient_is_that_of_the_loss_that_trains(tau: float) -> None:
    s, t = logits(0, spread=2).requires_grad_(), logits(1, spread=2)
    (slope,) = torch.autograd.grad(kl(s, t, labels(0, 4), tau=tau).sum(), s)
    torch.testing.assert_close(measures.gradient(s.detach(), t, tau), slope, rtol=1e-9, atol=1e-12)


@given(seeds)
def test_the_gradient_tends_to_logit_matching_at_large_tau_to_labels_at_small(seed: int) -> None:
    s, t = logits(seed, 50), logits(seed + 1, 50)
    limit = measures.logit_matching(s, t)
    errors = [measures.nearness(measures.gradient(s, t, tau), limit)[1] for tau in (1e3, 1e4)]
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)  # as 1/tau
    assert measures.nearness(measures.gradient(s, t, 1e6), limit) == pytest.approx((1, 0), abs=1e-4)
    near = measures.nearness(measures.gradient(s, t, 1e-7) / 1e-7, measures.label_matching(s, t))
    assert near == pytest.approx((1, 0), abs=1e-6)


def test_logit_matching_is_the_gradient_at_infinite_tau() -> None:
    s, t = logits(0).requires_grad_(), logits(1)
    (slope,) = torch.autograd.grad(kl(s, t, labels(0, 4), tau=math.inf).sum(), s)
    torch.testing.assert_close(measures.logit_matching(s.detach(), t), slope)


def test_where_student_and_teacher_agree_label_matching_asks_for_nothing() -> None:
    t = logits(0)
    assert not measures.label_matching(t + 1, t).any()
    assert all(map(math.isnan, measures.nearness(measures.gradient(2 * t, t, 1.0), measures.label_matching(2 * t, t))))
