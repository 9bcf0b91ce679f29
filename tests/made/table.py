"""An invented table in the form of a real one, to test figures, statistics and report. Seeds fix its numbers.

The numbers are about as large as the paper's; none of them was measured.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd

from kd.measure.frames import setting, with_hyperparameters
from kd.report.identity import identity
from kd.study.paths import parse_cell

TAUS = [0.5, 1, 3, 5, 10, 20, math.inf]
NOISE_DROP = {0.0: 0, 0.2: 8, 0.4: 16, 0.6: 29, 0.8: 52}
ALONE = ("ce", "one")
CODE = "5e0c1b7a9d2f4c36"
Stage = tuple[str, str, int]


def spell(tau: float, alpha: float = 1.0) -> str:
    return f"kl-tau{tau:g}" + (f"-alpha{alpha:g}" if alpha != 1 else "")


def _accuracy(stages: tuple[Stage, ...], noise_rate: float) -> float:
    """Invent the accuracy (percent) of a lineage: better losses give more, and under noise small tau is better."""
    network, objective, _ = stages[-1]
    base = {"wrn-16-2": 72.9, "wrn-16-4": 76.2, "wrn-28-2": 75.1, "wrn-28-4": 78.6, "resnet8": 96.2}.get(network, 74.0)
    tau = float(objective.split("tau")[1].split("-")[0]) if "tau" in objective else None
    alpha = float(objective.split("alpha")[1]) if "alpha" in objective else 1.0
    if objective == "ce":
        gain = -0.4 * noise_rate * 10
    elif tau is None:
        gain = 2.1 - 1.2 * noise_rate
    else:
        place = 2.2 if tau == math.inf else math.log10(tau)
        gain = alpha * (1.6 - (place - (0.9 if noise_rate == 0 else -0.2)) ** 2 * (0.35 + 1.5 * noise_rate) / 2)
    return base + gain + 0.35 * (len(stages) - 2) * (objective != "ce") - NOISE_DROP[noise_rate]


def cell_row(
    experiment: str, stages: tuple[Stage, ...], noise_rate: float = 0.0, diverged: bool = False, **more
) -> dict:
    """Make the row of one cell. Its numbers depend only on its path."""
    data = "cifar100" + (f"+sym{noise_rate:g}" if noise_rate else "")
    path = "/".join(
        ["results", data, "paper", *(f"{network}.{objective}.s{seed}" for network, objective, seed in stages)]
    )
    rng = np.random.default_rng(list(path.encode()))
    seed = stages[-1][-1]
    test = _accuracy(stages, noise_rate) + rng.normal(0, 0.22) + 0.1 * seed
    gap = abs(rng.normal(0.25, 0.12))
    seconds = 1100 if stages[-1][1].startswith("one-") else 700
    row = {
        "experiment": experiment,
        "cell": path,
        **named(path),
        "epochs": 200,
        "status": "ok",
        "train_loss": 0.2 + 0.01 * rng.random(),
        "train_top1": min(test + 20 - 12 * noise_rate + rng.normal(0, 0.3), 99.9),
        "test_loss": 1.1 + 0.01 * rng.random(),
        "test_top1": round(test, 2),
        "best_test_top1": round(test + gap, 2),
        "best_epoch": int(rng.integers(150, 200)),
        "best_gap": round(gap, 2),
        "heldout_top1": math.nan,
        "teacher_top1": _accuracy(stages[:-1], noise_rate) if stages[:-1] else math.nan,
        "train_memorised": 40 + 3 * rng.random() if noise_rate else math.nan,
        "train_recovered": 30 + 3 * rng.random() if noise_rate else math.nan,
        **_costs(stages[-1][0]),
        "seconds": seconds + 30 * rng.random(),
        "memory_mib": 900.0,
        "gpu_memory_mib": 700.0,
        "device": "one GPU",
        "precision": "bf16",
        "threads": 4,
        "code": CODE,
    } | more
    row["lineage_seconds"] = row["seconds"] + 1800 * (len(stages) - 1)
    if diverged:
        lost = ["train_loss", "train_top1", "test_loss", "test_top1", "best_test_top1", "best_gap"]
        lost += ["train_memorised", "train_recovered"]
        row |= dict.fromkeys(lost, math.nan) | {"status": "diverged", "best_epoch": 0}
    return row


def _costs(network: str) -> dict:
    """Invent what using a network costs."""
    size = sum(network.encode()) % 13 + 1
    return {"parameters": 300_000 * size, "macs": 40_000_000 * size, "milliseconds": 0.8 + 0.3 * size}


def named(path: str) -> dict:
    """Return the columns with which the real table names a network."""
    cell = parse_cell(path)
    realised = float(cell.dataset.noise.amount) if cell.dataset.noise else 0.0
    return {**setting(cell, {"realised_rate": realised}), "protocol": cell.protocol, **identity(cell)}


def frame(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows).astype({"teacher_seed": "Int64"})
    return with_hyperparameters(table, map(parse_cell, table["cell"]))


def renamed(table: pd.DataFrame, old: str, new: str) -> pd.DataFrame:
    """Return `table` with `old` replaced by `new` in the paths of its cells; the numbers stay."""
    cells = table["cell"].str.replace(old, new)
    return table.assign(cell=cells, **pd.DataFrame(map(named, cells), table.index)).astype({"teacher_seed": "Int64"})


def students(
    experiment: str, student: str, objectives: list[str], seeds=(0, 1, 2), teacher="wrn-28-4", **more
) -> list[dict]:
    """Make the rows of one student, for each objective and seed; the objectives in `ALONE` have no teacher."""
    teachers = {objective: [] if objective.split("-")[0] in ALONE else [(teacher, "ce", 0)] for objective in objectives}
    return [
        cell_row(experiment, (*teachers[objective], (student, objective, seed)), **more)
        for objective in objectives
        for seed in seeds
    ]


def lose(table: pd.DataFrame, objective: str, *seeds: int) -> pd.DataFrame:
    """Return `table` with the networks of `objective` and these seeds diverged."""
    table = table.copy()
    lost = (table["objective"] == objective) & table["seed"].isin(seeds)
    metrics = ["train_loss", "train_top1", "test_loss", "test_top1", "best_test_top1", "best_gap"]
    metrics += ["train_memorised", "train_recovered"]
    table.loc[lost, metrics] = math.nan
    table.loc[lost, "status"] = "diverged"
    return table


def lose_all(table: pd.DataFrame) -> pd.DataFrame:
    for objective in table["objective"].unique():
        table = lose(table, objective, *table["seed"].unique())
    return table


def scored(table: pd.DataFrame, names: tuple[str, ...] = ("fog", "new")) -> pd.DataFrame:
    """Return `table` with accuracies on further test sets of these names, each harder than the one before."""
    harder = np.random.default_rng(0).normal(8, 0.5, (len(names), len(table))).cumsum(0)
    return table.assign(**{f"tests_{n}_top1": table["test_top1"] - h for n, h in zip(names, harder, strict=True)})


def early(table: pd.DataFrame) -> pd.DataFrame:
    """Return the students of `table`, taught by a teacher that was stopped early."""
    return renamed(table[table["stages"] > 1], "wrn-28-4.ce.s0", "wrn-28-4.ce.s0-epochs10")


def grid(taus=(1, 3, 5, 20, math.inf), alphas=(0.1, 0.5, 1.0), seeds=(0, 1, 2), **more) -> pd.DataFrame:
    objectives = ["ce", *(spell(tau, alpha) for alpha in alphas for tau in taus)]
    return frame(students("grid", "wrn-16-2", objectives, seeds, **more))


def losses(networks=("wrn-16-2", "wrn-16-4", "wrn-28-2"), objectives=(), seeds=(0, 1, 2)) -> pd.DataFrame:
    objectives = list(objectives) or ["ce", *(spell(tau) for tau in (1, 3, 20, math.inf)), "mse"]
    return frame([row for network in networks for row in students("losses", network, objectives, seeds)])


def noise(rates=(0.2, 0.4, 0.6, 0.8), taus=TAUS, seeds=(0, 1, 2)) -> pd.DataFrame:
    objectives = ["ce", *map(spell, taus), "mse"]
    return frame([row for rate in rates for row in students("noise", "wrn-16-2", objectives, seeds, noise_rate=rate)])


def selections(
    rates=(0.2, 0.4, 0.6), by=("fine", "lossgmm", "smallloss0.6"), stops=(40,), seeds=(0, 1)
) -> pd.DataFrame:
    """Make students whose teachers, stopped after `stops` epochs, selected their examples."""
    found = []
    for rate, stop, word, of, seed in itertools.product(rates, stops, by, (0, 1, 2), seeds):
        stages = ("wrn-28-4", "ce", f"{of}-epochs{stop}"), ("wrn-16-2", "mse", f"{seed}-{word}")
        path = "/".join(f"{network}.{objective}.s{ending}" for network, objective, ending in stages)
        cell = f"results/cifar100+sym{rate:g}/paper/{path}"
        draw = np.random.default_rng([of, stop, len(word), round(100 * rate)])
        f1 = 0.95 - 0.3 * rate - 0.001 * stop - 0.01 * draw.random() - 0.1 * (word != "fine")
        row = cell_row("selections", (("wrn-28-4", "ce", of), ("wrn-16-2", "mse", seed)), rate)
        quality = {"kept": 1 - rate, "kept_precision": f1 + 0.02, "kept_recall": f1 - 0.02, "kept_f1": f1}
        found.append(row | {"cell": cell, **named(cell), **quality, "selected_after": float(stop)})
    return frame(found)


def in_parts(table: pd.DataFrame, parts=(0.03, 0.1, 0.3, 1)) -> pd.DataFrame:
    """Let the students of `table` learn from parts of the data, their teacher from all: they lose a third of CE's loss.

    CE gains 12 points from ten times as many images.
    """
    found = []
    for part, row in itertools.product(parts, table.to_dict("records")):
        alone = row["stages"] == 1
        data = row["cell"].split("/")[1]
        cell = row["cell"].replace(data, f"{data}+frac{part:g}") if alone else f"{row['cell']}-frac{part:g}"
        cell = row["cell"] if part == 1 else cell
        lost = 12 * math.log10(1 / part) * (1 if alone else 0.33)
        accuracy = {"test_top1": row["test_top1"] - lost, "best_test_top1": row["best_test_top1"] - lost}
        # What diverged has no accuracy to lose.
        train = row["train_top1"] * 0 + 95 + 0.2 * row["seed"] - lost / 3
        found.append(row | {"cell": cell, **accuracy, "train_top1": train, "fraction": part})
    return pd.DataFrame(found).astype({"teacher_seed": "Int64"})


def fractions(parts=(0.03, 0.1, 0.3, 1), objectives=("ce", "kl-tau3", "kl-tau20"), seeds=(0, 1, 2)) -> pd.DataFrame:
    """Make students of a part of the data and of all, whose teacher saw all."""
    return in_parts(frame(students("fractions", "wrn-16-2", list(objectives), seeds)), parts)


def of_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the students of `table`, and the same of another network, half a point better."""
    columns = ["cell", "student", "networks", "networks_name", "lineage"]
    names = {name: table[name].str.replace("16-2", "16-4") for name in columns}
    return pd.concat([table, table.assign(**names, test_top1=table["test_top1"] + 0.5)], ignore_index=True)


def by_ensembles(table: pd.DataFrame, gain: float = 3.0) -> pd.DataFrame:
    """Let an ensemble of three networks like the student, `gain` points better than the teacher, teach in its place."""
    taught = table["stages"] > 1
    about = {"teacher_members": 3, "teacher_networks": "wrn-16-2", "teacher": "3*wrn-16-2", "first": "3*wrn-16-2"}
    about |= {"teacher_lineage": "3*wrn-16-2.ce", "networks": "3*wrn-16-2 > wrn-16-2"}
    about |= {"networks_name": "3 × WRN-16-2 → WRN-16-2", "teacher_top1": 72.9 + gain}
    cells = table["cell"].str.replace("/wrn-28-4.ce.s0/", "/wrn-16-2.ce.s0+1+2/")
    return table.assign(cell=cells, **{column: table[column].mask(taught, value) for column, value in about.items()})


def ensembles(objectives=("ce", "kl-tau3", "mse"), seeds=(0, 1, 2), gain=3.0) -> pd.DataFrame:
    """Make students of an ensemble of three networks like themselves."""
    return by_ensembles(frame(students("ensembles", "wrn-16-2", list(objectives), seeds)), gain)


def on_selections(rates=(0.2, 0.4), taus=(1, 3), seeds=(0, 1, 2)) -> pd.DataFrame:
    """Make students that learn from all examples, and such that learn, two points better, from what FINE selects."""
    rows = noise(rates, taus, seeds)
    taught = rows["cell"].where(rows["stages"] > 1, rows["cell"].str.replace("/wrn-16-2.", "/wrn-28-4.ce.s0/wrn-16-2."))
    fine = rows.assign(cell=taught + "-fine", test_top1=rows["test_top1"] + 2)
    fine = fine.assign(**pd.DataFrame(map(named, fine["cell"]), fine.index)).astype({"teacher_seed": "Int64"})
    return pd.concat([rows, fine], ignore_index=True)


def chains(taught=("kl-tau3", "kl-tauinf", "mse"), seeds=(0, 1, 2)) -> pd.DataFrame:
    """Make every mix along WRN-28-4, 16-4, 16-2, both shorter paths, and CE alone."""
    first = ("wrn-28-4", "ce", 0)
    rows = [cell_row("chains", (("wrn-16-2", "ce", seed),)) for seed in seeds]
    for objective in taught:
        last = [("wrn-16-2", objective, seed) for seed in seeds]
        rows += [cell_row("chains", (teacher, s)) for teacher in (first, ("wrn-16-4", "ce", 0)) for s in last]
        rows += [cell_row("chains", (first, ("wrn-16-4", middle, 0), s)) for middle in taught for s in last]
    return frame(rows)


def long_chains() -> pd.DataFrame:
    """Make a chain of four networks beside the direct path, with and without label noise."""
    way = [("wrn-28-4", "ce", 0), ("wrn-28-2", "kl-tau3", 0), ("wrn-16-4", "mse", 0)]
    ends = [("wrn-16-2", "mse", seed) for seed in (0, 1, 2)]
    paths = [(*some, end) for some in (way, way[:1]) for end in ends]
    return frame([cell_row("chains", path, noise_rate=rate) for rate in (0.0, 0.4) for path in paths])


def curves(table: pd.DataFrame, epochs: int = 200) -> pd.DataFrame:
    """Make the epochs of each cell of `table`: they rise to its last numbers, with two drops of the learning rate."""
    return pd.concat([_epochs(row, epochs) for row in table.to_dict("records")], ignore_index=True)


def _epochs(row: dict, epochs: int) -> pd.DataFrame:
    rng = np.random.default_rng(list(row["cell"].encode()))
    epoch = np.arange(1, epochs + 1)
    lr = 0.1 ** (1.0 + (epoch > epochs // 2) + (epoch > 3 * epochs // 4))
    share = (1 - 0.8 * np.exp(-epoch / epochs * 12)) * np.select([lr > 0.05, lr > 0.005], [0.8, 0.97], 1.0)
    share = share + rng.normal(0, 0.2 * np.sqrt(lr) * 0.3, epochs)
    share[-1] = 1.0
    shared = ["experiment", "cell", "networks", "objectives", "lineage", "objective", "student", "noise_rate", "seed"]
    identity = {key: row[key] for key in shared}
    numbers = {"epoch": epoch, "lr": lr, "train_loss": 2 - share, "train_top1_running": row["train_top1"] * share}
    numbers |= {of: row[of] * share for of in ("train_memorised", "train_recovered") if row["noise_rate"]}
    numbers |= {"head_gap": 1.5 - share, "tail_gap": 1.3 - share * row["test_top1"] / 100}  # as akl logs them
    return pd.DataFrame(identity | numbers | {"test_loss": 3 - share, "test_top1": row["test_top1"] * share})
