"""What is current, why not, and what is to do: judged from manifests, and never of a folder that only looks right."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, eventually, manifest, recipe, resigned, study, unsigned, values
from made.study import (
    ANALYSIS,
    ANSWERS,
    BANK,
    CLASSES,
    DATA,
    DOTS,
    DRAWN,
    FIDELITY,
    LABELS,
    LOSSES,
    NOISY,
    PAGE,
    STUDENT,
    TABLE,
    TABLES,
    TEACHER,
    TINY,
    VERDICT,
    command,
    finish,
    images,
    judge,
    make,
    protocol,
    tiny,
)

from kd.__main__ import main
from kd.core import files
from kd.core.errors import StorageError
from kd.jobs import making
from kd.study import expansion, products, stamps
from kd.study.config import Protocol
from kd.study.judge import Judge, replaced, told
from kd.study.paths import parse_cell, parse_dataset
from kd.study.products import READ_BY_PEOPLE, SPARED, Product
from kd.study.status import faulty

TEACHER_ANSWERS = products.answers(parse_cell(TEACHER.name))
ALL = (
    *(DATA, LABELS, TEACHER, STUDENT, NOISY, BANK, TEACHER_ANSWERS, ANSWERS),
    *(ANALYSIS, TABLE, DOTS, FIDELITY, TABLES, VERDICT, PAGE),
)
REPORT = {ANALYSIS, TABLE, DOTS, FIDELITY, TABLES, VERDICT, PAGE}
REPORT_KINDS = tuple(READ_BY_PEOPLE - {"proposal", "trial"})


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study is finished, by its verbs alone."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        images(Path("images"))
        assert set(finish()) == set(ALL)
    return folder


@pytest.fixture
def finished(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder itself, of tests that leave it as it is."""
    monkeypatch.chdir(once)
    return once


def to_do(**changes: object) -> dict[Product, str]:
    """Return what is to do of the study with some keys changed, and why."""
    return dict(judge(**changes).all_to_do)


def reason(product: Product, **changes: object) -> str | None:
    """Return why a product is not current now."""
    return judge(**changes).reason(product)


def files_of(product: Product) -> list[Path]:
    """Return the files that the manifest of a product names."""
    return [product.folder / name for name in manifest(product)["files"]]


def flipped(path: Path, at: int) -> bytes:
    """Flip a bit of a byte of a file; return what it held."""
    before = path.read_bytes()
    path.write_bytes(before[:at] + bytes([before[at] ^ 4]) + before[at + 1 :])
    return before


def contents() -> dict[str, bytes]:
    """Return every published file, by its path."""
    tops = ("data", "results", "banks", "answers", "reports")
    return {str(path): path.read_bytes() for top in tops for path in Path(top).rglob("*") if path.is_file()}


# -- what manifests say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("product", ALL, ids=str)
def test_a_manifest_names_its_inputs_by_digest_its_recipe_code_files_and_itself(here: Path, product: Product) -> None:
    said = manifest(product)
    assert (said["format"], said["kind"], said["name"]) == (2, product.kind, product.name)
    body = product.manifest.read_bytes().rpartition(b',\n "manifest_sha256"')[0]
    assert said["manifest_sha256"] == files.sha256(body)
    for name, digest in said["files"].items():
        content = (product.folder / name).read_bytes()
        assert (digest, said["sizes"][name]) == (files.sha256(content), len(content))
    assert len(said["files"]) == len(said["sizes"]) > 0
    assert len(said["code"]) == 16
    assert isinstance(said["recipe"], dict)
    inputs = {one.name: one for one in judge().inputs(product)}
    assert set(said["inputs"]) == set(inputs)
    for name, recorded in said["inputs"].items():
        assert recorded["digest"] == digest_of(inputs[name], product)
        # What may be deleted is judged by what it was made from while it is gone.
        assert ("recipe" in recorded, "code" in recorded) == (inputs[name].kind in SPARED,) * 2


def digest_of(one: Product, product: Product) -> str:
    """Return the digest by which a product names an input."""
    said = manifest(one)
    if one.kind in ("data", "labels"):
        return said["content"]
    if one.kind == "network":  # the table has numbers of its manifest
        return said["manifest_sha256"] if product.kind == "table" else said["files"]["model.safetensors"]
    return files.sha256(json.dumps(said["files"], sort_keys=True, separators=(",", ":")).encode())


def test_the_recipe_of_a_network_has_every_value_resolved(here: Path) -> None:
    recipe = manifest(STUDENT)["recipe"]
    defaults = {"alpha": 1.0, "scale": "tau2", "weight": 1.0, "ce": None, "logits": "raw"}
    assert recipe["objective"] == {"loss": "kl", "tau": 3.0, **defaults}
    assert set(recipe["protocol"]) == set(Protocol.model_fields)
    assert manifest(LABELS)["recipe"] == {"noise": "sym", "amount": 0.4, "seed": 0}
    assert manifest(DATA)["recipe"] == {"size": 8, "convert": None, "streamed": None}  # not where it lies


def test_every_published_file_is_named_by_one_manifest(here: Path) -> None:
    named = [str(path) for product in ALL for path in (product.manifest, *files_of(product))]
    assert sorted(named) == sorted(contents())
    assert set(judge().everything) == set(ALL)


@pytest.mark.slow
def test_a_changed_byte_anywhere_in_a_manifest_makes_it_not_count(finished: Path) -> None:
    """Fault 9: also one that leaves it valid JSON."""
    generator = random.Random(0)
    for product in ALL:
        for at in generator.sample(range(product.manifest.stat().st_size), 20):
            before = flipped(product.manifest, at)
            looking = judge()
            assert looking.reason(product) == "its manifest is damaged, or of another version of kd"
            assert looking.manifest(product) is None
            assert product.kind in SPARED or product in looking.all_to_do
            product.manifest.write_bytes(before)
    assert to_do() == {}


def test_what_an_older_kd_has_left_is_made_anew_and_stops_nothing(finished: Path) -> None:
    for product in (DATA, TEACHER, TABLE):
        said = unsigned(manifest(product))
        product.manifest.write_text(json.dumps(said))
    found = to_do()
    assert {found[one] for one in (DATA, TEACHER, TABLE)} == {"its manifest is damaged, or of another version of kd"}
    finish(without=DRAWN)
    assert {one.kind for one in to_do()} == set(DRAWN)  # the table has other seconds, and they show it


# -- absence is not staleness -----------------------------------------------------------------------------------------

TREES = ("data", "answers", "banks", "state", "logs")


@pytest.mark.parametrize(
    "gone", [(), *((tree,) for tree in TREES), ("data", "banks"), TREES], ids=lambda gone: "+".join(gone) or "nothing"
)
def test_what_may_be_deleted_makes_nothing_to_do_and_a_new_seed_asks_for_it(finished: Path, gone: tuple) -> None:
    """Promise 2."""
    Path("logs").mkdir()
    for tree in gone:
        shutil.rmtree(tree)
    assert to_do() == {}
    student, noisy, answers = (Product(p.kind, p.name.replace(".s0", ".s1")) for p in (STUDENT, NOISY, ANSWERS))
    student, answers = (Product(p.kind, p.name.replace("resnet14.ce.s1", "resnet14.ce.s0")) for p in (student, answers))
    expected = {student, noisy, answers, BANK, *REPORT}
    expected |= {DATA, LABELS} if "data" in gone else set()
    expected |= {TEACHER_ANSWERS, ANSWERS} if {"answers", "data"} & set(gone) else set()
    found = to_do(seeds=[0, 1])
    assert set(found) == expected
    if "data" in gone and "answers" not in gone:
        assert found[ANSWERS] == "looked at again after its data"  # which may come back as others
    assert found[student] == found[noisy] == found[answers] == "not made yet"
    assert found[BANK] == ("not made yet" if "banks" in gone else "lacks views that its students will see")


def test_what_comes_back_for_a_new_seed_retrains_nothing(finished: Path) -> None:
    before = contents()
    for tree in TREES[:4]:
        shutil.rmtree(tree)
    assert {DATA, LABELS, BANK, TEACHER_ANSWERS, ANSWERS} < set(finish(seeds=[0, 1], without=DRAWN))
    assert {one.kind for one in to_do(seeds=[0, 1])} == set(DRAWN)
    after = contents()
    for product in (TEACHER, STUDENT, NOISY):
        for path in (product.manifest, *files_of(product)):
            assert after[str(path)] == before[str(path)]
    rows = (Path("reports/small/table.csv").read_text()).splitlines()
    assert len(rows) == 1 + 2 * 2 + 1  # both experiments with two seeds, and the teacher


def test_a_data_set_that_comes_back_as_another_is_not_silently_the_old_one(finished: Path) -> None:
    """Its images were changed while the prepared data were gone: what was trained on them is no more what it says."""
    shutil.rmtree("data")
    shutil.copy(f"images/train/{CLASSES[0]}/0.png", f"images/train/{CLASSES[0]}/1.png")
    assert to_do() == {}
    assert make(DATA) == 0
    found = to_do()
    assert found[TEACHER] == found[STUDENT] == "its data is another now"
    assert found[LABELS] == "not made yet"


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lr", 0.05, "lr 0.1 -> 0.05"),
        ("epochs", 2, "epochs 1 -> 2"),
        ("batch", 32, "batch 16 -> 32"),
        ("nesterov", False, "nesterov True -> False"),
        ("schedule", "cosine", "schedule multistep -> cosine"),
        ("pad", 1, "pad none -> 1"),
        ("heldout", 0.2, "heldout 0.0 -> 0.2"),
        ("teacher", "online", "teacher bank -> online"),
        ("precision", "bf16", "precision fp32 -> bf16"),
        ("compile", "always", "compile auto -> always"),
        ("deterministic", True, "deterministic False -> True"),
    ],
)
def test_a_changed_value_is_told_in_words_and_makes_its_networks_to_do(here, key: str, value, said: str) -> None:
    found = to_do(**protocol(**{key: value}))
    assert {found[one] for one in (TEACHER, STUDENT, NOISY)} == {said}
    assert f"3 networks: {said}" in told(found)
    assert found[TABLE] == "looked at again after a network"
    assert replaced(judge(**protocol(**{key: value}))) == (
        f"3 published networks of protocol quick will be trained again in the same place ({said}); "
        "give the protocol another name to keep them"
    )


def test_a_protocol_of_another_name_replaces_nothing(here: Path) -> None:
    other = judge(**protocol(name="slow", lr=0.05))
    assert replaced(other) is None
    assert {why for one, why in other.all_to_do.items() if one.kind == "network"} == {"not made yet"}


@pytest.mark.parametrize(
    ("changes", "product", "said"),
    [
        ({"datasets": {"mine": {"folder": "images", "size": 12}}}, DATA, "size 8 -> 12"),
        ({"datasets": {"mine": {"folder": "images", "size": 8, "convert": "rgb"}}}, DATA, "convert none -> rgb"),
        ({"seeds": [0, 1]}, TABLE, "other rows"),
        ({"seeds": [0, 1]}, ANALYSIS, "other pairs"),
        ({"experiments": {"losses": {**LOSSES, "figure": ["dots", "curves"]}}}, PAGE, "other drawn"),
    ],
    ids=str,
)
def test_what_else_changed_is_told_too(here: Path, changes: dict, product: Product, said: str) -> None:
    assert reason(product, **changes) == said


@pytest.mark.parametrize("product", ALL, ids=str)
def test_what_other_code_made_is_to_do(finished: Path, product: Product) -> None:
    said = unsigned(manifest(product))
    files.write_manifest(product.manifest, said | {"code": "0" * 16})
    assert reason(product) == "made by other code"
    if product.kind not in SPARED:
        assert to_do()[product] == "made by other code"


@pytest.mark.parametrize("product", [DATA, LABELS, ANSWERS, TEACHER_ANSWERS], ids=str)
def test_what_is_gone_counts_by_the_recipe_and_code_it_was_made_with(finished: Path, product: Product) -> None:
    """While it lies there it is judged by itself. To delete it must not make what was made from it count."""
    made_from = [one for one in ALL if product in judge().inputs(one) and one.kind not in SPARED]
    assert made_from
    for one in made_from:
        said = unsigned(manifest(one))
        said["inputs"][product.name]["code"] = "0" * 16
        files.write_manifest(one.manifest, said)
    shutil.rmtree(product.folder)
    for one in made_from:
        assert reason(one).endswith(": made by other code")


def test_what_is_gone_counts_by_the_values_it_was_made_with(finished: Path) -> None:
    shutil.rmtree("data")
    assert to_do() == {}
    larger = to_do(datasets={"mine": {"folder": "images", "size": 12}})
    assert {larger[one] for one in (TEACHER, STUDENT, NOISY)} == {"its data: size 8 -> 12"}
    assert larger[DATA] == "not made yet"


@pytest.mark.parametrize(("key", "became", "other"), [("precision", "fp32", "bf16"), ("compile", "never", "always")])
def test_auto_accepts_what_was_made_and_a_value_accepts_the_same_asked_for_or_become(
    finished: Path, key: str, became: str, other: str
) -> None:
    """The manifest has what `auto` became on its machine."""
    networks = (TEACHER, STUDENT, NOISY)
    for asked in (became, "auto"):
        for product in networks:
            said = unsigned(manifest(product))
            said["recipe"]["protocol"][key] = asked
            files.write_manifest(product.manifest, said)
        for accepted in (became, "auto"):
            assert [reason(one, **protocol(**{key: accepted})) for one in networks] == [None] * 3
        assert [reason(one, **protocol(**{key: other})) for one in networks] == [f"{key} {asked} -> {other}"] * 3


def test_what_auto_became_here_is_accepted_when_it_is_asked_for(finished: Path) -> None:
    TEACHER.manifest.unlink()
    assert make(TEACHER, **protocol(precision="auto")) == 0
    became = manifest(TEACHER)["precision"]
    other = {"fp32": "bf16", "bf16": "fp32"}[became]
    assert reason(TEACHER, **protocol(precision=became)) is None
    assert reason(TEACHER, **protocol(precision=other)) == f"precision auto -> {other}"


# -- what is lost or damaged ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("product", ALL, ids=str)
def test_a_lost_cut_or_longer_file_is_named_and_makes_its_product_to_do(finished: Path, product: Product) -> None:
    """Fault 10."""
    for path in files_of(product):
        before = path.read_bytes()
        size, name = len(before), str(path.relative_to(product.folder))
        for content, said in (
            (None, f"{name} is gone"),
            (before[:-1], f"{name} has {size - 1:,} bytes instead of {size:,}"),
            (b"", f"{name} has 0 bytes instead of {size:,}"),
            (before + b" ", f"{name} has {size + 1:,} bytes instead of {size:,}"),
        ):
            path.unlink() if content is None else path.write_bytes(content)
            if content == before:  # a file may be empty
                continue
            assert reason(product) == said
            assert product.kind in SPARED or to_do()[product] == said
        path.write_bytes(before)
    assert to_do() == {}


@pytest.mark.parametrize("product", ALL, ids=str)
def test_a_changed_byte_of_what_people_read_is_found_and_of_the_rest_by_verify(finished: Path, product) -> None:
    """Fault 9: large files are read by those who use them, which compares digests."""
    generator = random.Random(0)
    for path in files_of(product):
        if not path.stat().st_size:
            continue
        before = flipped(path, generator.randrange(path.stat().st_size))
        assert reason(product) == (f"{path.name} is damaged" if product.kind in READ_BY_PEOPLE else None)
        ((at, what),) = faulty()[1]
        assert at == product.manifest
        assert f"{path}: damaged" in str(what)
        path.write_bytes(before)


def test_figures_that_were_swapped_are_to_do(finished: Path) -> None:
    one, other = (Path("reports/small/figures", f"losses.{name}.png") for name in ("dots", "fidelity"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second + bytes(max(0, len(first) - len(second))))
    other.write_bytes(first)
    found = to_do()
    assert {DOTS, FIDELITY} <= set(found)
    assert found[PAGE] == "looked at again after the figure"


def test_a_cell_that_was_copied_to_another_path_does_not_count(finished: Path) -> None:
    other = Product("network", STUDENT.name.replace("kl-tau3.s0", "kl-tau3.s1"))
    shutil.copytree(STUDENT.folder, other.folder)
    assert to_do(seeds=[0, 1])[other] == f"a copy of {STUDENT}"
    shutil.copy(DOTS.manifest, FIDELITY.manifest)
    assert reason(FIDELITY) == f"a copy of {DOTS}"


@pytest.mark.parametrize("product", ALL, ids=str)
def test_whatever_is_damaged_the_same_verb_mends_it(finished: Path, product: Product) -> None:
    """Faults 9 and 10: its manifest gone or cut, or a file lost."""
    before = {path: path.read_bytes() for path in files_of(product) if path.name != "timings.csv"}
    damages = [files_of(product)[0].unlink, product.manifest.unlink, lambda: product.manifest.write_text("{")]
    for damage in damages[:1] if product.kind in DRAWN else damages:
        damage()
        assert reason(product)
        assert make(product) == 0
        assert reason(product) is None
        assert {path: path.read_bytes() for path in before} == before


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_a_teacher_that_is_another_makes_all_to_do_that_was_made_from_it(finished: Path) -> None:
    model = TEACHER.folder / "model.safetensors"
    flipped(model, model.stat().st_size - 1)
    resigned(TEACHER.folder)
    found = to_do()
    assert TEACHER not in found
    assert found[STUDENT] == "its teacher is another now"
    assert found[TABLE] == "a network is another now"
    assert set(found) == {STUDENT, BANK, TEACHER_ANSWERS, ANSWERS, *REPORT}  # NOISY has no teacher


def test_a_teacher_that_is_retrained_to_the_same_bytes_retrains_nobody(finished: Path) -> None:
    TEACHER.manifest.unlink()
    found = to_do()
    assert found[TEACHER] == "not made yet"
    assert found[STUDENT] == "looked at again after its teacher"
    before = {path: path.read_bytes() for path in (STUDENT.manifest, BANK.manifest, TEACHER_ANSWERS.manifest)}
    assert make(TEACHER) == 0
    found = to_do()
    assert not {TEACHER, STUDENT, NOISY, BANK, ANSWERS, TEACHER_ANSWERS} & set(found)
    assert found[TABLE] == "a network is another now"  # it has the seconds that training took
    for product in (STUDENT, BANK, TEACHER_ANSWERS, ANSWERS):
        assert make(product) == 0
    assert {path: path.read_bytes() for path in before} == before


def test_where_a_folder_of_images_lies_is_no_part_of_it_and_its_size_is(finished: Path) -> None:
    Path("images").rename("elsewhere")
    assert to_do(datasets={"mine": {"folder": "elsewhere", "size": 8}}) == {}
    assert to_do() == {}  # nor is it asked for where nothing is to do
    larger = to_do(datasets={"mine": {"folder": "elsewhere", "size": 12}})
    assert larger[DATA] == "size 8 -> 12"
    assert larger[STUDENT] == "looked at again after its data"


def test_other_files_in_a_folder_of_images_are_found_by_verify_and_by_data(finished: Path, capsys) -> None:
    made = DATA.manifest.stat().st_ino
    assert make(DATA) == 0
    assert DATA.manifest.stat().st_ino == made
    shutil.copy(f"images/train/{CLASSES[0]}/0.png", f"images/train/{CLASSES[0]}/new.png")
    assert to_do() == {}  # it is not listed at each start
    assert main(["verify"]) == 74
    said = capsys.readouterr().err
    assert "images: holds other files than when data/mine was made from it; run `kd data mine`" in said
    assert make(DATA) == 0
    assert manifest(DATA)["counts"]["train"] == 37
    assert {to_do()[one] for one in (TEACHER, STUDENT, NOISY)} == {"its data is another now"}
    assert main(["verify"]) == 0


def test_labels_from_a_file_are_judged_by_its_content(finished: Path) -> None:
    labels = [number % 3 for number in range(36)]
    Path("human.txt").write_text("\n".join(map(str, labels)) + "\n")
    human = {
        "experiments": {"noise": {"student": "resnet8", "loss": "ce", "label_noise": {"file": "human"}}},
        "label_files": {"human": "human.txt"},
    }
    cell = Product("network", "results/mine+labels-human/quick/resnet8.ce.s0")
    finish(**human, without=(*DRAWN, "table", "tables"))
    made = to_do(**human)
    assert cell not in made
    Path("human.txt").rename("moved.txt")
    assert to_do(**human) == made  # gone: what was made from it is not otherwise for that
    moved = human | {"label_files": {"human": "moved.txt"}}
    assert to_do(**moved) == made
    labels[0] = 2
    Path("other.txt").write_text("\n".join(map(str, labels)) + "\n")
    other = human | {"label_files": {"human": "other.txt"}}
    found = to_do(**other)
    assert found[products.labels("mine+labels-human")].startswith("file ")
    assert found[cell] == "looked at again after its labels"
    shutil.rmtree("data")
    assert to_do(**other)[cell].startswith("its labels: file ")
    finish(**other, without=(*DRAWN, "table", "tables"))
    assert to_do(**other) == made


def test_a_label_file_that_changes_in_place_is_seen_by_who_looks_again(finished: Path) -> None:
    path = Path("human.txt")
    path.write_text("\n".join(str(number % 3) for number in range(36)) + "\n")
    human = {
        "experiments": {"noise": {"student": "resnet8", "loss": "ce", "label_noise": {"file": "human"}}},
        "label_files": {"human": "human.txt"},
    }
    labels = products.labels("mine+labels-human")
    assert make(labels, **human) == 0
    assert reason(labels, **human) is None
    path.write_text("\n".join(str(number % 2) for number in range(36)) + "\n")
    assert reason(labels, **human).startswith("file ")


# -- verbs judge their inputs -----------------------------------------------------------------------------------------

LARGER = {"datasets": {"mine": {"folder": "images", "size": 12}}}
BY_HAND = [LABELS, TEACHER, NOISY, STUDENT, BANK, ANSWERS, ANALYSIS, TABLE, DOTS, TABLES, VERDICT, PAGE]


@pytest.mark.parametrize(
    ("how", "product"),
    # What is in reports/ is made for a study alone.
    [*(("study", one) for one in BY_HAND), *(("recipe", one) for one in BY_HAND if one.kind not in READ_BY_PEOPLE)],
    ids=str,
)
def test_a_verb_refuses_inputs_that_are_not_those_of_its_study_and_publishes_nothing(
    finished: Path, capsys, how: str, product: Product
) -> None:
    """The data are of size 8, the study says 12."""
    given = ["--study-json", json.dumps(tiny(**LARGER))]
    if how == "recipe":
        given = by_recipe(product, **LARGER)
    before = contents()
    capsys.readouterr()
    assert main([*command(product), *given]) == 74
    said = capsys.readouterr().err
    assert f"kd: {product}: its inputs are not current" in said
    (refused, why), *_ = judge_of(product, **LARGER)
    assert f"\n  {refused}: {why}" in said
    assert contents() == before


def by_recipe(product: Product, **changes: object) -> list[str]:
    """Return the options by which Snakemake has a verb make a product: the recipe, instead of the study."""
    made = study(**tiny(**changes))
    if product.kind == "labels":
        return [
            "--recipe",
            json.dumps(expansion.data_recipe(made, parse_dataset(product.name.partition("/")[2]))),
        ]
    needs = ["--needs", "0:1"] if product.kind == "bank" else []
    return ["--recipe", json.dumps(expansion.recipe(made, parse_cell(product.cell))), *needs]


def judge_of(product: Product, **changes: object) -> Iterator[tuple[Product, str]]:
    """Return which inputs of a product are not as they must be, and why."""
    looking = judge(**changes)
    return [(one, why) for one in looking.inputs(product) if (why := looking.to_do(one))]


def test_by_hand_and_by_recipe_a_cell_is_judged_alike(here: Path) -> None:
    made = study(**tiny())
    for product in (TEACHER, STUDENT, NOISY, BANK, ANSWERS):
        own = Judge.of_recipe(recipe(product.cell, made))
        assert own.expected(product) == judge().expected(product)
        assert own.to_do(product) is None


@pytest.mark.parametrize("product", BY_HAND, ids=str)
def test_a_verb_refuses_inputs_that_are_not_there(finished: Path, capsys, product: Product) -> None:
    """What may be deleted must be there for who works with it; a finished product does not ask for it."""
    for tree in ("data", "answers"):
        shutil.rmtree(tree)
    assert product.kind in ("labels", "answers") or make(product) == 0
    missing = judge().inputs(product)[0]
    if missing.manifest.exists():
        missing.manifest.unlink()
    product.manifest.unlink(missing_ok=True)
    before = contents()
    capsys.readouterr()
    assert make(product) == 74
    said = capsys.readouterr().err
    assert f"kd: {product}: its inputs are not current" in said
    assert f"\n  {missing}: not made yet" in said
    assert contents() == before


@pytest.mark.process
def test_a_verb_waits_for_inputs_that_a_network_file_system_shows_late(finished: Path) -> None:
    hidden = STUDENT.manifest.rename("hidden.json")
    released = products.release(parse_cell(TEACHER.name))
    arguments = [sys.executable, "-m", "kd", *command(released), "--study-json", json.dumps(tiny(keep_banks=False))]
    waiting = subprocess.Popen(arguments, env=environment(KD_LATENCY_WAIT="60"), stderr=subprocess.PIPE, text=True)
    eventually(lambda: files.is_locked(released.lock) or waiting.poll() is not None)
    assert waiting.poll() is None
    assert BANK.manifest.exists()
    hidden.rename(STUDENT.manifest)
    said = waiting.communicate(timeout=60)[1]
    assert waiting.returncode == 0, said
    assert not BANK.manifest.exists()


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **more}


@pytest.mark.process
def test_a_verb_whose_thing_is_current_imports_neither_torch_nor_pandas_nor_numpy(here: Path) -> None:
    given = ["--study-json", json.dumps(tiny())]
    verbs = [[*command(one), *given] for one in ALL if one != DATA]
    verbs += [[*command(one), *by_recipe(one)] for one in (LABELS, TEACHER, STUDENT, NOISY, BANK, ANSWERS)]
    watched = ("torch", "pandas", "numpy", "matplotlib", "PIL", "snakemake")
    code = f"""
import sys
from kd.__main__ import main
for verb in {verbs!r}:
    assert main(verb) == 0, verb
    loaded = [name for name in {watched} if name in sys.modules]
    assert not loaded, (verb, loaded)
assert main({[*command(DATA), *given]!r}) == 0  # it lists its folder
assert "torch" not in sys.modules and "pandas" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("is there already") == 0  # without a stamp there is nothing to say


# -- plan, status -----------------------------------------------------------------------------------------------------


@pytest.fixture
def half(finished: Path) -> Path:
    """The study with a student, the prepared data and a figure deleted."""
    shutil.rmtree(STUDENT.folder)
    shutil.rmtree("data")
    Path("reports/small/figures/losses.dots.png").unlink()
    Path("config.yaml").write_text(json.dumps(tiny()))
    return finished


def test_plan_and_status_tell_what_the_judge_says(half: Path, capsys) -> None:
    lines = told(to_do())
    assert "1 network: not made yet" in lines
    assert "1 figure: figures/losses.dots.png is gone" in lines
    for name in ("plan", "status"):
        assert main([name]) == 0
        printed = capsys.readouterr().out.splitlines()
        begin = printed.index("to do:") + 1
        assert [line.strip() for line in printed[begin : begin + len(lines)]] == lines
        counts = {line.strip().split()[1].rstrip(":") for line in printed[begin : begin + len(lines)]}
        assert counts >= {"network", "data", "table", "page"}


def test_plan_and_status_of_a_finished_study_say_that_nothing_is_to_do(finished: Path, capsys) -> None:
    Path("config.yaml").write_text(json.dumps(tiny()))
    for name in ("plan", "status"):
        assert main([name]) == 0
        assert "nothing is to do" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.process
def test_plan_and_status_write_nothing_where_the_user_may_not_write(half: Path) -> None:
    lines = told(to_do())
    before = {path: path.lstat().st_mtime_ns for path in half.rglob("*")}
    for folder in (half, *half.parents):
        if folder.owner() == "root" and folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(0o755)
    nobody = "os.setgid(65534); os.setuid(65534);" if os.geteuid() == 0 else ""
    if not nobody:
        for path in (half, *half.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
    # The first time as who may: another user may not read what Python imports from here.
    both = "assert main(['plan']) == main(['status']) == 0"
    code = f"import os; from kd.__main__ import main; {both}; {nobody} {both}"
    ran = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert [line for line in lines if ran.stdout.count(f"  {line}\n") != 4] == []
    assert {path: path.lstat().st_mtime_ns for path in half.rglob("*")} == before


def test_a_study_that_keeps_no_banks_has_none_when_it_is_finished(finished: Path) -> None:
    released = products.release(parse_cell(TEACHER.name))
    assert to_do(keep_banks=False)[released] == "its bank is there"
    assert make(released, keep_banks=False) == 0
    assert not BANK.manifest.exists()
    assert to_do(keep_banks=False) == to_do() == {}
    found = to_do(keep_banks=False, seeds=[0, 1])
    assert found[released] == "after its students"
    assert found[BANK] == "not made yet"
    assert make(released, keep_banks=False, seeds=[0, 1]) == 74
    finish(keep_banks=False, seeds=[0, 1], without=(*REPORT_KINDS, "answers"))
    found = to_do(keep_banks=False, seeds=[0, 1])
    assert {one.kind for one in found} == {*REPORT_KINDS, "answers"}
    assert not list(Path("banks").rglob("*.npy"))


# -- stamps -----------------------------------------------------------------------------------------------------------

STAMP = Path("state/stamps/q-test/a.stamp")


def test_a_stamp_is_dated_one_second_after_1970_and_made_for_what_is_current(finished: Path) -> None:
    for product in ALL:
        stamp = Path(product.stamp("state/stamps/q-test"))
        before = product.manifest.stat().st_ino
        assert make(product, "--stamp", stamp) == 0
        assert stamp.stat().st_mtime == stamps.DATE == 1
        assert stamp.stat().st_size == 0
        assert product.manifest.stat().st_ino == before


def test_a_stamp_goes_before_its_product_is_replaced_and_comes_back_last(finished: Path) -> None:
    stamps.make(STAMP)
    TABLES.manifest.unlink()
    seen = []

    def work(now: Judge) -> None:
        seen.append(STAMP.exists())
        shown = {"means.csv": b"means", "comparisons.csv": b"comparisons"}
        files.publish(TABLES.folder, shown, making.about(now, TABLES), TABLES.manifest)
        seen.append(STAMP.exists())

    assert making.make(judge(), TABLES, STAMP, work)
    assert seen == [False, False]
    assert STAMP.stat().st_mtime == 1
    assert not making.make(judge(), TABLES, STAMP, work)


def test_work_that_fails_leaves_no_stamp(finished: Path, capsys) -> None:
    """Its job has failed, whatever Snakemake is told."""
    metrics = STUDENT.folder / "metrics.csv"
    metrics.write_text(metrics.read_text() * 2)
    resigned(STUDENT.folder)
    assert to_do()[TABLE] == "a network is another now"
    stamps.make(STAMP)
    assert make(TABLE, "--stamp", STAMP) == 2
    assert "its metrics are not one row for each of 1 epochs" in capsys.readouterr().err
    assert not STAMP.exists()


def test_what_is_another_by_the_time_it_is_made_gets_no_stamp(finished: Path) -> None:
    """A table that was collected anew while means were computed from the old one."""
    TABLES.manifest.unlink()
    stamps.make(STAMP)

    def work(now: Judge) -> None:
        shown = {"means.csv": b"means", "comparisons.csv": b"comparisons"}
        files.publish(TABLES.folder, shown, making.about(now, TABLES), TABLES.manifest)
        Path(TABLE.folder, "curves.csv").write_bytes(b"other")
        said = unsigned(manifest(TABLE))
        said["files"]["curves.csv"], said["sizes"]["curves.csv"] = files.sha256(b"other"), 5
        files.write_manifest(TABLE.manifest, said)

    with pytest.raises(StorageError, match="tables: made, but not current, because the table is another now"):
        making.make(judge(), TABLES, STAMP, work)
    assert not STAMP.exists()
    assert reason(TABLES) == "not made yet"  # not even with the old table put back


def test_a_projection_has_a_stamp_for_each_product_that_is_not_to_do(half: Path) -> None:
    folder = "state/stamps/q-test"
    for product in ALL[::2]:  # some are there that must not be, and of a wrong date
        path = Path(product.stamp(folder))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    looking = judge()
    stamps.project(looking, folder)
    found = {str(path) for path in Path(folder).rglob("*.stamp")}
    # What may be deleted, and nothing that is to do asks for, has one where it would be current if it were asked for.
    assert found == {one.stamp(folder) for one in ALL if not looking.is_to_do(one)}
    assert {DATA, STUDENT, DOTS} <= {one for one in ALL if one.stamp(folder) not in found}
    assert {path.stat().st_mtime for path in Path(folder).rglob("*.stamp")} == {1}


def test_a_projection_of_a_finished_study_has_all_stamps(finished: Path) -> None:
    stamps.project(judge(), "state/stamps/q-test")
    assert {str(path) for path in Path("state/stamps").rglob("*.stamp")} == {
        one.stamp("state/stamps/q-test") for one in ALL
    }


def test_a_projection_judges_again_under_the_lock(finished: Path) -> None:
    """What a judge remembers may be older than what another Snakemake has published since."""
    folder = "state/stamps/q-test"
    DOTS.manifest.rename("hidden.json")
    old = judge()
    assert DOTS in old.all_to_do
    Path("hidden.json").rename(DOTS.manifest)
    stamps.make(Path(DOTS.stamp(folder)))
    stamps.project(old, folder)
    assert Path(DOTS.stamp(folder)).exists()


def test_another_study_or_value_asks_another_question(project: Path) -> None:
    asked = [stamps.question(values(**changes)) for changes in ({}, {"seeds": [1]}, {"study": "other"}, {"workers": 1})]
    assert len(set(asked)) == 4
    assert stamps.question(values()) == asked[0]
    assert stamps.question({"tau": float("inf")})  # which JSON cannot spell
    assert all(path.startswith("state/stamps/q-") for path in asked)


def test_folders_of_stamps_that_nobody_holds_are_swept_and_others_stay(project: Path) -> None:
    mine, theirs, dead = (f"state/stamps/q-{name}" for name in ("mine", "theirs", "dead"))
    for folder in (mine, theirs, dead):
        stamps.make(Path(folder, "a.stamp"))
        Path(f"{folder}.lock").touch()
    with files.lock(Path(f"{theirs}.lock"), shared=True), stamps.living(mine):
        assert Path(mine, "a.stamp").exists()
        assert Path(theirs, "a.stamp").exists()
        assert not Path(dead).exists()
        with stamps.living(mine):  # two that ask the same
            assert Path(mine, "a.stamp").exists()


# -- names ------------------------------------------------------------------------------------------------------------


def test_every_published_file_is_found_back_by_its_path_alone(here: Path) -> None:
    for product in ALL:
        for path in (product.manifest, *files_of(product)):
            assert products.owner(str(path)) == product.name
        if product.kind not in READ_BY_PEOPLE:
            assert products.owner(str(product.folder)) == products.owner(f"{product.folder}/") == product.name


OTHERS = ["", "Snakefile", "results", "results/mine", "results/mine/quick", "data", "reports", "reports/small"]
OTHERS += ["logs/a/b/c.log", "state/a/b/lock", "reports/small/other.png", "reports/small/figures"]


@pytest.mark.parametrize("path", OTHERS)
def test_what_no_product_publishes_belongs_to_none(path: str) -> None:
    assert products.owner(path) is None


WORDS = ("data", "bank", "banks", "stamps", "compiled", "reports", "state", "results", "released", "controllers")
WORDS += ("downloads", "answers", "manifests", "figures", "analyses", "verdict", "table", "tables", "page", "teachers")
EXPERIMENTS = [word for word in WORDS if word != "teachers"]  # that one is kd's own


def invented(dataset: str, name: str, experiment: str = "losses", called: str = "small") -> dict:
    """Return the study with other names for its dataset, protocol and first experiment."""
    return {
        "study": called,
        "dataset": dataset,
        "datasets": {dataset: TINY["datasets"]["mine"]},
        "experiments": {experiment: TINY["experiments"]["losses"], "second": TINY["experiments"]["noise"]},
        **protocol(name=name),
    }


def test_no_names_make_two_products_share_a_path_a_lock_or_a_stamp(project: Path) -> None:
    """Taken together: datasets, protocols, experiments and studies of these names, in one folder."""
    taken: dict[str, Product] = {}
    generator = random.Random(0)
    for dataset, name in itertools.product(WORDS, WORDS):
        experiment, called = generator.choice(EXPERIMENTS), generator.choice(WORDS)
        for product in judge(**invented(dataset, name, experiment, called)).everything:
            paths = [str(product.manifest), product.stamp("state/stamps/q-0")]
            # A bank and its absence are one thing: one lock guards both.
            paths += [str(product.lock)] if product.kind != "release" else []
            for path in paths:
                assert taken.setdefault(path, product) == product, path
    folders = {str(parent) for path in taken for parent in Path(path).parents}
    assert not folders & set(taken)
    assert not {"state/controllers.lock", "state/controllers/host-1.json", "state/stamps/q-0.lock"} & set(taken)


def test_what_dead_writers_leave_is_swept_by_who_makes_it_and_by_nobody_else(here: Path) -> None:
    """In reports/STUDY many things lie side by side, each under a lock of its own."""
    for experiment in EXPERIMENTS:
        looking = judge(**invented("mine", "quick", experiment))
        reports = [one for one in looking.everything if one.kind in READ_BY_PEOPLE]
        for one in reports:
            if one.kind not in ("analysis", "figure"):
                continue
            for kind, other in itertools.product(("png", "csv", "txt"), reports):
                path = Path(f"{one.name}.{kind}").relative_to(one.folder)
                inside = [pattern for pattern in other.files if Path(pattern).parent == path.parent]
                assert any(map(path.match, inside)) == (one == other), (str(path), other)


@pytest.mark.parametrize("shift", [1, 3, 7])
def test_a_study_of_invented_names_is_made_in_a_folder_with_others(
    project: Path, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, its bank filled and its answers given, beside studies that have the names the other way round."""
    images(Path("images"))
    one, other = WORDS[shift], WORDS[-shift]
    for names in ((one, other), (other, one), (one, one)):
        made = judge(**invented(*names))
        for product in (p for p in made.everything if p.kind in ("data", "labels", "network", "bank", "answers")):
            assert make(product, **invented(*names)) == 0
            for path in files_of(product):
                assert products.owner(str(path)) == product.name
    for names in ((one, other), (other, one), (one, one)):
        looking = judge(**invented(*names))
        assert {one.kind for one in looking.all_to_do} == {"analysis", "table", "figure", "tables", "verdict", "page"}
    assert faulty()[1] == []


# -- delete -----------------------------------------------------------------------------------------------------------


def asked(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Have somebody answer what is asked."""
    read, write = os.pipe()
    os.write(write, f"{answer}\n".encode())
    os.close(write)
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))


@pytest.fixture
def stamped(finished: Path) -> Path:
    """The folder with what Snakemake leaves beside it: stamps of two questions, logs, benchmarks, a state."""
    for question in ("state/stamps/q-one", "state/stamps/q-two"):
        for product in ALL:
            stamps.make(Path(product.stamp(question)))
    for product in (TEACHER, STUDENT, NOISY):
        name = product.name.partition("/")[2]
        logs = f"logs/{name}.log", f"logs/{name}.bank.log", f"benchmarks/{name}.tsv"
        for path in (*logs, f"state/{name}/run-0/last.pt"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text("made")
    Path("logs/reports/small").mkdir(parents=True)
    Path("logs/reports/small/collect.log").write_text("made")
    return finished


def everything() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


def test_a_deleted_cell_is_gone_with_all_that_it_taught_and_all_that_is_theirs(stamped: Path, capsys) -> None:
    before = everything()
    assert main(["delete", TEACHER.name, "-n"]) == 0
    assert everything() == before
    said = capsys.readouterr().out
    assert f"{TEACHER}: 5 published products" in said  # two networks, a bank, two answers
    assert "other studies may share these cells" in said
    assert "nothing is deleted" in said
    assert main(["delete", TEACHER.name, "--yes"]) == 0
    gone = before - everything()
    assert gone == {path for path in before if "mine/quick/resnet14.ce.s0" in path}
    assert {path.split("/")[0] for path in gone} == {"results", "banks", "answers", "state", "logs", "benchmarks"}
    assert not Path("results/mine/quick/resnet14.ce.s0").exists()
    found = to_do()
    assert found[TEACHER] == found[STUDENT] == "not made yet"
    assert NOISY not in found


def test_a_deleted_study_loses_what_is_its_own_and_no_cell(stamped: Path) -> None:
    before = everything()
    assert main(["delete", "reports/small", "--yes"]) == 0
    gone = before - everything()
    assert gone == {path for path in before if "reports/small" in path}
    assert set(to_do()) == REPORT


@pytest.mark.parametrize(("answer", "deletes"), [("n", False), ("", False), ("no", False), ("y", True), ("YES", True)])
def test_delete_asks_and_takes_what_is_no_yes_for_a_no(stamped: Path, monkeypatch, answer: str, deletes: bool) -> None:
    asked(monkeypatch, answer)
    assert main(["delete", "reports/small"]) == 0
    assert Path("reports/small").exists() != deletes


def test_delete_takes_an_end_of_input_for_a_no(stamped: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    assert main(["delete", "reports/small"]) == 0
    assert Path("reports/small").exists()


def test_nothing_is_deleted_while_somebody_works_on_any_of_it(stamped: Path, capsys) -> None:
    before = everything()
    for what, locks in ((TEACHER.name, (TEACHER, STUDENT, BANK, ANSWERS)), ("reports/small", (TABLE, DOTS, PAGE))):
        for product in locks:
            with files.lock(product.lock):
                assert main(["delete", what, "--yes"]) == 75
                assert "nothing is deleted" in capsys.readouterr().err
            assert everything() == before
    with files.lock(NOISY.lock), files.lock(TABLE.lock):  # of none of it
        assert main(["delete", TEACHER.name, "--yes"]) == 0


def test_what_is_half_deleted_counts_as_absent(stamped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests go first: a kill between them and the rest leaves nothing that looks whole."""

    def killed(tree: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        assert main(["delete", TEACHER.name, "--yes"]) == 130
    assert (STUDENT.folder / "model.safetensors").exists()
    assert {reason(one) for one in (TEACHER, STUDENT, BANK, ANSWERS, TEACHER_ANSWERS)} == {"not made yet"}
    assert main(["delete", TEACHER.name, "--yes"]) == 0
    assert not TEACHER.folder.exists()


def test_what_is_not_there_is_not_deleted(finished: Path, capsys) -> None:
    assert main(["delete", "results/mine/quick/resnet8.ce.s7", "--yes"]) == 0
    assert "there is nothing to delete" in capsys.readouterr().out
