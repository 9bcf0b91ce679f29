"""The study of record, drawn and judged again from its committed table and analyses, which trains nothing.

python -m bench.record    write means, comparisons, verdict, pictures and captions in reports/record/

Curves, memorised, densities and planes show epochs and pre-logits, which are not committed: only a training of
workflow/studies/record.yaml draws them again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd

from kd.core.files import write_atomic
from kd.measure.frames import frame_files, setting
from kd.report import means, page, verdict
from kd.report.figures import ANALYSES
from kd.report.identity import identity
from kd.study.paths import parse_cell

RECORD = Path("reports/record")
DRAWN = {"losses": ["dots", "selection", "fidelity", "calibration", "limits"], "alpha": ["dots"]}
DRAWN |= {"noise": ["tau"], "chains": ["chains"]}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for path, content in made(Path(scratch)).items():
            if not path.endswith((".svg", ".pdf")):
                write_atomic(RECORD / path, content)
                print(RECORD / path)


def made(folder: Path) -> dict:
    """Return what is made of the committed table and analyses, by its path in the record; `folder` is scratch."""
    _place(folder, "table", table())
    for name in {ANALYSES[figure] for figures in DRAWN.values() for figure in figures if figure in ANALYSES}:
        _place(folder, f"analyses/losses.{name}", analysis(f"losses.{name}"))
    _place(folder, "curves", table())  # of which none of these figures shows anything
    found = means.means_and_comparisons(folder) | verdict.verdict(folder)
    found = {path: content for path, content in found.items() if "originals" not in path}  # nobody published any
    for experiment, figures in DRAWN.items():
        for figure in figures:
            found |= page.draw(folder, experiment, figure)
    return found


def table() -> pd.DataFrame:
    """Return the committed table with the columns that tables have by now."""
    rows = pd.read_csv(RECORD / "table.csv")
    cells = [parse_cell(path) for path in rows["cell"]]
    named = [setting(c, {"realised_rate": r}) | identity(c) for c, r in zip(cells, rows["realised_rate"], strict=True)]
    rows = rows.assign(**pd.DataFrame(named, rows.index)).astype({"teacher_seed": "Int64"})
    top1 = rows.drop_duplicates("cell").set_index("cell")["test_top1"]
    return rows.assign(teacher_top1=rows["teacher_cell"].map(top1))


def analysis(name: str) -> pd.DataFrame:
    """Return a committed analysis with the columns that analyses have by now."""
    frame = pd.read_csv(RECORD / f"analyses/{name}.csv", keep_default_na=False, na_values=[""])
    reference = frame["reference"].fillna("")
    lineages = {path: parse_cell(path).seedless if path else "" for path in reference.unique()}
    lineage = frame["cell"].map({path: parse_cell(path).seedless for path in frame["cell"].unique()})
    return frame.assign(reference=reference, reference_lineage=reference.map(lineages), lineage=lineage)


def _place(folder: Path, name: str, frame: pd.DataFrame) -> None:
    for path, content in frame_files(frame, name).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)


if __name__ == "__main__":
    main()
