"""Selections: FINE's vectors, as coded and as printed, what each keeps of planted noise, and what each refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made.course import vectors

from kd.core.errors import DataError
from kd.data import SELECTIONS, load
from kd.data.select import above, along, detected, fine, fine_printed, loss_gmm, small_loss

VECTOR = vectors("fine")
Z, GIVEN, TRUE = (np.array(VECTOR[key]) for key in ("features", "labels", "clean"))
TWO, EVERY = ["cat", "dog"], np.ones(len(GIVEN), bool)
UNIT = Z / np.linalg.norm(Z, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("reading", "function", "scores"),
    [
        ("code", fine, np.abs(along(UNIT, Z, GIVEN, EVERY, TWO))),
        ("printed", fine_printed, along(Z, Z, GIVEN, EVERY, TWO) ** 2),
    ],
    ids=["code", "printed"],
)
def test_fine_equals_the_vectors_in_scores_probabilities_and_selection(reading, function, scores) -> None:
    expected = VECTOR[reading]
    assert np.allclose(scores, expected["scores"], rtol=1e-10, atol=0)
    for label in range(2):
        found = above(scores[label == GIVEN], "here")
        assert np.allclose(found, np.array(expected["posterior"])[label == GIVEN], rtol=0, atol=1e-10)
    keep = function(Z, GIVEN, EVERY, 0.5, TWO)
    assert np.flatnonzero(keep).tolist() == expected["selected"]


def test_the_two_readings_of_fine_keep_other_examples_and_the_code_is_right() -> None:
    coded, printed = (f(Z, GIVEN, EVERY, 0.5, TWO) for f in (fine, fine_printed))
    assert np.array_equal(coded, GIVEN == TRUE)
    assert [detected(keep, GIVEN, TRUE)["f1"] for keep in (coded, printed)] == [1.0, pytest.approx(23 / 24)]


def planted(rate: float, seed: int, shape: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return pre-logits [N, D], losses [N], given and true labels [N] of three classes apart, some labels wrong."""
    draw = np.random.default_rng(seed)
    clean = np.repeat(np.arange(3), 200)
    features = 4 * np.eye(shape)[clean] + 0.4 * np.abs(draw.normal(size=(600, shape)))
    given = np.where(draw.random(600) < rate, (clean + draw.integers(1, 3, 600)) % 3, clean)
    losses = np.where(given == clean, 0.2, 3.0) + 0.2 * np.abs(draw.normal(size=600))
    return features, losses, given, clean


NAMES = ["cat", "dog", "frog"]
AMOUNTS = {name: 0.6 if selection.default is None else selection.default for name, selection in SELECTIONS.items()}


def kept(name: str, features: np.ndarray, losses: np.ndarray, given: np.ndarray, **other) -> np.ndarray:
    said = features if SELECTIONS[name].sees == "prelogits" else losses
    learnt = np.ones(len(given), bool)
    return load(SELECTIONS[name].function)(said, given, learnt, other.get("amount", AMOUNTS[name]), NAMES)


@pytest.mark.parametrize("name", SELECTIONS)
def test_of_planted_noise_what_is_kept_is_right(name: str) -> None:
    for seed in range(5):
        features, losses, given, clean = planted(0.4, seed)
        found = detected(kept(name, features, losses, given), given, clean)
        assert found["precision"] > 0.9
        assert found["recall"] > 0.9


@pytest.mark.parametrize("name", SELECTIONS)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99))
def test_the_order_of_the_rows_changes_nothing(name: str, seed: int) -> None:
    features, losses, given, _ = planted(0.4, seed)
    order = np.random.default_rng(seed).permutation(len(given))
    whole, shuffled = kept(name, features, losses, given), kept(name, features[order], losses[order], given[order])
    assert np.array_equal(whole[order], shuffled)


@pytest.mark.parametrize("name", SELECTIONS)
def test_of_labels_that_are_permuted_precision_is_their_base_rate(name: str) -> None:
    features, losses, _, clean = planted(0.4, 0)
    found = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        given = draw.permutation(clean)  # of what the network says nothing depends on them
        keep = kept(name, np.abs(draw.normal(size=features.shape)), draw.permutation(losses), given)
        found.append(detected(keep, given, clean)["precision"] - (given == clean).mean())
    assert abs(np.mean(found)) < 0.03


def test_small_loss_keeps_exactly_its_share_and_those_of_the_smallest_losses() -> None:
    features, losses, given, _ = planted(0.4, 0)
    for share in (0.5, 0.6, 0.9):
        keep = kept("small_loss", features, losses, given, amount=share)
        assert keep.sum() == round(share * 600)
        assert losses[keep].max() <= losses[~keep].min()


def test_a_higher_probability_is_asked_for_and_less_is_kept() -> None:
    features, losses, given, _ = planted(0.4, 0)
    features += np.random.default_rng(0).normal(size=features.shape)  # so that the two distributions overlap
    for name in ("fine", "fine_printed"):
        few, more = (kept(name, features, losses, given, amount=zeta) for zeta in (0.9, 0.3))
        assert few.sum() < more.sum()
        assert not (few & ~more).any()


def test_the_direction_of_a_class_is_that_of_what_was_learnt_and_scores_all() -> None:
    features, _, given, clean = planted(0.45, 3)
    learnt = given == clean
    scores = np.abs(along(features, features, given, learnt, NAMES))
    for label in range(3):
        basis = features[learnt & (given == label)]
        first = np.linalg.svd(basis, full_matrices=False)[2][0]  # as FINE's code does
        assert np.allclose(scores[given == label], np.abs(features[given == label] @ first))
    assert fine(features, given, learnt, 0.5, NAMES)[~learnt].mean() < 0.05


def test_precision_recall_and_f1_equal_a_count_by_hand_in_all_and_by_class() -> None:
    given, clean = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    found = detected(np.array([True, False, True, True, True, True]), given, clean)
    assert found["kept"] == 5 / 6
    assert (found["precision"], found["recall"], found["f1"]) == (2 / 5, 2 / 3, 4 / 8)
    assert found["precision_by_class"] == [1 / 2, 1 / 2, 0.0]
    assert found["recall_by_class"] == [1 / 2, 1.0, None]  # of the last class no label is right
    assert found["f1_by_class"] == [1 / 2, 2 / 3, 0.0]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fine", "fine_printed"])
def test_fine_names_a_class_of_which_there_is_nothing_or_nothing_to_tell_apart(name: str) -> None:
    features, losses, given, _ = planted(0.4, 0)
    with pytest.raises(DataError, match="class 'frog': got no example that was learnt, allowed is 1 or more"):
        kept(name, features, losses, np.minimum(given, 1))
    one = features.copy()
    one[given == 1] = [1.0, 2.0, 3.0]
    with pytest.raises(DataError, match="class 'dog': got 1 different scores, allowed for a mixture is 2"):
        kept(name, one, losses, given)
    alone = np.r_[np.flatnonzero(given != 1), np.flatnonzero(given == 1)[:1]]
    with pytest.raises(DataError, match="class 'dog': got 1 different scores, allowed for a mixture is 2"):
        kept(name, features[alone], losses[alone], given[alone])


def test_fine_names_a_class_whose_mixture_does_not_separate_and_what_is_allowed() -> None:
    features, losses, given, _ = planted(0.0, 0)
    features[:200] = [1.0, 0.0, 0.0]
    features[0, 1] = 1e-4  # the angles of the class differ by less than the mixture can tell
    with pytest.raises(DataError, match=r"'cat': its mixture does not separate: .* keeps (0|200) of 200 .*; allowed"):
        kept("fine", features, losses, given)


@pytest.mark.parametrize("name", ["loss_gmm", "small_loss"])
def test_losses_that_leave_a_class_without_examples_are_refused_and_the_class_named(name: str) -> None:
    features, losses, given, _ = planted(0.0, 0)
    losses[given == 2] += 5
    with pytest.raises(DataError, match="class 'frog': got none of its 200 examples kept, allowed is 1 or more"):
        kept(name, features, losses, given)
    with pytest.raises(DataError, match="selection: losses: got 1 different scores, allowed"):
        loss_gmm(np.ones(600), given, np.ones(600, bool), 0.5, NAMES)


def test_pre_logits_of_nothing_but_zeros_are_no_reason_to_fail() -> None:
    features, losses, given, _ = planted(0.4, 0)
    features[7] = 0
    assert not kept("fine", features, losses, given)[7]
    assert small_loss(losses, given, EVERY, 0.5, NAMES).any()
