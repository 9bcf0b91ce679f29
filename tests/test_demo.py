"""The demo's figure and numbers in README.md and docs/results.md are those of the demo of now.

Another processor trains to slightly other numbers, so the rows that the figure shows are kept beside it. Whether the
demo's networks are still those is asked by test_workflow.py, which trains them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from bench import demo
from kd.report.own_claims import read_table

AGAIN = "make demo-figure makes the picture and its rows anew; then mend the texts beside it"
TEXTS = ("README.md", "docs/results.md")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    return read_table(demo.ROWS)


def test_the_figure_is_of_the_cells_and_recipes_of_the_demo_of_now(rows) -> None:
    assert dict(zip(rows["cell"], rows["recipe"], strict=True)) == demo.recipes(), AGAIN


def test_the_figure_is_drawn_as_it_would_be_now(rows, tmp_path: Path) -> None:
    demo.picture(rows)(tmp_path / "now.png")
    now, shown = (np.asarray(Image.open(path).convert("RGB"), int) for path in (tmp_path / "now.png", demo.PICTURE))
    assert now.shape == shown.shape, "python -m bench.demo"
    # Another processor may round a few borders otherwise; a single letter is more than that.
    other = (abs(now - shown) > 32).any(axis=2).sum()
    assert other <= 10, f"{other} pixels differ; python -m bench.demo draws it anew"


@pytest.mark.parametrize("name", TEXTS)
def test_the_texts_beside_the_figure_say_what_its_rows_do(name: str, rows) -> None:
    text = " ".join(Path(name).read_text().split())
    caption = re.search(r"!\[[^]]*\]\([./]*reports/demo-noise\.png\) (\*.*?[^*]\*)(?!\*)", text)[1]
    assert rows["commit"].iloc[0] in caption, AGAIN
    assert f"{rows['seed'].nunique()} seeds" in caption
    assert f"{100 * rows['noise_rate'].max():g} %" in caption
    assert rows.loc[rows["stages"] > 1, "networks_name"].unique().tolist() == ["WRN-10-2 → ResNet8"]
    assert "WRN-10-2 → ResNet8" in caption


def test_what_is_said_of_the_demo_is_what_its_rows_say(rows) -> None:
    text = " ".join(Path("docs/results.md").read_text().split())
    low, high = re.search(r"distilled students lie (\d+) to (\d+) points above CE", text).groups()
    assert (int(low), int(high)) == demo.gain(rows), AGAIN
    kl = rows[(rows["loss"] == "kl") & (rows["noise_rate"] > 0)].groupby("tau")["test_top1"].mean()
    assert kl.is_monotonic_decreasing, AGAIN  # "fall as the temperature rises"
