"""How often the rules of the statistics err, on invented differences whose truth is known. Writes simulation.csv.

tests/test_statistics.py and tests/test_comparisons.py use the same functions with fewer runs.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from bench import RESULTS
from kd.report.comparisons import judge_family
from kd.report.evalues import p_always
from kd.report.power import ALPHA, LEAST, MOST, PILOT, POWER, power, seeds_to_show
from kd.report.statistics import Paired, judge, judge_crossed

VARIANCES = {  # (of teachers, of students, of the rest)
    "even": (1, 1, 1),
    "teachers": (1, 0.2, 0.3),
    "students": (0.1, 1, 1),
    "rest": (0, 0, 1),
}
CROSSED = ((3, 3), (3, 5), (5, 3), (5, 5), (3, 10), (10, 3))  # (teachers, students)
SPREADS = np.geomspace(0.1, 2, 8)  # points: the standard deviation of each line of a family
SMALLEST = 1.0  # points
PILOTS, FAMILIES, OF_ONE = (3, 6, 10), (1, 8, 20), (0.2, 0.5, 1.5)  # pairs, lines, points


LARGEST = 20  # pairs: a study that looks after each seed from the fifth on ends here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, default=10_000, help="of each setting of crossed seeds; others have a fifth"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    fifth, whole = options.runs // 5, options.runs
    for line in itertools.chain(
        of_crossed(whole), of_families(fifth), of_seeds(fifth), of_looks(whole), of_two_stages(whole)
    ):
        print(*line.values(), sep=" | ", flush=True)
        rows.append(line)
    pd.DataFrame(rows).to_csv(options.out / "simulation.csv", index=False)


def row(rule: str, setting: str, truth: str, outcome: str, happened: Sequence[bool]) -> dict:
    """Return the share of runs in which something happened, with its standard error."""
    share, runs = float(np.mean(happened)), len(happened)
    error = math.sqrt(share * (1 - share) / runs)
    said = {"rule": rule, "setting": setting, "truth": truth, "outcome": outcome}
    return {**said, "share": round(share, 4), "standard_error": round(error, 4), "runs": runs}


# -- crossed teachers and students ------------------------------------------------------------------------------------


def crossed(
    rng: np.random.Generator, teachers: int, students: int, variances: Sequence[float], truth: float = 0.0
) -> np.ndarray:
    """Draw differences [teachers, students] with mean `truth` and variances of teachers, students and the rest."""
    of_teachers, of_students, rest = np.sqrt(variances)
    return (
        truth
        + rng.normal(0, of_teachers, (teachers, 1))
        + rng.normal(0, of_students, (1, students))
        + rng.normal(0, rest, (teachers, students))
    )


def of_crossed(runs: int) -> Iterator[dict]:
    """Yield the type I error and the power at 0.05, and the type I error of a paired t test over all pairs.

    Power is for a difference that a test with known variances would find in 80 of 100 studies.
    """
    for (teachers, students), (name, variances) in itertools.product(CROSSED, VARIANCES.items()):
        rng = np.random.default_rng(0)
        se = math.sqrt(variances[0] / teachers + variances[1] / students + variances[2] / (teachers * students))
        shown = se * (special.ndtri(1 - ALPHA / 2) + special.ndtri(POWER))
        smallest = se * (special.ndtri(1 - ALPHA) + special.ndtri((1 + POWER) / 2))
        setting = f"{teachers} teachers x {students} students, variances {name}"
        for truth, value in {"no difference": 0.0, "a difference": shown, "the smallest of interest": smallest}.items():
            drawn = [crossed(rng, teachers, students, variances, value) for _ in range(runs)]
            found = [judge_crossed(differences) for differences in drawn]
            if value != smallest:
                yield row("crossed", setting, truth, "p < 0.05", [one.p < ALPHA for one in found])
            if value == 0:
                naive = [judge(differences.ravel()).p < ALPHA for differences in drawn]
                yield row("all pairs as if independent", setting, truth, "p < 0.05", naive)
            if value != shown:
                small = [one.p_within(smallest) < ALPHA for one in found]
                yield row("crossed, equivalence", setting, truth, "small", small)


# -- families ---------------------------------------------------------------------------------------------------------


def family(rng: np.random.Generator, pairs: int, truth: float = 0.0) -> list[dict]:
    """Judge a family of eight lines with different spreads, all with the true difference `truth`."""
    drawn = rng.normal(truth, SPREADS[:, None], (len(SPREADS), pairs))
    return judge_family([judge(values) for values in drawn], [SMALLEST] * len(SPREADS))


def claims_a_difference(lines: Sequence[dict]) -> bool:
    """Say whether any line of a family is judged higher or lower."""
    return any(line["verdict"] in ("higher", "lower") for line in lines)


def calls_small(lines: Sequence[dict]) -> bool:
    """Say whether any line of a family is judged to have no difference of interest."""
    return any(line["p_small_holm"] < ALPHA for line in lines)


def of_families(runs: int) -> Iterator[dict]:
    """Yield how often a family of eight lines claims something false, and how many of its lines find the truth."""
    for pairs in (3, 5, 6, 10, 20):
        rng = np.random.default_rng(0)
        setting = f"{len(SPREADS)} lines, {pairs} pairs"
        none = [family(rng, pairs) for _ in range(runs)]
        yield row("family", setting, "no difference", "any line higher or lower", list(map(claims_a_difference, none)))
        small = [line["verdict"] == "small" for lines in none for line in lines]
        yield row("family", setting, "no difference", "a line is small", small)
        some = [family(rng, pairs, SMALLEST) for _ in range(runs)]
        yield row("family", setting, "1 point", "any line small", list(map(calls_small, some)))
        for outcome in ("higher", "lower"):
            decided = [line["verdict"] == outcome for lines in some for line in lines]
            yield row("family", setting, "1 point", f"a line is {outcome}", decided)


# -- how many seeds ---------------------------------------------------------------------------------------------------


def suffices(found: Paired, spread: float, lines: int) -> bool:
    """Say whether the number of seeds that a pilot gives has the power promised, if a difference has this spread."""
    seeds = seeds_to_show(found, SMALLEST, ALPHA / lines)[1]
    return seeds is None or power(SMALLEST / spread, seeds, ALPHA / lines) >= POWER


def pilot(rng: np.random.Generator, pairs: int, spread: float) -> Paired:
    """Judge independent pairs with a random mean."""
    return judge(rng.normal(rng.normal(0, 1), spread, pairs))


def of_seeds(runs: int) -> Iterator[dict]:
    """Yield how often the number of seeds that a pilot gives has 80 % power for a difference of 1 point."""
    for pairs, lines, spread in itertools.product(PILOTS, FAMILIES, OF_ONE):
        rng = np.random.default_rng(0)
        found = [suffices(pilot(rng, pairs, spread), spread, lines) for _ in range(runs)]
        setting = f"pilot of {pairs} pairs, {lines} lines, spread {spread}"
        yield row("how many seeds", setting, "1 point", "the number has its power", found)
    for (teachers, students), (name, variances) in itertools.product(CROSSED, VARIANCES.items()):
        rng = np.random.default_rng(0)
        pilots = (judge_crossed(crossed(rng, teachers, students, variances)) for _ in range(runs))
        found = [suffices(one, math.sqrt(sum(variances)), 1) for one in pilots]
        setting = f"pilot of {teachers} teachers x {students} students, variances {name}"
        yield row("how many seeds", setting, "1 point", "the number has its power", found)


# -- looks ------------------------------------------------------------------------------------------------------------


def looking(rng: np.random.Generator, size: float, lines: int = 1) -> tuple[int | None, int | None]:
    """Look after each seed from the fifth on; return with how many pairs the t test and the e-value first decide.

    All of `lines` lines have a true difference of `size` spreads. None means that no line is decided with 20 pairs.
    """
    drawn = rng.normal(size, 1, (lines, LARGEST))
    first: list[int | None] = [None, None]
    for n in range(LEAST, LARGEST + 1):
        found = [judge(values[:n]) for values in drawn]
        for place, p in enumerate(([one.p for one in found], [p_always(one) for one in found])):
            if first[place] is None and min(p) * lines < ALPHA:
                first[place] = n
    return first[0], first[1]


def of_looks(runs: int) -> Iterator[dict]:
    """Yield how often who looks after each seed claims a difference, by the t test and by e-values."""
    for size, lines in itertools.product((0.0, 1.0, 2.0, 3.0), (1, 8)):
        rng = np.random.default_rng(0)
        found = [looking(rng, size, lines) for _ in range(max(1, runs // (5 * lines)))]
        setting = f"{lines} lines, a look after each of 5 to {LARGEST} seeds"
        truth = f"{size:g} spreads" if size else "no difference"
        for rule, first in zip(("t test, looked at", "e-value"), zip(*found, strict=True), strict=True):
            yield row(rule, setting, truth, "any line decided", [n is not None for n in first])


# -- two stages -------------------------------------------------------------------------------------------------------


def two_stages(rng: np.random.Generator, truth: float, spread: float, lines: int = 8) -> tuple[float, float]:
    """Choose n by the spread of six pairs; return p by the spread of these (Stein) and by that of all pairs."""
    first = rng.normal(truth, spread, PILOT)
    needed = _chosen(round(float(first.std(ddof=1)), 2), lines)
    every = judge(np.concatenate([first, rng.normal(truth, spread, needed - PILOT)]))
    sd = float(first.std(ddof=1))
    return every._replace(se=sd / math.sqrt(needed), df=PILOT - 1).p, every.p


@cache
def _chosen(sd: float, lines: int) -> int:
    """Return how many pairs a pilot with this spread asks for."""
    pilot = Paired(0.0, max(sd, 0.01) / math.sqrt(PILOT), PILOT - 1, PILOT, 0, max(sd, 0.01))
    return max(seeds_to_show(pilot, SMALLEST, ALPHA / lines)[1] or MOST, PILOT)


def of_two_stages(runs: int) -> Iterator[dict]:
    """Yield how often two stages claim a difference in one of eight lines, by either spread."""
    for spread, truth in itertools.product((0.3, 0.7, 1.0), (0.0, SMALLEST)):
        rng = np.random.default_rng(0)
        drawn = [two_stages(rng, truth, spread) for _ in range(runs)]
        for rule, p in zip(("two stages, Stein", "two stages, t test"), zip(*drawn, strict=True), strict=True):
            about = f"a line of 8, spread {spread}", "1 point" if truth else "no difference"
            yield row(rule, *about, "p < 0.05 / 8", [one < ALPHA / 8 for one in p])


if __name__ == "__main__":
    main()
