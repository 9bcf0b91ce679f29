"""What each loss costs: its epochs against those of cross-entropy, and the parameters that it adds. Writes losses.csv.

All losses of workflow/studies/methods.yaml train WRN-16-2 -> WRN-16-1 on made images of 32x32 with 100 classes, on one
thread, each beside a network by cross-entropy; a number is the median over rounds of the ratio of their last epochs.
docs/losses.md shows them: they are those of this pair on this processor, where the teacher's logits come from a bank
unless the loss runs the teacher.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

import yaml

from bench import RESULTS
from bench.parts import write_cifar_shaped
from kd.__main__ import main as kd
from kd.core.startup import keep_memory
from kd.machine.processor import cpu_name
from kd.study.cells import Cell
from kd.study.config import merged, validate
from kd.study.expansion import all_cells
from kd.study.judge import Judge

METHODS = Path("workflow/studies/methods.yaml").resolve()
OUT = "losses.csv"


def study() -> dict:
    """Return the gallery of all losses on a smaller pair and protocol."""
    experiments = yaml.safe_load(METHODS.read_text())["experiments"]
    for experiment in experiments.values():
        experiment |= {"teacher": "wrn-16-2", "student": "wrn-16-1"}
        del experiment["figure"]
    protocol = {"name": "cost", "epochs": 2, "batch": 64, "evaluate": "last", "precision": "fp32", "compile": "never"}
    return {"study": "cost", "dataset": "cifar100", "seeds": [0], "protocol": protocol, "experiments": experiments}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=512)
    options = parser.parse_args()
    out = (RESULTS / OUT).resolve()
    keep_memory()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        measured = ratios(options.images, options.rounds)
    with open(out, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["loss", "epoch_against_ce", "added_parameters", "rounds", "processor"])
        for loss, (found, parameters) in sorted(measured.items()):
            lines.writerow([loss, f"{median(found):.1f}", parameters, options.rounds, cpu_name()])


def ratios(images: int, rounds: int) -> dict[str, tuple[list[float], int]]:
    """Train every student in turns; return {loss: (its epoch against CE's in each round, parameters added)}."""
    Path("config.yaml").write_text(yaml.safe_dump(study()))
    whole = validate(merged(study()))
    write_cifar_shaped(Path(), Judge.of_study(whole), train=images, test=200)
    students = [cell for cell in all_cells(whole) if cell.stage.network == "wrn-16-1"]
    (ce,) = (cell for cell in students if cell.stage.objective.loss == "ce")
    found, parameters = defaultdict(list), {}
    for number in range(rounds):
        for cell in students:
            beside, _ = _trained(ce)
            took, parameters[_name(cell)] = _trained(cell)
            found[_name(cell)].append(took / beside)
            print(f"{number + 1}/{rounds} {_name(cell):30} {took:.2f} s, {took / beside:.2f} of CE", flush=True)
    return {loss: (found[loss], parameters[loss]) for loss in found}


def _trained(cell: Cell) -> tuple[float, int]:
    """Train a cell and delete it; return the seconds of its last epoch and the parameters that its loss added."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert kd(["train", cell.path]) == 0, cell.path
    *_, last = csv.DictReader(Path(cell.path, "timings.csv").read_text().splitlines())
    parameters = json.loads(Path(cell.path, "manifest.json").read_text())["objective_parameters"]
    shutil.rmtree(cell.path)
    return float(last["seconds"]), parameters


def _name(cell: Cell) -> str:
    """Name a loss, and where it has two settings in the gallery the one that standardises logits."""
    chosen = cell.stage.objective
    return chosen.loss + (" standardised" if chosen.resolved.get("logits") == "standardised" else "")


if __name__ == "__main__":
    main()
