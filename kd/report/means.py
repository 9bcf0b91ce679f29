"""Means of a study's networks and comparisons of its objectives: as CSV, in LaTeX, and in the words of the page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kd.measure.frames import Artefacts, read_frame
from kd.report.comparisons import COMPARED, comparisons
from kd.report.figures import naming, wording
from kd.report.latex import longtable
from kd.report.originals import in_latex, originals
from kd.report.statistics import SETTING, paired, settings, summarise

_OBJECTIVES = 7  # most of one experiment whose comparisons, 21, the page shows; comparisons.csv has all
MEANS = (
    "Top-1 in percent after the last epoch: mean ± half-width of its 95 % Student t interval over n networks that "
    "differ in seed. Against CE: mean difference in test top-1 to the same student without a teacher, paired over "
    "seeds, with its interval, which decides nothing. Best on test: how much higher the best epoch on the test set "
    "reads."
)
PAIRS = (
    "Mean difference in test top-1 with its 95 % interval, paired over seeds. The comparisons below one heading are "
    "one family, apart from the verdict's: p is corrected by Holm for their number, the intervals are not, and fewer "
    "than five pairs decide nothing. How many seeds would show a difference of 1 point: with 80 % power, at the upper "
    "80 % limit of the spread."
)


def means(rows: pd.DataFrame) -> list[tuple[str, list[dict]]]:
    """Return (title, lines of words) for each path and data, with one line for all cells that differ only in seed."""
    against = _against_ce(rows)
    rows = rows.assign(against=rows["cell"].map(lambda cell: against.get(cell, "–")))
    shared = [*SETTING, "noise_name", "networks", "networks_name"]
    by = [*shared, "stages", "lineage", "teacher_lineage", "objectives", "objectives_name", "against"]
    lines = summarise(rows, by).assign(train=_train_words(rows, by))
    lines = lines.sort_values(["noise_rate", "stages"], kind="stable")
    groups = [(dict(zip(shared, key, strict=True)), group) for key, group in lines.groupby(shared, sort=False)]
    varied = {column for column in SETTING if rows[column].nunique() > 1} | {"networks"}
    return [(naming.title(key, varied), _lines(group)) for key, group in groups]


def _train_words(rows: pd.DataFrame, by: list[str]) -> list[str]:
    """Say the train accuracy of each group of `by`; imported networks and ensembles have no epoch, and none."""
    known = rows["train_top1"].mask(rows["epochs"] == 0, 0.0)  # `summarise` refuses NaN
    lines = summarise(rows.assign(train_top1=known), by, "train_top1").to_dict("records")
    return [wording.half_words(line) if line["epochs"] else "–" for line in lines]


def _lines(group: pd.DataFrame) -> list[dict]:
    lines = group.to_dict("records")
    early = group["lineage"].nunique() > group["objectives"].nunique()  # such as teachers that were stopped early
    return [
        {
            "objectives": line["objectives_name"] + (f" ({line['teacher_lineage']})" if early else ""),
            "test": wording.half_words(line),
            "train": line["train"],
            "against": line["against"],
            "gap": wording.signed(line["best_gap"]) if line["n"] else "–",
            "n": wording.count(line["n"], line["diverged"]).removeprefix("n = "),
        }
        for line in lines
    ]


def _against_ce(rows: pd.DataFrame) -> dict[str, str]:
    """Return {cell with a teacher: how its objective compares with CE alone, paired over seeds}."""
    words = {}
    for _, frame in settings(rows):
        for baseline in wording.baselines(frame, "objective"):
            for objective, group in frame[frame["objective"] != baseline].groupby("objective"):
                words |= dict.fromkeys(group["cell"], wording.paired_short(paired(frame, objective, baseline)))
    return words


def pairs(rows: pd.DataFrame, compared: pd.DataFrame) -> list[tuple[str, list[dict]]]:
    """Return (title, lines of words) for all pairs of objectives, or nothing if they are too many to read."""
    if rows["objectives"].nunique() > _OBJECTIVES:
        return []
    varied = {column for column in SETTING if rows[column].nunique() > 1} | {"networks"}
    names = dict(zip(rows["objectives"], rows["objectives_name"], strict=True))
    groups = compared.groupby(COMPARED, sort=False)
    keys = [dict(zip(COMPARED, key, strict=True)) for key, _ in groups]
    return [(naming.title(key, varied), _pairs(group, names)) for key, (_, group) in zip(keys, groups, strict=True)]


def _pairs(group: pd.DataFrame, names: dict[str, str]) -> list[dict]:
    return [
        {
            "pair": f"{names[line['a']]} against {names[line['b']]}",
            "difference": wording.interval_words(line["difference"], line["low"], line["high"]),
            "p": wording.p_words(line["p_holm"]),
            "n": line["pairs"],
            "says": line["statement"],
        }
        for line in group.to_dict("records")
    ]


# -- files ------------------------------------------------------------------------------------------------------------


def means_and_comparisons(folder: Path) -> Artefacts:
    """Return means, comparisons and originals as CSV and in LaTeX, from the table in `folder`.

    means.csv has mean, sd, interval, n, diverged and gap of every group. comparisons.csv has every pair of objectives,
    with Holm's correction and power. originals.csv has what was published beside what was measured.
    """
    rows = read_frame(folder / "table.parquet")
    by = ["experiment", *SETTING, "networks", "objectives", "lineage"]
    compared = comparisons(rows)
    published = originals(rows, compared)
    frames = {"means": summarise(rows, by), "comparisons": compared, "originals": published}
    return {
        **{f"{name}.csv": frame.to_csv(index=False, lineterminator="\n").encode() for name, frame in frames.items()},
        "means.tex": _means_in_latex(rows).encode(),
        "comparisons.tex": _comparisons_in_latex(rows, compared).encode(),
        "originals.tex": in_latex(published).encode(),
    }


def _means_in_latex(rows: pd.DataFrame) -> str:
    """Return the means of the page as a table, experiment by experiment."""
    lines = [
        [name, title, *line.values()]
        for name, own in rows.groupby("experiment", sort=False)
        for title, group in means(own)
        for line in group
    ]
    columns = ["experiment", "networks", "objectives", "test", "train", "against CE", "best on test", "n"]
    return longtable(pd.DataFrame(lines, columns=columns), [0.1, 0.2, 0.16, 0.11, 0.11, 0.16, 0.06, 0.04], MEANS)


def _comparisons_in_latex(rows: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Return all comparisons as a table, experiment by experiment."""
    names = dict(zip(rows["objectives"], rows["objectives_name"], strict=True))
    varied = {column for column in SETTING if rows[column].nunique() > 1} | {"networks"}
    lines = [
        [key[0], naming.title(dict(zip(COMPARED, key, strict=True)), varied), *line.values()]
        for key, group in compared.groupby(COMPARED, sort=False)
        for line in _pairs(group, names)
    ]
    columns = ["experiment", "networks", "objectives", "difference", "p (Holm)", "pairs", "the first is"]
    return longtable(pd.DataFrame(lines, columns=columns), [0.1, 0.2, 0.2, 0.14, 0.08, 0.05, 0.17], PAIRS)
