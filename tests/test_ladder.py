"""The ladder of modules: each imports only from above, and parsing a Snakefile costs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kd
from kd.core.code import CONTENTS, imports

# Each wing imports from those before it and from itself. Tables of contents, which name what there is and import
# nothing heavy, are everybody's.
WINGS = ["core", "data", "models", "losses", "study", "machine", "train", "measure", "report", "jobs", "cli"]


def _modules() -> list[str]:
    root = Path(kd.__file__).parent
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in root.rglob("*.py")]
    return sorted(name.removesuffix(".__init__") for name in names)


def _wing(name: str) -> int:
    return [*WINGS, "api", "__main__"].index(name.split(".")[1])


def test_every_module_imports_only_from_its_wing_and_those_before_it() -> None:
    for name in set(_modules()) - {"kd"}:
        for other in imports(name) - CONTENTS - {"kd"}:
            assert _wing(other) <= _wing(name), f"{name} imports {other}, which stands below it"


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    """Under another locale than UTF-8 digests, captions and messages would be others, or tracebacks."""
    for name in _modules():
        for call in filter(_handles_text, ast.walk(_source(name))):
            assert _says_the_encoding(call), f"{name}, line {call.lineno}"


def _source(name: str) -> ast.Module:
    path = Path(kd.__file__).parent.parent.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _handles_text(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    modes = [value.value for value in node.args[:2] if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    opens = called == "open" or (called.endswith(".open") and called.split(".")[0] not in ("os", "Image", "tarfile"))
    return (
        called.endswith((".read_text", ".write_text"))
        or (opens and not any("b" in mode for mode in modes if set(mode) <= set("rwxab+t")))
        or any(keyword.arg in ("text", "universal_newlines") for keyword in node.keywords)
    )


def _says_the_encoding(call: ast.Call) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "encoding")]
    return any(isinstance(value, ast.Constant) and value.value == "utf-8" for value in given)


def test_no_two_modules_import_each_other() -> None:
    below: dict[str, set[str]] = {}

    def all_below(name: str, above: tuple[str, ...] = ()) -> set[str]:
        assert name not in above, " -> ".join((*above, name))
        if name not in below:
            found = imports(name) - {"kd"}
            below[name] = found.union(*(all_below(one, (*above, name)) for one in found))
        return below[name]

    for name in _modules():
        all_below(name)


def test_every_wing_says_what_it_is_for() -> None:
    root = Path(kd.__file__).parent
    wings = {path.parent.name for path in root.glob("*/__init__.py")}
    assert wings == set(WINGS)
    readme = (root.parent / "README.md").read_text()
    for wing in wings:
        assert f"kd/{wing}/" in readme
        assert ast.get_docstring(ast.parse((root / wing / "__init__.py").read_text()))


def _loaded(code: str) -> set[str]:
    watched = ("torch", "torchvision", "pandas", "numpy", "matplotlib", "sklearn", "scipy", "snakemake")
    show = f"{code}\nimport sys; print([m for m in {watched!r} if m in sys.modules])"
    return set(eval(subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout))


@pytest.mark.process
def test_parsing_a_study_loads_neither_torch_nor_pandas() -> None:
    wings, for_snakemake = ("kd.core.", "kd.study."), {"kd.core.patches", "kd.study.console"}
    modules = [name for name in _modules() if name.startswith(wings) and name not in for_snakemake]
    modules += ["kd.jobs.making", "kd.machine.room", "kd.__main__"]
    assert _loaded("\n".join(f"import {name}" for name in modules)) == set()


@pytest.mark.process
def test_tables_figures_and_what_is_told_by_hand_load_no_torch() -> None:
    assert not {"torch", "torchvision"} & _loaded(
        "import kd.report.table, kd.report.page, kd.report.verdict, kd.report.figures.dots, kd.report.compared, "
        "kd.jobs.export, kd.jobs.pack, kd.jobs.lineage"
    )


@pytest.mark.process
def test_training_a_wrn_loads_no_torchvision_and_no_snakemake() -> None:
    loaded = _loaded("import kd.jobs.train; from kd import models; models.build('wrn-10-1', 10)")
    assert "torch" in loaded
    assert not {"torchvision", "snakemake", "pandas", "matplotlib", "sklearn"} & loaded
