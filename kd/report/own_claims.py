"""Read a user's own claims from a YAML file or a study, and tables of any origin to judge them by.

claims:
  - id: near
    sentence: A student of MSE agrees with its teacher more often than one of KL (τ = 3)
    value: measures.agreement            # a column of the table, or ANALYSIS.COLUMN
    a: {objective: mse}                  # rows of the side that is claimed to be higher
    b: {objective: kl-tau3}
    smallest: 2                          # the smallest difference of interest
  - id: tau
    sentence: Test accuracy rises with τ
    rows: {family: kl, alpha: 1}
    over: tau                            # instead of a and b
  - id: knowledge
    sentence: What the teacher knows of an image helps
    a: {objective: kl-tau4}
    beats:                               # instead of b: several, all of which a is claimed to be above
      - {family: ls}
      - {objective: kl_class-tau4}
      - {objective: kl_other-tau4}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kd.core.errors import ConfigError, DataError, StorageError, first_line, nearest
from kd.core.files import below
from kd.core.project import on_disk
from kd.measure.frames import AXES, read_frame
from kd.report.paper.claims import Claim
from kd.study.config import Chosen, OwnClaim, OwnClaims, checked
from kd.study.plain_yaml import read_yaml

Files = Mapping[str, Sequence[Path]]  # {name of an analysis: its files, one for each experiment}


def read_claims(path: Path) -> list[Claim]:
    """Read a file of claims. Raises ConfigError that names the key."""
    return list(map(claim_of, checked(OwnClaims, read_yaml(path)).claims))


def claim_of(own: OwnClaim) -> Claim:
    """Return the claim that an entry of `claims` describes."""
    chosen = [own.a or {}, *(own.beats or [own.b or {}])]
    return Claim(
        own.id,
        own.sentence,
        own.source,
        "any",
        sides=None if own.over else (lambda rows: tuple(choose(rows, own.rows | side) for side in chosen)),
        points=(lambda rows: choose(rows, own.rows)) if own.over else None,
        over=own.over or "tau",
        falls=own.falls,
        value=own.column,
        analysis=own.analysis,
        smallest=1.0 if own.smallest is None else own.smallest,
        unit="points" if own.in_points else "",
        confirmatory=own.confirmatory,
        apart=frozenset({own.over} if own.over else {column for side in chosen for column in side}),
    )


def choose(rows: pd.DataFrame, chosen: Chosen) -> pd.DataFrame:
    """Return the rows whose columns have the chosen value, or one of the chosen values."""
    for column, values in chosen.items():
        if column not in rows:
            raise ConfigError(f"{column}: the table has no such column{nearest(column, rows.columns)}")
        values = values if isinstance(values, list) else [values]
        if pd.api.types.is_numeric_dtype(rows[column]) and not pd.api.types.is_bool_dtype(rows[column]):
            try:
                values = list(map(float, values))  # YAML reads inf as text
            except (TypeError, ValueError):
                raise ConfigError(f"{column}: got {values}, expected numbers") from None
        rows = rows[rows[column].isin(values)]
    return rows


# -- tables -----------------------------------------------------------------------------------------------------------

_TEXTS = {"noise": "none", "status": "ok"} | dict.fromkeys(
    ["experiment", "noise_name", "protocol", "student", "networks", "networks_name", "teacher", "teacher_lineage"], ""
)
_TEXTS |= dict.fromkeys(["first", "first_loss", "stopped", "objective", "family"], "")
_NUMBERS = {"noise_rate": 0.0, "fraction": 1.0, "epochs": 0} | dict.fromkeys(AXES)


def read_table(path: Path) -> pd.DataFrame:
    """Read kd's own table, or another tidy one: CSV or parquet, a row for each network, with a column `seed`.

    If another column of kd's tables is missing, all rows count as having the same value there. Raises DataError when
    two rows differ only in measured numbers.
    """
    try:
        frame = (pd.read_csv if path.suffix == ".csv" else pd.read_parquet)(on_disk(path))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot read this table: {first_line(error)}") from error
    if path.suffix != ".csv" and "lineage" in frame:
        return read_frame(path)
    if "seed" not in frame:
        raise ConfigError(f"{path}: needs a column seed, by which differences are paired{nearest('seed', frame)}")
    given = [name for name in frame if not pd.api.types.is_float_dtype(frame[name])]
    texts = [name for name in given if not pd.api.types.is_numeric_dtype(frame[name])]
    for name, usual in {"dataset": path.stem, **_TEXTS}.items():
        frame[name] = frame[name].astype(object).fillna(usual) if name in frame else usual
    for name, usual in _NUMBERS.items():
        if name not in frame:
            frame[name] = float("nan") if usual is None else usual
    teachers = frame["teacher_seed"] if "teacher_seed" in frame else pd.Series(pd.NA, frame.index)
    frame["teacher_seed"] = teachers.astype("Int64")
    if "teacher_lineage" not in given:
        frame["teacher_lineage"] = frame["teacher"]
    if "stages" not in frame:
        frame["stages"] = 1 + (frame["teacher"] != "")
    if "cell" not in frame:
        frame["cell"] = frame[given].astype(str).agg(", ".join, axis=1)
        twice = frame.loc[frame.duplicated("cell"), "cell"]
        if len(twice):
            raise DataError(f"{path}: more than one row for {twice.iloc[0]}; a column must tell networks apart")
    if "objectives" not in frame:
        frame["objectives"] = frame[texts].astype(str).agg(", ".join, axis=1) if texts else ""
    return frame


def analyses_in(folder: Path) -> Files:
    """Return the files of all analyses in a study's folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted(below(folder, "analyses/*.parquet")):
        found.setdefault(path.stem.rpartition(".")[2], []).append(path)
    return found


def with_analysis(rows: pd.DataFrame, name: str, files: Files) -> pd.DataFrame:
    """Read an analysis of all its experiments; return its rows for the networks in `rows`, with their columns.

    Of several splits only the test set is taken. A network that diverged has a row without the columns of the analysis.
    A network that the analysis does not have is left out.
    """
    if name not in files:
        raise ConfigError(f"{name}: no such analysis of this table; ask the study for a figure that shows it")
    found = pd.concat([read_frame(path) for path in files[name]])
    found = found[found["split"] == "test"] if "split" in found else found
    named = [column for column in rows if column not in found or column == "cell"]
    well, lost = rows[rows["status"] == "ok"], rows[rows["status"] != "ok"]
    return pd.concat([found.merge(well[named].drop_duplicates("cell"), on="cell"), lost], ignore_index=True)


def one_each(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Reduce an analysis to a row for each network, with the mean of `value`; drop sound networks that have none."""
    each = rows.drop_duplicates("cell")
    each = each.assign(**{value: each["cell"].map(rows.groupby("cell")[value].mean())})
    return each[each[value].notna() | (each["status"] != "ok")]
