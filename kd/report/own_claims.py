"""Read a user's own claims from a YAML file, and tables of any origin to judge them by.

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

from pathlib import Path

import pandas as pd
from pydantic import Field, model_validator

from kd.core.errors import ConfigError, DataError, StorageError, first_line, nearest
from kd.core.files import below
from kd.core.project import on_disk
from kd.measure.frames import AXES, read_frame
from kd.report.paper.claims import MOST_CONFIRMED, Claim, Sides
from kd.study.config import Model, checked
from kd.study.plain_yaml import read_yaml
from kd.study.values import Name, Number

Chosen = dict[str, object]  # {column: a value, or a list of values}
PERCENT = ("top1", "agreement", "gap", "ece")  # columns with these endings are percentages: differences are in points


class OwnClaim(Model):
    """One entry of `claims`."""

    id: Name
    sentence: str
    source: str = ""
    value: str = "test_top1"
    rows: Chosen = Field({}, description="of both sides, or of the points")
    a: Chosen | None = None
    b: Chosen | None = None
    beats: list[Chosen] = Field([], description="controls, instead of b: a is claimed to be above each of them")
    over: str | None = None
    falls: bool = False
    smallest: Number | None = Field(None, description="the smallest difference of interest; by default 1 point")
    confirmatory: bool = False

    @model_validator(mode="after")
    def _one_shape(self) -> OwnClaim:
        given = (self.a is not None, self.b is not None or bool(self.beats), self.over is not None)
        if given not in ((True, True, False), (False, False, True)) or (self.b is not None and self.beats):
            raise ValueError("give either a and b, the higher side first, or a and beats, or over")
        if self.smallest is None and not self.in_points:
            raise ValueError(f"smallest: missing; say which difference of {self.value} would be of interest")
        if self.smallest is not None and self.smallest <= 0:
            raise ValueError(f"smallest: got {self.smallest:g}, expected more than 0")
        return self

    @property
    def in_points(self) -> bool:
        """Whether its values are percentages."""
        return self.value.endswith(PERCENT)

    @property
    def claim(self) -> Claim:
        """The claim that this entry describes."""
        return Claim(
            self.id,
            self.sentence,
            self.source,
            "any",
            sides=None if self.over else self._sides(),
            points=(lambda rows: choose(rows, self.rows)) if self.over else None,
            over=self.over or "tau",
            falls=self.falls,
            value=self.value.rpartition(".")[2],
            analysis=self.value.rpartition(".")[0],
            smallest=1.0 if self.smallest is None else self.smallest,
            unit="points" if self.in_points else "",
            confirmatory=self.confirmatory,
            apart=frozenset({self.over} if self.over else {column for side in self._chosen for column in side}),
        )

    @property
    def _chosen(self) -> list[Chosen]:
        return [self.a or {}, *(self.beats or [self.b or {}])]

    def _sides(self) -> Sides:
        return lambda rows: tuple(choose(rows, self.rows | chosen) for chosen in self._chosen)


class OwnClaims(Model):
    """A file of claims."""

    claims: list[OwnClaim] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> OwnClaims:
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) < len(ids):
            raise ValueError("claims: an id twice")
        confirmed = sum(claim.confirmatory for claim in self.claims)
        if confirmed > MOST_CONFIRMED:
            raise ValueError(f"claims: {confirmed} are confirmatory; {MOST_CONFIRMED} at most, each makes all harder")
        return self


def read_claims(path: Path) -> list[Claim]:
    """Read a file of claims. Raises ConfigError that names the key."""
    return [own.claim for own in checked(OwnClaims, read_yaml(path)).claims]


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


def with_analysis(rows: pd.DataFrame, name: str, folder: Path) -> pd.DataFrame:
    """Read an analysis of all experiments in `folder`; return its rows for the networks in `rows`, with their columns.

    Of several splits only the test set is taken. A network that diverged has a row without the columns of the analysis.
    A network that the analysis does not have is left out.
    """
    paths = sorted(below(folder, f"analyses/*.{name}.parquet"))
    if not paths:
        raise ConfigError(f"{name}: no such analysis in {folder}/analyses; ask the study for a figure that shows it")
    found = pd.concat([read_frame(path) for path in paths])
    found = found[found["split"] == "test"] if "split" in found else found
    named = [column for column in rows if column not in found or column == "cell"]
    well, lost = rows[rows["status"] == "ok"], rows[rows["status"] != "ok"]
    return pd.concat([found.merge(well[named].drop_duplicates("cell"), on="cell"), lost], ignore_index=True)


def one_each(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Reduce an analysis to a row for each network, with the mean of `value`; drop sound networks that have none."""
    each = rows.drop_duplicates("cell")
    each = each.assign(**{value: each["cell"].map(rows.groupby("cell")[value].mean())})
    return each[each[value].notna() | (each["status"] != "ok")]
