"""How near samplers of a search come to the best of a table, and how fast. Writes search.csv and search.png.

python -m bench.search --train            train what the table lacks, at the lowest priority; stop it at any time
python -m bench.search --train --most 50  no more than 50 networks of it
python -m bench.search --replay           replay each sampler on the table, 200 times
python -m bench.search --run tpe          a real search over the table's lists, beside its replay

Regret needs a known optimum, so every setting of a small space is trained with three seeds. A replay searches by the
held-out accuracy of one seed, and is judged by the test accuracy of the other two, which the search never saw.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import logging
import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from bench import RESULTS
from kd.core import project
from kd.study import expansion, products
from kd.study.config import Study, validate
from kd.study.judge import Judge
from kd.study.search import SAMPLERS, SCORE, Choice, Range, Setting, Space, Trial, best, proposed, spelled

LISTS = {
    "loss": ["ce", "mse", "kl", "reverse_kl"],
    "tau": [0.5, 1, 2, 4, 8, 20],
    "alpha": [0.25, 0.5, 0.75, 1],
    "lr": [0.01, 0.03, 0.1, 0.3, 1, 3],
}
LOGARITHMIC = ("tau", "lr")
SEEDS = (1000, 1001, 1002)
ROUNDS, BATCH = 16, 4
COLUMNS = ("setting", "seed", "score", "test_top1")
PROTOCOL = {"name": "searched", "epochs": 5, "batch": 64, "heldout": 0.3, "precision": "fp32", "compile": "never"}
_CHANCE = "random"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--most", type=int, default=10**9, metavar="N", help="networks to train (default: all)")
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--run", choices=SAMPLERS)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=[s for s in SAMPLERS if s != "grid"])
    parser.add_argument("--seeds", type=int, default=200, help="replays of each sampler")
    parser.add_argument("--folder", type=Path, default=Path("bench-search"), help="where networks are trained")
    parser.add_argument("--table", type=Path, default=RESULTS / "search_table.csv")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    table = options.table.absolute()
    if options.train:
        os.nice(19)
        train(table, options.folder, options.most)
    if options.run:
        run(options.run, table, options.folder)
    if options.replay:
        rows = replays(Table(table), options.samplers, options.seeds, options.out / "search_replays.csv")
        write(rows, options.out)


def study(sampler: str = "grid", seed: int = SEEDS[0]) -> Study:
    """Return the study of one search over the table's lists."""
    search = {"teacher": "resnet14", "student": "resnet8", "space": LISTS, "sampler": sampler, "seed": seed}
    count = len(list(listed()))
    size = {"rounds": 1, "batch": count} if sampler == "grid" else {"rounds": ROUNDS, "batch": BATCH}
    values = {"study": "searched", "dataset": "digits", "protocol": PROTOCOL, "experiments": {}}
    return validate(values | {"searches": {"table": search | size}})


@cache
def listed() -> Space:
    """The space of the table: a list for each axis."""
    takes = {"ce": frozenset(), "mse": frozenset({"alpha"}), "kl": frozenset({"tau", "alpha"})}
    takes["reverse_kl"] = takes["kl"]
    return Space({key: Choice(tuple(map(_number, values))) for key, values in LISTS.items()}, takes)


@cache
def ranged() -> Space:
    """The same space with numbers between those of the lists, as a user would ask for it."""
    ranges = {key: Range(min(LISTS[key]), max(LISTS[key]), key in LOGARITHMIC) for key in LISTS if key != "loss"}
    return Space({"loss": Choice(tuple(LISTS["loss"])), **ranges}, listed().takes)


def _number(value: float | str) -> float | str:
    return value if isinstance(value, str) else float(value)


# -- the table --------------------------------------------------------------------------------------------------------


def train(table: Path, folder: Path, most: int) -> None:
    """Add to the table what it lacks, one row after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.WARNING)
    done = set(zip(*(_read(table)[key] for key in ("setting", "seed")), strict=True)) if table.exists() else set()
    every = [(setting, seed) for seed in SEEDS for setting in listed()]
    lacking = [pair for pair in every if (spelled(pair[0]), pair[1]) not in done][:most]
    for number, (setting, seed) in enumerate(lacking, 1):
        with project.enter(folder):
            score, top1 = trained(setting, seed)
        is_new = not table.exists()
        with open(table, "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([COLUMNS] * is_new + [(spelled(setting), seed, score, top1)])
        print(f"{number}/{len(lacking)}  {spelled(setting)}  seed {seed}  {score:.2f} %", flush=True)


def trained(setting: Setting, seed: int) -> tuple[float, float]:
    """Train the cell of a setting, unless it is there; return its accuracy on held-out and on test examples, in %.

    It lies in the project that is entered.
    """
    from kd.jobs import data
    from kd.jobs import train as job
    from kd.jobs.places import Resources

    asked = study(seed=seed)
    judge = Judge.of_study(asked)
    cell = expansion.tried(asked, "table", setting)
    if judge.to_do(products.data(cell.dataset.name)):
        data.data(judge, cell.dataset, judge.recipe_of(cell.dataset))
    for one in cell.lineage:
        recipe = judge.recipe_of(one)
        job.train(Judge.of_recipe(recipe), one, recipe, Resources())
    manifest = judge.again().manifest(products.network(cell))
    last = manifest.get("last", {}) if manifest["status"] == "ok" else {}
    return last.get(SCORE, math.nan), last.get("test_top1", math.nan)


def _read(table: Path) -> pd.DataFrame:
    return pd.read_csv(table)


class Table:
    """Every setting's scores, by seed."""

    def __init__(self, path: Path) -> None:
        rows = _read(path)
        self.settings = {spelled(setting): setting for setting in listed()}
        self.scores = {(row.setting, row.seed): row.score for row in rows.itertuples()}
        self.tests = {(row.setting, row.seed): row.test_top1 for row in rows.itertuples()}
        missing = [key for key in itertools.product(self.settings, SEEDS) if key not in self.scores]
        if missing:
            count = len(self.settings) * len(SEEDS)
            raise SystemExit(f"{path}: lacks {len(missing)} of {count} rows; run with --train")
        self._places: dict[str, str] = {}

    def score(self, setting: Setting, seed: int) -> float | None:
        """Return the held-out accuracy of the listed setting that is nearest, None where it diverged."""
        score = self.scores[self.nearest(setting), seed]
        return None if math.isnan(score) else score

    def nearest(self, setting: Setting) -> str:
        """Return the listed setting that is nearest on each axis."""
        name = spelled(setting)
        if name not in self._places:
            axes = ranged().axes
            at = {
                key: min(map(float, LISTS[key]), key=lambda one, key=key, value=value: _apart(axes[key], one, value))
                for key, value in setting.items()
                if key != "loss"
            }
            self._places[name] = spelled(setting | at)
        return self._places[name]

    def truth(self, setting: Setting, seed: int) -> float:
        """Return the mean test accuracy of a setting over the seeds that a search by `seed` never saw, in %."""
        return self._truths(seed)[self.nearest(setting)]

    def optimum(self, seed: int) -> float:
        """Return the highest of these."""
        return max(self._truths(seed).values())

    @cache  # noqa: B019 (one table a process)
    def _truths(self, seed: int) -> Mapping[str, float]:
        others = [other for other in SEEDS if other != seed]
        # One that diverged has the accuracy of chance.
        tests = {key: 10.0 if math.isnan(value) else value for key, value in self.tests.items()}
        return {name: float(np.mean([tests[name, other] for other in others])) for name in self.settings}


def _apart(axis: Range, one: float, other: float) -> float:
    return abs(axis.share(one) - axis.share(other))


# -- replays ----------------------------------------------------------------------------------------------------------


def replayed(sampler: str, table: Table, number: int, space: Space) -> list[tuple[float, float]]:
    """Return, after each trial of one search, the best held-out score so far and the regret of the setting it is of."""
    seed = SEEDS[number % len(SEEDS)]
    rounds: list[list[Trial]] = []
    for _ in range(ROUNDS):
        found = proposed(sampler, space, rounds, BATCH, number)
        rounds.append([Trial(setting, table.score(setting, seed)) for setting in found])
    trials, said = list(itertools.chain(*rounds)), []
    for count in range(1, len(trials) + 1):
        won = best(trials[:count])
        score = trials[won].score if won is not None else 0.0
        truth = table.truth(trials[won].setting, seed) if won is not None else 10.0
        said.append((score, table.optimum(seed) - truth))
    return said


def replays(table: Table, samplers: list[str], seeds: int, path: Path) -> pd.DataFrame:
    """Return every trial of every replay. Each replay is kept when it ends, so that what is stopped goes on."""
    done = set(zip(*(pd.read_csv(path)[key] for key in ("sampler", "replay")), strict=True)) if path.exists() else set()
    for number, sampler in itertools.product(range(seeds), samplers):
        if (sampler, number) not in done:
            said = replayed(sampler, table, number, ranged())
            rows = pd.DataFrame(said, columns=["best", "regret"]).round(4)
            rows = rows.assign(sampler=sampler, replay=number, trial=range(1, len(rows) + 1))
            rows.to_csv(path, mode="a", header=not path.exists(), index=False)
            print(f"{sampler} {number}: {said[-1][0]:.2f} %, regret {said[-1][1]:.2f}", flush=True)
    rows = pd.read_csv(path)
    return rows[rows["sampler"].isin(samplers) & (rows["replay"] < seeds)]


def summed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return means over replays with 95 % intervals; `less` is a sampler's regret minus that of chance, in pairs."""
    wide = rows.pivot(index=["replay", "trial"], columns="sampler", values="regret")
    pairs = list(zip(rows["replay"], rows["trial"], strict=True))
    rows = rows.assign(less=rows["regret"] - wide[_CHANCE].loc[pairs].array)
    lines = []
    for (sampler, trial), group in rows.groupby(["sampler", "trial"], sort=False):
        line = {"sampler": sampler, "trial": trial, "replays": len(group)}
        for name in ("best", "regret", "less"):
            low, high = _interval(group[name].to_numpy())
            line |= {name: group[name].mean(), f"{name}_low": low, f"{name}_high": high}
        lines.append(line)
    return pd.DataFrame(lines).round(4)


def _interval(values: np.ndarray) -> tuple[float, float]:
    if len(values) < 2:
        return math.nan, math.nan
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def write(rows: pd.DataFrame, out: Path) -> None:
    """Write the means, and draw them."""
    from kd.report.figures import style

    means = summed(rows)
    means.to_csv(out / "search.csv", index=False)
    last = means[means["trial"] == means["trial"].max()]
    print(last[["sampler", "replays", "regret", "less", "less_low", "less_high"]].to_string(index=False))
    with style.paper():
        figure = style.canvas(style.DOUBLE, 2.9)
        left, right = figure.subplots(1, 2)
        for (sampler, group), colour in zip(means.groupby("sampler", sort=False), COLOURS, strict=False):
            for axes, name in ((left, "best"), (right, "regret")):
                axes.plot(group["trial"], group[name], color=colour, label=sampler)
                axes.fill_between(group["trial"], group[f"{name}_low"], group[f"{name}_high"], color=colour, alpha=0.2)
        left.set(xlabel="trial", ylabel="best held-out top-1 so far (%)")
        right.set(xlabel="trial", ylabel="regret on the test set (points)", yscale="log")
        right.legend(title=f"mean of {means['replays'].max()}, 95 %")
        style.save(figure, out / "search")


COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73")


# -- a real run -------------------------------------------------------------------------------------------------------


def run(sampler: str, table: Path, folder: Path) -> None:
    """Search for real over the table's lists; say trial by trial whether its replay is the same."""
    from kd.jobs import search as job

    asked, seed = study(sampler), SEEDS[0]
    replay: list[list[Trial]] = []
    known = Table(table)
    for number in range(1, ROUNDS + 1):
        with project.enter(folder):
            judge = Judge.of_study(asked)
            job.propose(judge, products.proposal("table", number))
            trials = [products.trial("table", number, slot) for slot in range(1, BATCH + 1)]
            for trial in trials:
                trained(judge.again().setting(trial), seed)
                job.trial(judge.again(), trial)
            ran = list(map(job.scored, trials))
        settings = proposed(sampler, listed(), replay, BATCH, seed)
        replay.append([Trial(setting, known.score(setting, seed)) for setting in settings])
        print(f"round {number}: {'the same' if same(ran, replay[-1]) else f'OTHERWISE {ran} {replay[-1]}'}", flush=True)


def same(ran: list[Trial], replay: list[Trial]) -> bool:
    """Say whether trials have the same settings and scores."""
    return [json.dumps(trial) for trial in ran] == [json.dumps(trial) for trial in replay]


if __name__ == "__main__":
    main()
