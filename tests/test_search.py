"""Searches: spaces, samplers, what a study may say of them, and that the seeds that chose do not judge."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import study, verb
from made import study as tiny

from bench import search as measured
from kd.__main__ import main
from kd.core.errors import ConfigError
from kd.jobs.search import scored
from kd.study import controllers, expansion, products, status
from kd.study.config import Study
from kd.study.judge import Judge
from kd.study.products import Product
from kd.study.search import (
    SAMPLERS,
    SCORE,
    Choice,
    Range,
    Rounds,
    Setting,
    Space,
    Trial,
    best,
    proposed,
    spelled,
)

TAU, RATE = Range(0.25, 20, log=True), Range(0.001, 1, log=True)
SPACE = Space(
    {"loss": Choice(("ce", "kl")), "tau": TAU, "lr": RATE, "batch": Range(16, 64, whole=True)},
    {"ce": frozenset(), "kl": frozenset({"tau"})},
)
LISTED = Space(
    {"loss": Choice(("ce", "kl")), "tau": Choice((1, 3)), "nesterov": Choice((True, False))},
    {"ce": frozenset(), "kl": frozenset({"tau"})},
)
# A known function: two real axes, one of whole numbers, one without an order.
KNOWN = Space(
    {"x": Range(0, 1), "y": RATE, "n": Range(1, 12, whole=True), "kind": Choice(("a", "b", "c"))},
    {},
)


def known(setting: Setting) -> float:
    """The best is 1, at x 0.7, y 0.02, n 8, kind b; the other kinds reach 0.8 and 0.6 elsewhere."""
    x, y, n, top = {"a": (0.2, 0.1, 3, 0.8), "b": (0.7, 0.02, 8, 1.0), "c": (0.5, 0.5, 5, 0.6)}[setting["kind"]]
    decades = math.log10(setting["y"] / y)
    return top - 4 * (setting["x"] - x) ** 2 - 0.4 * decades**2 - (setting["n"] - n) ** 2 / 60


def searched(sampler: str, space: Space, score: Callable, seed: int, rounds: int = 16, batch: int = 4) -> Rounds:
    tried: list[list[Trial]] = []
    for _ in range(rounds):
        tried.append([Trial(one, score(one)) for one in proposed(sampler, space, tried, batch, seed)])
    return tried


def found(rounds: Rounds) -> float:
    return max(trial.score for trial in itertools.chain(*rounds))


def _needs(sampler: str) -> str:
    if SAMPLERS[sampler].needs:
        pytest.importorskip(SAMPLERS[sampler].needs)
    return sampler


# -- spaces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [TAU, RATE, Range(0, 1), Range(0, 300), Range(16, 64, whole=True), Range(-2, 0.5)])
def test_values_are_rounded_stay_on_their_axis_and_are_themselves_again(axis: Range) -> None:
    chance = random.Random(0)
    for value in (axis.at(0), axis.at(1), *(axis.drawn(chance) for _ in range(200))):
        assert axis.low <= value <= axis.high
        assert isinstance(value, int) == axis.whole
        assert axis.at(axis.share(value)) == pytest.approx(value, rel=1e-9)
        assert len(f"{value:.12g}".replace("-", "").replace(".", "").strip("0")) <= 3
    assert axis.ends == (axis.at(0), axis.at(1))


def test_what_the_loss_does_not_take_is_no_part_of_a_setting() -> None:
    whole = {"loss": "kl", "tau": 3.0, "lr": 0.1, "batch": 32}
    assert SPACE.active(whole) == whole
    assert SPACE.active(whole | {"loss": "ce"}) == {"loss": "ce", "lr": 0.1, "batch": 32}
    assert SPACE.filled({"loss": "ce", "lr": 0.1, "batch": 32}) == whole | {"loss": "ce", "tau": TAU.middle}
    assert list(SPACE.active(dict(reversed(whole.items())))) == list(SPACE.axes)


def test_a_space_of_lists_has_as_many_settings_as_it_yields() -> None:
    every = list(map(spelled, LISTED))
    assert len(set(every)) == len(every) == LISTED.size == 6
    assert SPACE.size == math.inf
    assert Space({"loss": Choice(("ce",)), "batch": Range(16, 64, whole=True)}, {"ce": frozenset()}).size == 49


# -- samplers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_proposes_what_is_new_in_the_space_and_the_same_again(sampler: str) -> None:
    space, rounds = (LISTED, 3) if _needs(sampler) == "grid" else (SPACE, 4)

    def score(setting: Setting) -> float | None:
        return None if setting["loss"] == "ce" else float(setting["tau"])  # every other trial diverges

    tried = searched(sampler, space, score, seed=3, rounds=rounds, batch=2)
    each = [trial.setting for trial in itertools.chain(*tried)]
    assert len(set(map(spelled, each))) == len(each) == 2 * rounds
    for setting in each:
        assert space.active(space.filled(setting)) == setting
        assert json.loads(json.dumps(setting)) == setting
    again = proposed(sampler, space, tried[:-1], 2, 3)
    assert list(map(spelled, again)) == [spelled(trial.setting) for trial in tried[-1]]


def test_a_grid_tries_every_setting_once_in_order() -> None:
    tried = searched("grid", LISTED, lambda setting: 0.0, seed=0, rounds=2, batch=3)
    assert [trial.setting for trial in itertools.chain(*tried)] == list(LISTED)


def test_seeds_and_rounds_draw_otherwise() -> None:
    one, other = (searched("random", SPACE, lambda setting: 0.0, seed) for seed in (0, 1))
    drawn = [spelled(trial.setting) for trial in itertools.chain(*one, *other)]
    assert len(set(drawn)) == len(drawn)


def test_the_first_of_the_best_wins_and_none_that_diverged() -> None:
    assert best([Trial({}, 1.0), Trial({}, None), Trial({}, 2.0), Trial({}, 2.0)]) == 2
    assert best([Trial({}, None)]) is None
    assert best([]) is None


def test_a_region_doubles_halves_and_begins_anew() -> None:
    pytest.importorskip("botorch")
    from kd.jobs.region import LONGEST, START, Region, beginning, replayed

    chance = random.Random(0)

    def rounds(scores: list[float]) -> Rounds:
        start = [Trial(KNOWN.drawn(chance), score) for score in range(beginning(KNOWN))]
        return [start, *([Trial(KNOWN.drawn(chance), score)] * 4 for score in scores)]

    assert replayed(KNOWN, rounds([])) == Region()
    assert replayed(KNOWN, rounds([20, 21])) == Region(won=2)
    assert replayed(KNOWN, rounds([20, 21, 22])).length == 2 * START == LONGEST
    assert replayed(KNOWN, rounds([20, 21, 22, 23, 24, 25])).length == LONGEST
    began_anew = [replayed(KNOWN, rounds([-1] * count)).first for count in range(10)]
    assert began_anew[0] == 0
    assert max(began_anew) > beginning(KNOWN)


def test_a_region_is_reliable_where_near_trials_score_alike() -> None:
    pytest.importorskip("botorch")
    from kd.jobs.region import reliability

    chance = random.Random(0)
    settings = [KNOWN.drawn(chance) for _ in range(40)]
    smooth = [Trial(setting, setting["x"] + KNOWN.ranges["y"].share(setting["y"])) for setting in settings]
    rough = [Trial(setting, chance.random()) for setting in settings]
    assert reliability(KNOWN, smooth, 0.8) > 0.7
    assert abs(reliability(KNOWN, rough, 0.8)) < 0.5


ROUNDS = int(os.environ.get("KD_ROUNDS", "1"))  # 20: the laws of models over all their seeds, in an hour
long = pytest.mark.skipif(ROUNDS < 20, reason="an hour: with KD_ROUNDS=20")


@pytest.mark.slow
def test_a_gaussian_process_beats_chance_on_a_known_function() -> None:
    _needs("gp")
    assert wins("gp", range(1)) == 1


@long
@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["gp", "local"])
def test_a_model_beats_chance_on_a_known_function_in_15_of_20_seeds(sampler: str) -> None:
    _needs(sampler)
    assert wins(sampler, range(20)) >= 15


def wins(sampler: str, seeds: range) -> int:
    return sum(
        found(searched(sampler, KNOWN, known, seed)) > found(searched("random", KNOWN, known, seed)) for seed in seeds
    )


@long
@pytest.mark.slow
def test_a_category_that_decides_nothing_costs_less_than_a_tenth() -> None:
    pytest.importorskip("botorch")
    wider = Space({**KNOWN.axes, "idle": Choice(("p", "q", "r"))}, {})
    with_it, without = (
        sum(found(searched("local", space, known, seed)) for seed in range(8)) for space in (wider, KNOWN)
    )
    assert with_it > 0.9 * without


# -- what a study may say ---------------------------------------------------------------------------------------------


SEARCH = {
    "teacher": "resnet14",
    "student": "resnet8",
    "space": {"loss": ["ce", "kl"], "tau": {"from": 0.25, "to": 20, "log": True}, "lr": {"from": 0.01, "to": 1}},
    "rounds": 2,
    "batch": 2,
}
HELD_OUT = {"protocol": {"name": "quick", "epochs": 1, "batch": 16, "precision": "fp32", "heldout": 0.25}}


def asked(**keys: object) -> dict:
    return {**HELD_OUT, "experiments": {}, "searches": {"best": {**SEARCH, **keys}}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"space": {}}, r"best\.space: got \{\}, expected"),
        ({"space": {"tau": [1]}}, r"space\.loss: missing"),
        ({"space": {"loss": []}}, r"space\.loss: an empty list"),
        ({"space": {"loss": ["klx"]}}, r"space\.loss: 'klx': no such loss; did you mean 'kl'"),
        ({"space": {"loss": {"from": 0, "to": 1}}}, r"space\.loss: losses have no order"),
        ({"space": {"loss": ["kl"]}}, r"space: kl\.tau: required"),
        ({"space": {"loss": ["ce"], "tau": [1, 3]}}, r"space\.tau: neither taken by ce nor a value of training"),
        ({"space": {"loss": ["ce"], "milestones": [1, 2]}}, r"space\.milestones: neither taken by"),
        ({"space": {"loss": ["kl"], "tau": {"from": 3, "to": 1}}}, r"space\.tau: got from 3 to 1, which holds nothing"),
        ({"space": {"loss": ["kl"], "tau": {"from": 0, "to": 1, "log": True}}}, r"tau\.from: got 0; allowed"),
        ({"space": {"loss": ["kl"], "tau": {"from": 1}}}, r"space\.tau: got \{'from': 1\}, expected \{from"),
        ({"space": {"loss": ["kl"], "tau": {"from": 1, "to": 2, "lgo": 1}}}, r"space\.tau: 'lgo': unknown key"),
        ({"space": {"loss": ["kl"], "tau": [1, -3]}}, r"space\.tau: kl: got -3; allowed: a number from 1e-06"),
        ({"space": {"loss": ["mse"], "lr": {"from": 0, "to": 1}}}, r"space\.lr: Input should be greater than 0"),
        ({"space": {"loss": ["ce"], "batch": {"from": 1.5, "to": 9}}}, r"space\.batch: got 1\.5, expected a whole"),
        ({"space": {"loss": ["kl"], "tau": 1, "scale": {"from": 1, "to": 2}}}, r"scale: kl: got 1\.0; allowed: one of"),
        ({"space": {"loss": ["kl"], "tau": [1, 3]}}, r"rounds: got 2 of 2 trials; allowed are at most 2 in all"),
        ({"sampler": "grid"}, r"space\.tau: a grid needs a list of values"),
        ({"sampler": "grid", "space": {"loss": ["kl"], "tau": [1, 2, 3]}}, r"rounds: got 2 of 2 .* has 3 settings"),
        ({"sampler": "bayes"}, r"sampler: Input should be 'random', 'grid', 'tpe', 'gp' or 'local'"),
        ({"rounds": 0}, r"rounds: Input should be greater than or equal to 1"),
        ({"teacher": None}, r"teacher: missing; kl needs one"),
        ({"teacher": ["resnet14", "resnet8"]}, r"teacher: got several; a search has one"),
        ({"label_noise": {"symmetric": [0.2, 0.4]}}, r"label_noise: got several"),
        ({"label_noise": {"file": "theirs"}}, r"best\.label_noise\.file: 'theirs' is not under label_files"),
        ({"dataset": "nope"}, r"searches\.best\.dataset: 'nope' is neither built in"),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_by_the_key(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**asked(**keys))


ARMS = {
    "teacher": "resnet14",
    "student": "resnet8",
    "space": {
        "loss": {"ls": {"smoothing": [0.05, 0.1, 0.2, 0.4]}, "kl": {}, "mse": {"weight": {"from": 0.1, "to": 1}}},
        "tau": {"from": 0.5, "to": 20, "log": True},
        "alpha": 0.9,
    },
    "tune": {"trials": 4},
}


def test_tune_gives_every_loss_a_search_with_the_same_budget_and_its_own_axes() -> None:
    found = study(**HELD_OUT, experiments={}, searches={"arms": {**ARMS, "rounds": 2}, "best": SEARCH}).searches
    assert list(found) == ["arms_ls", "arms_kl", "arms_mse", "best"]
    arms = [found[name] for name in list(found)[:3]]
    assert {(one.rounds, one.batch, one.seed, one.sampler) for one in arms} == {(2, 2, 1000, "random")}
    assert [list(one.space) for one in arms] == [
        ["loss", "smoothing"],
        ["loss", "tau", "alpha"],
        ["loss", "alpha", "weight"],
    ]
    listed = {**ARMS, "space": {"loss": ["kl", "reverse_kl"], "tau": [1, 2, 3, 4], "lr": [0.1, 0.2]}}
    found = study(**HELD_OUT, experiments={}, searches={"arms": listed}).searches
    assert [list(one.space) for one in found.values()] == [["loss", "tau", "lr"]] * 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tune": 4}, r"searches\.arms\.tune: expected keys"),
        ({"tune": {"trials": 0}}, r"searches\.arms\.tune: trials: Input should be greater"),
        ({"tune": {"trails": 4}}, r"searches\.arms\.tune: trails: unknown key; did you mean 'trials'"),
        ({"batch": 2}, r"searches\.arms\.batch: tune says how many trials each loss has"),
        ({"rounds": 3}, r"searches\.arms\.rounds: got 3, in which 4 trials do not part evenly"),
        ({"space": {"tau": 1}}, r"searches\.arms\.space\.loss: missing"),
        ({"space": {"loss": ["klx"]}}, r"space\.loss: 'klx': no such loss; did you mean 'kl'"),
        ({"space": {"loss": {"kl": [1, 2]}}}, r"space\.loss\.kl: got \[1, 2\], expected its axes"),
        (
            {"space": {"loss": ["ls"], "smothing": [0.1]}},
            r"space\.smothing: taken by none of ls; did you mean 'smoothing'",
        ),
        (
            {"space": {"loss": ["ce", "ls"], "smoothing": [0.1, 0.2, 0.3, 0.4]}},
            r"searches\.arms_ce\.rounds: got 1 of 4",
        ),
    ],
)
def test_arms_that_cannot_have_one_budget_are_refused_by_the_key(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**HELD_OUT, experiments={}, searches={"arms": {**ARMS, **keys}})


def test_an_arm_that_has_the_name_of_another_search_is_refused() -> None:
    with pytest.raises(ConfigError, match="arms: its part arms_kl has the name of another search"):
        study(**HELD_OUT, experiments={}, searches={"arms": ARMS, "arms_kl": SEARCH})


def test_a_search_without_heldout_examples_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.heldout: got 0; allowed with searches\.best is a share"):
        study(**asked() | {"protocol": HELD_OUT["protocol"] | {"heldout": 0}})


def test_a_sampler_whose_library_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd.study.search.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sampler: got local, whose botorch is not .* installed are random, grid"):
        study(**asked(sampler="local"))


def test_seeds_that_chose_do_not_judge() -> None:
    experiment = {"student": "resnet8", "loss": "ce"}
    compared = {**asked(), "experiments": {"judged": experiment}, "seeds": [0, 1]}
    assert study(**compared).searches["best"].seed not in study(**compared).seeds
    with pytest.raises(ConfigError, match=r"searches\.best\.seed: got 1, which experiments\.judged has too"):
        study(**compared | {"searches": {"best": {**SEARCH, "seed": 1}}})
    own = {"experiments": {"judged": experiment | {"seeds": 7}}}
    with pytest.raises(ConfigError, match=r"searches\.best\.seed: got 7, which experiments\.judged"):
        study(**compared | own | {"searches": {"best": {**SEARCH, "seed": 7}}})
    with pytest.raises(ConfigError, match=r"experiments\.judged\.seeds: got 1, by which a search chose"):
        study(experiments={"judged": experiment | {"chosen_with": [1, 5]}}, seeds=[0, 1])


def test_a_trial_is_an_ordinary_cell_whose_teacher_is_the_studys() -> None:
    asking: Study = study(**asked())
    setting = {"loss": "kl", "tau": 2.5, "lr": 0.03}
    cell = expansion.tried(asking, "best", setting)
    assert cell.path.endswith("quick/resnet14.ce.s0/resnet8.kl-tau2.5.s1000-lr0.03")
    assert expansion.searching(asking, "best") == cell.teacher in expansion.all_cells(asking)
    assert expansion.tried(asking, "best", {"loss": "ce", "lr": 0.1}).teacher is None
    alone = study(**asked(teacher=None, space={"loss": ["ce"], "lr": [0.1, 0.2, 0.3, 0.4]}))
    assert expansion.searching(alone, "best") is None
    part = expansion.tried(study(**asked(fraction=0.5)), "best", setting)
    assert part.path.endswith("+frac0.5/quick/resnet14.ce.s0/resnet8.kl-tau2.5.s1000-lr0.03")


def test_another_search_of_the_same_name_does_not_start_beside_the_first() -> None:
    def present(**keys: object) -> dict:
        asking = study(**asked(**keys))
        return json.loads(json.dumps(controllers._presence(asking, expansion.all_cells(asking))))

    assert controllers._conflict(present(), present()) is None
    assert controllers._conflict(present(rounds=9), present()) is None
    assert "has another search best; wait for it" in controllers._conflict(present(seed=7), present())


# -- the measurement of samplers --------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> measured.Table:
    """A table whose held-out and test accuracy grow with lr and alpha; the seed that searches is far too hopeful."""
    path = tmp_path / "table.csv"
    rows = [
        (spelled(setting), seed, 90 + setting["lr"], 80 + setting["lr"] + setting.get("alpha", 0) + 10 * (seed == 1000))
        for setting in measured.listed()
        for seed in measured.SEEDS
    ]
    pd.DataFrame(rows, columns=measured.COLUMNS).to_csv(path, index=False)
    return measured.Table(path)


def test_a_replay_is_judged_by_the_seeds_that_it_never_saw(table: measured.Table) -> None:
    assert len(table.settings) == 318
    assert table.truth({"loss": "ce", "lr": 0.01}, seed=1000) == pytest.approx(80.01)
    assert table.truth({"loss": "ce", "lr": 0.01}, seed=1001) == pytest.approx(85.01)
    assert table.optimum(seed=1000) == pytest.approx(84)
    assert json.loads(table.nearest({"loss": "kl", "tau": 2.9, "alpha": 0.4, "lr": 0.16})) == {
        "alpha": 0.5,
        "loss": "kl",
        "lr": 0.1,
        "tau": 4,
    }
    every = measured.study().searches["table"].axes
    assert list(every) == list(measured.listed())


def test_replays_are_kept_one_by_one_and_summed_in_pairs(table: measured.Table, tmp_path: Path) -> None:
    path = tmp_path / "replays.csv"
    one = measured.replays(table, ["random"], 1, path)
    rows = measured.replays(table, ["random"], 3, path)
    assert rows[rows["replay"] == 0].reset_index(drop=True).equals(one)
    means = measured.summed(rows)
    assert len(means) == measured.ROUNDS * measured.BATCH
    assert means["best"].is_monotonic_increasing
    assert means["regret"].ge(0).all()
    assert means["less"].eq(0).all()
    measured.write(rows, tmp_path)
    assert pd.read_csv(tmp_path / "search.csv").equals(means)
    assert list(tmp_path.glob("search.p*"))
    last = rows[rows["trial"] == 64].groupby("replay")["regret"].first()
    assert means["regret"].iloc[-1] == pytest.approx(last.mean(), abs=1e-4)


@pytest.mark.slow
def test_a_real_search_over_the_table_is_its_replay(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    lists = {"loss": ["ce"], "lr": [0.01, 0.1, 0.3, 1]}
    small = {"LISTS": lists, "ROUNDS": 2, "BATCH": 2, "SEEDS": (1000,)}
    for name, value in (small | {"PROTOCOL": measured.PROTOCOL | {"epochs": 1}}).items():
        monkeypatch.setattr(measured, name, value)
    measured.listed.cache_clear()
    measured.ranged.cache_clear()
    try:
        path = Path("table.csv").absolute()
        measured.train(path, Path("made"), most=3)
        measured.train(path, Path("made"), most=9)
        assert pd.read_csv(path)["setting"].nunique() == 4
        capsys.readouterr()
        measured.run("random", path, Path("made"))
        assert capsys.readouterr().out == "round 1: the same\nround 2: the same\n"
    finally:
        measured.listed.cache_clear()
        measured.ranged.cache_clear()


# -- from a study to its winner ---------------------------------------------------------------------------------------


@pytest.fixture
def pictures(project: Path) -> Path:
    tiny.images(project / "images")
    return project


def finish(**keys: object) -> list[Product]:
    """Make what is to do of the search and its teacher, in the order of their needs; return what that was."""
    asking, made = {**tiny.TINY, **asked(**keys)}, []
    while to_do := [one for one in judge(**keys).all_to_do if one.kind in ("data", "network", "proposal", "trial")]:
        product = to_do[0]
        words = {"data": ["data", "mine"], "network": ["train", product.cell]}
        if product.kind in ("proposal", "trial"):
            search, *slot = product.slot
            words[product.kind] = [products.RULES[product.kind], search, *filter(None, slot)]
        assert verb(*words[product.kind], **asking) == 0
        made.append(product)
    return made


def judge(**keys: object) -> Judge:
    return Judge.of_study(study(**{**tiny.TINY, **asked(**keys)}))


def networks() -> dict[Path, str]:
    """Return every network with its manifest, in which the seconds tell one training from another."""
    return {path.parent: path.read_text() for path in Path("results").rglob("manifest.json")}


def test_a_search_is_made_round_by_round_and_the_second_command_does_nothing(pictures: Path) -> None:
    made = [one.name for one in finish() if one.kind in ("proposal", "trial")]
    rounds = [[f"search/best/round-{n}", f"search/best/round-{n}.1", f"search/best/round-{n}.2"] for n in (1, 2)]
    assert made == [*rounds[0], *rounds[1]]
    assert finish() == []
    now = judge()
    for trial in now.trials("best"):
        last = now.manifest(products.network(now.tried(trial)))["last"]
        assert scored(trial) == (now.setting(trial), last[SCORE])
    cells, others = status.standings(now)
    assert [cell.status for cell in cells] == ["done"] * 5  # the teacher and four trials
    assert not [one for one in others if one.name.startswith("search")]
    banks = len(list(Path("banks").rglob("manifest.json")))
    assert status.faulty() == (1 + 5 + 6 + banks, [])  # data, networks, and what the search has of its own


def test_a_search_that_loses_any_file_proposes_the_same_again(pictures: Path) -> None:
    finish(sampler=_needs("tpe"))
    before = {path: path.read_bytes() for path in Path("search").rglob("*.json") if path.parent.name == "best"}
    trained = networks()
    for path in before:
        path.unlink()
        finish(sampler="tpe")
        assert {one: one.read_bytes() for one in before} == before
    assert networks() == trained


@pytest.mark.slow
def test_more_rounds_go_on_and_another_space_begins_anew(pictures: Path) -> None:
    finish()
    assert next(one.name for one in finish(rounds=3)) == "search/best/round-3"
    narrower = SEARCH["space"] | {"lr": {"from": 0.1, "to": 0.2}}
    waiting = judge(space=narrower).all_to_do
    assert waiting[products.proposal("best", 1)] == "other space"
    assert waiting[products.trial("best", 1, 1)].endswith("after its proposal")


def test_two_searches_that_propose_the_same_cell_train_it_once(pictures: Path) -> None:
    finish()
    trained = networks()
    settings = [judge().setting(one) for one in judge().trials("best")]
    other = {**SEARCH, "space": {"loss": ["ce", "kl"], **{key: [] for key in ("tau", "lr")}}, "sampler": "grid"}
    for key in ("tau", "lr"):
        other["space"][key] = list(dict.fromkeys(one[key] for one in settings if key in one))
    other |= {"rounds": 1, "batch": sum(1 for _ in itertools.product(*other["space"].values()))}
    every = {spelled(one) for one in settings}
    asking = {**tiny.TINY, **HELD_OUT, "experiments": {}, "searches": {"other": other}}
    space = Space({key: Choice(tuple(value)) for key, value in other["space"].items()}, SPACE.takes)
    other["batch"] = sum(1 for _ in space)
    assert verb("propose", "other", 1, **asking) == 0
    for number, setting in enumerate(space, 1):
        if spelled(setting) in every:
            assert verb("trial", "other", 1, number, **asking) == 0
    assert networks() == trained


def test_a_deleted_cell_of_a_trial_is_trained_again_and_a_deleted_search_takes_none_along(pictures: Path) -> None:
    finish()
    now = judge()
    cell = now.tried(now.trials("best")[-1])
    assert main(["delete", cell.path, "--yes"]) == 0
    assert [one for one in judge().all_to_do if one.kind == "trial"] == [products.trial("best", 2, 2)]
    assert [one.name for one in finish()] == ["search/best/round-2.2"]
    trained = networks()
    assert main(["delete", "search/best", "--yes"]) == 0
    assert not Path("search/best").exists()
    assert networks() == trained
    finish()
    assert networks() == trained


def test_a_trial_without_its_proposal_is_refused(pictures: Path, capsys: pytest.CaptureFixture) -> None:
    asking = {**tiny.TINY, **asked()}
    assert verb("trial", "best", 2, 1, **asking) == 74
    assert "search/best/round-2: not made yet" in capsys.readouterr().err
    for words, message in (
        (["propose", "bst", 1], "'bst': no such search; did you mean 'best'"),
        (["propose", "best", 3], "round 3: search best has 1 to 2"),
        (["trial", "best", 1, 3], "trial 3: a round of search best has 1 to 2"),
        (["winner", "bst"], "'bst': no such search"),
    ):
        assert verb(*words, **asking) == 2
        assert message in capsys.readouterr().err


def test_the_winner_is_printed_as_an_experiment_that_its_seed_may_not_judge(
    pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    asking = {**tiny.TINY, **asked()}
    assert verb("winner", "best", **asking) == 74
    assert "search best: no trial has a score yet; run snakemake" in capsys.readouterr().err
    finish()
    capsys.readouterr()
    assert verb("winner", "best", **asking) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    now = judge()
    trials = list(map(scored, now.trials("best")))
    won = trials[best(trials)]
    assert won.score == max(trial.score for trial in trials)
    again = study(**{**tiny.TINY, **HELD_OUT, **printed, "seeds": [0, 1]})
    seeds = {cell.stage.seed for cell in expansion.cells_of(again, "best")}
    assert seeds == {0, 1}
    tried = expansion.tried(study(**asking), "best", won.setting)
    assert {cell.seedless for cell in expansion.cells_of(again, "best")} == {tried.seedless}
    with pytest.raises(ConfigError, match=r"experiments\.best\.seeds: got 1000, by which a search chose"):
        study(**{**tiny.TINY, **HELD_OUT, **printed, "seeds": [0, 1000]})
    assert verb("verdict", "reports/small/table.parquet", **{**tiny.TINY, **HELD_OUT, **printed, "seeds": 1000}) == 2


@pytest.mark.slow
def test_the_winners_of_all_arms_are_printed_as_one_experiment_to_be_judged_by_other_seeds(
    pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    searches = {"arms": {**ARMS, "tune": {"trials": 2}}}
    asking = {**tiny.TINY, **HELD_OUT, "experiments": {}, "searches": searches}
    assert verb("winner", "arms", **asking) == 74
    assert "search arms_ls: no trial has a score yet" in capsys.readouterr().err
    now = Judge.of_study(study(**asking))
    while to_do := [one for one in now.again().all_to_do if one.kind in ("data", "network", "proposal", "trial")]:
        one = to_do[0]
        words = {"data": ["data", "mine"], "network": ["train", one.name]}.get(one.kind)
        assert verb(*(words or [products.RULES[one.kind], *filter(None, one.slot)]), **asking) == 0
    capsys.readouterr()
    assert verb("winner", "arms", **asking) == 0
    said = capsys.readouterr().out
    printed = yaml.safe_load(said)["experiments"]
    assert said.count("2 of 2 trials are done") == 3
    assert [next(iter(loss)) for loss in printed["arms"]["loss"]] == ["ls", "kl", "mse"]
    again = study(**{**tiny.TINY, **HELD_OUT, "experiments": printed, "seeds": [0, 1]})
    assert len([cell for cell in expansion.cells_of(again, "arms") if cell.stage.network == "resnet8"]) == 6
    with pytest.raises(ConfigError, match=r"experiments\.arms\.seeds: got 1000, by which a search chose"):
        study(**{**tiny.TINY, **HELD_OUT, "experiments": printed, "seeds": [1000]})
