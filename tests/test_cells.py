"""The path is the specification: one recipe has one path, one path one recipe."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from conftest import mutated_text, study
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kd import data, losses, models
from kd.core.errors import ConfigError
from kd.study import cells, expansion
from kd.study.cells import Cell, DatasetChoice, Stage, spell
from kd.study.config import own_training
from kd.study.expansion import all_cells, cells_of
from kd.study.needs import Need
from kd.study.paths import _parse_objective, parse_cell, parse_dataset
from kd.study.values import LossChoice, Noise, Selected, imported, loss_choice


def grid(**keys: object) -> dict:
    return {"experiments": {"grid": {"teacher": "wrn-16-2", "student": "wrn-10-1", "loss": "ce", **keys}}}


def paths(**keys: object) -> list[str]:
    made = study(dataset="cifar100", seeds=[0], protocol={"name": "paper"}, **grid(**keys))
    return [cell.path for cell in cells_of(made, "grid")]


def test_a_student_lies_inside_its_teacher() -> None:
    assert paths(loss={"kl": {"tau": 3}}) == ["results/cifar100/paper/wrn-16-2.ce.s0/wrn-10-1.kl-tau3.s0"]


def test_a_network_that_needs_no_teacher_lies_in_none() -> None:
    assert paths(loss="ce") == ["results/cifar100/paper/wrn-10-1.ce.s0"]


def test_a_chain_starts_anew_at_its_last_network_trained_on_labels() -> None:
    found = paths(teacher=None, student=None, path=["wrn-28-4", "wrn-16-4", "wrn-16-2"], loss=["ce", "mse"])
    assert found == [
        "results/cifar100/paper/wrn-16-2.ce.s0",
        "results/cifar100/paper/wrn-16-4.ce.s0/wrn-16-2.mse.s0",
        "results/cifar100/paper/wrn-28-4.ce.s0/wrn-16-4.mse.s0/wrn-16-2.mse.s0",
    ]


def test_noise_and_fraction_stand_in_the_dataset_and_zero_noise_is_none() -> None:
    assert paths(label_noise={"symmetric": [0, 0.40], "asymmetric": "2e-1"}, fraction=[0.03, 1]) == [
        f"results/cifar100{extra}/paper/wrn-10-1.ce.s0"
        for extra in ("+frac0.03", "", "+sym0.4+frac0.03", "+sym0.4", "+asym0.2+frac0.03", "+asym0.2")
    ]


def test_experiments_that_share_cells_share_the_runs() -> None:
    """Fault 40."""
    one = {"teacher": "wrn-16-2", "student": "wrn-10-1", "loss": {"kl": {"tau": [1, 3]}}}
    both = study(experiments={"a": one, "b": {**one, "loss": {"kl": {"tau": [3, "1e1"], "alpha": "1.0"}}}})
    assert len(cells_of(both, "a")) == len(cells_of(both, "b")) == 4
    assert len(all_cells(both)) == 1 + 3 * 2  # one teacher, three temperatures, two seeds


def test_teachers_come_before_those_they_teach() -> None:
    listed = all_cells(study())
    for cell in listed:
        assert cell.teacher is None or listed.index(cell.teacher) < listed.index(cell)


def test_a_teacher_stopped_early_is_another_teacher() -> None:
    found = paths(loss="mse", teacher_epochs=10)
    assert found == ["results/cifar100/paper/wrn-16-2.ce.s0-epochs10/wrn-10-1.mse.s0"]
    assert parse_cell(found[0]).teacher.stage.epochs == 10


def test_matched_students_learn_from_the_teacher_of_their_own_seed() -> None:
    found = paths(loss="mse", seeds=[0, 1], teacher_seeds="matched")
    assert found == [f"results/cifar100/paper/wrn-16-2.ce.s{seed}/wrn-10-1.mse.s{seed}" for seed in (0, 1)]
    both = paths(loss="mse", seeds=[0, 1], teacher_seeds=[0, "matched"])
    assert both == [found[0], found[0].replace("mse.s0", "mse.s1"), found[1]]


def test_students_may_learn_from_less_than_their_teacher() -> None:
    """Without a teacher that is less data for all there is, so the two are one cell."""
    assert paths(loss=["ce", "mse"], student_fraction=[0.1, 1]) == [
        "results/cifar100+frac0.1/paper/wrn-10-1.ce.s0",
        "results/cifar100/paper/wrn-10-1.ce.s0",
        "results/cifar100/paper/wrn-16-2.ce.s0/wrn-10-1.mse.s0-frac0.1",
        "results/cifar100/paper/wrn-16-2.ce.s0/wrn-10-1.mse.s0",
    ]
    assert parse_cell(paths(loss="mse", student_fraction=0.1)[0]).fraction == 0.1
    with pytest.raises(ConfigError, match="student_fraction: teachers see the fraction too"):
        paths(fraction=0.5, student_fraction=[0.1, 1])


@pytest.mark.parametrize(
    ("number", "text"),
    [(3.0, "3"), (0.10, "0.1"), (1e-5, "0.00001"), (float("inf"), "inf"), (1e6, "1000000"), (0.3, "0.3"), (20, "20")],
)
def test_a_number_has_one_spelling(number: float, text: str) -> None:
    assert spell(number) == text


NETWORKS = [example for family in models.NETWORKS for example in family.examples]
NUMBERS = st.floats(1e-3, 1e3).map(lambda x: float(f"{x:.4g}"))


OWN = {
    "lr": NUMBERS,
    "batch": st.integers(1, 999),
    "weight_decay": NUMBERS,
    "epochs": st.integers(1, 999),
    "schedule": st.sampled_from(["multistep", "cosine"]),
    "milestones": st.lists(st.integers(1, 999), min_size=1, max_size=3, unique=True),
    "gamma": st.sampled_from([0.1, 0.25, 1]),
}


@st.composite
def _objectives(draw: st.DrawFn) -> LossChoice:
    loss = draw(st.sampled_from(sorted(losses.LOSSES)))
    values = {}
    for key, parameter in losses.LOSSES[loss].parameters.items():
        if (parameter.default is None and not parameter.optional) or draw(st.booleans()):
            values[key] = draw(st.sampled_from(parameter.options) if hasattr(parameter, "options") else NUMBERS)
    try:
        return loss_choice(loss, values)
    except ValueError:
        return loss_choice("ce", {})


@st.composite
def _cells(draw: st.DrawFn) -> Cell:
    kind = draw(st.sampled_from([None, *data.NOISES]))
    amount = "human" if kind == "labels" else draw(st.sampled_from([0.2, 0.45, 1.0]))
    seed = draw(st.integers(0, 3)) if kind else 0
    dataset = DatasetChoice("cifar100", kind and Noise(kind, amount), seed, draw(st.sampled_from([1.0, 0.03, 0.5])))
    several = {"min_size": 1, "max_size": 3}
    stage = st.builds(
        cells.stage,
        st.lists(st.sampled_from(NETWORKS), **several),
        _objectives(),
        st.lists(st.integers(0, 99), **several),
        st.sampled_from([None, 1, 120]),
        st.sampled_from(sorted(losses.ENSEMBLES)),
        st.just(1.0) if dataset.fraction < 1 else st.sampled_from([1.0, 0.1, 0.25]),
        st.fixed_dictionaries({}, optional=OWN).map(own_training),
    )
    first = st.sampled_from([LossChoice("ce"), imported("borrowed"), imported("0_tau3")])
    stages = [Stage("wrn-16-2", draw(first), 0), *draw(st.lists(stage, max_size=3))]
    by = st.sampled_from([None, Selected("fine", 0.5), Selected("fine_printed", 0.7), Selected("small_loss", 0.25)])
    for n in range(1, len(stages)):
        if not (stages[n - 1].is_ensemble or stages[n].is_ensemble):
            stages[n] = dataclasses.replace(stages[n], selection=draw(by))
        if stages[n - 1].is_ensemble and stages[n].objective.looks_at - {"logits"}:  # which an ensemble does not have
            stages[n] = dataclasses.replace(stages[n], objective=LossChoice("mse"))
    return cells.canonical(dataset, "paper", tuple(stages))


@pytest.mark.slow
@settings(deadline=None)
@given(_cells())
def test_a_path_reads_back_as_the_cell_it_spells(cell: Cell) -> None:
    assert parse_cell(cell.path) == cell
    assert re.fullmatch(r"[A-Za-z0-9._+/-]+", cell.path)  # nothing that a shell would read


@settings(deadline=None)
@given(st.lists(_cells(), min_size=2, max_size=2, unique=True))
def test_two_recipes_never_share_a_path(two: list[Cell]) -> None:
    assert two[0].path != two[1].path


@st.composite
def _invented(draw: st.DrawFn) -> losses.Loss:
    """A loss with hyperparameters of any kind, whose names and words are likely to begin like others."""
    letters = st.sampled_from(["a", "b", "inf", "i", "_", "a3"])
    word = st.lists(letters | st.just("3"), min_size=1, max_size=3).map("".join)
    name = st.lists(letters, min_size=1, max_size=2).map("".join)
    bounds = st.tuples(*[st.floats(-1e9, 1e9)] * 2).map(sorted)
    number = st.builds(lambda b, inf: losses.Number(None, *b, infinite=inf), bounds, st.booleans())
    whole = st.tuples(*[st.integers(-(2**53), 2**53)] * 2).map(lambda b: losses.Whole(None, *sorted(b)))
    choice = st.lists(word, min_size=1, max_size=4, unique=True).map(lambda words: losses.Choice(words[0], (*words,)))
    parameters = draw(st.dictionaries(name, number | whole | choice, max_size=4))
    try:
        return losses.Loss(losses.LOSSES["ce"].function, "", parameters)
    except ValueError:
        assume(False)


@st.composite
def _values(draw: st.DrawFn, loss: losses.Loss) -> dict:
    def value(parameter: object) -> st.SearchStrategy:
        if isinstance(parameter, losses.Choice):
            return st.sampled_from(parameter.options)
        if isinstance(parameter, losses.Whole):
            return st.integers(parameter.low, parameter.high)
        return st.floats(parameter.low, parameter.high) | st.sampled_from([float("inf")] * parameter.infinite or [1e9])

    given = {key: draw(value(parameter)) for key, parameter in loss.parameters.items()}
    try:
        return loss.resolve(given)
    except ValueError:
        assume(False)


@pytest.mark.slow
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
def test_any_objective_of_any_loss_reads_back_and_no_two_share_a_spelling(data) -> None:
    loss = data.draw(_invented())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.LOSSES, "new", loss)
        one, other = (loss_choice("new", data.draw(_values(loss))) for _ in range(2))
        for chosen in (one, other):
            spelled = cells.spell_objective(chosen)
            found = _parse_objective(spelled)
            assert found == chosen
            assert list(map(type, dict(found.parameters).values())) == list(map(type, dict(chosen.parameters).values()))
            path = f"results/digits/quick/wrn-16-2.ce.s0/wrn-10-1.{spelled}.s0-frac0.5"
            assert parse_cell(path).stage.objective == chosen
            assert re.fullmatch(r"[a-z0-9._-]+", spelled)
        assert (cells.spell_objective(one) == cells.spell_objective(other)) == (one == other)


def test_hyperparameters_that_begin_alike_and_negative_numbers_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {
        "tau": losses.Number(infinite=True),
        "taumax": losses.Number(infinite=True),
        "beta": losses.Number(1.0, low=-9),
        "branches": losses.Whole(2),
        "how": losses.Choice("plain", ("plain", "top5")),
    }
    monkeypatch.setitem(losses.LOSSES, "new", losses.Loss(losses.LOSSES["ce"].function, "", parameters))
    values = {"tau": "inf", "taumax": 4, "beta": -0.5, "branches": 3, "how": "top5"}
    chosen = loss_choice("new", values)
    assert cells.spell_objective(chosen) == "new-tauinf-taumax4-beta-0.5-branches3-howtop5"
    assert _parse_objective("new-tauinf-taumax4-beta-0.5-branches3-howtop5") == chosen
    for wrong, match in (("new-taux", "tau: got 'x'"), ("new-tau3-taumaxx", "taumax: got 'x'"), ("new-x3", "no such")):
        with pytest.raises(ConfigError, match=match):
            _parse_objective(wrong)


TOKENS = [
    "results",
    "cifar100",
    "paper",
    "wrn-16-2",
    ".ce",
    ".s0",
    "+1",
    "-meanprob",
    ".kl-tau",
    "3",
    "..",
    "/",
    "+sym",
    "0.4",
    "-",
    ";",
    " ",
]


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=30) | st.lists(st.sampled_from(TOKENS), max_size=14).map("".join))
def test_any_text_is_a_cell_or_refused_with_a_message(text: str) -> None:
    """Fault 57."""
    try:
        assert parse_cell(f"results/{text}").path == f"results/{text}".rstrip("/")
    except ConfigError as error:
        assert str(error)


MUTATED = mutated_text(_cells().map(str), [*TOKENS, "weights", "0", "²", "٣", "9" * 5000, "\0", "\n", "//", "/."])


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(MUTATED)
def test_a_path_that_was_tampered_with_is_a_cell_or_refused_with_a_message(text: str) -> None:
    """Fault 57."""
    try:
        assert parse_cell(text).path == str(Path(text))
    except ConfigError as error:
        assert str(error)


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(st.text(max_size=20) | mutated_text(_cells().map(lambda cell: str(cell.dataset)), [*TOKENS, "٣", "9" * 5000]))
def test_any_text_is_a_dataset_that_reads_back_or_refused_with_a_message(text: str) -> None:
    """Fault 57."""
    try:
        found = parse_dataset(text)
        assert parse_dataset(str(found)) == found
    except ConfigError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("results/cifar100/paper", "not a cell"),
        ("somewhere/cifar100/paper/wrn-16-2.ce.s0", "not a cell"),
        ("results/cifar100/../wrn-16-2.ce.s0", "not a protocol"),
        ("results/cifar100/paper/../../x", "not a stage"),
        ("results/cifar100/paper/wrn-16-2.ce.s00", "this recipe's path is"),
        ("results/cifar100/paper/wrn-16-2.ce.s0/wrn-16-2.kl-tau3.0.s0", "this recipe's path is .*kl-tau3.s0"),
        ("results/cifar100/paper/wrn-16-2.ce.s0/wrn-10-1.ce.s0", "this recipe's path is .*paper/wrn-10-1.ce.s0"),
        ("results/cifar100/paper/wrn-16-2.kl-tau3.s0", "needs a teacher"),
        ("results/cifar100/paper/wrn-16-2.kl.s0", "tau: required"),
        ("results/cifar100/paper/wrn-16-2.weights-a.s1", "this recipe's path is .*weights-a.s0"),
        ("results/cifar100/paper/wrn-16-2.weights-a.s0-epochs9", "this recipe's path is .*weights-a.s0"),
        ("results/cifar100/paper/wrn-16-2.ce.s0/wrn-10-1.weights-a.s0", "path is .*paper/wrn-10-1.weights-a.s0"),
        ("results/cifar100/paper/wrn-28-4+wrn-16-4.ce.s0", "path is .*paper/wrn-16-4.wrn-28-4.ce.s0"),
        ("results/cifar100/paper/wrn-16-4+wrn-16-4.ce.s0", "path is .*paper/wrn-16-4.ce.s0"),
        ("results/cifar100/paper/wrn-16-4.ce.s1+0", "path is .*paper/wrn-16-4.ce.s0.1"),
        ("results/cifar100/paper/wrn-16-4.ce.s0-meanprob", "path is .*paper/wrn-16-4.ce.s0"),
        ("results/cifar100/paper/wrn-16-4.ce.s0+1-meanlogit", "path is .*paper/wrn-16-4.ce.s0.1"),
        ("results/cifar100/paper/wrn-16-4.ce.s0+1-meanprop", "did you mean 'meanprob'"),
        ("results/cifar100/paper/wrn-16-4+wrn-28-4.weights-a.s0", "of one network, not of several"),
        ("results/cifar100/paper/wrn-16-4+.ce.s0", "network ''"),
        ("results/cifar100/paper/wrn-16-2.ce.s0-frac0.1", r"path is results/cifar100\+frac0.1/paper/wrn-16-2.ce.s0"),
        ("results/cifar100/paper/wrn-16-2.ce.s0-frac1", "path is .*paper/wrn-16-2.ce.s0"),
        ("results/cifar100+frac0.5/paper/wrn-16-2.ce.s0/wrn-10-1.mse.s0-frac0.1", "fraction of a fraction"),
        ("results/cifar100/paper/wrn-16-2.weights.s0", "expected weights-NAME"),
        ("results/cifar100/paper/wrn-16-2.weights-a-b.s0", "expected weights-NAME"),
        ("results/cifar100/paper/wrn-16-2.weights-../x.s0", "not a stage"),
        ("results/cifar100/paper/wrn-17-2.ce.s0", "6n"),
        ("results/cifar100+sym0.40/paper/wrn-16-2.ce.s0", "this recipe's path is results/cifar100.sym0.4/"),
        ("results/cifar100+sim0.4/paper/wrn-16-2.ce.s0", "known: asym, instance, pair, sym"),
        ("results/cifar100+sym0/paper/wrn-16-2.ce.s0", "not a rate above 0"),
    ],
)
def test_a_path_that_is_not_canonical_is_refused_with_the_one_that_is(path: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_cell(path)


def test_a_dataset_reads_back() -> None:
    for text in ("digits", "cifar100+sym0.4", "cifar100+labels-human+frac0.1", "cifar10+asym0.2-s3", "digits+frac0.5"):
        assert str(parse_dataset(text)) == text


def test_twenty_thousand_settings_are_as_many_cells() -> None:
    axes = {"tau": [n / 10 for n in range(1, 101)], "alpha": [n / 20 for n in range(1, 21)]}
    big = study(seeds=list(range(10)), **grid(loss={"kl": axes}))
    assert len({cell.path for cell in all_cells(big)}) == 20_001


def test_a_recipe_holds_all_that_a_path_does_not() -> None:
    made = study(
        datasets={"photos": {"folder": "x", "size": 32}}, label_files={"human": "labels.csv"}, dataset="photos"
    )
    recipe = expansion.recipe(made, parse_cell("results/photos+labels-human/quick/wrn-10-1.ce.s0"))
    assert recipe["protocol"]["epochs"] == 3
    assert recipe["dataset"]["folder"] == "x"
    assert recipe["label_file"] == "labels.csv"
    assert "weights" not in recipe


IMPORTED = "results/digits/quick/wrn-16-2.weights-borrowed.s0"
BORROWED = {"weights": {"borrowed": {"file": "x.pt", "sha256": "0" * 64, "top1": 80}}}


def test_an_imported_teacher_has_one_path_whatever_the_seeds() -> None:
    keys = {"teacher_weights": "borrowed", "teacher_seeds": [0, 1], "loss": ["ce", "mse"]}
    made = study(dataset="cifar100", protocol={"name": "paper"}, **BORROWED, **grid(**keys))
    teacher = "results/cifar100/paper/wrn-16-2.weights-borrowed.s0"
    pairs = [("results/cifar100/paper", "ce"), (teacher, "mse")]
    assert sorted(cell.path for cell in all_cells(made)) == sorted(
        [teacher, *(f"{above}/wrn-10-1.{loss}.s{seed}" for seed in (0, 1) for above, loss in pairs)]
    )
    found = parse_cell(teacher)
    assert (found.stage.weights, found.epochs(made.protocol), found.teacher) == ("borrowed", 0, None)


def test_the_recipe_of_a_lineage_says_which_weights_it_begins_with() -> None:
    """Whoever is taught by them judges them, too."""
    made = study(**BORROWED, **grid(teacher_weights="borrowed", loss=["ce", "mse"]))
    recipes = {str(cell.stages[0]): expansion.recipe(made, cell) for cell in all_cells(made)}
    said = {"file": "x.pt", "sha256": "0" * 64, "top1": 80.0, "mean": None, "std": None, "key": None}
    assert recipes.pop("wrn-16-2.weights-borrowed.s0")["weights"] == said
    assert len(recipes) == 2  # of the baselines
    assert not any("weights" in recipe for recipe in recipes.values())
    teacher, student = parse_cell(IMPORTED), parse_cell(f"{IMPORTED}/wrn-10-1.mse.s0")
    assert expansion.recipe(made, student) == expansion.recipe(made, teacher)
    with pytest.raises(ConfigError, match="'borrowed' is not under weights; name the study"):
        expansion.recipe(study(), teacher)


# -- a stage's own training, and a teacher's own objective ------------------------------------------------------------


def test_a_stage_s_own_values_stand_in_its_path_unless_they_are_the_protocol_s() -> None:
    teacher = "results/cifar100/paper/wrn-16-2.ce.s0"
    assert paths(loss="mse", student_training={"lr": [0.1, 0.025], "weight_decay": "1e-3"}) == [
        f"{teacher}/wrn-10-1.mse.s0-weightdecay0.001",
        f"{teacher}/wrn-10-1.mse.s0-lr0.025-weightdecay0.001",
    ]
    cell = parse_cell(f"{teacher}/wrn-10-1.mse.s0-lr0.025-batch64-frac0.5")
    assert cell.stage.own == (("lr", 0.025), ("batch", 64))
    assert cell.stage.title == "wrn-10-1-lr0.025-batch64"
    values = cell.protocol_of(study().protocol)
    assert (values.lr, values.batch, values.epochs) == (0.025, 64, study().protocol.epochs)
    with pytest.raises(ConfigError, match="lr: Input should be greater than 0"):
        parse_cell(f"{teacher}/wrn-10-1.mse.s0-lr0")
    with pytest.raises(ConfigError, match="this recipe's path is"):
        parse_cell(f"{teacher}/wrn-10-1.mse.s0-batch64-lr0.025")
    with pytest.raises(ConfigError, match="that is the protocol's already"):
        expansion.recipe(study(), parse_cell(f"{teacher}/wrn-10-1.mse.s0-lr0.1"))
    with pytest.raises(ConfigError, match=r"student_training\.lrr: unknown key; did you mean 'lr'"):
        paths(loss="mse", student_training={"lrr": 0.1})


def test_a_stage_has_epochs_and_a_schedule_of_its_own() -> None:
    teacher = "results/cifar100/paper/wrn-16-2.ce.s0"
    training = {"epochs": [200, 40], "milestones": [[20, 30], [10]], "schedule": ["multistep", "cosine"], "gamma": 0.5}
    assert paths(loss="mse", student_training=training) == [
        f"{teacher}/wrn-10-1.mse.s0{own}"
        for own in (
            "-milestones20+30-gamma0.5",
            "-schedulecosine",  # which has neither milestones nor gamma
            "-milestones10-gamma0.5",
            "-total40-milestones20+30-gamma0.5",
            "-total40-schedulecosine",
            "-total40-milestones10-gamma0.5",
        )
    ]
    made = study().protocol
    cell = parse_cell(f"{teacher}/wrn-10-1.mse.s0-total40")
    assert (cell.epochs(made), cell.protocol_of(made).drops) == (40, (20, 30))
    assert cell.needs_of_bank(made) == [Need(0, 40)]
    early = parse_cell(f"{teacher}/wrn-10-1.mse.s0-total40-epochs10")  # stopped after 10 of 40
    assert (early.epochs(made), early.protocol_of(made).epochs) == (10, 40)
    for wrong in ("-schedulesine", "-milestones20-30", "-total0", "-gamma2", "-totalx"):
        with pytest.raises(ConfigError):
            parse_cell(f"{teacher}/wrn-10-1.mse.s0{wrong}")
    with pytest.raises(ConfigError, match=r"student_training: milestones \[50\] must increase, between 1 and 39"):
        paths(loss="mse", student_training={"epochs": 40, "milestones": 50})
    with pytest.raises(ConfigError, match=r"student_training: milestones \[100\] must increase, between 1 and 39"):
        study(protocol={"name": "paper", "milestones": [100]}, **grid(loss="mse", student_training={"epochs": 40}))


def test_a_teacher_has_the_objective_that_the_experiment_names() -> None:
    assert paths(loss="mse", teacher_loss=["ce", {"ls": {"smoothing": 0.2}}]) == [
        "results/cifar100/paper/wrn-16-2.ce.s0/wrn-10-1.mse.s0",
        "results/cifar100/paper/wrn-16-2.ls-smoothing0.2.s0/wrn-10-1.mse.s0",
    ]
    with pytest.raises(ConfigError, match="teacher_loss: mse needs a teacher"):
        paths(loss="mse", teacher_loss="mse")
