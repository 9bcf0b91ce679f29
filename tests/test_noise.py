"""Label noise: exact, nested, the same for whoever asks, and nothing in a label file is run."""

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made.course import vectors
from scipy.special import ndtri

from kd.core.errors import ConfigError, DataError, StorageError
from kd.core.files import sha256
from kd.data import NOISES
from kd.data.arrays import Files, open_dataset, open_labels
from kd.data.instance import flip_rates, instance, uniform, wrong_shares
from kd.data.mix import stream
from kd.data.noise import (
    CIFAR10,
    CIFAR100_SUPERCLASSES,
    asymmetric,
    from_file,
    pair,
    pairs,
    symmetric,
    write_labels,
)
from kd.data.prepare import prepare_dataset, prepare_labels
from kd.jobs import data as job
from kd.study.cells import DatasetChoice
from kd.study.config import Recipe
from kd.study.judge import Judge, labels_recipe
from kd.study.values import Noise

# The coarse label of each fine label, as the dataset's own files have it.
COARSE = """
    4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13
    14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19
    18 1 2 15 6 0 17 8 14 13
"""
CIFAR100 = sorted(name for names in CIFAR100_SUPERCLASSES.values() for name in names.split())
TEN = [str(i) for i in range(10)]
CLEAN = np.random.default_rng(0).integers(0, 10, 5000)
VECTORS = vectors("label_noise")

rates = st.floats(0, 1)
seeds = st.integers(0, 1000)


# -- symmetric --------------------------------------------------------------------------------------------------------


@given(rates, seeds)
def test_symmetric_noise_at_rate_r_makes_exactly_r_of_the_labels_wrong(rate, seed):
    noisy = symmetric(CLEAN, rate, seed, TEN)
    assert (noisy != CLEAN).sum() == round(rate * len(CLEAN))
    assert noisy.dtype == np.int64
    assert noisy.min() >= 0
    assert noisy.max() < 10


@given(rates, rates, seeds)
def test_what_is_wrong_at_a_lower_rate_is_wrong_in_the_same_way_at_a_higher(one, other, seed):
    low, high = (symmetric(CLEAN, rate, seed, TEN) for rate in sorted((one, other)))
    wrong = low != CLEAN
    assert np.array_equal(low[wrong], high[wrong])


def test_symmetric_noise_is_uniform_over_the_other_classes():
    clean = np.zeros(90_000, np.int64)
    counts = np.bincount(symmetric(clean, 1.0, 0, TEN), minlength=10)
    assert counts[0] == 0
    assert ((counts[1:] - 10_000) ** 2 / 10_000).sum() < 27.9  # chi-square, 8 degrees of freedom, p = 0.0005


def test_whether_an_example_is_wrong_does_not_depend_on_its_class():
    wrong = symmetric(CLEAN, 0.4, 0, TEN) != CLEAN
    by_class = [wrong[label == CLEAN].mean() for label in range(10)]
    assert max(abs(np.array(by_class) - 0.4)) < 0.08


def test_which_examples_become_wrong_depends_on_seed_and_index_only():
    other_labels = (CLEAN + 3) % 10  # the labels do not enter
    assert np.array_equal(
        symmetric(CLEAN, 0.3, 7, TEN) - CLEAN != 0, symmetric(other_labels, 0.3, 7, TEN) - other_labels != 0
    )
    assert not np.array_equal(symmetric(CLEAN, 0.3, 7, TEN), symmetric(CLEAN, 0.3, 8, TEN))


def test_one_label_changes_no_other_examples_noise():
    changed = CLEAN.copy()
    changed[17] = (changed[17] + 1) % 10
    rest = np.arange(len(CLEAN)) != 17
    assert np.array_equal(symmetric(CLEAN, 0.5, 0, TEN)[rest], symmetric(changed, 0.5, 0, TEN)[rest])


def test_a_larger_dataset_gives_the_examples_of_a_smaller_the_same_noise():
    large = np.concatenate([CLEAN, CLEAN])
    part, whole = symmetric(CLEAN, 0.4, 3, TEN), symmetric(large, 0.4, 3, TEN)[: len(CLEAN)]
    both = (part != CLEAN) & (whole != CLEAN)
    assert both.sum() > 0.38 * len(CLEAN)  # the same order of choice, cut within 2 % of the same place
    assert np.array_equal(part[both], whole[both])


def test_the_noise_of_these_labels_never_changes():
    noisy = symmetric(np.arange(1000) % 10, 0.4, 0, TEN)
    assert sha256(noisy.tobytes()) == "db83f7705a3264e5952a03708b71853012c7209fdf9eb31a2522d2206d5272d4"
    flipped = asymmetric(np.arange(1000) % 10, 0.4, 0, CIFAR10)
    assert sha256(flipped.tobytes()) == "7c12da29f479b0687f3d2d05e283e472ea62aabdf17406a1361f2908e6cbff66"


# -- asymmetric -------------------------------------------------------------------------------------------------------


@given(rates, seeds)
def test_asymmetric_cifar10_noise_is_exact_in_each_class_and_goes_where_it_should(rate, seed):
    noisy = asymmetric(CLEAN, rate, seed, CIFAR10)
    target = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}
    for label in range(10):
        members = noisy[label == CLEAN]
        expected = round(rate * len(members)) if label in target else 0
        assert (members != label).sum() == expected
        assert set(members) <= {label, target.get(label, label)}


def test_cats_and_dogs_trade_places_at_the_same_rate():
    clean = np.repeat([3, 5], 1000)
    noisy = asymmetric(clean, 0.4, 0, CIFAR10)
    assert [(noisy[clean == label] != label).mean() for label in (3, 5)] == [0.4, 0.4]


def test_pairs_are_found_by_class_name_not_number():
    backwards = CIFAR10[::-1]
    target = pairs(backwards)
    assert backwards[target[backwards.index("truck")]] == "automobile"
    assert backwards[target[backwards.index("frog")]] == "frog"


def test_cifar100_superclasses_are_the_datasets_own():
    coarse = np.array(COARSE.split(), int)
    assert len(CIFAR100) == len(coarse) == 100
    assert np.bincount(coarse).tolist() == [5] * 20
    for number, names in enumerate(CIFAR100_SUPERCLASSES.values()):
        assert [CIFAR100[i] for i in np.flatnonzero(coarse == number)] == names.split()


def test_asymmetric_cifar100_noise_stays_in_the_superclass_and_comes_round():
    coarse, target = np.array(COARSE.split(), int), pairs(CIFAR100)
    assert np.array_equal(coarse[target], coarse)
    assert np.array_equal(np.sort(target), np.arange(100))
    for start in range(100):
        orbit = [start]
        while (after := target[orbit[-1]]) != start:
            orbit.append(after)
        assert sorted(orbit) == np.flatnonzero(coarse == coarse[start]).tolist()
        assert sum(np.diff([*orbit, start]) < 0) == 1  # in the order of fine ids, once round
    clean = np.arange(100).repeat(50)
    noisy = asymmetric(clean, 0.3, 0, CIFAR100)
    assert ((noisy != clean).reshape(100, 50).sum(1) == 15).all()
    assert np.array_equal(noisy[noisy != clean], target[clean[noisy != clean]])


def test_asymmetric_noise_is_nested_across_rates():
    low, high = (asymmetric(CLEAN, rate, 5, CIFAR10) for rate in (0.2, 0.4))
    assert np.array_equal(low[low != CLEAN], high[low != CLEAN])


def test_classes_without_known_pairs_are_refused_with_what_is_allowed():
    with pytest.raises(DataError, match=r"no pairs are known .* ant, bee.*airplane.*use symmetric"):
        asymmetric(CLEAN % 2, 0.4, 0, ["ant", "bee"])


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_out_of_range_is_refused(rate):
    for noise, names in ((symmetric, TEN), (asymmetric, CIFAR10), (pair, TEN)):
        with pytest.raises(ConfigError, match="allowed is 0 to 1"):
            noise(CLEAN, rate, 0, names)


def test_a_rate_of_zero_changes_nothing_and_no_noise_changes_its_input():
    before = CLEAN.copy()
    assert np.array_equal(symmetric(CLEAN, 0.0, 0, TEN), CLEAN)
    symmetric(CLEAN, 0.9, 0, TEN)
    asymmetric(CLEAN, 0.9, 0, CIFAR10)
    assert np.array_equal(CLEAN, before)


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_pair_flips_have_the_stated_transitions_exactly():
    rate, stated = VECTORS["pair"]["rate"], np.array(VECTORS["pair"]["transitions"])
    clean = np.arange(4).repeat(100)
    noisy = pair(clean, rate, 0, TEN[:4])
    assert np.allclose(np.bincount(clean * 4 + noisy, minlength=16).reshape(4, 4) / 100, stated)


@given(rates, rates, seeds)
def test_pair_flips_are_exact_in_each_class_and_nested_across_rates(one, other, seed):
    low, high = (pair(CLEAN, rate, seed, TEN) for rate in sorted((one, other)))
    assert np.array_equal(low[low != CLEAN], high[low != CLEAN])
    assert np.array_equal(low[low != CLEAN], (CLEAN[low != CLEAN] + 1) % 10)
    for label in range(10):
        members = low[label == CLEAN]
        assert (members != label).sum() == round(min(one, other) * len(members))


# -- by image ---------------------------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(1).integers(0, 256, (5000, 4, 4, 1), dtype=np.uint8)


@pytest.mark.parametrize("case", VECTORS["instance"], ids=lambda case: case["id"])
def test_the_probabilities_of_wrong_labels_by_image_equal_the_vectors(case):
    pixels, matrix = np.array(case["pixels"]), np.array(case["matrix"])
    if "drawn" in case:
        assert np.allclose(flip_rates(case["rate"], np.array(case["drawn"])), case["rates"], rtol=0, atol=1e-12)
    for row, label, rate, expected in zip(pixels, case["labels"], case["rates"], case["probabilities"], strict=True):
        found = rate * wrong_shares(row[None], matrix[label] if matrix.ndim == 3 else matrix, label)[0]
        found[label] = 1 - rate
        assert np.allclose(found, expected, rtol=0, atol=1e-12)


def test_the_rates_of_examples_equal_the_vectors_in_the_tails_and_stay_in_0_to_1():
    tail = VECTORS["tail"]
    assert np.allclose(flip_rates(tail["rate"], np.array(tail["drawn"])), tail["rates"], rtol=0, atol=1e-12)
    ends = flip_rates(0.02, uniform(0, 1, np.arange(10_000)))
    assert ends.min() >= 0
    assert ends.max() <= 1


@pytest.mark.parametrize(("rate", "expected"), [(float(r), e) for r, e in VECTORS["expected_rate"].items()])
def test_the_realised_rate_by_image_lies_within_its_binomial_interval(rate, expected):
    for seed in range(3):
        realised = (instance(CLEAN, rate, seed, TEN, IMAGES) != CLEAN).mean()
        assert abs(realised - expected) < 4 * (expected * (1 - expected) / len(CLEAN)) ** 0.5


def test_labels_wrong_by_image_are_nested_across_rates_and_alike_for_whoever_asks():
    low, high = (instance(CLEAN, rate, 5, TEN, IMAGES) for rate in (0.2, 0.4))
    assert np.array_equal(low[low != CLEAN], high[low != CLEAN])
    part = instance(CLEAN[:2000], 0.4, 5, TEN, IMAGES[:2000])
    assert np.array_equal(part, high[:2000])
    assert not np.array_equal(high, instance(CLEAN, 0.4, 6, TEN, IMAGES))


def test_wrong_labels_by_image_follow_the_image_and_the_class():
    images = IMAGES[:1].repeat(4000, 0)  # one image: of a class there are the shares of its map, here nearly one label
    clean = np.arange(2).repeat(2000)
    noisy = instance(clean, 0.5, 0, TEN, images)
    counts = [np.bincount(noisy[(clean == label) & (noisy != clean)], minlength=10) for label in range(2)]
    assert all(count.max() > 0.95 * count.sum() > 900 for count in counts)
    assert all(count[label] == 0 for label, count in enumerate(counts))
    others = instance(clean, 0.5, 0, TEN, IMAGES[:4000])
    assert len(np.unique(others[others != clean])) > 5


def test_wrong_labels_by_image_are_drawn_as_often_as_their_shares_say():
    images, clean = np.full((20_000, 1, 1, 1), 1, np.uint8), np.zeros(20_000, np.int64)  # 1: no label has nearly all
    noisy = instance(clean, 1.0, 3, TEN, images)
    shares = wrong_shares(np.ones((1, 1)), ndtri(uniform(3, stream("its map"), np.arange(10)))[None], 0)[0]
    wrong = np.bincount(noisy[noisy != clean], minlength=10)
    assert wrong[0] == 0
    expected = shares[1:] * wrong.sum()
    assert ((wrong[1:] - expected) ** 2 / expected).sum() < 27.9  # chi-square, 8 degrees of freedom, p = 0.0005


def test_the_noise_by_image_of_these_labels_never_changes():
    labels = instance(np.arange(1000) % 10, 0.4, 0, TEN, IMAGES[:1000])
    assert sha256(labels.tobytes()) == "51ad855d568a1e3d99e1fc4f0a63dc5dab83491577376e12d06b2a9b9d5aa8fa"


def test_noise_by_image_is_refused_for_streamed_images(digits, tmp_path, monkeypatch):
    streamed = dataclasses.replace(open_dataset(digits), files=Files("/photos", 224))
    monkeypatch.setattr("kd.data.prepare.open_dataset", lambda folder: streamed)
    with pytest.raises(DataError, match="label noise instance: got streamed images"):
        prepare_labels(digits, "instance", 0.4, 0, tmp_path / "out", {})


# -- from a file ------------------------------------------------------------------------------------------------------


def _save(path, labels):
    if path.suffix == ".npy":
        np.save(path, labels)
    elif path.suffix == ".npz":
        np.savez(path, labels=labels)
    else:
        path.write_text("".join(f"{label}\n" for label in labels))
    return path


@pytest.mark.parametrize("name", ["human.npy", "human.npz", "human.csv", "human.txt"])
def test_labels_come_back_from_every_kind_of_file(tmp_path, name):
    labels = symmetric(CLEAN, 0.4, 0, TEN)
    read = from_file(CLEAN, _save(tmp_path / name, labels), 0, TEN)
    assert np.array_equal(read, labels)
    assert read.dtype == np.int64


@pytest.mark.parametrize("name", ["human.npy", "human.npz", "human.csv", "human.txt"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (CLEAN[:-1], "got 4,999 labels for 5,000"),
        (np.where(np.arange(5000) == 41, 10, CLEAN), "label 10 at example 41: allowed are 0 to 9"),
        (np.where(np.arange(5000) == 7, -1, CLEAN), "label -1 at example 7"),
        (CLEAN + 0.5, "one integer"),
    ],
)
def test_labels_of_a_wrong_length_range_or_type_are_refused(tmp_path, name, labels, message):
    path = _save(tmp_path / name, labels)
    with pytest.raises(DataError, match=message) as caught:
        from_file(CLEAN, path, 0, TEN)
    assert str(path) in str(caught.value)


class _Payload:
    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return Path.touch, (self.trap,)


def test_a_label_file_with_a_pickle_in_it_is_refused_and_not_run(tmp_path):
    trap = tmp_path / "trap"
    objects = np.array([_Payload(trap)] * 5000, dtype=object)
    np.save(tmp_path / "object.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "object.npz", labels=objects)
    for name in ("plain.npy", "plain.npz", "plain.csv", "plain.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(_Payload(trap)))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError, match="label") as caught:
            from_file(CLEAN, path, 0, TEN)
        assert str(path) in str(caught.value)
    assert not trap.exists()


def test_a_label_file_that_cannot_be_read_is_named_with_what_is_expected(tmp_path):
    (tmp_path / "words.csv").write_text("label\n1\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    np.savez(tmp_path / "other.npz", noisy=CLEAN)
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, CLEAN)
    for name, message in (
        ("gone.npy", "No such file"),
        ("words.csv", "line 1 is 'label'.*one integer a line"),
        ("bytes.txt", "one integer a line"),
        ("other.npz", "under the key `labels`"),
        ("array.npz", "under the key `labels`"),
        ("human.pt", "got no set of labels; name it behind a colon, such as .*human.pt:worse_label"),
        ("human.pt:worse_label", "No such file"),
        ("human.dat", "numpy.save"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            from_file(CLEAN, tmp_path / name, 0, TEN)
        assert str(tmp_path / name.partition(":")[0]) in str(caught.value)


# -- human labels -----------------------------------------------------------------------------------------------------

HUMAN = {
    "clean_label": CLEAN,
    "worse_label": symmetric(CLEAN, 0.4, 0, TEN),
    "random_label1": symmetric(CLEAN, 0.2, 1, TEN),
    "noisy_coarse_label": (CLEAN // 5).tolist(),
    "clean_coarse_label": [*(CLEAN // 5)],  # numpy's own numbers
}


def _zipped(held, path):
    torch.save(held, path)


def _legacy(held, path):
    torch.save(held, path, _use_new_zipfile_serialization=False)


def _pickled(held, path):
    path.write_bytes(pickle.dumps(held, protocol=2))


@pytest.mark.parametrize("save", [_zipped, _legacy, _pickled])
@pytest.mark.parametrize("key", ["worse_label", "random_label1"])
def test_human_labels_are_read_as_published_and_each_set_by_its_name(tmp_path, save, key):
    save(HUMAN, tmp_path / "human.pt")
    read = from_file(CLEAN, f"{tmp_path}/human.pt:{key}", 0, TEN)
    assert np.array_equal(read, HUMAN[key])
    assert read.dtype == np.int64


@pytest.mark.parametrize("dtype", [">i4", "<u2", "i8"])
def test_human_labels_are_read_whatever_their_bytes(tmp_path, dtype):
    held = {"clean_label": CLEAN.astype(dtype), "noisy_label": HUMAN["worse_label"].astype(dtype)}
    torch.save(held, tmp_path / "human.pt")
    assert np.array_equal(from_file(CLEAN, f"{tmp_path}/human.pt:noisy_label", 0, TEN), HUMAN["worse_label"])


def test_human_labels_of_another_order_are_refused_by_their_true_labels(tmp_path):
    """Two examples that changed places are enough, which no share of agreement would tell."""
    first, second = 0, int(np.flatnonzero(CLEAN[0] != CLEAN)[0])
    order = np.arange(5000)
    order[[first, second]] = second, first
    _zipped({name: np.asarray(labels)[order] for name, labels in HUMAN.items()}, tmp_path / "human.pt")
    with pytest.raises(DataError, match=r"human\.pt: its clean_label is \d at example 0, .* in 2 of 5,000 .* order of"):
        from_file(CLEAN, f"{tmp_path}/human.pt:worse_label", 0, TEN)


@pytest.mark.parametrize(
    ("key", "held", "message"),
    [
        ("worst_label", HUMAN, "got no worst_label; there are clean_label, worse_label, random_label1, noisy_coarse"),
        ("worse_label", {"worse_label": CLEAN}, "got no clean_label; there are worse_label"),
        ("noisy_coarse_label", HUMAN, "its clean_coarse_label is"),
        ("worse_label", {"clean_label": CLEAN[:-1], "worse_label": CLEAN[:-1]}, "got 4,999 labels for 5,000 training"),
        ("worse_label", {"clean_label": CLEAN, "worse_label": CLEAN + 1}, "label 10 at example"),
        ("worse_label", {"clean_label": CLEAN, "worse_label": CLEAN / 2}, "one integer"),
        ("worse_label", {"clean_label": CLEAN, "worse_label": torch.tensor(CLEAN)}, "cannot read labels"),
        ("worse_label", {"clean_label": np.array([None, {}])}, "got an array of 'O8', allowed are numbers"),
        ("worse_label", [1, 2], "got a list"),
    ],
)
def test_human_labels_that_are_not_as_published_are_refused(tmp_path, key, held, message):
    _zipped(held, tmp_path / "human.pt")
    with pytest.raises(DataError, match=message) as caught:
        from_file(CLEAN, f"{tmp_path}/human.pt:{key}", 0, TEN)
    assert str(tmp_path / "human.pt") in str(caught.value)


@pytest.mark.parametrize("save", [_zipped, _legacy, _pickled])
def test_nothing_in_a_file_of_human_labels_is_run(tmp_path, save):
    trap = tmp_path / "trap"
    for place in ({"worse_label": _Payload(trap)}, {"worse_label": np.array([_Payload(trap)], object)}, _Payload(trap)):
        save(place, tmp_path / "human.pt")
        with pytest.raises(DataError, match=r"it names .+, allowed are arrays|allowed are numbers"):
            from_file(CLEAN, f"{tmp_path}/human.pt:worse_label", 0, TEN)
    assert not trap.exists()


def test_two_sets_of_one_file_are_two_recipes(tmp_path):
    _zipped(HUMAN, tmp_path / "human.pt")
    choice = DatasetChoice("digits", Noise("labels", "human"))
    one, other = (labels_recipe(choice, f"{tmp_path}/human.pt:{key}") for key in ("worse_label", "random_label1"))
    assert one != other
    assert one["file"] == other["file"]


# -- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    prepare_dataset("digits", None, folder, folder, {})
    return folder


def test_the_manifest_states_the_realised_rate_and_the_digest_of_the_labels(digits, tmp_path):
    manifest = prepare_labels(digits, "sym", 0.4, 0, tmp_path / "out", {"said": "first"})
    clean, noisy = open_dataset(digits).train_labels, open_labels(tmp_path / "out")
    assert manifest["realised_rate"] == (noisy != clean).mean() == 359 / 898
    assert manifest["content"] == sha256(noisy.tobytes())
    assert manifest["said"] == "first"
    assert manifest["wrong"] == 359
    confusion = np.array(manifest["confusion"])
    assert confusion.sum(1).tolist() == np.bincount(clean).tolist()
    assert confusion.trace() == 898 - 359
    assert np.allclose(1 - confusion.diagonal() / confusion.sum(1), manifest["realised_rate_by_class"])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest


@pytest.mark.process
def test_teacher_and_student_see_equal_labels_whoever_makes_them(digits, tmp_path):
    """Fault 25."""
    prepare_labels(digits, "sym", 0.4, 1, tmp_path / "teacher", {})
    call = f"prepare_labels(Path({str(digits)!r}), 'sym', 0.4, 1, Path({str(tmp_path / 'student')!r}), {{}})"
    imports = "from pathlib import Path; from kd.data.prepare import prepare_labels"
    subprocess.run([sys.executable, "-c", f"{imports}; {call}"], check=True)
    files = [(tmp_path / who / "labels.npy").read_bytes() for who in ("teacher", "student")]
    assert files[0] == files[1]
    order = np.random.default_rng(0).permutation(898)  # two loaders read in their own order, by example index
    teacher, student = open_labels(tmp_path / "teacher"), open_labels(tmp_path / "student")
    assert np.array_equal(teacher[order], student[order])
    assert not student.flags.writeable


@pytest.mark.parametrize(("kind", "name"), [("sym", "symmetric"), ("pair", "pair"), ("instance", "instance")])
def test_kd_labels_says_how_many_are_wrong_in_all_and_by_class(tmp_path, monkeypatch, caplog, kind, name):
    monkeypatch.chdir(tmp_path)
    choice = DatasetChoice("digits", Noise(kind, 0.4))
    recipe = Recipe.parse({})
    job.data(Judge.of_recipe(recipe), choice, recipe)
    with caplog.at_level("INFO", "kd"):
        job.labels(Judge.of_recipe(recipe), choice, recipe)
    manifest = json.loads(Path("data", str(choice), "manifest.json").read_text())
    rate, of_classes = manifest["realised_rate"], manifest["realised_rate_by_class"]
    assert abs(rate - 0.4) < 4 * (0.24 / 898) ** 0.5
    said = f"{manifest['wrong']} of 898 labels are wrong, {100 * rate:.1f} %"
    assert f"data/digits+{kind}0.4: {said}, of a class {100 * min(of_classes):.1f} to" in caplog.text
    assert NOISES[kind].name == name


def test_damaged_labels_are_refused(digits, tmp_path):
    prepare_labels(digits, "sym", 0.4, 0, tmp_path / "out", {})
    path = tmp_path / "out" / "labels.npy"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8)[:-1] + b"\1")
    with pytest.raises(StorageError, match=r"labels.npy: damaged"):
        open_labels(tmp_path / "out")
    with pytest.raises(StorageError, match="no result here"):
        open_labels(tmp_path / "nowhere")


def test_labels_from_a_file_are_published_as_they_stand_in_it(digits, tmp_path):
    clean = open_dataset(digits).train_labels
    path = _save(tmp_path / "human.csv", (clean + 1) % 10)
    manifest = prepare_labels(digits, "labels", str(path), 0, tmp_path / "out", {})
    assert manifest["realised_rate"] == 1.0
    assert np.array_equal(open_labels(tmp_path / "out"), (clean + 1) % 10)


def test_labels_that_agree_no_more_than_chance_are_refused_as_misaligned(tmp_path):
    noisy = symmetric(CLEAN, 0.4, 0, TEN)
    path = _save(tmp_path / "human.npy", np.random.default_rng(0).permutation(noisy))
    with pytest.raises(DataError, match=r"human\.npy: agrees with the true labels in (9|10)\.\d% .*another order"):
        from_file(CLEAN, path, 0, TEN)


@pytest.mark.parametrize("rate", [0.2, 0.8, 1.0])
def test_aligned_labels_are_taken_however_wrong(tmp_path, rate):
    noisy = symmetric(CLEAN, rate, 0, TEN)
    assert np.array_equal(from_file(CLEAN, _save(tmp_path / "human.npy", noisy), 0, TEN), noisy)


def test_many_classes_state_their_rates_without_a_matrix(tmp_path):
    clean = np.arange(100).repeat(10)
    manifest = write_labels(tmp_path, asymmetric(clean, 0.2, 0, CIFAR100), clean, {})
    assert "confusion" not in manifest
    assert manifest["realised_rate_by_class"] == [0.2] * 100


def test_an_unknown_noise_is_refused_with_the_nearest(digits, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'asym'"):
        prepare_labels(digits, "asymm", 0.4, 0, tmp_path, {})
    assert {key: noise.name for key, noise in NOISES.items()} == {
        "sym": "symmetric",
        "asym": "asymmetric",
        "pair": "pair",
        "instance": "instance",
        "labels": "file",
    }
