"""Durations are spelled in one format, whoever says them."""

from __future__ import annotations

import pytest

from kd.core.duration import spelled


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (42, "42 s"),
        (126, "2.1 min"),
        (750, "12 min"),
        (7199, "120 min"),
        (11_520, "3.2 h"),
        (4e6, "1,111.1 h"),
    ],
)
def test_a_duration_has_two_digits_in_the_largest_unit_that_leaves_them(seconds: float, words: str) -> None:
    assert spelled(seconds) == words
