"""CLAIMS: what Kim et al. and Hinton et al. say, one by one, as tests on kd's table: the list at the end.

A claim selects, out of the rows of one setting, two sides of which the first should be the higher, or points along
tau or alpha that should rise or fall. Of three sides the first should reach some of the way from the second to the
third, and the share is judged. The same selection picks the published numbers. What the abstract says is
confirmatory and one family; all else is the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

# The paper's networks, in the columns of the table.
DIRECT = {
    "stages": 2,
    "first": "wrn-28-4",
    "teacher": "wrn-28-4",
    "student": "wrn-16-2",
    "networks": "wrn-28-4 > wrn-16-2",
    "networks_name": "WRN-28-4 → WRN-16-2",
}
CHAIN = DIRECT | {
    "stages": 3,
    "teacher": "wrn-16-4",
    "networks": "wrn-28-4 > wrn-16-4 > wrn-16-2",
    "networks_name": "WRN-28-4 → WRN-16-4 → WRN-16-2",
}
Sides = Callable[[pd.DataFrame], tuple[pd.DataFrame, ...]]
Points = Callable[[pd.DataFrame], pd.DataFrame]
SHARE = "%"  # the unit of a claim of three sides


@dataclass(frozen=True)
class Claim:
    """A sentence, where it is said, the settings it is about, and what must be higher than what."""

    id: str
    sentence: str
    source: str
    where: str  # clean, noisy, early (a teacher that was stopped early), chain, part (of the data, from a teacher that
    # saw more), ensemble (of the student's own network), any, or all (networks: no test)
    sides: Sides | None = None
    points: Points | None = None
    over: str = "tau"  # of points
    falls: bool = False  # points should fall
    value: str = "test_top1"  # a column of the table
    analysis: str = ""  # or of this analysis
    smallest: float = 1.0  # the smallest difference of interest
    unit: str = "points"  # of value, or SHARE
    elsewhere: str = ""  # what was published of other data, in words
    confirmatory: bool = False  # at most MOST_CONFIRMED of a list are
    apart: frozenset[str] = frozenset()  # columns by which the sides differ, which say no setting

    @property
    def reference(self) -> dict:
        """Path of the networks whose published numbers stand beside settings for which none were published."""
        return CHAIN if self.where == "chain" else DIRECT


# ---- selections -----------------------------------------------------------------------------------------------------


def _against(a: str, b: str) -> Sides:
    return lambda rows: (rows[rows["objective"] == a], rows[rows["objective"] == b])


def _kl(rows: pd.DataFrame) -> pd.DataFrame:
    """Select KL without any other hyperparameter than tau and alpha."""
    return rows[rows["family"] == "kl"]


def _kl_alone(rows: pd.DataFrame) -> pd.DataFrame:
    """Select KL without cross-entropy beside it."""
    return _kl(rows)[lambda found: found["alpha"] == 1]


def _tau20(rows: pd.DataFrame) -> pd.DataFrame:
    return _kl(rows)[lambda found: found["tau"] == 20]


def _small(rows: pd.DataFrame) -> pd.DataFrame:
    return _kl_alone(rows)[lambda found: found["tau"] <= 1]


def _large(rows: pd.DataFrame) -> pd.DataFrame:
    return _kl_alone(rows)[lambda found: found["tau"] > 1]


def _of(rows: pd.DataFrame, objective: str) -> pd.DataFrame:
    return rows[rows["objective"] == objective]


def _same_kl(a: str, b: str) -> Sides:
    """Select the students of two paths (`role`) that learnt by one and the same KL at every stage."""

    def sides(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        pure = _kl_alone(rows[rows["mix"] == rows["objective"]])
        left, right = (pure[pure["role"] == role] for role in (a, b))
        return left[left["objective"].isin(right["objective"])], right[right["objective"].isin(left["objective"])]

    return sides


def _mixed(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Select chains in which KL and MSE both stand, and those of one of the two alone."""
    chains = rows[rows["role"] == "chain"]
    pure = (chains["mix"] == chains["objective"]) & chains["mix_families"].isin(["kl", "mse"])
    return chains[chains["mix_families"] == "kl + mse"], chains[pure]


def _least(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["fraction"] == rows["fraction"].min()]


def _of_the_loss(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Select KL and CE on a part of the data, and CE on all of it."""
    part = _least(rows)
    return _kl(part), _of(part, "ce"), _of(rows[rows["fraction"] == 1], "ce")


def _overfitted(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Select CE and KL on a part of the data, with how much better they are on it than on the test set."""
    part = _least(rows).assign(train_test_gap=lambda found: found["train_top1"] - found["test_top1"])
    return _of(part, "ce"), _kl(part)


def _of_the_gain(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Select students by KL, their network by CE, and the ensemble that taught them."""
    taught = _kl(rows[rows["role"] == "direct"])
    return taught, _of(rows[rows["role"] == "alone"], "ce"), taught.assign(test_top1=taught["teacher_top1"])


# ---- what is claimed ------------------------------------------------------------------------------------------------

_ABSTRACT = "IJCAI 2021, abstract"
_GRID = "2020 draft, tables 11 and 12"
_SEQUENTIAL = "IJCAI 2021, sequential distillation"
_ASKED = "IJCAI 2021, noisy teacher; its answer is not known here"
_SPEECH = "Hinton et al. 2015, arXiv 1503.02531, speech"
_OPEN = "not published; follows from the losses as coded"

CLAIMS = (
    Claim(
        "taught",
        "A student taught by KL (τ = 20) beats one that learnt from the labels alone",
        "2020 draft, table 4",
        "clean",
        _against("kl-tau20", "ce"),
    ),
    Claim(
        "full",
        "KL alone with a large τ (α = 1, τ = 20) beats the usual mix with cross-entropy (α = 0.1, τ = 5)",
        "2020 draft, tables 1 and 12",
        "clean",
        _against("kl-tau20", "kl-tau5-alpha0.1"),
    ),
    Claim("tau", "Test accuracy rises with τ (KL, α = 1)", _GRID, "clean", points=_kl_alone),
    Claim("alpha", "Test accuracy rises with α (KL, τ = 20)", _GRID, "clean", points=_tau20, over="alpha"),
    Claim(
        "train_tau",
        "Train accuracy falls as τ grows (KL, α = 1)",
        _GRID,
        "clean",
        points=_kl_alone,
        falls=True,
        value="train_top1",
    ),
    Claim(
        "train_alpha",
        "Train accuracy falls as α grows (KL, τ = 20)",
        _GRID,
        "clean",
        points=_tau20,
        over="alpha",
        falls=True,
        value="train_top1",
    ),
    *(
        Claim(
            f"mse_kl{tau}",
            f"MSE beats KL (τ = {sign})",
            _ABSTRACT,
            "clean",
            _against("mse", f"kl-tau{tau}"),
            confirmatory=True,
        )
        for tau, sign in (("1", "1"), ("3", "3"), ("5", "5"), ("20", "20"), ("inf", "∞"))
    ),
    Claim(
        "half_mse",
        "MSE beats KL (τ = ∞) also at its gradient scale: MSE/2 against KL (τ = ∞)",
        _OPEN,
        "clean",
        _against("mse-weight0.5", "kl-tauinf"),
    ),
    Claim(
        "double_kl",
        "MSE beats KL (τ = ∞) also at its gradient scale: MSE against 2·KL (τ = ∞)",
        _OPEN,
        "clean",
        _against("mse", "kl-tauinf-weight2"),
    ),
    Claim(
        "noise_tau",
        "With wrong labels KL with τ ≤ 1 beats KL with τ > 1",
        _ABSTRACT,
        "noisy",
        lambda rows: (_small(rows), _large(rows)),
        confirmatory=True,
    ),
    Claim(
        "noise_mse",
        "With wrong labels KL with τ ≤ 1 beats MSE",
        _ABSTRACT,
        "noisy",
        lambda rows: (_small(rows), _of(rows, "mse")),
        confirmatory=True,
    ),
    Claim(
        "noise_ce",
        "With wrong labels a student taught by KL with τ ≤ 1 beats one that learnt from the labels alone",
        _ABSTRACT,
        "noisy",
        lambda rows: (_small(rows), _of(rows, "ce")),
        confirmatory=True,
    ),
    Claim(
        "early_mse",
        "With a teacher that was stopped early, too, MSE beats KL",
        _ASKED,
        "early",
        lambda rows: (_of(rows, "mse"), _kl_alone(rows)),
    ),
    Claim(
        "early_tau",
        "With a teacher that was stopped early, too, test accuracy rises with τ",
        _ASKED,
        "early",
        points=_kl_alone,
    ),
    Claim(
        "chain",
        "A network in between helps: the chain beats its ends alone (the same KL)",
        _SEQUENTIAL,
        "chain",
        _same_kl("chain", "direct"),
    ),
    Claim(
        "last",
        "A teacher that learnt from labels is better: the chain's last two networks alone beat the chain (the same KL)",
        _SEQUENTIAL,
        "chain",
        _same_kl("last", "chain"),
    ),
    Claim(
        "near",
        "A nearer teacher is better: the chain's last two networks alone beat its ends alone (the same KL)",
        _SEQUENTIAL,
        "chain",
        _same_kl("last", "direct"),
    ),
    Claim("mixed", "Mixing KL and MSE along the chain beats either alone", _SEQUENTIAL, "chain", _mixed),
    Claim(
        "recovery",
        "Soft targets from a teacher that saw all recover what training on a part of the data loses: KL's share of the "
        "way from CE on the part to CE on all",
        _SPEECH,
        "part",
        _of_the_loss,
        smallest=10.0,
        unit=SHARE,
        elsewhere="87 % (speech, 3 % of the data)",
    ),
    Claim(
        "overfitting",
        "Soft targets overfit less: on a part of the data train less test accuracy is larger for CE than for KL",
        _SPEECH,
        "part",
        _overfitted,
        value="train_test_gap",
        elsewhere="22.8 against 8.4 (speech, 3 % of the data)",
    ),
    Claim(
        "kept",
        "A student keeps the gain of the ensemble that taught it over one network: KL's share of the way from CE to "
        "the ensemble, all of the same network",
        _SPEECH,
        "ensemble",
        _of_the_gain,
        smallest=10.0,
        unit=SHARE,
        elsewhere="86 % (speech, ten networks)",
    ),
    Claim(
        "selection",
        "The best epoch on the test set reads higher than the last (it cannot read lower: an interval, no test)",
        "2020 draft: the best of 3 runs and of all epochs",
        "all",
    ),
)
