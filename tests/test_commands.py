"""Every command of README.md and docs/ runs, or its fence says why not; the site of these pages has no fault.

A block of commands begins with ```sh, and runs in the fast tests; ```sh run="slow" runs in the slow ones, and
```sh skip="REASON" in none. The blocks of a page run in their order, in one copy of the project.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from conftest import ROOT
from made.starting import STARTER

import kd
from kd.data import SELECTIONS
from kd.losses import LOSSES

PAGES = [*map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "config/README.md", "slurm/README.md"))]
PAGES += sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^ *```([^\n`]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
HOW = re.compile(r'sh(?: (?P<key>run|skip)="(?P<value>[^"]+)")?')
COMMAND = re.compile(
    r"\s*(\$ |kd |snakemake |make |pip |python[0-9.]* |pytest |git |sbatch |docker |apptainer |ruff |\. \.venv)"
)


class Block(NamedTuple):
    """A fenced block of a page: what stands behind ```, and the text."""

    info: str
    text: str

    @property
    def when(self) -> str:
        """`fast`, `slow` or `never`."""
        found = HOW.fullmatch(self.info)
        assert found, self.info
        return {"run": found["value"], "skip": "never", None: "fast"}[found["key"]]


def blocks(page: Path) -> list[Block]:
    return [Block(info.strip(), text) for info, text in FENCE.findall(page.read_text(encoding="utf-8"))]


def commands(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.info.split(" ")[0] == "sh"]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_of_a_page_is_one_that_runs_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        if block in commands(page):
            assert block.when in ("fast", "slow", "never"), block
        else:
            lines = [line for line in block.text.splitlines() if COMMAND.match(line)]
            assert not lines or block.info in ("python", "yaml"), f"{lines}: begin the block with ```sh"


RUN = [page for page in PAGES if any(block.when == "fast" for block in commands(page))]
RUN_SLOWLY = [page for page in PAGES if any(block.when == "slow" for block in commands(page))]


@pytest.mark.process
@pytest.mark.parametrize("page", [page for page in RUN if page not in RUN_SLOWLY], ids=named)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    run(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_SLOWLY, ids=named)
def test_the_commands_of_a_page_run_to_their_end(page: Path, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    run(page, tmp_path / "project", STARTER.commands(tmp_path / "bin"))


def run(page: Path, folder: Path, commands_in: Path = Path(sys.executable).parent) -> None:
    """Run the blocks of a page that are to run, in a copy of the project, with `kd` and `snakemake` of a folder."""
    for name in ("Snakefile", "config.yaml", "kd", "profiles", "workflow", "slurm"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    paths = f"{commands_in}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": str(folder)}
    for block in commands(page):
        if block.when != "never":
            shell = ["bash", "-euo", "pipefail", "-c", block.text]
            ended = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True)
            assert ended.returncode == 0, block.text + ended.stdout[-3000:] + ended.stderr[-3000:]


def test_the_promises_name_tests_that_are_there() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    sections = (ROOT / "docs/promises.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert [section[0] for section in sections] == [*"12345678"]
    for section in sections:
        found = re.findall(r"`(test_\w+)`", section)
        assert any(name.startswith(f"test_promise_{section[0]}_") for name in found)
        assert [name for name in found if f"\ndef {name}(" not in sources] == []


# -- the site ---------------------------------------------------------------------------------------------------------


def script(name: str = "build") -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_page_is_that_of_the_models() -> None:
    """When it is not: python docs/build.py --configuration."""
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == script().configuration()


def test_the_tables_of_losses_and_selections_are_those_of_the_registries() -> None:
    """`python docs/tables.py` writes them."""
    tables = script("tables")
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in tables.PAGES]
    assert pages == list(map(tables.page, pages))
    named = [
        name for text in pages for name in re.findall(r"^\| `(\w+)` \|", "".join(tables.blocks(text)), re.MULTILINE)
    ]
    assert sorted(named) == sorted([*LOSSES, *SELECTIONS])


@pytest.mark.process
@pytest.mark.skipif(not shutil.which("hadolint"), reason="no hadolint: pip install -e '.[dev]'")
def test_the_dockerfile_has_no_fault_that_a_linter_finds() -> None:
    assert subprocess.run(["hadolint", ROOT / "containers/Dockerfile"]).returncode == 0


def test_the_containers_have_what_git_has_of_kd() -> None:
    """Both take the same files, and the image of Docker ignores none of them."""
    docker, apptainer, ignored = (
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("containers/Dockerfile", "containers/kd.def", ".dockerignore")
    )
    copied = {name for line in re.findall("^COPY (.*) [^ ]+$", docker, re.MULTILINE) for name in line.split()}
    assert copied == set(re.findall(r"^ {4}(\S+) /opt/kd/\1$", apptainer, re.MULTILINE))
    assert copied == set(re.findall("^!(.+)$", ignored, re.MULTILINE))
    assert all((ROOT / name).exists() for name in copied)


def test_the_version_is_the_same_everywhere() -> None:
    for name in ("CHANGELOG.md", "CITATION.cff", "containers/Dockerfile", "containers/kd.def"):
        assert kd.__version__ in (ROOT / name).read_text(encoding="utf-8"), name


def test_every_page_is_on_the_site() -> None:
    listed = [page for part in script().PAGES.values() for page in part.values()]
    assert sorted(set(map(named, PAGES)) - set(listed)) == []
    assert all((ROOT / page).exists() for page in listed)


@pytest.mark.process
@pytest.mark.skipif(not importlib.util.find_spec("zensical"), reason="no Zensical: pip install -e '.[dev]'")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    script().build(tmp_path / "site")
    front = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert "docs/tutorial.html" in front
    for picture in re.findall(r'<img [^>]*src="([^"]+)"', front):
        assert (tmp_path / "site" / picture).exists()
