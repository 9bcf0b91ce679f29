"""Nothing runs from data: kernels are the user's own, and what a study says is text, of bounded size."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from made.imagenet import picture
from made.project import SMALL
from made.starting import STARTER

from kd import models
from kd.__main__ import main
from kd.core.errors import ConfigError
from kd.machine import kernels
from kd.machine.processor import processor
from kd.study.config import Study, validate
from kd.study.plain_yaml import parse_yaml, read_yaml
from kd.train.device import Place

# -- kernels ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the user's own, without kernels."""
    monkeypatch.setattr(kernels, "_NAMED", None)
    monkeypatch.setenv(kernels.VARIABLE, "/tmp/torchinductor_of_anyone")  # as torch does
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    return tmp_path / "home"


def used() -> Path:
    """Return where kernels are kept now."""
    with kernels.kept("cpu"):
        return Path(os.environ[kernels.VARIABLE])


def is_new(folder: Path) -> bool:
    return folder.parent == Path(os.environ["TMPDIR"]) and not folder.exists()


def test_where_code_cannot_be_run_nothing_is_compiled_and_that_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    noexec = {"cpu"}
    monkeypatch.setattr(kernels, "_is_noexec", lambda folder: folder.name in noexec or "all" in noexec)
    assert is_new(used())  # a home that is mounted noexec
    assert "mounted noexec" in caplog.text
    noexec.add("all")
    with pytest.raises(ConfigError, match=r"set compile: never, or name another folder in TORCHINDUCTOR_CACHE_DIR"):
        used()
    monkeypatch.setattr(kernels, "_NAMED", str(home / "mine"))
    with pytest.raises(ConfigError, match=r"mine is on a file system that is mounted noexec"):
        used()


def test_kernels_are_kept_in_the_cache_of_the_user_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        assert used() == home / ".cache/kd/compiled/cpu"
        monkeypatch.setenv("XDG_CACHE_HOME", str(home / "else"))
        assert used() == home / "else/kd/compiled/cpu"
    finally:
        os.umask(before)
    made = [path for path in home.glob("*/kd/**/*") if path.is_dir()] + list(home.glob("*/kd"))
    assert {path.name: path.stat().st_mode & 0o777 for path in made} == dict.fromkeys(("kd", "compiled", "cpu"), 0o700)
    assert len(made) == 6


def test_who_names_a_folder_is_obeyed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_NAMED", "/somewhere/else")
    assert used() == Path("/somewhere/else")
    assert not list(home.iterdir())


@pytest.mark.parametrize("name", [".cache/kd", ".cache/kd/compiled", ".cache/kd/compiled/cpu"])
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_kernels_that_others_may_have_written_are_not_used(home: Path, name: str, mode: int, caplog) -> None:
    used()
    (home / name).chmod(mode)
    assert is_new(used())
    assert re.search(r"others may write to .*; make it yours alone \(chmod go-w\), or remove it", caplog.text)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("name", [".", ".cache", ".cache/kd/compiled", ".cache/kd/compiled/cpu"])
def test_kernels_in_a_folder_of_another_user_are_not_used(home: Path, name: str, caplog) -> None:
    used()
    os.chown(home / name, 12345, 12345)
    assert is_new(used())
    assert "belongs to another user" in caplog.text


@pytest.mark.parametrize("home_of", ["/proc/nohome", "/dev/null/home"])
def test_without_a_home_kernels_are_compiled_all_the_same(home: Path, home_of: str, monkeypatch, caplog) -> None:
    monkeypatch.setenv("HOME", home_of)
    assert is_new(used())
    assert "kernels are compiled and not kept" in caplog.text


def test_a_home_that_is_a_file_or_full_is_none(home: Path, caplog) -> None:
    (home / ".cache").write_text("")
    assert is_new(used())


def compiled_answer() -> torch.Tensor:
    """Return what a small compiled network answers, compiled as in a new process."""
    torch.compiler.reset()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    with kernels.kept("cpu"):
        forward = Place(torch.device("cpu"), "fp32", compiles=True).compiled(net, 16)
        return forward(torch.randn(16, 1, 8, 8))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.slow
def test_damaged_kernels_are_compiled_anew_and_change_no_bit(home: Path, caplog) -> None:
    whole, folder = compiled_answer(), home / ".cache/kd/compiled/cpu"
    libraries = list(folder.rglob("*.so"))
    assert libraries, caplog.text

    for library in libraries:  # a bit in none of its headers: it would be run
        content = bytearray(library.read_bytes())
        content[len(content) // 2] ^= 4
        library.unlink()  # what is mapped must not change
        library.write_bytes(content)
    assert compiled_answer().equal(whole)
    assert f"{libraries[0]}: damaged; it is compiled anew" in caplog.text

    (folder / kernels._DIGESTS).unlink()  # nobody knows what they were
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()[:100]
        path.unlink()
        path.write_bytes(content)
    assert compiled_answer().equal(whole)
    assert json.loads((folder / kernels._DIGESTS).read_text())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_nothing_is_compiled_into_the_project(home: Path, project: Path) -> None:
    protocol = {**SMALL["protocol"], "epochs": 1, "compile": "always"}
    Path("config.yaml").write_text(yaml.safe_dump({**SMALL, "protocol": protocol}))
    assert main(["data", "digits"]) == 0
    assert main(["train", "results/digits/quick/resnet8.ce.s0"]) == 0
    assert not Path("state/compiled").exists()
    assert list((home / ".cache/kd/compiled" / processor()).rglob("*.so"))


# -- what a study says ------------------------------------------------------------------------------------------------


def bomb(key: str, kind: str) -> str:
    """600 bytes of YAML that stand for 9 ** 9 values under one key."""
    joined = {"lists": "[{}]", "maps": "{{{}}}", "merged": "{{<<: [{}]}}"}[kind]

    def nine(name: str) -> str:
        return joined.format(", ".join(f"k{n}: *{name}" if kind == "maps" else f"*{name}" for n in range(9)))

    first = "[1, 2, 3]" if kind == "lists" else "{a: 1, b: 2, c: 3}"
    lines = [f"x0: &x0 {first}", *(f"x{n}: &x{n} {nine(f'x{n - 1}')}" for n in range(1, 9))]
    return "\n".join([*lines, f"{key}: {nine('x8')}"]) + "\n"


KEYS = sorted(field.alias or name for name, field in Study.model_fields.items())


@pytest.mark.parametrize("key", [*KEYS, "unknown"])
@pytest.mark.parametrize("kind", ["lists", "maps", "merged"])
def test_a_few_bytes_that_stand_for_too_much_are_refused_at_once(project: Path, key: str, kind: str) -> None:
    Path("bomb.yaml").write_text(bomb(key, kind))
    assert Path("bomb.yaml").stat().st_size < 1000
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"bomb.yaml: aliases .* stand for more than 100,000 values"):
        read_yaml(Path("bomb.yaml"))
    assert time.monotonic() - began < 1


def test_a_list_within_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="stand for more than"):
        parse_yaml("seeds: &a [1, *a]", "here")


def test_a_value_that_is_named_and_used_again_is_fine() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: [*x, *x]\nc: {<<: {d: 1}}", "") == {
        "a": [1, 2],
        "b": [[1, 2], [1, 2]],
        "c": {"d": 1},
    }


@pytest.mark.parametrize("key", KEYS)
def test_a_message_shows_of_a_large_value_a_part(key: str) -> None:
    for large in ([[[["x" * 1000] * 10] * 10] * 10] * 10, {f"k{n}": "y" * 100_000 for n in range(100)}, "z" * 10**6):
        try:
            validate({**SMALL, key: large})
        except ConfigError as error:
            assert len(str(error)) < 50_000, str(error)[:1000]


@pytest.mark.slow
@pytest.mark.process
def test_no_verb_and_no_snakemake_reads_what_stands_for_too_much(project: Path) -> None:
    Path("config.yaml").write_text(yaml.safe_dump(SMALL))
    Path("bomb.yaml").write_text(bomb("seeds", "lists"))
    for verb in (["plan", "bomb.yaml"], ["status", "bomb.yaml"], ["collect", "--configfile", "bomb.yaml"]):
        assert main(verb) == 2
    for part in ("Snakefile", "workflow", "profiles", "kd"):
        Path(part).symlink_to(ROOT / part)
    begun = snakemake("-n", "--configfile", "bomb.yaml")
    assert begun.returncode == 1
    assert "kd: bomb.yaml: aliases" in begun.stderr.replace(f"{project}/", "")


def snakemake(*arguments: str) -> subprocess.CompletedProcess:
    command = [STARTER.controller, "-m", "snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "KD_DEVICE": "cpu"})


@pytest.mark.slow
def test_braces_in_a_value_are_text(project: Path) -> None:
    """They are placeholders to Snakemake, in a folder of images, a label file and weights."""
    for part in ("Snakefile", "workflow", "profiles", "kd"):
        Path(part).symlink_to(ROOT / part)
    folder = Path("{x} {{y}} {wildcards.cell} {input[0]}")
    for split, count in (("train", 8), ("val", 4)):
        for label in ("{a}", "b"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                picture(number % 3, number).save(folder / split / label / f"{{{number}}}.png")
    Path("{labels}.txt").write_text("0\n1\n" * 8)
    torch.save(network_of("resnet14", 2), "{w}.pt")
    made = {
        "study": "braces",
        "dataset": "mine",
        "datasets": {"mine": {"folder": str(folder), "size": 8}},
        "label_files": {"odd": "{labels}.txt"},
        "weights": {"borrowed": {"file": "{w}.pt", "sha256": digest("{w}.pt")}},
        "protocol": {"name": "quick", "epochs": 1, "batch": 8, "precision": "fp32"},
        "seeds": 0,
        "experiments": {
            "a": {"student": "resnet8", "loss": "ce", "label_noise": {"file": "odd"}, "figure": "dots"},
            "b": {"teacher": "resnet14", "student": "resnet8", "loss": "mse", "teacher_weights": "borrowed"},
        },
    }
    Path("config.yaml").write_text(yaml.safe_dump(made))
    dry = snakemake("-n")
    assert dry.returncode == 0, dry.stderr
    ran = snakemake()
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert Path("reports/braces/report.html").exists()
    assert "Nothing to be done" in snakemake().stderr


def network_of(name: str, classes: int) -> dict:
    return models.build(name, classes, 3).state_dict()


def digest(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()
