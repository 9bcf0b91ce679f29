"""The page: one file, escaped, complete, and honest about what differs and what diverged."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from conftest import study, written
from made import table as made

from kd.core.errors import ConfigError, StorageError
from kd.report import means, verdict
from kd.report import page as report
from kd.report.figures import wording
from kd.report.inline import inline
from kd.report.table import in_latex

SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9">
<metadata>of whom</metadata><defs><style>* {fill: red}</style><path id="m" d="M 0.123456 1 \nL 2 2"/></defs>
<script>alert(1)</script><g id="figure_1" onclick="alert(1)"><use xlink:href="#m" style="clip-path: url(#m)"/>
<use xlink:href="https://example.org/x.svg#m"/><image xlink:href="data:image/png;base64,AA=="/></g></svg>"""
STUDY = {"name": "made", "trained": ["A made study."], "counts": {"networks": 66}}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "losses.dots.svg"
    path.write_text(SVG)
    return path


def rows() -> pd.DataFrame:
    return pd.concat([made.grid(), made.lose(made.losses(("wrn-16-4",)), "mse", 1)], ignore_index=True)


def lines(table: pd.DataFrame) -> dict[str, dict]:
    return {line["objectives"]: line for _, group in means.means(table) for line in group}


class _Checker(HTMLParser):
    """Collect what a browser would load, follow or run, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loads, self.links, self.names, self.tags, self.open, self.scripts = [], [], [], [], [], []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        values = dict(attributes)
        (self.links if tag == "a" else self.loads).extend(values[key] for key in ("src", "href") if values.get(key))
        self.names += [values["id"]] if "id" in values else []
        assert not any(name.startswith("on") for name in values)
        assert tag != "svg" or values["aria-label"]
        if tag not in ("meta", "input", "link", "br"):
            self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> _Checker:
    """Check what holds for every page: it loads nothing, and runs the one script that its policy names."""
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in checker.loads)
    assert all(link.startswith(("#", "../../results/")) for link in checker.links)
    assert {link[1:] for link in checker.links if link.startswith("#")} <= set(checker.names)
    assert len(checker.names) == len(set(checker.names))
    assert not {"iframe", "object", "link", "img", "metadata"} & set(checker.tags)
    assert checker.tags.count("style") == checker.tags.count("script") == 1
    digest = hashlib.sha256("".join(checker.scripts).encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in html.unescape(page)
    return checker


def test_the_page_needs_no_other_file_and_runs_its_own_script_alone(picture: Path) -> None:
    figures = [("losses", "dots", picture, "Dots. n = 3"), ("losses", "dots", picture, "Dots. n = 3")]
    checker = checked(report.render(STUDY, rows(), figures))
    assert checker.tags.count("svg") == 2


def test_of_a_figure_only_what_draws_is_on_the_page(picture: Path) -> None:
    found = inline(picture, "a", 'by "alt"')
    assert found == (
        '<svg viewBox="0 0 9 9" role="img" aria-label="by &quot;alt&quot;">'
        '<defs><path id="a-m" d="M 0.12 1 L 2 2"></path></defs>'
        '<g id="a-figure_1"><use href="#a-m" style="clip-path: url(#a-m)"></use><use></use>'
        '<image href="data:image/png;base64,AA=="></image></g></svg>'
    )


@pytest.mark.slow
def test_names_from_the_study_are_escaped(picture: Path) -> None:
    evil = '</script><script>alert("x")</script></style><img src=x onerror=alert(1)>'
    table = rows().assign(experiment=evil, device=evil, dataset=evil)
    study = {"name": evil, "trained": [evil], "counts": {evil: evil}, "commands": [evil], "versions": evil}
    checked(report.render(study, table, [(evil, evil, picture, evil)], (picture, evil, verdict.judged(rows()))))


def test_a_missing_picture_stops_the_page() -> None:
    with pytest.raises(StorageError, match=r"nowhere\.svg"):
        report.render(STUDY, rows(), [("losses", "dots", Path("nowhere.svg"), "Dots.")])


@pytest.mark.slow
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
    titles = [title for title, _ in means.means(made.noise(rates=(0.4, 0.2)))]
    assert titles == [
        f"{path}, {rate} % symmetric label noise" for rate in (20, 40) for path in ("WRN-16-2", "WRN-28-4 → WRN-16-2")
    ]


def test_what_holds_for_every_figure_is_said_once(picture: Path) -> None:
    own = wording.fine_print(made.losses())
    caption = f"Dots.\nCE has the highest mean.\n{own}\nThe axis is cut.\n{wording.METHOD}"
    page = html.unescape(report.render(STUDY, made.losses(), [("losses", "dots", picture, caption)] * 2))
    assert page.count(wording.METHOD) == page.count(own) == page.count("Student t intervals") == 1
    assert page.count("<p>CE has the highest mean.</p><p>The axis is cut.</p>") == 2


@pytest.mark.slow
def test_claims_that_nobody_measured_are_one_folded_line(picture: Path) -> None:
    lines = verdict.judged(made.losses(("wrn-16-2",)))
    missing = lines.loc[lines["verdict"] == verdict.MISSING, "sentence"]
    page = report.render(STUDY, made.losses(("wrn-16-2",)), [], (picture, "The claims.\nHow they are judged.", lines))
    folded = re.search(
        r"<details>\s*<summary>Claims that this study does not measure: (\d+).*?</details>", page, re.DOTALL
    )
    assert int(folded[1]) == len(missing) > 0
    assert all(sentence in html.unescape(folded[0]) for sentence in missing)
    assert "not measured</td>" not in page


@pytest.mark.slow
def test_the_first_sentences_say_what_is_asked_found_and_claimed(picture: Path) -> None:
    def said(table: pd.DataFrame) -> list[str]:
        page = report.render(STUDY, table, [], (picture, "The claims.", verdict.judged(table)))
        return [html.unescape(found) for found in re.findall(r'class="lead">(.*?)</p>', page)]

    asked, found, claims = said(made.losses(("wrn-16-2",)))
    assert asked == (
        "Which objective gives the best WRN-16-2 on cifar100 (clean labels): CE, KL (4 settings) and MSE, "
        "in 18 networks with 3 seeds?"
    )
    assert found.startswith("None of 5 comparisons of a distilled student with cross-entropy alone is decided, because")
    assert re.search(r"is \+\d\.\d\d \[.*\] points \((MSE|KL τ=\S+) over CE; WRN-28-4 → WRN-16-2\)\.$", found)
    assert re.fullmatch(r"Of \d+ tests of the claims below, \d+ are undecided; \d+ claims are not measured\.", claims)
    _, found, claims = said(made.losses(("wrn-16-2",), seeds=range(8)))
    assert re.match(r"\d of 5 comparisons .* are decided, \d for the student", found)
    assert re.match(r"Of \d+ tests of the claims below, \d+ holds?", claims)


def test_every_network_has_a_row_with_links_to_its_teacher_and_files() -> None:
    teacher = made.frame([made.cell_row("teachers", (("wrn-28-4", "ce", 0),))])
    table = pd.concat([made.losses(("wrn-16-2",)), teacher], ignore_index=True)
    found = {line["folder"]: line for line in report.networks(table)}
    student = found["../../results/cifar100/paper/wrn-28-4.ce.s0/wrn-16-2.kl-tau3.s1"]
    assert student["teacher"] == found["../../results/cifar100/paper/wrn-28-4.ce.s0"]["number"]
    assert (student["before"], student["name"], student["seed"]) == ("WRN-28-4 → ", "WRN-16-2", 1)
    page = report.render(STUDY, table, [])
    checked(page)
    assert page.count('<tr id="network-') == len(found) == 19
    assert "results/cifar100%2Bsym" in report.render(STUDY, made.noise(rates=(0.2,)), [])


@pytest.mark.slow
def test_few_objectives_are_compared_two_by_two_on_the_page_and_many_are_not() -> None:
    page = report.render(STUDY, rows(), [])
    assert "Objectives of losses compared two by two" in page
    assert "CE against MSE" in page
    assert "Objectives of grid compared two by two" not in page


@pytest.mark.slow
def test_diverged_cells_are_listed_and_counted() -> None:
    page = report.render(STUDY, rows(), [])
    assert "1 of 66 networks diverged" in page
    assert "results/cifar100/paper/wrn-28-4.ce.s0/wrn-16-4.mse.s1" in page
    assert "2 of 3, 1 diverged" in page


@pytest.mark.slow
def test_differing_environments_are_pointed_out() -> None:
    """Fault 24: what the manifests tell, the page shows."""
    mixed = rows()
    mixed.loc[0, "precision"] = "fp32"
    assert "not all trained alike" in report.render(STUDY, mixed, [])
    assert "not all trained alike" not in report.render(STUDY, rows(), [])


@pytest.mark.slow
def test_a_cell_of_two_experiments_counts_once_in_the_totals() -> None:
    table = pd.concat([made.grid(), made.grid().assign(experiment="again")])
    assert sum(line["cells"] for line in report.environments(table.drop_duplicates("cell"))) == 48
    assert "48 networks" in report.render(STUDY, table, [])


@pytest.mark.slow
def test_figure_means_and_page_come_from_the_table_in_the_folder(tmp_path: Path) -> None:
    table = made.losses(("wrn-16-2",))
    table.to_parquet(tmp_path / "table.parquet")
    made.curves(table, 3).to_parquet(tmp_path / "curves.parquet")
    written(report.draw(tmp_path, "losses", "dots"), tmp_path)
    written(means.means_and_comparisons(tmp_path), tmp_path)
    written(verdict.verdict(tmp_path), tmp_path)
    written(report.page(study(study="made"), tmp_path, "snakemake --cores all"), tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("losses.dots", "verdict") for kind in ("png", "pdf", "svg", "txt")
    } | {"losses.dots.column.svg"}
    assert len(pd.read_csv(tmp_path / "means.csv")) == 6
    assert len(pd.read_csv(tmp_path / "comparisons.csv")) == 15
    tables = {name: (tmp_path / f"{name}.tex").read_text() for name in ("means", "comparisons")}
    tables["table"] = in_latex(table.assign(dataset="50 % of_it"))
    assert {name: text.count(" \\\\\n") - 1 for name, text in tables.items()} == {
        "means": 6,
        "comparisons": 15,
        "table": 18,
    }
    assert all(text.isascii() for text in tables.values())
    assert r"50 \% of\_it" in tables["table"]
    page = (tmp_path / "report.html").read_text()
    checked(page)
    assert "MSE beats KL (τ = 3)" in page
    assert "3 epochs of SGD, batch 64, learning rate 0.1, times 0.1 after epochs 1 and 2" in page
    with pytest.raises(ConfigError, match="did you mean 'losses'"):
        report.draw(tmp_path, "loses", "dots")
