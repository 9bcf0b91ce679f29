"""The ladder of modules: each imports only from above, and parsing a Snakefile costs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kd
from kd.code import imports

LADDER = [
    "kd",
    "kd.errors",
    "kd.threads",
    "kd.signals",
    "kd.files",
    "kd.attempts",
    "kd.code",
    "kd.startup",
    # the vocabulary: names and what they may be, importable in no time
    "kd.losses.",
    "kd.models.",
    "kd.data.",
    "kd.figures",
    # the study
    "kd.config",
    "kd.cells",
    "kd.products",
    "kd.judge",
    # where it stands, and who is at work on it
    "kd.slurm",
    "kd.status",
    "kd.leftovers",
    "kd.stamps",
    "kd.making",
    "kd.controllers",
    "kd.delete",
    "kd.patches",
    # training
    "kd.peers",
    "kd.kernels",
    "kd.device",
    "kd.progress",
    "kd.state",
    "kd.fit",
    "kd.weights",
    "kd.teachers",
    "kd.bank",
    "kd.answers",
    "kd.footprint",
    "kd.stages",
    # reporting
    "kd.table",
    "kd.measures",
    "kd.analyses",
    "kd.statistics",
    "kd.comparisons",
    "kd.figures.",
    "kd.paper.",
    "kd.verdict",
    "kd.report",
    "kd.__main__",
]


def _modules() -> list[str]:
    root = Path(kd.__file__).parent
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in root.rglob("*.py")]
    return sorted(name.removesuffix(".__init__") for name in names)


def _rung(name: str) -> int:
    """A name stands on its own rung, or on that of its package (spelled with a dot at the end)."""
    if name in LADDER:
        return LADDER.index(name)
    packages = [n for n, rung in enumerate(LADDER) if rung.endswith(".") and f"{name}.".startswith(rung)]
    assert packages, f"{name} stands on no rung of the ladder"
    return packages[-1]


def test_every_module_imports_only_from_above() -> None:
    for name in _modules():
        for other in imports(name) - {"kd"}:
            assert _rung(other) <= _rung(name), f"{name} imports {other}, which stands below it"


def _loaded(code: str) -> set[str]:
    watched = ("torch", "torchvision", "pandas", "numpy", "matplotlib", "sklearn", "scipy", "snakemake")
    show = f"{code}\nimport sys; print([m for m in {watched!r} if m in sys.modules])"
    return set(eval(subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout))


def test_parsing_a_study_loads_neither_torch_nor_pandas() -> None:
    modules = ["config", "cells", "code", "products", "judge", "slurm", "status", "stamps", "making", "controllers"]
    assert _loaded("\n".join(f"import kd.{name}" for name in (*modules, "delete", "__main__"))) == set()


def test_tables_and_figures_load_no_torch() -> None:
    assert not {"torch", "torchvision"} & _loaded("import kd.table, kd.report, kd.verdict, kd.figures.dots")


def test_training_a_wrn_loads_no_torchvision_and_no_snakemake() -> None:
    loaded = _loaded("import kd.stages; from kd import models; models.build('wrn-10-1', 10)")
    assert "torch" in loaded
    assert not {"torchvision", "snakemake", "pandas", "matplotlib", "sklearn"} & loaded
