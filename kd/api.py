"""A study in Python, from any folder: its cells, its networks, its run and its table.

>>> study = kd.open("config.yaml")
>>> table = study.run(cores=8)
>>> network = study.network(study.cells()[0])

Each call reads the study's file again, and makes the project the root of all paths while it lasts. The root is one for
all threads of a process, so two studies must not be asked at the same time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kd.core import project
from kd.core.errors import ConfigError, DataError, KdError, itemised
from kd.study import products
from kd.study.cells import Cell
from kd.study.config import DEFAULT, Recipe, Study, merged, validate
from kd.study.expansion import all_cells, recipe
from kd.study.judge import Judge
from kd.study.paths import parse_cell
from kd.study.plain_yaml import read_yaml
from kd.study.products import Product

if TYPE_CHECKING:
    import pandas as pd

    from kd.data.examples import Examples
    from kd.data.streamed import StreamedExamples
    from kd.models.network import Network

_CODE = Path(__file__).resolve().parent.parent  # the checkout, or the folder that kd is installed in


class RunFailed(KdError):
    """Snakemake ended with an error. The same call goes on from what is saved."""


class OpenedStudy:
    """A study and the project that it belongs to. `kd.open` makes one.

    Attributes:
        file: the study's file, absolute.
        root: the project: the nearest folder above the file that holds a config.yaml. All paths start there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.file = project.here().joinpath(Path(path).expanduser()).resolve()
        self.root = _root_of(self.file)
        with self._entered():
            pass  # what is wrong with the file is said now

    def __repr__(self) -> str:
        return f"kd.open({str(self.file)!r})"

    def cells(self) -> list[Cell]:
        """Return the networks of the study, teachers before their students. `str` of a cell is its path."""
        with self._entered() as study:
            return all_cells(study)

    def run(self, *options: str, cores: int | Literal["all"] = "all") -> pd.DataFrame:
        """Make what is to do, print what Snakemake prints, and return the table.

        This starts the command `snakemake`, not Snakemake's Python API: the API reads no profile, changes the working
        directory of this process, and leaves its signal handlers and kd's patches behind. An interrupt (Ctrl-C, or a
        notebook's stop) interrupts the command, whose jobs save their state.

        Args:
            options: more options of the command, such as `"--profile", "slurm"`.
            cores: how many cores to use.
        Raises RunFailed that names what failed; ConfigError if no Snakefile is found.
        """
        code = _told(self._command(*options, "--cores", str(cores)), self.root)
        if code:
            raise RunFailed(f"snakemake ended with exit code {code}{self._failures()}")
        return self.table()

    def table(self) -> pd.DataFrame:
        """Return the tidy table, one row per experiment and cell. Raises DataError if it is not that of now."""
        import pandas as pd

        with self._entered() as study:
            product = products.table(study.study)
            _demand(Judge.of_study(study), product)
            return pd.read_parquet(project.on_disk(product.folder / "table.parquet"))

    def figures(self) -> dict[str, Path]:
        """Return {EXPERIMENT.FIGURE: absolute path of its PNG} of the figures that are those of now."""
        with self._entered() as study:
            judge = Judge.of_study(study)
            drawn = [products.figure(study.study, *one) for one in study.drawn]
            return {Path(one.name).name: self.root / f"{one.name}.png" for one in drawn if not judge.to_do(one)}

    def network(self, cell: Cell | str) -> Network:
        """Return the trained network of a cell, or of its path, on the CPU and in evaluation mode.

        It maps images [B, C, H, W] to logits [B, K]; `examples` has images as it wants them. Raises DataError if the
        network is not that of now, diverged, or its data are gone; Damaged if its weights are not as published.
        """
        with self._opened(cell) as (judge, cell, asked):
            from kd.train.material import prepared
            from kd.train.published import load_network

            _demand(judge, products.network(cell))
            if cell.is_ensemble:
                raise ConfigError(f"{cell}: several networks; ask for one of them:\n{_listed(cell.members)}")
            if (judge.manifest(products.network(cell)) or {})["status"] != "ok":
                raise DataError(f"{cell}: diverged, so there is no network")
            _demand(judge, products.data(cell.dataset.name))
            return load_network(cell, prepared(cell, asked)).eval()

    def examples(self, cell: Cell | str) -> Examples | StreamedExamples:
        """Return what a cell, or the cell of a path, learns from and is tested on.

        `examples.plain("test", index, size)` yields images [B, C, H, W] as the network wants them; `test_labels` [N]
        are their classes. Raises DataError if the data are not there.
        """
        with self._opened(cell) as (judge, cell, asked):
            from kd.train.material import prepared

            _demand(judge, products.data(cell.dataset.name))
            return prepared(cell, asked).examples

    # -- how ----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _entered(self) -> Iterator[Study]:
        """Make the project the root, and yield the study as its file says now."""
        with project.enter(self.root):
            overlay = {} if self.file == self.root / DEFAULT else read_yaml(self.file)
            yield validate(merged(overlay))

    @contextlib.contextmanager
    def _opened(self, cell: Cell | str) -> Iterator[tuple[Judge, Cell, Recipe]]:
        with self._entered() as study:
            cell = parse_cell(str(cell))
            if cell not in (known := all_cells(study)):
                raise ConfigError(f"{cell}: no cell of study {study.study}, which has {len(known)}: see .cells()")
            yield Judge.of_study(study), cell, Recipe.parse(recipe(study, cell))

    def _command(self, *options: str) -> list[str]:
        place = next((place for place in (self.root, _CODE) if place.joinpath("Snakefile").is_file()), None)
        if place is None:
            raise ConfigError(f"no Snakefile in {self.root} or {_CODE}: run a study in a checkout of kd")
        command = [sys.executable, "-m", "snakemake", *options, "--snakefile", str(place / "Snakefile")]
        return command if self.file == self.root / DEFAULT else [*command, "--configfile", str(self.file)]

    def _failures(self) -> str:
        """Say which cells failed and why, as lines of a message."""
        from kd.study.status import standings

        with self._entered() as study:
            cells, others = standings(Judge.of_study(study))
            failed = [str(one) for one in (*cells, *others) if one.status == "failed"]
        return f"; what failed:\n{itemised(failed)}" if failed else "; its output says why"


def _root_of(file: Path) -> Path:
    for place in file.parents:
        if place.joinpath(DEFAULT).is_file():
            return place
    raise ConfigError(f"{file}: no {DEFAULT} in its folder or in one above it; a project of kd has one")


def _demand(judge: Judge, product: Product) -> None:
    """Raise DataError unless a product is there and is that of now."""
    if why := judge.to_do(product):
        raise DataError(f"{product.name}: {why}; make it with .run(), or with snakemake")


def _listed(cells: tuple[Cell, ...]) -> str:
    return "\n".join(f"  {cell}" for cell in cells)


def _told(command: list[str], folder: Path) -> int:
    """Run a command in `folder`, print what it says as it says it, and return its exit code.

    It gets a process group of its own: in a terminal Ctrl-C would reach it twice, in a notebook not at all.
    """
    paths = [str(_CODE), *filter(None, [os.environ.get("PYTHONPATH")])]  # so that its jobs run this kd
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as running:
        try:
            _print_lines(running)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGINT)
            _print_lines(running)  # until the jobs have saved their state
            raise
    return running.returncode


def _print_lines(running: subprocess.Popen[str]) -> None:
    for line in running.stdout or ():
        print(line, end="", flush=True)
