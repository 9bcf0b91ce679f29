"""The page: one file, escaped, complete, and honest about what differs and what diverged."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from conftest import study, written
from made import table as made

from kd.core.errors import ConfigError, StorageError
from kd.report import page as report
from kd.report import verdict

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
STUDY = {"name": "made", "lines": ["A made study."], "counts": {"networks": 66}}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "losses.dots.png"
    path.write_bytes(PIXEL)
    return path


def rows() -> pd.DataFrame:
    return pd.concat([made.grid(), made.lose(made.losses(("wrn-16-4",)), "mse", 1)], ignore_index=True)


def lines(table: pd.DataFrame) -> dict[str, dict]:
    return {line["objectives"]: line for _, group in report.means(table) for line in group}


class _Checker(HTMLParser):
    """Collect what a browser would load or run, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loads, self.tags, self.open, self.alts = [], set(), [], []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.add(tag)
        values = dict(attributes)
        self.loads += [values[key] for key in ("src", "href") if values.get(key)]
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_the_page_needs_no_other_file_and_runs_nothing(picture: Path) -> None:
    checker = checked(report.render(STUDY, rows(), [("losses", "dots", picture, "Dots. n = 3")]))
    assert all(load.startswith(("data:image/", "#")) for load in checker.loads)
    assert not {"script", "iframe", "object", "link"} & checker.tags
    assert all(checker.alts)


def test_names_from_the_study_are_escaped(picture: Path) -> None:
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    table = rows().assign(experiment=evil, device=evil)
    study = {"name": evil, "lines": [evil], "counts": {evil: evil}, "sentences": {evil: evil}, "commands": [evil]}
    checker = checked(report.render(study, table, [(evil, evil, picture, evil)]))
    assert "script" not in checker.tags
    assert all(load.startswith(("data:image/", "#")) for load in checker.loads)


def test_the_sharper_picture_is_shown_where_there_is_one(picture: Path) -> None:
    assert "data:image/png" in report.render(STUDY, rows(), [("losses", "dots", picture, "")])
    picture.with_name("losses.dots.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert "data:image/svg+xml" in report.render(STUDY, rows(), [("losses", "dots", picture, "")])


def test_a_missing_picture_stops_the_page() -> None:
    with pytest.raises(StorageError, match=r"nowhere\.png"):
        report.render(STUDY, rows(), [("losses", "dots", Path("nowhere.png"), "")])


def test_every_experiment_has_its_sentence_and_its_means() -> None:
    page = report.render(STUDY, rows(), [])
    assert "WRN-28-4 → WRN-16-2 on cifar100 (clean labels), by CE and KL (τ = 1, 3, 5, 20, ∞; α = 0.1, 0.5, 1)" in page
    line = lines(made.grid())["KL τ=3"]
    assert line["test"] in page
    assert re.fullmatch(r"\d\d\.\d\d ± \d\.\d\d", line["test"])
    assert line["n"] == "3"


def test_differences_to_ce_are_paired_and_decide_nothing() -> None:
    found = lines(made.grid())
    assert found["CE"]["against"] == "–"
    assert found["KL τ=20"]["against"].startswith("+1.69 [")
    assert found["KL τ=1, α=0.1"]["against"] == "+0.12 [−0.54, +0.77]"


def test_means_are_grouped_by_path_and_data() -> None:
    titles = [title for title, _ in report.means(made.noise(rates=(0.4, 0.2)))]
    assert titles == [
        f"{path}, {rate} % symmetric label noise" for rate in (20, 40) for path in ("WRN-16-2", "WRN-28-4 → WRN-16-2")
    ]


def test_few_objectives_are_compared_two_by_two_on_the_page_and_many_are_not() -> None:
    page = report.render(STUDY, rows(), [])
    assert "Objectives of losses compared two by two" in page
    assert "CE against MSE" in page
    assert "Objectives of grid compared two by two" not in page


def test_diverged_cells_are_listed_and_counted() -> None:
    page = report.render(STUDY, rows(), [])
    assert "1 of 66 networks diverged" in page
    assert "results/cifar100/paper/wrn-28-4.ce.s0/wrn-16-4.mse.s1" in page
    assert "2 of 3, 1 diverged" in page


def test_differing_environments_are_pointed_out() -> None:
    """Fault 24: what the manifests tell, the page shows."""
    mixed = rows()
    mixed.loc[0, "precision"] = "fp32"
    assert "not all trained alike" in report.render(STUDY, mixed, [])
    assert "not all trained alike" not in report.render(STUDY, rows(), [])


def test_a_cell_of_two_experiments_counts_once_in_the_totals() -> None:
    table = pd.concat([made.grid(), made.grid().assign(experiment="again")])
    assert sum(line["cells"] for line in report.environments(table.drop_duplicates("cell"))) == 48
    assert "48 networks" in report.render(STUDY, table, [])


def test_durations_are_spelled_for_readers() -> None:
    assert [report.duration(seconds) for seconds in (42, 750, 11_520)] == ["42 s", "12.5 min", "3.2 h"]


def test_figure_means_and_page_come_from_the_table_in_the_folder(tmp_path: Path) -> None:
    table = made.losses(("wrn-16-2",))
    table.to_parquet(tmp_path / "table.parquet")
    made.curves(table, 3).to_parquet(tmp_path / "curves.parquet")
    written(report.draw(tmp_path, "losses", "dots"), tmp_path)
    written(report.means_and_comparisons(tmp_path), tmp_path)
    written(verdict.verdict(tmp_path), tmp_path)
    written(report.page(study(study="made"), tmp_path, "snakemake --cores all"), tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("losses.dots", "verdict") for kind in ("png", "pdf", "svg", "txt")
    }
    assert len(pd.read_csv(tmp_path / "means.csv")) == 6
    assert len(pd.read_csv(tmp_path / "comparisons.csv")) == 15
    page = (tmp_path / "report.html").read_text()
    checked(page)
    assert "MSE beats KL (τ = 3)" in page
    assert "3 epochs of SGD, batch 64, learning rate 0.1, times 0.1 after epochs 1 and 2" in page
    with pytest.raises(ConfigError, match="did you mean 'losses'"):
        report.draw(tmp_path, "loses", "dots")
