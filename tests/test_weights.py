"""Imported teachers: the declared file and no other, whole and of the right network; nothing in a file is run."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import declared, prepare, recipe, resigned, study, train, written

from kd import models
from kd.__main__ import main
from kd.core import files
from kd.core.errors import ConfigError, DataError, StorageError
from kd.jobs import train as jobs_train
from kd.jobs.places import Resources
from kd.report import means, table, verdict
from kd.report import page as report
from kd.study.config import Study, Weights
from kd.study.expansion import all_cells
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.train import material, published
from kd.train.weights import load

TEACHER = "results/digits/quick/resnet14.weights-borrowed.s0"
STUDENT = f"{TEACHER}/resnet8.kl-tau3.s0"


@pytest.fixture
def digits(project: Path) -> Path:
    """A project with the digits prepared, and a network's weights in borrowed.safetensors."""
    prepare()
    safetensors.torch.save_file(fresh().state_dict(), "borrowed.safetensors")
    return project


def fresh(name: str = "resnet14", classes: int = 10, channels: int = 1) -> torch.nn.Module:
    torch.manual_seed(7)
    return models.build(name, classes, channels)


def borrowing(path: str = "borrowed.safetensors", weights: dict | None = None, **keys: object) -> Study:
    """A study whose teacher comes from a file."""
    experiment = {
        "teacher": "resnet14",
        "student": "resnet8",
        "loss": ["ce", {"kl": {"tau": 3}}],
        "teacher_weights": "borrowed",
        "figure": "dots",
    }
    named = {"borrowed": weights or declared(path)}
    return study(**{"weights": named, "experiments": {"imported": experiment}, **keys})


@pytest.mark.slow
def test_an_imported_teacher_is_published_taught_by_and_drawn_like_any_other(digits: Path) -> None:
    made = borrowing()
    manifests = {cell.path: train(cell.path, made) for cell in all_cells(made)}
    assert len(manifests) == 1 + 2 * 2
    manifest = manifests[TEACHER]
    assert (manifest["status"], manifest["epochs"], manifest["recipe"]["weights"]["top1"]) == ("ok", 0, None)
    assert manifest["recipe"]["weights"]["sha256"] == files.file_digest(Path("borrowed.safetensors"))
    assert {"name", "code", "fingerprint", "device", "parameters", "last", "best_on_test", "files"} <= set(manifest)
    header, *rows = Path(TEACHER, "metrics.csv").read_text().splitlines()
    assert header == "epoch,test_loss,test_top1"
    assert len(rows) == 1
    published = safetensors.torch.load_file(Path(TEACHER, "model.safetensors"))
    assert all(torch.equal(published[name], value) for name, value in fresh().state_dict().items())
    assert files.verified(Path(STUDENT))["inputs"][TEACHER]["digest"] == manifest["files"]["model.safetensors"]
    assert Path("banks/digits/quick/resnet14.weights-borrowed.s0").is_dir()

    folder = Path("reports/small")
    written(table.collect(made, Judge.of_study(made)), folder)
    row = pd.read_parquet(folder / "table.parquet").set_index("cell").loc[TEACHER]
    assert (row.loss, row.objective, row.epochs, row.experiment) == ("weights", "weights-borrowed", 0, "teachers")
    assert row[["tau", "alpha", "train_top1"]].isna().all()
    assert row.test_top1 == manifest["last"]["test_top1"]
    written(report.draw(folder, "imported", "dots"), folder)
    written(means.means_and_comparisons(folder), folder)
    written(verdict.verdict(folder), folder)
    written(report.page(made, folder, "snakemake"), folder)
    assert "weights borrowed" in (folder / "report.html").read_text()


def test_imported_weights_reach_what_they_reached_where_they_were_trained(digits: Path) -> None:
    trained = "results/digits/quick/resnet14.ce.s0"
    before = train(trained, study())["last"]
    top1 = before["test_top1"]
    path = Path(trained, "model.safetensors")
    after = train(TEACHER, borrowing(weights=declared(path, top1=top1 + 0.4)))["last"]
    assert (after["test_loss"], after["test_top1"]) == (before["test_loss"], top1)
    Path(TEACHER, "manifest.json").unlink()
    with pytest.raises(DataError, match=rf"model\.safetensors: its test top-1 is {top1:.2f} %, not {top1 + 0.6:g} %"):
        train(TEACHER, borrowing(weights=declared(path, top1=top1 + 0.6)))
    assert not Path(TEACHER, "manifest.json").exists()


def test_imported_weights_see_images_normalised_as_where_they_were_trained(digits: Path) -> None:
    own = {"mean": [0.4], "std": [0.2]}
    made = borrowing(weights=declared("borrowed.safetensors", **own))
    cell = parse_cell(TEACHER)
    plain, _ = train(TEACHER, borrowing()), Path(TEACHER, "manifest.json").unlink()
    manifest = train(TEACHER, made)
    have = material.prepared(cell, recipe(cell, made))
    (images,) = have.examples.plain("test", torch.arange(32), 32)
    pixels = images * have.examples.std.reshape(-1, 1, 1) + have.examples.mean.reshape(-1, 1, 1)
    with torch.inference_mode():
        expected = fresh().eval()((pixels - 0.4) / 0.2)
        seen = published.load_network(cell, have).eval()(images)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    assert manifest["last"]["test_loss"] != plain["last"]["test_loss"]
    assert manifest["files"]["model.safetensors"] != plain["files"]["model.safetensors"]  # what it taught is stale
    weights = safetensors.torch.load_file(Path(TEACHER, "model.safetensors"))
    assert weights.keys() == fresh().state_dict().keys()


@pytest.mark.parametrize(
    "wrong", [{"mean": [0.5]}, {"mean": [0.5], "std": [0.2, 0.2]}, {"mean": [125.3], "std": [63.0]}, {"std": [0.0]}]
)
def test_a_normalisation_that_cannot_be_is_refused(digits: Path, wrong: dict) -> None:
    with pytest.raises(ConfigError, match="mean and std"):
        borrowing(weights=declared("borrowed.safetensors", **wrong))


def test_a_held_out_share_is_measured_too(digits: Path) -> None:
    made = borrowing(protocol={"name": "quick", "epochs": 3, "heldout": 0.2, "precision": "fp32"})
    assert {"heldout_loss", "heldout_top1"} <= set(train(TEACHER, made)["last"])


def test_a_published_import_needs_its_file_no_more_and_another_file_replaces_it(digits: Path) -> None:
    made = borrowing()
    first = train(TEACHER, made)
    Path("borrowed.safetensors").unlink()
    assert train(TEACHER, made) == first
    torch.save({name: value + 1 for name, value in fresh().state_dict().items()}, "other.pt")
    second = train(TEACHER, borrowing("other.pt"))
    assert second["files"]["model.safetensors"] != first["files"]["model.safetensors"]


def test_a_file_with_another_digest_is_refused_before_it_is_read(digits: Path) -> None:
    made = borrowing()
    torch.save(Payload(), "borrowed.safetensors")
    found = files.file_digest(Path("borrowed.safetensors"))
    with pytest.raises(DataError, match=f"borrowed.safetensors: its sha256 is {found}, the study says") as refused:
        train(TEACHER, made)
    assert made.weights["borrowed"].sha256 in str(refused.value)
    Path("borrowed.safetensors").unlink()
    with pytest.raises(DataError, match="cannot read these weights: No such file"):
        train(TEACHER, made)


def test_the_command_line_imports_too_and_says_what_is_missing(digits: Path, capsys) -> None:
    Path("config.yaml").write_text(borrowing().model_dump_json(include={"study", "dataset"})[:-1] + SMALL)
    weights = json.dumps({"borrowed": declared("borrowed.safetensors")})
    assert main(["train", TEACHER, "--config", f"weights={weights}"]) == 0
    assert main(["train", TEACHER]) == 2
    assert "'borrowed' is not under weights" in capsys.readouterr().err
    recipe = json.dumps({"protocol": {"name": "quick", "epochs": 3}})
    assert main(["train", TEACHER, "--recipe", recipe]) == 2
    assert "does not say what the weights 'borrowed' are" in capsys.readouterr().err


SMALL = """, "protocol": {"name": "quick", "epochs": 3},
    "experiments": {"a": {"teacher": "resnet14", "student": "resnet8", "loss": "mse"}}}"""


# -- forms of a checkpoint, beside those of test_checkpoints.py --------------------------------------------------------


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("counters", [True, False], ids=["counters", "none"])
def test_torchvision_weights_load_and_give_its_logits(tmp_path: Path, suffix: str, counters: bool) -> None:
    """Without the counters of batch normalisation, too, as in the oldest files."""
    import torchvision

    torch.manual_seed(1)
    original = torchvision.models.resnet18(weights=None).eval()
    weights = {name: value for name, value in original.state_dict().items() if counters or "num_batches" not in name}
    path = tmp_path / f"resnet18.{suffix}"
    (torch.save if suffix == "pt" else safetensors.torch.save_file)(weights, path)
    network = models.build("resnet18", 1000)
    load(network, "resnet18", Weights(**declared(path)))
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(network.eval()(image), original(image))


def renamed(weights: dict) -> dict:
    return {name.replace("stage2", "part2"): value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            renamed,
            r"missing: stage2\.0\.conv1\.weight, .* and \d+ more; unexpected: part2\.0\.conv1\.weight, .* more$",
        ),
        (lambda w: w | {"classifier.bias": torch.zeros(7)}, r"classifier\.bias is \[7\] float32, not \[10\] float32$"),
        (lambda w: w | {"classifier.bias": torch.zeros(10, dtype=torch.int8)}, r"is \[10\] int8, not \[10\] float32$"),
        (lambda w: w | {"classifier.bias": torch.zeros(10).to_sparse()}, "different: classifier.bias"),
        (lambda w: {}, "holds no state dict of tensors$"),
        (lambda w: [w], "holds no state dict of tensors$"),
        (lambda w: w | {"epoch": 3}, r"holds no state dict of tensors; it holds stem\.weight, .* more$"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_weights_of_another_network_are_refused_with_what_differs(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "w.pt"
    torch.save(change(dict(fresh().state_dict())), path)
    with pytest.raises(DataError, match=rf"w\.pt: .*{message}"):
        load(fresh(), "resnet14", Weights(**declared(path)))


def test_weights_that_give_no_finite_loss_are_refused(digits: Path) -> None:
    torch.save(fresh().state_dict() | {"classifier.bias": torch.full((10,), torch.nan)}, "nan.pt")
    with pytest.raises(DataError, match=r"nan\.pt: with these weights the loss is no finite number"):
        train(TEACHER, borrowing("nan.pt"))
    assert not Path(TEACHER).exists()


# -- malicious files --------------------------------------------------------------------------------------------------


class Payload:
    """What a malicious checkpoint holds: unpickling it would leave a file behind."""

    def __reduce__(self) -> tuple:
        return (os.system, ("touch ran",))


@pytest.mark.parametrize("content", [Payload(), {"state_dict": {"stem.weight": Payload()}}], ids=["alone", "inside"])
@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "old"])
def test_promise_6_nothing_runs_from_an_imported_checkpoint(digits: Path, content: object, old_format: bool) -> None:
    """Fault 53: even one whose digest the study states."""
    torch.save(content, "evil.pt", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(DataError, match=r"evil\.pt: neither safetensors nor a checkpoint of tensors"):
        train(TEACHER, borrowing("evil.pt"))
    assert not Path("ran").exists()
    assert not Path(TEACHER).exists()


def safetensors_file(header: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    """Spell a safetensors file: the length of its header (a true one unless told), the header as JSON, the data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: int, end: int, dtype: str = "F32", shape: tuple = (2,)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


MALICIOUS = {
    "a header of 200 MB": safetensors_file({}, length=200 << 20),
    "a header of 2**63 bytes": safetensors_file({}, length=1 << 63),
    "a header beyond the file": safetensors_file({"a": tensor(0, 8)}, length=10_000),
    "overlapping tensors": safetensors_file({"a": tensor(0, 8), "b": tensor(4, 12)}),
    "offsets outside": safetensors_file({"a": tensor(0, 1 << 40, shape=(1 << 38,))}),
    "offsets backwards": safetensors_file({"a": tensor(8, 0)}),
    "a negative offset": safetensors_file({"a": tensor(-8, 0)}),
    "a hole": safetensors_file({"a": tensor(8, 16)}),
    "no JSON": safetensors_file(b'{"a": [[[['),
    "JSON of no object": safetensors_file([1, 2]),
    "deep JSON": safetensors_file(b"[" * 100_000),
    "no text": safetensors_file(b"\xff\xfe\x00\x01"),
    "another size than the type's": safetensors_file({"a": tensor(0, 8, "F64")}),
    "a shape that overflows": safetensors_file({"a": tensor(0, 8, shape=(1 << 62, 1 << 62))}),
    "an unknown type": safetensors_file({"a": tensor(0, 8, "F33")}),
    "a type without a network": safetensors_file({"a": tensor(0, 16, "F6_E2M3", (16,))}, bytes(12)),
    "a name twice": safetensors_file(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}'),
    "nothing": b"",
    "seven bytes": bytes(7),
}


@pytest.fixture(params=MALICIOUS)
def malicious(request: pytest.FixtureRequest) -> bytes:
    return MALICIOUS[request.param]


@contextlib.contextmanager
def frugal(mebibytes: int = 128, seconds: float = 5) -> Iterator[None]:
    """Let the block take no more memory and time than this."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (mebibytes << 20), before[1]))
    began = time.monotonic()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - began < seconds


def test_malicious_safetensors_are_refused_as_imported_weights(tmp_path: Path, malicious: bytes) -> None:
    """Fault 54: at once, with one message, and without the memory that they ask for."""
    path = tmp_path / "evil.safetensors"
    path.write_bytes(malicious)
    network, weights = fresh(), Weights(**declared(path))
    with frugal(), pytest.raises(DataError, match=r"evil\.safetensors: neither safetensors nor") as refused:
        load(network, "resnet14", weights)
    assert len(str(refused.value).splitlines()) == 1


def test_malicious_safetensors_are_refused_as_a_published_teacher(digits: Path, malicious: bytes) -> None:
    """Fault 54: even where the manifest was signed anew."""
    train(TEACHER, borrowing())
    cell = parse_cell(TEACHER)
    have = material.prepared(cell, recipe(cell, borrowing()))
    Path(TEACHER, "model.safetensors").write_bytes(malicious)
    resigned(TEACHER)
    with frugal(), pytest.raises(StorageError, match=r"model\.safetensors: (damaged, no|not the weights of)"):
        published.load_network(cell, have)


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_checkpoint_is_one_message(tmp_path: Path, damage: str) -> None:
    """Whatever byte of the file is wrong, though its digest be right."""
    whole = tmp_path / "whole.pt"
    torch.save(dict(fresh().state_dict()), whole)
    content = whole.read_bytes()
    path = tmp_path / "w.pt"
    for n in range(0, len(content), len(content) // 60):
        damaged = content[:n] if damage == "truncate" else content[:n] + bytes([content[n] ^ 255]) + content[n + 1 :]
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            load(fresh(), "resnet14", Weights(**declared(path)))


def test_a_recipe_without_its_weights_is_refused(digits: Path) -> None:
    given = recipe("results/digits/quick/resnet14.ce.s0")
    with pytest.raises(ConfigError, match="does not say what the weights 'borrowed' are"):
        jobs_train.train(Judge.of_recipe(given), parse_cell(TEACHER), given, Resources())
