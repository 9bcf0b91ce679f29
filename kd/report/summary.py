"""A study in three sentences: what it asks, what it found, and what became of the claims."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from kd.report.comparisons import HIGHER, LEAST, LOWER, SMALL, UNDECIDED
from kd.report.figures import naming, wording
from kd.report.statistics import SETTING, finished
from kd.report.verdict import DESCRIPTIVE, FAILS, HOLDS, MISSING
from kd.study.cells import TEACHERS

_NAMES = 6  # most names that a sentence lists


def sentences(rows: pd.DataFrame, compared: pd.DataFrame, judged: pd.DataFrame | None) -> list[str]:
    """Return the sentences, from the table, the comparisons of its objectives, and the verdict where there is one."""
    said = [_asked(rows), _found(rows, compared)]
    return said if judged is None else [*said, _claims(judged)]


def listed(words: Iterable[str], most: int | None = None) -> str:
    """Return words as a sentence lists them: A, B and C; or A, B and 7 more."""
    words = list(map(str, words))
    if most and len(words) > most + 1:
        words = [*words[:most], f"{len(words) - most} more"]
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last


def _asked(rows: pd.DataFrame) -> str:
    rows = rows[rows["experiment"] != TEACHERS].drop_duplicates("cell")
    if rows.empty:
        return "No network is in the table."
    shown, labels, seeds = subject(rows)
    objectives = rows.drop_duplicates("objective_name").groupby("family_name", sort=False).size()
    names = [name + (f" ({many} settings)" if many > 1 else "") for name, many in objectives.items()]
    return (
        f"Which objective gives the best {listed(shown['student_name'].unique(), _NAMES)} on "
        f"{listed(rows['dataset'].unique(), _NAMES)} ({listed(labels, _NAMES)}): {listed(names, _NAMES)}, "
        f"in {len(rows)} networks with {seeds}?"
    )


def subject(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str], str]:
    """Return the students among `rows`, or all if none is taught; the names of their labels; the count of seeds."""
    taught = rows[rows["stages"] > 1]
    labels = rows.sort_values("noise_rate", kind="stable")["noise_name"].unique()
    seeds = rows["seed"].nunique()
    return taught if len(taught) else rows, labels.tolist(), f"{seeds} {'seed' if seeds == 1 else 'seeds'}"


def _found(rows: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Say what the comparisons decide: those with CE alone, or all of a study that has none."""
    compared = compared[compared["pairs"] > 0]
    alone = compared[compared["a"] == "ce"]  # CE stands first
    shown = alone if len(alone) else compared
    if shown.empty:
        top1 = finished(rows)["test_top1"]
        return f"Test top-1 lies between {top1.min():.2f} and {top1.max():.2f} %." if len(top1) else "All diverged."
    kind = "of a distilled student with cross-entropy alone" if len(alone) else "of two objectives"
    counts = shown["verdict"].value_counts()
    decided = len(shown) - counts.get(UNDECIDED, 0)
    words = {LOWER: "for the student", HIGHER: "for cross-entropy", SMALL: "for a difference too small to matter"}
    if not len(alone):
        words = {HIGHER: "for the first", LOWER: "for the second", SMALL: words[SMALL]}
    found = [f"{counts[verdict]} {word}" for verdict, word in words.items() if counts.get(verdict)]
    how = listed(found) if found else ""
    most = shown["pairs"].max()
    if most < LEAST:
        how = f"because that takes {LEAST} pairs of seeds, and there are {most}"
    number = f"{decided or 'none'} of {len(shown)}"
    return (
        f"{number[0].upper()}{number[1:]} comparisons {kind} {'is' if decided < 2 else 'are'} decided"
        f"{f', {how}' if how else ''}; the largest difference is {_largest(rows, shown)}."
    )


def _largest(rows: pd.DataFrame, shown: pd.DataFrame) -> str:
    """Spell the largest difference that has an interval, if any has, with the higher side first."""
    shown = shown[shown["low"].notna()] if shown["low"].notna().any() else shown
    line = shown.loc[shown["difference"].abs().idxmax()].to_dict()
    names = dict(zip(rows["objectives"], rows["objectives_name"], strict=True))
    a, b, turn = line["a"], line["b"], line["difference"] < 0
    low, high = (-line["high"], -line["low"]) if turn else (line["low"], line["high"])
    first, second = (b, a) if turn else (a, b)
    varied = {column for column in SETTING if shown[column].nunique() > 1} | {"networks"}
    difference = wording.interval_words(abs(line["difference"]), low, high)
    return f"{difference} points ({names[first]} over {names[second]}; {naming.title(line, varied)})"


def _claims(judged: pd.DataFrame) -> str:
    missing = judged["verdict"] == MISSING
    tested = judged[~missing & (judged["kind"] != DESCRIPTIVE)]["verdict"]
    unmeasured = f"{missing.sum()} {'claim is' if missing.sum() == 1 else 'claims are'} not measured"
    if tested.empty:
        return f"It tests none of the claims below: {unmeasured}."
    said = {HOLDS: ("holds", "hold"), FAILS: ("does not hold", "do not hold")}
    said |= {SMALL: ("is too small to matter", "are too small to matter"), UNDECIDED: ("is undecided", "are undecided")}
    counts = [(words, int((tested == verdict).sum())) for verdict, words in said.items()]
    found = listed(f"{many} {words[many > 1]}" for words, many in counts if many)
    return f"Of {len(tested)} tests of the claims below, {found}{f'; {unmeasured}' if missing.any() else ''}."
