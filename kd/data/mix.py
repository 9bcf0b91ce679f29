"""A counter-based random number: a pure function of (seed, stream, index), so nothing depends on loader order.

`mix` is the splitmix64 generator (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014), read at a position instead of stepped: splitmix64 adds GAMMA to its state and scrambles a copy, so its n-th
output is known without the others. The constants are those of the authors' reference code.
"""

from __future__ import annotations

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # odd, and 2^64 / golden ratio
_SCRAMBLE = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
    (np.uint64(31), np.uint64(1)),
)


def stream(purpose: str) -> int:
    """Return the stream of a purpose of at most 8 ASCII letters, such as `subset`: distinct words never share one."""
    assert len(purpose) <= 8, purpose
    return int.from_bytes(purpose.encode("ascii"))


def mix(seed: int | np.ndarray, stream: int | np.ndarray, index: int | np.ndarray) -> np.ndarray:
    """Return the uint64 at (seed, stream, index), broadcast over arrays; negative numbers count modulo 2^64.

    It is output `index` of the splitmix64 generator that is seeded with output `stream` of the one seeded with
    `seed`. For one (seed, stream) distinct indices give distinct numbers: sorting by them has no ties.
    """
    return _output(_output(_uint64(seed), _uint64(stream)), _uint64(index))


def _uint64(number: int | np.ndarray) -> np.ndarray:
    if isinstance(number, int):
        return np.uint64(number % 2**64)
    return np.asarray(number).astype(np.uint64)


def _output(state: np.ndarray, index: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # wrapping at 2^64 is the arithmetic that is meant
        bits = state + (index + np.uint64(1)) * _GAMMA
        for shift, factor in _SCRAMBLE:
            bits = (bits ^ (bits >> shift)) * factor
    return bits
