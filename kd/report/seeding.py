"""`seeds: auto`: as many seeds as the claims need, in two stages (Stein 1945). The difference plays no part.

The first stage is seeds 0 to 5. Once they are published, the same command reads the study again: n is the largest
number that a claim of the verdict needs to show its smallest difference of interest, 30 at most. The test then takes
its spread from the first stage alone (`kd.report.verdict.two_stages`). So n costs no error: the mean and the spread of
a normal sample are independent, while the ordinary t test of all seeds would claim false differences in up to 9 of
100 studies.
"""

from __future__ import annotations

from collections.abc import Mapping

from kd.core.errors import ConfigError
from kd.study import products
from kd.study.config import AUTO, DECIDED, FIRST, UNDECIDED, validate
from kd.study.judge import Judge

MOST = 30  # seeds; who wants more lists them


def resolved(values: Mapping[str, object]) -> dict:
    """Return the values of a study with `seeds: auto` replaced by the seeds of the stage that it is in.

    Raises ConfigError if no number of seeds follows from the first stage.
    """
    if values.get("seeds") != AUTO:
        return dict(values)
    first = {**values, "seeds": list(range(FIRST)), "auto_seeds": UNDECIDED}
    judge = Judge.of_study(validate(first))
    if any(map(judge.to_do, map(products.network, judge.cells))):
        return first
    return {**values, "seeds": list(range(_decided(judge))), "auto_seeds": DECIDED}


def _decided(judge: Judge) -> int:
    from kd.report.planned import claims_of, planned  # pandas is needed only here

    needs = planned(judge, claims_of(judge.study))["needs"].dropna()
    if needs.empty:
        raise ConfigError(f"seeds: {AUTO}: no claim tells how many by the spread of this study; list them: [0, 1, 2]")
    return int(min(max(needs.max(), FIRST), MOST))
