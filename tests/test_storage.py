"""Promise 1 at every storage call of every verb: it may fail, or be the last, and the same verb heals it.

`python tests/storage_sweep.py` makes all trials; here are as many as there is time for.
"""

from __future__ import annotations

import pytest
from made.sweeps import swept


@pytest.mark.slow
def test_a_storage_call_that_fails_leaves_nothing_torn_and_the_same_verb_heals_it() -> None:
    """Faults 2, 5, 6 and 8: whichever call it is, and whether it is refused or the process is killed there."""
    assert ", 0 wrong" in swept("storage_sweep.py", "--seconds", "20", "--seed", "1")
