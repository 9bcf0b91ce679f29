"""MLKD and CRLD, which compare a weak and a strong view: the vectors, and what each weight weighs."""

from __future__ import annotations

import pytest
import torch
from made.course import DTYPES, built, course, random_logits, vectors
from torch import Tensor

from kd import losses
from kd.losses.kl import kl
from kd.losses.mlkd import TAUS, classes_apart, examples_apart, standardised
from kd.losses.objective import Batch
from kd.models.output import Output

MLKD, CRLD = vectors("mlkd"), vectors("crld")
TERMS = {
    "cc_tau4": lambda s, t, tau: classes_apart(s, t, tau),
    "bc_tau4": lambda s, t, tau: examples_apart(s, t, tau).mean(),
    "ins_sum": lambda s, t, taus: sum(kl(s, t, None, tau=tau).mean() for tau in taus),
}
LABELS = torch.tensor([0, 1, 2, 3, 9, 5])


def valued(name: str, student: list[Tensor], teacher: list[Tensor], labels: Tensor = LABELS, **given: object) -> tuple:
    """Return values [B] and the gradients of their mean with respect to the student's logits, a view each."""
    leaves = [logits.clone().requires_grad_() for logits in student]
    said, taught = (tuple(map(Output, views)) for views in (leaves, teacher))
    made = built(name, course(student[0].shape[1]), **given)
    values = made(Batch(said, taught, labels, torch.arange(len(labels)), torch.tensor(1.0)))
    return values.detach(), torch.autograd.grad(values.mean(), leaves)


def close(found: Tensor, expected: list, tolerance: float) -> None:
    wanted = torch.tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", MLKD["cases"], ids=lambda case: case["id"])
def test_each_term_of_mlkd_equals_the_vectors_in_value_and_gradient(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    student, teacher = (torch.tensor(MLKD["inputs"][key], dtype=dtype) for key in ("student", "teacher"))
    leaf = student.requires_grad_()
    value = TERMS[case["id"]](leaf, teacher, **case["params"])
    assert value.item() == pytest.approx(case["expected"], rel=tolerance)
    close(torch.autograd.grad(value, leaf)[0], case["gradient"], tolerance)


def test_mlkd_is_its_terms_by_their_weights_and_the_strong_view_has_kl_alone() -> None:
    weak, strong, taught, taught_strong = (random_logits(seed) for seed in range(4))
    given = {"instance": 2.0, "pairs": 3.0, "classes": 5.0, "weak": 0.5, "ce": 0.1}
    values, _ = valued("mlkd", [weak, strong], [taught, taught_strong], **given)
    ce = losses.LOSSES["ce"].function
    expected = 0.1 * (ce(weak, None, LABELS) + ce(strong, None, LABELS))
    for tau in TAUS:
        expected += 0.5 * 2 * kl(weak, taught, LABELS, tau=tau) + 2 * kl(strong, taught_strong, LABELS, tau=tau)
        expected += 0.5 * (3 * examples_apart(weak, taught, tau) + 5 * classes_apart(weak, taught, tau))
    torch.testing.assert_close(values, expected)
    assert sorted(TAUS) == sorted(MLKD["cases"][-1]["params"]["taus"])


def test_standardised_mlkd_ignores_the_scale_and_shift_of_logits_in_its_kl_alone() -> None:
    views = [random_logits(seed) for seed in range(4)]
    moved = [3 * views[0] + 7, 0.2 * views[1] - 1, *views[2:]]
    alone = {"pairs": 0, "classes": 0, "ce": 0, "logits": "standardised"}
    one, other = (valued("mlkd", each[:2], each[2:], **alone)[0] for each in (views, moved))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # 1e-7 beside the deviation
    raw = valued("mlkd", moved[:2], moved[2:], **alone | {"logits": "raw"})[0]
    assert (raw - other).abs().min() > 1e-2
    logits = standardised(views[0])
    torch.testing.assert_close(logits.mean(-1), torch.zeros(6).double())
    torch.testing.assert_close(logits.std(-1), torch.ones(6).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", CRLD["cases"], ids=lambda case: case["id"])
def test_crld_equals_the_vectors_in_value_gradients_and_parts(case: dict, precision: str) -> None:
    dtype, tolerance = DTYPES[precision]
    student, teacher = (
        [torch.tensor(case[f"{who}_{view}"], dtype=dtype) for view in ("weak", "strong")]
        for who in ("student", "teacher")
    )
    labels = torch.tensor(case["labels"])
    values, gradients = valued("crld", student, teacher, labels)
    assert values.dtype == dtype
    assert values.mean().item() == pytest.approx(case["expected"], rel=tolerance)
    for gradient, view in zip(gradients, ("weak", "strong"), strict=True):
        close(gradient, case[f"gradient_{view}"], tolerance)
    none = dict.fromkeys(("ce", "same", "cross"), 0.0)
    for name, key in (("ce", "ce"), ("same", "same_view"), ("cross", "cross_view")):
        part = valued("crld", student, teacher, labels, **none | {name: 1.0})[0].mean().item()
        assert part == pytest.approx(case["parts"][key], rel=tolerance)
    for name, mask in zip(("same", "cross"), case["masks"], strict=True):
        shown = valued("crld", student, teacher, labels, **none | {name: 1.0})[0] > 0
        assert shown.int().tolist() == mask
