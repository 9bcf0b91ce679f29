"""Code that changes numbers, and only that, changes a digest."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

import kd
from kd.code import code_digest, imports


@pytest.fixture
def copy(tmp_path: Path):
    """A copy of kd's source, and a function that digests modules of the copy."""
    folder = tmp_path / "kd"
    shutil.copytree(Path(kd.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def digest(*modules: str) -> str:
        spec = importlib.util.spec_from_file_location("copied_code", folder / "code.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["copied_code"] = module
        spec.loader.exec_module(module)
        return module.code_digest(*modules)

    return folder, digest


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_comment_a_docstring_and_layout_change_nothing(copy) -> None:
    folder, digest = copy
    before = digest("kd.fit", "kd.losses.kl")
    path = folder / "losses" / "kl.py"
    text = path.read_text()
    path.write_text(
        '"""Another docstring."""\n# a comment\n\n\n' + text[text.index("from __future__") :] + "\n\n# end\n"
    )
    assert digest("kd.fit", "kd.losses.kl") == before


def test_a_changed_loss_changes_its_students_and_not_their_teachers(copy) -> None:
    folder, digest = copy
    teacher, student = digest("kd.fit", "kd.losses.hard"), digest("kd.fit", "kd.losses.kl")
    mse = digest("kd.fit", "kd.losses.mse")
    with open(folder / "losses" / "kl.py", "a") as file:
        file.write("\nCHANGED = 1\n")
    assert digest("kd.fit", "kd.losses.hard") == teacher
    assert digest("kd.fit", "kd.losses.mse") == mse
    assert digest("kd.fit", "kd.losses.kl") != student


def test_what_a_module_imports_counts_as_what_it_does(copy) -> None:
    folder, digest = copy
    before = digest("kd.fit")
    edit(folder / "data" / "views.py", "_ORDER, _VIEW = 1, 2", "_ORDER, _VIEW = 2, 1")
    assert digest("kd.fit") != before


def test_plumbing_retrains_nothing(copy) -> None:
    folder, digest = copy
    before = digest("kd.fit", "kd.teachers", "kd.losses.kl", "kd.models.wrn")
    plumbing = ["files", "errors", "state", "progress", "device", "bank", "products", "judge", "making", "stamps"]
    for name in plumbing:
        with open(folder / f"{name}.py", "a") as file:
            file.write("\nCHANGED = 1\n")
    assert digest("kd.fit", "kd.teachers", "kd.losses.kl", "kd.models.wrn") == before


def test_a_figure_depends_on_its_own_file_and_the_style(copy) -> None:
    folder, digest = copy
    dots, tau = digest("kd.figures.dots"), digest("kd.figures.tau")
    with open(folder / "figures" / "dots.py", "a") as file:
        file.write("\nCHANGED = 1\n")
    assert digest("kd.figures.dots") != dots
    assert digest("kd.figures.tau") == tau


def test_digest_names_are_order_free_and_unknown_modules_are_refused() -> None:
    assert code_digest("kd.fit", "kd.bank") == code_digest("kd.bank", "kd.fit")
    with pytest.raises(ModuleNotFoundError):
        code_digest("kd.nothing")


def test_imports_sees_modules_imported_by_name() -> None:
    assert {"kd.data.views", "kd.errors", "kd.state"} <= imports("kd.fit")
