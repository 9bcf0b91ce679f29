"""What a study can decide before it runs: for each claim, which difference its seeds show and how many seeds it takes.

The verdict's own code finds the claims, pairs and families: it judges a table of all cells of the study with made-up
accuracies, of which only the number of pairs is used. Spreads are those of the cells that are finished; where there
are none, of a table of measured ones, spreads.csv (`python -m bench.spreads` wrote it), by dataset and fraction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

from kd.measure.frames import setting, with_hyperparameters
from kd.report import verdict
from kd.report.comparisons import amount
from kd.report.identity import identity
from kd.report.own_claims import claim_of
from kd.report.paper.claims import CLAIMS, SHARE, Claim
from kd.report.power import ALPHA, LEAST, MOST, POWER, seeds_needed, shown_by, spread_limit
from kd.report.table import headline
from kd.study import products
from kd.study.config import Study
from kd.study.expansion import memberships
from kd.study.judge import Judge

_LINE = ["claim", "kind", "smallest", "unit", *verdict.KEY]
_PLANNED = ["pairs", "seeds", "family", "spread", "source", "shows", "needs"]
_VALUES = ["test_top1", "train_top1", "teacher_top1", "best_gap"]


def claims_of(study: Study) -> Sequence[Claim]:
    """Return what the verdict of a study judges: its own claims, or the paper's."""
    return list(map(claim_of, study.claims)) or CLAIMS


def planned(judge: Judge, claims: Sequence[Claim]) -> pd.DataFrame:
    """Return a line for each claim and setting of a study: its seeds, what they show, and what it takes.

    `seeds` counts independent pairs, `spread` is the upper 80 % limit of the spread of a difference, in the unit of the
    claim, and `source` says where it is from. Where no spread is known `shows` and `needs` are missing.
    """
    rows = _rows(judge)
    made_up = [replace(claim, analysis="") for claim in claims if claim.where != "all"]
    lines = _judged(_invented(rows, made_up), made_up)
    lines = lines[lines["verdict"] != verdict.MISSING]
    measured = _measured(rows, judge)
    any_done = (measured["status"] == "ok").any()
    finished = _judged(measured, [claim for claim in made_up if claim in claims] if any_done else [])
    seen = {tuple(line[_LINE]): line for _, line in finished.iterrows()}
    found = [_planned(line, seen.get(tuple(line[_LINE]))) for _, line in lines.iterrows()]
    return pd.DataFrame(
        found, columns=[*_LINE, "setting", "pairs", "seeds", "family", "spread", "source", "shows", "needs"]
    )


def _judged(rows: pd.DataFrame, claims: Sequence[Claim]) -> pd.DataFrame:
    lines = (
        verdict.judged(rows, claims, known=pd.DataFrame())
        if claims
        else pd.DataFrame(columns=[*_LINE, "verdict", "found"])
    )
    return lines.assign(setting=verdict.settings_of(lines)) if len(lines) else lines


def _planned(line: pd.Series, seen: pd.Series | None) -> dict:
    seeds, share = _independent(line), ALPHA / max(line["family"], 1)
    spread, source = _spread(line, seen)
    known = not math.isnan(spread)
    return {
        **line[[*_LINE, "setting", "pairs", "family"]],
        "seeds": seeds,
        "spread": spread,
        "source": source,
        "shows": shown_by(seeds, spread, share) if known else math.nan,
        "needs": (seeds_needed(line["smallest"], spread, share) or math.inf) if known else math.nan,
    }


def _spread(line: pd.Series, seen: pd.Series | None) -> tuple[float, str]:
    """Return the upper limit of the spread of a line, and where it was measured."""
    if seen is not None and _independent(seen) > 1 and seen["sd"] > 0:
        return spread_limit(seen["sd"], _independent(seen) - 1), f"{_independent(seen)} finished pairs"
    if line["unit"] == SHARE:
        return math.nan, "not known until cells are finished"
    known = spreads()
    same = known[(known["dataset"] == line["dataset"]) & (known["value"] == line["value"])]
    same = same[(same["fraction"] == line["fraction"]) & (same["noisy"] == (line["noise"] != "none"))]
    if same.empty:
        return math.nan, f"not known for {line['dataset']}: finish {LEAST + 1} seeds, and ask again"
    widest = same.loc[same["sd"].idxmax()]
    return spread_limit(widest["sd"], widest["df"]), widest["source"]


def _independent(line: pd.Series) -> int:
    """Return the number of independent pairs of a line."""
    return line["pairs"] if line["teachers"] == 1 else min(line["teachers"], line["pairs"] // line["teachers"])


@cache
def spreads() -> pd.DataFrame:
    """Return the spreads that were measured: sd (points) of the difference of two networks of one seed, with its df."""
    package = files("kd.report")
    with (package / "spreads.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


# -- tables of cells that are not trained yet -------------------------------------------------------------------------


def _rows(judge: Judge) -> pd.DataFrame:
    """Return the table's row of each cell of a study, without what is measured."""
    members = memberships(judge.study, judge.students)
    rows = [
        {
            "experiment": name,
            "cell": cell.path,
            **setting(cell, {"realised_rate": 0.0}),
            "protocol": cell.protocol,
            **identity(cell),
            "epochs": cell.epochs(judge.study.protocol),
        }
        for name, cell in members
    ]
    frame = pd.DataFrame(rows).astype({"teacher_seed": "Int64"})
    return with_hyperparameters(frame, [cell for _, cell in members])


def _invented(rows: pd.DataFrame, claims: Sequence[Claim]) -> pd.DataFrame:
    """Return the rows with made-up values, which are of no use but to count pairs."""
    values = [*dict.fromkeys([*_VALUES, *(claim.value for claim in claims)])]
    drawn = np.random.default_rng(0).normal(70, 1, (len(rows), len(values)))
    # Students of a part, or alone, must lie below those of all, else there is no way of which a share can be reached.
    drawn += 20 * (rows["fraction"] == 1).to_numpy()[:, None] + 9 * (np.array(values) == "teacher_top1")
    return rows.assign(status="ok", **dict(zip(values, drawn.T, strict=True)))


def _measured(rows: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """Return the rows with the numbers of finished cells. A cell that is not finished counts as one that diverged."""
    found = {}
    for cell in judge.cells:
        manifest = judge.manifest(products.network(cell))
        done = manifest is not None and manifest["status"] == "ok" and not judge.to_do(products.network(cell))
        found[cell.path] = headline(manifest) | {"status": "ok"} if done else {"status": "diverged"}
    taught = rows["teacher_cell"].map(lambda path: found.get(path, {}).get("test_top1", math.nan))
    numbers = pd.DataFrame([found[path] for path in rows["cell"]], index=rows.index)
    return rows.join(numbers.reindex(columns=[*dict.fromkeys([*_VALUES, *numbers])])).assign(teacher_top1=taught)


# -- words ------------------------------------------------------------------------------------------------------------


def said(lines: pd.DataFrame) -> list[str]:
    """Say what the seeds of a study can decide: a line for each claim, and for each setting in which that differs."""
    if lines.empty:
        return []
    head = f"what its seeds can decide, with {100 * POWER:.0f} % power at {ALPHA:.2g} divided by the family of claims:"
    words = lines.assign(words=[_said(line) for line in lines.to_dict("records")])
    alike = words.groupby(["claim", "words"], sort=False)["setting"].agg(list)
    return [head, *(f"  {claim}, {_settings(where)}: {said}" for (claim, said), where in alike.items())]


def _settings(where: Sequence[str]) -> str:
    return f"{len(where)} settings" if len(where) > 1 else where[0] or "one setting"


def _said(line: dict) -> str:
    seeds = f"{line['seeds']} {'seed' if line['seeds'] == 1 else 'seeds'}"
    if line["seeds"] < LEAST:
        shown = f"{seeds} cannot decide, {LEAST} are the least"
    elif math.isnan(line["shows"]):
        shown = seeds
    else:
        shown = f"{seeds} show {line['shows']:.2g}{' points' * (line['unit'] == 'points')}"
    if math.isnan(line["spread"]):
        return f"{shown}; spread {line['source']}"
    needs = f"more than {MOST}" if math.isinf(line["needs"]) else f"{line['needs']:.0f}"
    least = amount(line["smallest"], line["unit"])
    return f"{shown}; {needs} would show {least} (spread at most {line['spread']:.2f}: {line['source']})"
