"""A study says what it means or is refused with the key, what was got and the fix (faults 38 to 40, 55, 56)."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT, mutated_tree, study
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kd.core.errors import ConfigError
from kd.losses import LOSSES
from kd.machine.shares import AUTO
from kd.study import config
from kd.study.config import Protocol, merged, validate
from kd.study.plain_yaml import read_yaml
from kd.study.values import LossChoice, loss_choice


def refused(match: str, **changes: object) -> None:
    with pytest.raises(ConfigError, match=match):
        study(**changes)


def experiment(**keys: object) -> dict:
    return {"experiments": {"grid": {"teacher": "wrn-16-2", "student": "wrn-10-1", "loss": "ce", **keys}}}


def protocol(**keys: object) -> dict:
    return {"protocol": {"name": "p", **keys}}


@pytest.mark.parametrize(
    "path", [ROOT / "config.yaml", *sorted((ROOT / "workflow" / "studies").glob("*.yaml"))], ids=str
)
def test_every_shipped_study_is_valid(path: Path) -> None:
    validate(read_yaml(path))


@pytest.mark.parametrize("name", ["paper", "systems", "trust-labels", "methods", "record-decides", "audit"])
def test_a_small_twin_has_the_experiments_of_its_study_and_their_figures(name: str) -> None:
    whole, small = (validate(read_yaml(ROOT / "workflow" / "studies" / f"{n}.yaml")) for n in (name, f"{name}-small"))
    assert whole.drawn == small.drawn
    assert list(whole.experiments) == list(small.experiments)
    assert small.searches.keys() <= whole.searches.keys()
    assert bool(small.searches) == bool(whole.searches)


@pytest.mark.parametrize("name", ["methods", "methods-small"])
def test_the_study_of_methods_has_every_loss(name: str) -> None:
    """A new loss is a line there too, with the hyperparameters that are published for its pair."""
    whole = validate(read_yaml(ROOT / "workflow" / "studies" / f"{name}.yaml"))
    assert {one.loss for chosen in whole.experiments.values() for one in chosen.loss} == set(LOSSES)


def test_shipped_studies_share_no_protocol_name_with_other_values() -> None:
    """Two recipes never share a path."""
    seen: dict[tuple[str, str], object] = {}
    for path in [ROOT / "config.yaml", *(ROOT / "workflow" / "studies").glob("*.yaml")]:
        loaded = validate(read_yaml(path))
        key = (loaded.dataset, loaded.protocol.name)
        assert seen.setdefault(key, loaded.protocol) == loaded.protocol


def test_the_schema_for_editors_is_in_step_with_the_models() -> None:
    """Mend it with: kd schema > workflow/config.schema.json"""
    assert json.loads((ROOT / "workflow" / "config.schema.json").read_text()) == config.schema()


def test_an_unknown_key_is_refused_and_the_nearest_named() -> None:
    refused("sedes: unknown key; did you mean 'seeds'", sedes=[0])
    refused(r"protocol\.epoch: unknown key; did you mean 'epochs'", **protocol(epoch=3))
    refused(r"experiments\.grid\.studnet: unknown key; did you mean 'student'", **experiment(studnet="wrn-10-1"))
    refused(r"experiments\.grid\.loss\.kl\.taau: unknown; did you mean 'tau'", **experiment(loss={"kl": {"taau": 4}}))
    refused(r"experiments\.grid\.loss\.kkl: no such loss; did you mean 'kl'", **experiment(loss={"kkl": {"tau": 4}}))
    refused("did you mean 'wrn-16-2'", **experiment(student="wrm-16-2"))
    refused("did you mean 'heatmap'", **experiment(figure="heatmaps"))
    refused("did you mean 'symmetric'", **experiment(label_noise={"symetric": 0.2}))
    refused("did you mean 'digits'", dataset="digit")


def test_no_hint_points_elsewhere_and_case_plays_no_part() -> None:
    refused(r"tau: unknown key; tau belongs to a loss: loss: \{kl: \{tau: \.\.\.\}\}", tau=4)
    refused("base: unknown key; known: ", base={})
    refused("epochs: unknown key; epochs belongs to protocol", epochs=10)
    refused(r"protocol\.seeds: unknown key; seeds belongs to the study itself", **protocol(seeds=[0]))
    refused(r"experiments\.grid\.lr: unknown key; lr belongs to protocol", **experiment(lr=0.1))
    refused("known: .*resnet14, .*resnet8", **experiment(student="resnet10"))
    refused("did you mean 'cifar100'", dataset="CIFAR100")
    refused("did you mean 'kl'", **experiment(loss={"KL": {"tau": 4}}))


def test_what_is_missing_or_of_another_kind_is_said_in_the_study_s_words() -> None:
    refused(r"protocol\.name: missing; giving protocol replaces all of it", protocol={"epochs": 10})
    refused(
        r"experiments\.one: expected keys and their values, as in \{teacher: .* \(got None\)", experiments={"one": None}
    )
    refused(r"got '0,1,2', expected a number; several are a list: \[0, 1, 2\]", seeds="0,1,2")
    refused(
        r"top1: got 0\.4216, expected %: did you mean 42\.16",
        weights={"w": {"file": "w", "sha256": "0a" * 32, "top1": 0.4216}},
    )


def test_yaml_surprises_are_numbers_or_refused() -> None:
    """Fault 39: 1e-3 is text to YAML, a boolean is never a number."""
    assert study(**protocol(lr="1e-3")).protocol.lr == 1e-3
    assert study(**protocol(epochs="12")).protocol.epochs == 12
    refused("protocol.epochs: got True, expected a number", **protocol(epochs=True))
    refused("expected a number", **protocol(lr="fast"))
    refused("whole number", **protocol(epochs=2.5))
    refused("expected a finite number", **protocol(lr="nan"))
    refused("expected a finite number", **protocol(epochs="inf"))
    refused("tau", **experiment(loss={"kl": {"tau": True}}))
    refused("flip", **protocol(flip="yes"))


@pytest.mark.parametrize(
    ("written", "fixes"), [("010", "8 or 10"), ("-017", "-15 or -17"), ("0_10", "8 or 10"), ("007", "7"), ("00", "0")]
)
def test_a_number_with_a_leading_zero_is_refused_with_what_it_may_mean(
    tmp_path: Path, written: str, fixes: str
) -> None:
    """Fault 39: 010 is 8 to YAML 1.1."""
    path = tmp_path / "zero.yaml"
    path.write_text(f"seeds: [0, 1]\nprotocol: {{name: p,\n  epochs: {written}}}\n")
    with pytest.raises(ConfigError, match=rf"zero\.yaml: line 3: {written} begins with 0, .*; write {fixes}$"):
        read_yaml(path)
    path.write_text("a: [0, -0, 0.5, 00.5, 0x1F, '010', 10, 1_000, 08]\n")
    assert read_yaml(path)["a"] == [0, 0, 0.5, 0.5, 31, "010", 10, 1000, "08"]


@pytest.mark.parametrize(("written", "read"), [("1:30", "90"), ("-1:0:0", "-3600"), ("1:30.5", "90.5")])
def test_a_number_that_yaml_counts_by_sixties_is_refused(tmp_path: Path, written: str, read: str) -> None:
    path = tmp_path / "sixty.yaml"
    path.write_text(f"a: '1:30'\nb: {written}\n")
    with pytest.raises(ConfigError, match=rf"sixty\.yaml: line 2: {written} is {read} to YAML, .* write {read}$"):
        read_yaml(path)


def test_a_key_that_is_there_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    for text, name, lines in (
        ("seeds: 0\nexperiments:\n  a: {loss: ce}\n  b: {}\n  a: {loss: mse}\n", "a", (5, 3)),
        ("protocol: {epochs: 2, lr: 1, epochs: 3}\n", "epochs", (1, 1)),
        ("seeds: 0\n'seeds': 1\n", "seeds", (2, 1)),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=rf"twice\.yaml: line {lines[0]}: {name} is there .* on line {lines[1]},"):
            read_yaml(path)
    path.write_text("a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}\nx: 3\n")
    assert read_yaml(path)["b"] == {"x": 2, "y": 1}


def test_a_boolean_among_equal_numbers_is_refused_and_a_seed_has_at_most_nine_digits() -> None:
    refused("seeds.1: got True, expected a number", seeds=[1, True])
    refused("seeds", seeds=10**9)
    refused("expected a number", seeds=10**400)
    assert study(seeds=999_999_999).seeds == (999_999_999,)


def test_spellings_of_one_number_are_one_objective() -> None:
    """Fault 40."""
    spelled = study(**experiment(loss={"kl": {"tau": [3, 3.0, "3", "3e0"], "alpha": ["0.10", 0.1, 1]}}))
    assert spelled.experiments["grid"].loss == (
        LossChoice("kl", (("tau", 3.0), ("alpha", 0.1))),
        LossChoice("kl", (("tau", 3.0),)),
    )


def test_a_default_given_or_left_out_is_one_objective() -> None:
    assert loss_choice("kl", {"tau": 3, "alpha": 1, "scale": "tau2"}) == loss_choice("kl", {"tau": "3.0"})


def test_what_cannot_be_trained_is_refused() -> None:
    refused("teacher: missing; kl needs one", experiments={"a": {"student": "wrn-10-1", "loss": {"kl": {"tau": 1}}}})
    refused("either path, or teacher and student", **experiment(path=["wrn-16-2", "wrn-10-1"]))
    refused("rate of 1.5, expected 0 to 1", **experiment(label_noise={"symmetric": 1.5}))
    refused("not under label_files", **experiment(label_noise={"file": "human"}))
    refused("milestones", **protocol(epochs=10, milestones=[5, 12]))
    refused("a mirrored image of digits is another class", **protocol(flip=True))
    refused("nesterov", **protocol(momentum=0))
    refused("kd's own", experiments={"teachers": {"student": "wrn-10-1", "loss": "ce"}})
    refused("an empty list", **experiment(loss=[]))
    refused("size: missing", datasets={"photos": {"folder": "x"}})


def test_imported_weights_say_which_file_it_must_be_and_are_of_one_teacher() -> None:
    given = {"weights": {"w": {"file": "w.pt", "sha256": "0a" * 32}}}
    assert study(**given, **experiment(teacher_weights="w")).weights["w"].top1 is None
    refused(r"grid\.teacher_weights: 'v' is not under weights", **given, **experiment(teacher_weights="v"))
    refused("there is no teacher", **given, **experiment(teacher_weights="w", teacher=None))
    refused("give one of the two", **given, **experiment(teacher_weights="w", teacher_epochs=3))
    refused("of one network, not of", **given, **experiment(teacher_weights="w", teacher=["wrn-16-2", "wrn-16-4"]))
    refused("no such loss", **given, **experiment(loss="weights-w"))
    for wrong in ("0A" * 32, "0a" * 31, "", 10**63, None, "0a" * 32 + "\n"):
        refused(r"weights\.w\.sha256", weights={"w": {"file": "w.pt", "sha256": wrong}})
    refused(r"weights\.w\.sha256: missing", weights={"w": {"file": "w.pt"}})
    refused("unknown key; did you mean 'top1'", weights={"w": {"file": "w.pt", "sha256": "0a" * 32, "top": 80}})
    refused("a name is letters", weights={"../w": {"file": "w.pt", "sha256": "0a" * 32}})


def test_an_ensemble_is_networks_or_seeds_joined_by_a_plus() -> None:
    found = study(**experiment(teacher="wrn-28-4+wrn-16-4", ensemble="mean_prob")).experiments["grid"]
    assert (found.teacher, found.ensemble) == (("wrn-16-4+wrn-28-4",), ("mean_prob",))
    found = study(**experiment(teacher_seeds=[3, "2+0"], ensemble=["mean_logit", "sum_logit"])).experiments["grid"]
    assert found.teacher_seeds == ((3,), (0, 2))
    assert study(teacher_seeds="0+1", **experiment(ensemble="sum_logit")).teacher_seeds == ((0, 1),)
    refused("did you mean 'mean_prob'", **experiment(teacher_seeds="0+1", ensemble="mean_probs"))
    refused(r"grid\.ensemble: no teacher is one; write teacher: A\+B", **experiment(ensemble="mean_prob"))
    refused(r"grid\.ensemble: no teacher", teacher_seeds="0+1", **experiment(teacher=None, ensemble="mean_prob"))
    refused("several seeds of one are an ensemble by teacher_seeds", **experiment(teacher="wrn-16-2+wrn-16-2"))
    refused("a seed twice", **experiment(teacher_seeds="0+1+0"))
    refused("did you mean 'wrn-16-4'", **experiment(teacher="wrn-28-4+wrm-16-4"))
    refused("student", **experiment(student="wrn-16-2+wrn-10-1"))
    refused("path", **experiment(teacher=None, student=None, path=["wrn-16-2", "wrn-10-1+wrn-16-1"]))
    for wrong in ("0+", "0+x", True, "0+1.5", "-1+0", f"0+{10**9}", None):
        refused("teacher_seeds", **experiment(teacher_seeds=[wrong]))
    given = {"weights": {"w": {"file": "w.pt", "sha256": "0a" * 32}}}
    refused("of one network, not of", **given, **experiment(teacher_weights="w", teacher="wrn-16-2+wrn-16-4"))


@pytest.mark.parametrize("name", ["a;touch x", "../../x", "a b", "$(x)", "", "a/b", "-x", "a\nb"])
def test_names_that_a_shell_or_a_path_would_read_are_refused(name: str) -> None:
    """Faults 56 and 57."""
    refused("a name is letters, digits and underscores", study=name)
    refused("dataset", dataset=name)
    refused("network", **experiment(student=name))


def test_yaml_that_runs_code_is_refused(tmp_path: Path) -> None:
    """Fault 55."""
    path = tmp_path / "evil.yaml"
    path.write_text(f"study: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(path)
    assert not (tmp_path / "ran").exists()


def test_an_overlay_replaces_whole_keys(tmp_path: Path) -> None:
    base = tmp_path / "config.yaml"
    base.write_text((ROOT / "config.yaml").read_text())
    overlaid = validate(merged({"seeds": [7], **experiment()}, base))
    assert overlaid.seeds == (7,)
    assert list(overlaid.experiments) == ["grid"]
    assert overlaid.dataset == "cifar100"


def test_the_paper_drops_at_half_and_three_quarters_unless_told() -> None:
    assert study(**protocol()).protocol.drops == (100, 150)
    assert study(**protocol(epochs=20)).protocol.drops == (10, 15)
    assert study(**protocol(epochs=20, milestones=[3])).protocol.drops == (3,)
    for epochs in range(2, 300):
        first, second = study(**protocol(epochs=epochs)).protocol.drops
        assert 1 <= first < second <= epochs


def test_networks_are_evaluated_every_so_many_epochs_or_last() -> None:
    assert study(**protocol()).protocol.evaluate == 1
    assert study(**protocol(evaluate="5")).protocol.evaluate == 5
    assert study(**protocol(evaluate="last")).protocol.evaluate == "last"
    for wrong in (0, -1, 1.5, True, "first", None):
        refused(r"protocol\.evaluate", **protocol(evaluate=wrong))


def test_what_is_new_in_a_protocol_counts_as_what_was_done_before() -> None:
    first = Protocol.since()
    assert (first["evaluate"], first["decay_1d"]) == (1, False)


def test_a_gpu_is_shared_by_a_number_of_cells_or_by_as_many_as_fit() -> None:
    assert study().cells_per_gpu == 1
    assert study(cells_per_gpu=4).cells_per_gpu == 4
    assert study(cells_per_gpu="auto").cells_per_gpu == AUTO
    for wrong in (0, -1, 49, 1.5, "all", True):
        refused("cells_per_gpu", cells_per_gpu=wrong)


def test_speed_has_three_keys_with_few_values() -> None:
    for key, wrong in (("precision", "fp16"), ("teacher_precision", "auto"), ("compile", True)):
        refused(f"protocol.{key}", **protocol(**{key: wrong}))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = sorted(config.Study.model_fields)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5))
def test_no_study_crashes_the_parser(values: dict) -> None:
    try:
        study(**values)
    except ConfigError as error:
        assert str(error)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted(config.Experiment.model_fields)), JSON, min_size=1, max_size=4))
def test_no_experiment_crashes_the_parser(values: dict) -> None:
    try:
        study(**experiment(**values))
    except ConfigError as error:
        assert "experiments.grid" in str(error)


TREES = [read_yaml(ROOT / name) for name in ("config.yaml", "workflow/studies/demo.yaml")]
WORDS = sorted({*KEYS, *config.Experiment.model_fields, *config.Protocol.model_fields, "ce", "kl", "tau", "symmetric"})
VALUES = JSON | st.sampled_from([*WORDS, True, "inf", "nan", "1e400", -1, 0, 10**400, [], {}, [[]], "../x", "²"])


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(st.sampled_from(TREES).flatmap(lambda tree: mutated_tree(tree, VALUES, WORDS)))
def test_a_study_that_was_tampered_with_is_a_study_or_refused_with_a_message(values: object) -> None:
    try:
        assert isinstance(validate(values), config.Study)
    except ConfigError as error:
        assert str(error)


SPECIMENS = [b"!!bool x", b"!!int ''", b"!!timestamp x", b"2001-99-99", b"{[]: 1}", b"0x" + b"f" * 9999, b"[" * 9999]


@settings(deadline=None, max_examples=400)
@given(st.binary(max_size=40) | st.text("[]{}:,-&*!?|>#%@`'\"\n 01.ex~", max_size=40).map(str.encode))
@example(b"\xff\xfe")
@example(b"a: &a [*a]")
def test_any_bytes_are_a_dict_or_refused_with_a_message(content: bytes) -> None:
    _read_or_refused(content)


@pytest.mark.parametrize("content", SPECIMENS, ids=lambda content: content[:12].decode())
def test_values_that_belie_their_type_are_refused_with_a_message(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml: not valid YAML: ."):
        _read_or_refused(b"a: " + content, again=True)


def _read_or_refused(content: bytes, again: bool = False) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.yaml")
        path.write_bytes(content)
        try:
            assert isinstance(read_yaml(path), dict)
        except ConfigError as error:
            assert str(error).startswith(str(path))
            if again:
                raise
