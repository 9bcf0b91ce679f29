"""Judge a family of differences by one rule, and compare all pairs of objectives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from kd.report.evalues import e_value, p_always, p_within_always
from kd.report.power import ALPHA, LEAST, MOST, difference_shown, seeds_to_show
from kd.report.statistics import SETTING, Paired, against, differences, judge_seeds, side

HIGHER, LOWER, SMALL, UNDECIDED = "higher", "lower", "small", "undecided"
SMALLEST = 1.0  # points: the default smallest difference of interest
NARROW = 0.1  # a spread below this share of its family's median may be due to chance

COMPARED = ["experiment", *SETTING, "noise_name", "networks", "networks_name", "stopped"]
TESTED = ["difference", "low", "high", "half_width", "sd", "pairs", "teachers", "left_out", "p", "e", "p_holm"]
TESTED += ["smallest", "p_small", "p_small_holm", "family", "verdict", "narrow", "shows", "seeds_from", "seeds_needed"]
TESTED += ["statement"]
WHOLE = {"seeds_from": "Int64", "seeds_needed": "Int64"}


def holm(p: Sequence[float]) -> list[float]:
    """Return p values with Holm's correction for the number of tests. NaN means no test and stays NaN."""
    corrected = np.asarray(p, dtype=float).copy()
    tested = np.flatnonzero(~np.isnan(corrected))
    rising = tested[np.argsort(corrected[tested], kind="stable")]
    # Not by statsmodels' multipletests, which takes half a second each time.
    steps = corrected[rising] * np.arange(len(rising), 0, -1)
    corrected[rising] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()


def verdict(found: Paired, corrected: float, corrected_small: float = math.nan) -> str:
    """Return "higher", "lower", "small" (no difference of interest) or "undecided" from the corrected p values."""
    if found.independent < LEAST:
        return UNDECIDED
    if corrected < ALPHA:  # NaN decides nothing
        return HIGHER if found.effect > 0 else LOWER
    return SMALL if corrected_small < ALPHA else UNDECIDED


def judge_family(
    found: Sequence[Paired], smallest: Sequence[float], units: Sequence[str] = (), looked: Sequence[bool] = ()
) -> list[dict]:
    """Return the columns `TESTED` for the differences of one family.

    Each difference is tested against 0, and for being smaller than its `smallest` (in its unit, by default points).
    Holm's correction is over the family, once for each of the two questions. A difference that was `looked` at with
    other seeds before is tested by its e-value, others by the t test.
    """
    corrected, small, corrected_small, verdicts = _corrected(found, smallest, looked)
    family = sum(one.tested for one in found)
    alike = [not units or units[n] == "points" for n in range(len(found))]  # other units' spreads do not compare
    spreads = [one.sd for one, same in zip(found, alike, strict=True) if one.tested and same]
    usual = float(np.median(spreads)) if spreads else math.nan
    lines = []
    for n, (one, least) in enumerate(zip(found, smallest, strict=True)):
        share = ALPHA / max(family, 1)
        few, many = seeds_to_show(one, least, share)
        line = {
            "difference": one.effect,
            "low": one.low,
            "high": one.high,
            "half_width": one.half,
            "sd": one.sd,
            "pairs": one.n,
            "teachers": one.teachers,
            "left_out": one.left_out,
            "p": one.p,
            "e": e_value(one),
            "p_holm": corrected[n],
            "smallest": least,
            "p_small": small[n],
            "p_small_holm": corrected_small[n],
            "family": family,
            "verdict": verdicts[n],
            "narrow": one.tested and alike[n] and one.sd < NARROW * usual,
            "shows": difference_shown(one, share),
            "seeds_from": few,
            "seeds_needed": many,
        }
        lines.append({**line, "statement": _statement(one, line, amount(least, units[n] if units else "points"))})
    return lines


def _corrected(
    found: Sequence[Paired], smallest: Sequence[float], looked: Sequence[bool] = ()
) -> tuple[list, list, list, list]:
    """Return p after Holm, p for being small, that after Holm, and the verdicts."""
    by_e = looked or [False] * len(found)
    corrected = holm([p_always(one) if seen else one.p for one, seen in zip(found, by_e, strict=True)])
    small = [
        p_within_always(one, least) if seen else one.p_within(least)
        for one, least, seen in zip(found, smallest, by_e, strict=True)
    ]
    corrected_small = holm(small)
    return corrected, small, corrected_small, list(map(verdict, found, corrected, corrected_small))


def amount(smallest: float, unit: str = "points") -> str:
    """Spell a smallest difference of interest: 1 point, 0.1."""
    return " ".join(filter(None, [f"{smallest:g}", "point" if (smallest, unit) == (1, "points") else unit]))


def _statement(found: Paired, line: dict, least: str) -> str:
    """Say how a compares with b, or why the pairs do not tell and how many seeds would."""
    narrow = "; its spread is less than a tenth of its family's median, as chance can have it" if line["narrow"] else ""
    if line["verdict"] == SMALL:
        return f"no difference larger than {least}{narrow}"
    if line["verdict"] != UNDECIDED:
        by = f", by less than {least}" if line["p_small_holm"] < ALPHA else ""
        return f"{line['verdict']}{by}{narrow}"
    return f"{UNDECIDED}{_undecided_words(found, line, least)}{narrow}"


def _undecided_words(found: Paired, line: dict, least: str) -> str:
    if not found.n:
        return "; no seed in common"
    if found.n == 1:
        return "; one pair has no spread to judge by"
    if not found.tested:
        if abs(found.effect) < 1e-9:
            return f"; no difference in any of {found.n} pairs"
        return f"; all {found.n} differences are equal, which leaves no spread to judge by"
    few, seeds = line["seeds_from"], line["seeds_needed"]
    if found.independent < LEAST:
        crossed = f" of {found.teachers} teachers count as {found.independent}, which" if found.teachers > 1 else ""
        why = f"; {found.n} pairs{crossed} are fewer than the {LEAST} that decide"
    else:
        why = f" after Holm's correction over {line['family']}" if found.p < ALPHA else ""
    if seeds is None:
        many = f"more than {MOST}" if few in (None, seeds) else f"{few} to more than {MOST}"
    elif seeds <= found.independent:
        return f"{why}; {found.n} pairs would have shown a difference of {least}"
    else:
        many = f"{seeds}" if few == seeds else f"{few} to {seeds}"
    own = ", each with its own teacher," if found.teachers > 1 else ""
    return f"{why}; {many} seeds{own} would show a difference of {least}"


def comparisons(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare every two objectives of the same networks and data, experiment by experiment.

    Along a chain the mixes are compared. Each is also compared with the student trained alone. The comparisons of one
    experiment and setting are one family; `family` is the number of its tests.
    """
    lines = [line for key, frame in _groups(rows) for line in _compared(key, frame)]
    return pd.DataFrame(lines, columns=[*COMPARED, "a", "b", *TESTED]).astype(WHOLE)


def _groups(rows: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Yield, for each experiment, networks and data, the students, and the same networks trained alone."""
    alone = rows[rows["stages"] == 1]
    for values, group in rows[rows["stages"] > 1].groupby(COMPARED, sort=False):
        key = dict(zip(COMPARED, values, strict=True))
        same = ["experiment", *SETTING]
        yield key, pd.concat([alone[(alone[same] == pd.Series(key)[same]).all(axis=1)], group])


def _compared(key: dict, frame: pd.DataFrame) -> list[dict]:
    sides = {name: side(rows) for name, rows in frame.groupby("objectives", sort=False)}
    pairs = list(itertools.combinations(sides, 2))
    found = [against(sides[a], sides[b], f"{a} against {b}") for a, b in pairs]
    tested = judge_family(found, [SMALLEST] * len(found))
    return [{**key, "a": a, "b": b, **line} for (a, b), line in zip(pairs, tested, strict=True)]


class Compared(NamedTuple):
    """How an objective compares with CE: the difference of each pair (points), their mean, and its verdict."""

    values: tuple[float, ...]
    found: Paired
    verdict: str


def against_ce(rows: pd.DataFrame, value: str = "test_top1") -> dict[str, Compared]:
    """Return, for each cell of an experiment's `rows`, how its objective compares with CE.

    Cells that differ in seeds only share an entry; where there is no CE a cell has none. The verdict on test top-1 is
    that of `comparisons`, whose family is all pairs of objectives of a setting.
    """
    found: dict[str, Compared] = {}
    groups = [frame for _, frame in _groups(rows)]
    same = ["experiment", *SETTING]
    taught = pd.concat(groups)["cell"] if groups else []
    groups += [frame for _, frame in rows[~rows["cell"].isin(taught)].groupby(same, sort=False)]
    for frame in groups:
        for cell, compared in _to_ce(frame, value):
            found.setdefault(cell, compared)
    return found


def _to_ce(frame: pd.DataFrame, value: str) -> Iterator[tuple[str, Compared]]:
    by_ce = frame[frame["loss"] == "ce"].sort_values("stages", kind="stable")
    if by_ce.empty:
        return
    own = by_ce["objectives"].iloc[0]
    cells = dict(iter(frame.groupby("objectives", sort=False)))
    sides = {name: side(group, value) for name, group in cells.items()}
    pairs = [(a, b) if b == own else (b, a) for a, b in itertools.combinations(sides, 2)]
    every = [differences(sides[a], sides[b], f"{a} against {b}") for a, b in pairs]
    paired = [judge_seeds(*one) for one in every]
    *_, verdicts = _corrected(paired, [SMALLEST] * len(paired))
    for (a, b), (values, _), one, said in zip(pairs, every, paired, verdicts, strict=True):
        if b == own:
            compared = Compared(tuple(values[seeds] for seeds in sorted(values)), one, said)
            yield from ((cell, compared) for cell in cells[a]["cell"])
