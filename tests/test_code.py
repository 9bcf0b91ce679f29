"""Code that changes numbers, and only that, changes a digest."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT, study

import kd
from kd.core.code import behind, code_digest, imports
from kd.study import staleness
from kd.study.paths import parse_cell

CELL = ("kd.train.fit", "kd.train.teachers", "kd.losses.kl", "kd.models.wrn")
BANK = ("kd.train.teachers", "kd.models.wrn")
ANSWERS = ("kd.measure.answers", "kd.models.wrn")


@pytest.fixture
def copy(tmp_path: Path):
    """A copy of kd's source, and a function that digests modules of the copy."""
    folder = tmp_path / "kd"
    shutil.copytree(Path(kd.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))

    return folder, lambda *modules: digests(folder, modules)[0]


def test_a_digest_does_not_depend_on_the_locale() -> None:
    modules = ["kd.report.page", "kd.report.verdict", "kd.report.figures.style"]
    code = f"from kd.core.code import code_digest; print(code_digest(*{modules}))"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | ascii_only, capture_output=True, text=True)
    assert run.stdout.strip() == code_digest(*modules)


def digests(folder: Path, *several: tuple[str, ...]) -> list[str]:
    """Return the digest of each of these tuples of modules of a copy."""
    code = module_of(folder)
    return [code.code_digest(*modules) for modules in several]


def module_of(folder: Path) -> ModuleType:
    """Return the module of a copy that computes digests, and knows nothing yet."""
    spec = importlib.util.spec_from_file_location("copied_code", folder / "core" / "code.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["copied_code"] = module
    spec.loader.exec_module(module)
    return module


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_comment_a_docstring_and_layout_change_nothing(copy) -> None:
    folder, digest = copy
    before = digest("kd.train.fit", "kd.losses.kl")
    path = folder / "losses" / "kl.py"
    text = path.read_text()
    path.write_text(
        '"""Another docstring."""\n# a comment\n\n\n' + text[text.index("from __future__") :] + "\n\n# end\n"
    )
    assert digest("kd.train.fit", "kd.losses.kl") == before


def test_how_python_would_quote_inside_an_f_string_decides_nothing(copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12.3 writes f"{x['a']}" with one kind of quotes, and 3.11 with two."""

    write = ast.unparse

    def written(tree: ast.AST) -> str:
        assert not any(isinstance(node, ast.JoinedStr) for node in ast.walk(tree)), "an f-string is written by Python"
        return write(tree)

    monkeypatch.setattr(ast, "unparse", written)
    folder, digest = copy
    assert 'f"' in (folder / "train" / "fit.py").read_text()
    assert digest(*CELL) == code_digest(*CELL)


@pytest.mark.parametrize(
    ("one", "other"),
    [("{x!r}", "{x!s}"), ("{x:3}", "{x:4}"), ("{x:{y}}", "{x:{z}}"), ("{x}.", "{x}"), ("{x}{y}", "{y}{x}")],
)
def test_what_an_f_string_says_decides(copy, one: str, other: str) -> None:
    folder, _ = copy
    found = []
    for text in (one, other):
        (folder / "losses" / "new.py").write_text(f"def said(x, y, z):\n    return f'{text}'\n")
        found += digests(folder, ("kd.losses.new",))
    assert found[0] != found[1]


def test_a_changed_loss_changes_its_students_and_not_their_teachers(copy) -> None:
    folder, digest = copy
    teacher, student = digest("kd.train.fit", "kd.losses.hard"), digest("kd.train.fit", "kd.losses.kl")
    mse = digest("kd.train.fit", "kd.losses.mse")
    with open(folder / "losses" / "kl.py", "a") as file:
        file.write("\nCHANGED = 1\n")
    assert digest("kd.train.fit", "kd.losses.hard") == teacher
    assert digest("kd.train.fit", "kd.losses.mse") == mse
    assert digest("kd.train.fit", "kd.losses.kl") != student


def test_a_new_loss_and_its_hyperparameters_leave_cells_of_other_losses_as_they_are(copy) -> None:
    folder, digest = copy
    others = [("kd.train.fit", f"kd.losses.{name}") for name in ("hard", "kl", "mse", "divergences")]
    before = [digest(*one) for one in others]
    for name in ("__init__", "spec", "built", "features", "ikl", "akl", "wkd", "one", "matching", "maps"):
        with open(folder / "losses" / f"{name}.py", "a") as file:
            file.write("\nCHANGED = 1\n")
    assert [digest(*one) for one in others] == before


def test_what_a_module_imports_counts_as_what_it_does(copy) -> None:
    folder, digest = copy
    before = digest("kd.train.fit")
    edit(folder / "data" / "views.py", "_ORDER, _VIEW = 1, 2", "_ORDER, _VIEW = 2, 1")
    assert digest("kd.train.fit") != before


@pytest.mark.slow
def test_a_line_in_a_module_changes_what_its_wing_decides_and_nothing_else(copy) -> None:
    """Of every module: the wings of numbers change those that use it, the others change nothing."""
    folder, _ = copy
    code = module_of(folder)  # it parses again what has changed alone

    def digested() -> list[str]:
        for known in (code.code_digest, code._digest, code._text):
            known.cache_clear()
        return [code.code_digest(*modules) for modules in made.values()]

    made = {"bank": BANK, "cell": CELL, "answers": ANSWERS, "table": ("kd.report.table",), "page": ("kd.report.page",)}
    before = digested()
    counted = {what: behind(*modules) for what, modules in made.items()}
    for path in sorted(folder.rglob("*.py")):
        name = ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        path.write_text(text + "\nCHANGED = 1\n")
        now = zip(made, digested(), before, strict=True)
        changed = {what for what, digest, then in now if digest != then}
        path.write_text(text)
        assert changed == {what for what, names in counted.items() if name in names}, name
    assert digested() == digests(folder, *made.values()) == before


def test_what_decides_a_bank_is_not_the_training_loop() -> None:
    assert not {"kd.train.fit", "kd.train.peers", "kd.losses.kl"} & behind(*BANK)
    assert {"kd.data.views", "kd.train.teachers", "kd.models.wrn"} <= behind(*BANK)


def test_a_module_that_moves_changes_nothing(copy) -> None:
    folder, digest = copy
    before = digest(*CELL), digest(*BANK)
    (folder / "data" / "views.py").rename(folder / "train" / "seen.py")
    for path in folder.rglob("*.py"):
        text = path.read_text()
        moved = text.replace("from kd.data import views\n", "from kd.train import seen as views\n")
        path.write_text(moved.replace("from kd.data.views import", "from kd.train.seen import"))
    assert "kd.train.seen" in (folder / "train" / "fit.py").read_text() + (folder / "train" / "teachers.py").read_text()
    assert (digest(*CELL), digest(*BANK)) == before


def test_another_source_of_a_name_is_another_code(copy) -> None:
    folder, digest = copy
    (folder / "losses" / "other.py").write_text("def blend(): pass\nCE = {}\n")
    before = digest("kd.losses.kl")
    edit(folder / "losses" / "kl.py", "from kd.losses.hard import CE, blend", "from kd.losses.other import CE, blend")
    assert digest("kd.losses.kl") != before


def test_an_import_for_types_alone_decides_nothing(copy) -> None:
    folder, digest = copy
    before = digest("kd.losses.kl")
    edit(folder / "losses" / "kl.py", "if TYPE_CHECKING:\n", "if TYPE_CHECKING:\n    from kd.train.fit import Plan\n")
    assert digest("kd.losses.kl") == before


def test_a_figure_depends_on_its_own_file_and_the_style(copy) -> None:
    folder, digest = copy
    heatmap, tau = digest("kd.report.figures.heatmap"), digest("kd.report.figures.tau")
    with open(folder / "report" / "figures" / "heatmap.py", "a") as file:
        file.write("\nCHANGED = 1\n")
    assert digest("kd.report.figures.heatmap") != heatmap
    assert digest("kd.report.figures.tau") == tau


def test_digest_names_are_order_free_and_unknown_modules_are_refused() -> None:
    assert code_digest("kd.train.fit", "kd.train.bank") == code_digest("kd.train.bank", "kd.train.fit")
    with pytest.raises(ModuleNotFoundError):
        code_digest("kd.nothing")


def test_imports_sees_modules_imported_by_name() -> None:
    assert {"kd.core.signals", "kd.core.errors", "kd.machine.state"} <= imports("kd.train.fit")


def test_the_training_loop_is_behind_every_trained_network(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[frozenset[str]] = []
    monkeypatch.setattr(staleness, "code_digest", lambda *modules: found.append(behind(*modules)) or "")
    staleness.code_behind(parse_cell("results/digits/quick/resnet8.ce.s0"), study().protocol)
    assert {"kd.train.fit", "kd.train.plan", "kd.train.lesson", "kd.data.views", "kd.losses.hard"} <= found[0]


# -- what is remembered of a module -----------------------------------------------------------------------------------


@pytest.fixture
def remembering(copy, monkeypatch: pytest.MonkeyPatch):
    """A copy of kd whose modules have been parsed once, the digest of a module, and where it is remembered."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder, digest = copy
    return folder, digest, digest("kd.losses.kl"), next((folder / "losses" / "__pycache__").glob("kl.*.parted"))


def parsed(monkeypatch: pytest.MonkeyPatch, folder: Path, *modules: str) -> tuple[str, int]:
    """Return the digest of modules of a copy, and how many it had to parse."""
    code, parse, calls = module_of(folder), ast.parse, []
    monkeypatch.setattr(code.ast, "parse", lambda source: calls.append(source) or parse(source))
    found = code.code_digest(*modules)
    monkeypatch.undo()
    return found, len(calls)


def test_a_module_that_was_parsed_once_is_not_parsed_again(remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, before, _ = remembering
    assert parsed(monkeypatch, folder, "kd.losses.kl") == (before, 0)
    edit(folder / "losses" / "kl.py", "from __future__", "MORE = 1\nfrom __future__")
    after, count = parsed(monkeypatch, folder, "kd.losses.kl")
    assert after != before
    assert count == 1


def test_a_flipped_bit_of_what_is_remembered_changes_no_digest(remembering) -> None:
    _, digest, before, path = remembering
    content = path.read_bytes()
    for place in range(0, len(content), 101):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert digest("kd.losses.kl") == before
    path.write_bytes(b"")
    assert digest("kd.losses.kl") == before


def test_what_another_parser_remembered_counts_for_nothing(remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, before, _ = remembering
    with open(folder / "core" / "code.py", "a") as file:
        file.write("\nOTHER = 1\n")
    found, count = parsed(monkeypatch, folder, "kd.losses.kl")
    assert found == before
    assert count > 0


def test_a_new_module_is_seen_by_those_who_imported_a_name_like_it(remembering) -> None:
    folder, digest, *_ = remembering
    (folder / "losses" / "mine.py").write_text("from kd.losses.kl import Kl\n")
    before = digest("kd.losses.mine")
    (folder / "losses" / "kl").mkdir()
    (folder / "losses" / "kl" / "Kl.py").write_text("ONE = 1\n")
    assert digest("kd.losses.mine") != before


def test_a_folder_that_cannot_be_written_keeps_nothing(copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, digest = copy
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (folder / "losses" / "__pycache__").write_text("")  # in the place of the folder
    assert digest("kd.losses.kl") == code_digest("kd.losses.kl")
