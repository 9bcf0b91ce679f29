"""Figures: all draw, say what they show, keep their words apart, and are the same bytes in every process."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from conftest import study, values
from made import analyses as made_analyses
from made import table as made
from made.drawn import words_on
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from kd.__main__ import main
from kd.core.errors import ConfigError, DataError
from kd.losses import LOSSES, Loss, Number
from kd.losses.mse import mse
from kd.report import figures
from kd.report.figures import ANALYSES, FIGURES, naming, style
from kd.report.statistics import paired
from kd.study.cells import spell_objective
from kd.study.expansion import cells_of

HERE = Path(__file__).parent
EPOCHS = 40

SMALL = {"seeds": (0, 1)}
TABLES = {
    "heatmap": [
        made.grid(),
        made.grid(taus=(1, 3), alphas=(1.0,), **SMALL),
        made.grid(taus=[*made.TAUS, 50.0]),
        made.lose(made.lose(made.grid(), "kl-tau20-alpha0.5", 2), "kl-tauinf-alpha0.1", 0, 1, 2),
        made.lose_all(made.grid(taus=(1, 3))),
        pd.concat([made.grid(), made.grid(noise_rate=0.4)]),
    ],
    "dots": [
        made.losses(),
        made.losses(("resnet8",), ["ce", "kl-tau3"], seeds=(0,)),
        made.lose(made.lose(made.losses(("wrn-16-2", "wrn-16-4")), "mse", 0, 1, 2), "kl-tau3", 1),
        made.lose(made.losses(), "kl-tau20", 0),
        pd.concat([made.losses(("wrn-16-2",)), made.early(made.losses(("wrn-16-2",)))]),
        made.lose(made.noise(taus=(1, 3)), "kl-tau3", 1),
    ],
    "tests": [
        made.scored(made.losses(("wrn-16-2",), ["ce", "kl-tau3", "mse"])),
        made.scored(made.losses(("resnet8",), ["ce", "kl-tau3"], seeds=(0,)), ("fog",)),
        made.scored(made.lose(made.lose(made.losses(("wrn-16-2", "wrn-16-4")), "mse", 0, 1, 2), "kl-tau3", 1)),
    ],
    "tau": [
        made.noise(),
        made.noise(rates=(0.0,), taus=(1, 3), **SMALL),
        made.lose(made.noise(rates=(0.0, 0.2, 0.4)), "kl-tau20", 0),
        pd.concat([made.grid(taus=(1, 3), noise_rate=rate) for rate in (0.0, 0.4)]),
        made.lose_all(made.noise(rates=(0.2, 0.4))),
        made.on_selections(),
    ],
    "chains": [made.chains(), made.lose(made.chains(("kl-tau3", "mse")), "mse", 1), made.long_chains()],
    "fractions": [
        made.fractions(),
        made.fractions(parts=(0.1, 1), objectives=("ce", "mse"), seeds=(0,)),
        made.lose(made.lose(made.fractions(), "kl-tau20", 0, 1, 2), "kl-tau3", 1),
        pd.concat([made.fractions(), made.renamed(made.fractions(), "wrn-16-2.", "wrn-16-4.")]),
    ],
    "kept": [
        made.ensembles(),
        made.ensembles(objectives=("ce", "kl-tau3"), seeds=(0,)),
        made.lose(made.lose(made.ensembles(), "mse", 0, 1, 2), "kl-tau3", 1),
        pd.concat([made.ensembles(), made.renamed(made.ensembles(("kl-tau3",)), "+1+2/", "+1+2-meanprob/")]),
    ],
    "ranks": [
        made.losses(),
        made.losses(("wrn-16-2", "wrn-16-4"), ["ce", "kl-tau3", "mse"], seeds=(0,)),
        made.lose(made.lose(made.losses(), "mse", 0, 1, 2), "kl-tau3", 1),
        made.losses(("wrn-16-2", "wrn-16-4"), ["kl-tau1", "kl-tau3", "mse"], **SMALL),
        made.lose(made.losses(("wrn-16-2",)), "mse", 1),
        made.losses(("wrn-16-2",), ["kl-tau1", "kl-tau3", "mse"]),
    ],
    "curves": [
        made.losses(("resnet8",), ["ce", "kl-tau3", "mse"], **SMALL),
        made.lose(made.grid(**SMALL), "kl-tauinf-alpha0.1", 0, 1),
        made.losses(("wrn-16-2",), ["ce", *map(made.spell, made.TAUS), "mse", "mse-weight0.5"], seeds=(0,)),
    ],
    "memorised": [
        made.noise(taus=(1, 3)),
        made.lose(made.noise(rates=(0.4,), taus=(1, 3), **SMALL), "mse", 0, 1),
        made.on_selections(**SMALL),
    ],
    "gaps": [
        made.losses(("resnet8",), ["akl", "akl-ratioforward", "akl-ratioreverse", "akl-tau4"], **SMALL),
        made.lose(made.losses(("wrn-16-2", "resnet8"), ["akl", "akl-ratioforward"]), "akl", 0, 1, 2),
    ],
    "cost": [
        made.losses(("wrn-16-2",), ["ce", "kl-tau3", "mse", "one-tau3-branches3", "one-tau3-branches3-gatemean"]),
        made.lose(made.lose(made.losses(("wrn-16-2", "wrn-16-4")), "mse", 0, 1, 2), "kl-tau3", 1),
        made.losses(("resnet8",), ["ce", "one-tau3-branches3"], seeds=(0,)),
        made.chains(),
    ],
    "selection": [
        made.losses(("wrn-16-2",)),
        made.lose(made.lose(made.losses(("wrn-16-2", "wrn-16-4")), "mse", 0, 1, 2), "kl-tau3", 1),
        pd.concat([made.losses(("wrn-16-2",), seeds=(0,)), made.early(made.losses(("wrn-16-2",), seeds=(0,)))]),
    ],
    "detector": [
        made.selections(),
        made.selections(rates=(0.4,), by=("fine",), seeds=(0,)),
        made.selections(rates=(0.2, 0.4), stops=(10, 40, 80)),
        pd.concat([made.noise(), made.selections()]),
    ],
}
TABLES["inference"] = [
    made.losses(("wrn-16-2",)),
    made.lose(made.losses(("wrn-16-2", "wrn-16-4", "resnet8")), "mse", 0, 1, 2),
    made.noise(rates=(0.0, 0.4), **SMALL),
]
OF_SELECTIONS = {"detector"}  # which show neither objectives nor what students reach
PER_EPOCH = {"curves", "memorised", "gaps"}
ANSWERED = [
    made_analyses.on_digits(rows)
    for rows in (
        made.losses(("wrn-16-2",)),
        made.losses(("resnet8",), ["ce", "kl-tau3"], seeds=(0,)),
        made.lose(made.lose(made.losses(("wrn-16-2", "wrn-16-4")), "mse", 0, 1, 2), "kl-tau3", 1),
        made.losses(("wrn-28-4",), ["ce", "mse"]),  # the teacher is one of the baselines
        made.noise(rates=(0.0, 0.4), **SMALL),
        made_analyses.of_ensembles(made.losses(("wrn-16-2",), ["ce", "mse"])),
    )
]
TABLES |= dict.fromkeys(ANALYSES, ANSWERED)
CASES = [
    pytest.param((name, rows), id=f"{name}-{n}", marks=[pytest.mark.slow] if n else [])
    for name, all in TABLES.items()
    for n, rows in enumerate(all)
]
_DRAWN: dict[tuple[str, int], tuple[Figure, str, list[Text]]] = {}


def drawn(name: str, rows: pd.DataFrame) -> tuple[Figure, str, list[Text]]:
    """Return figure, caption and the words on the page; each case is drawn once for all the laws."""
    if (name, id(rows)) not in _DRAWN:
        figure, caption = figures.draw(name, rows, beside(name, rows))
        _DRAWN[name, id(rows)] = figure, caption, words_on(figure)
    return _DRAWN[name, id(rows)]


class Case(NamedTuple):
    """A figure of a table, and what was drawn."""

    name: str
    rows: pd.DataFrame
    figure: Figure
    caption: str
    words: list[Text]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Each figure of each table. Because of its scope all laws of a case follow each other, so one process draws it."""
    name, rows = request.param
    return Case(name, rows, *drawn(name, rows))


def beside(name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return what a figure is drawn from beside the table: an analysis, or the curves."""
    if name not in ANALYSES:
        return made.curves(rows if name in PER_EPOCH else rows.head(1), EPOCHS)
    return made_analyses.analysis(ANALYSES[name], rows)


def test_every_figure_has_cases() -> None:
    helpers = {"__init__", "analysed", "column", "differences", "epochs", "hover", "naming", "style", "wording"}
    helpers |= {"verdict"}
    assert list(TABLES) == list(FIGURES)
    assert {path.stem for path in (HERE.parent / "kd/report/figures").glob("*.py")} - helpers == set(FIGURES)


def test_every_figure_draws_and_its_caption_says_what_it_owes(case: Case) -> None:
    rows, caption = case.rows, case.caption
    assert re.search(r"n = \d", caption)
    assert "n counts networks" in caption
    lost = (rows["status"] == "diverged").sum()
    assert ("The best epoch on the test set would read" in caption) == (lost < len(rows))
    assert (f"{lost} of {len(rows)} networks diverged" if lost else f"None of {len(rows)} networks diverged") in caption
    assert "nan" not in caption


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tau", "dots"])
def test_every_mark_of_an_svg_says_its_number(name: str, tmp_path: Path) -> None:
    rows = TABLES[name][0]
    style.save(figures.draw(name, rows, beside(name, rows))[0], tmp_path / name)
    svg = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
    said = ["".join(circle.itertext()) for circle in svg.iter("{http://www.w3.org/2000/svg}circle")]
    shown = rows[rows["tau"].notna()] if name == "tau" else rows
    for _, group in shown.groupby(["student", "noise_rate", "objective_name"]):
        mean = f"test top-1 (%), n = 3: {group['test_top1'].mean():.4g}"
        mark = f"{mean}\ntemperature τ: {naming.number(group['tau'].iloc[0])}"
        assert (mark if name == "tau" else f"{group['objective_name'].iloc[0]}\n{mean}") in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("tau", "heatmap") else [pytest.mark.slow]) for name in TABLES]
)
def test_a_figure_of_a_column_has_the_same_panels_one_below_another(name: str) -> None:
    rows = TABLES[name][0]
    figure, caption = figures.draw(name, rows, beside(name, rows), "column")
    page, same, _ = drawn(name, rows)
    words = words_on(figure)
    assert (figure.get_figwidth(), caption) == (style.SINGLE, same)
    assert len(figure.axes) == len(page.axes)
    boxes = [axis.get_window_extent() for axis in figure.axes if axis.get_label() != "<colorbar>"]
    for one, other in itertools.combinations(boxes, 2):
        assert one.y0 >= other.y1 or other.y0 >= one.y1
    for text in words:
        box = text.get_window_extent()
        assert box.x0 >= figure.bbox.x0 - 1, text
        assert box.x1 <= figure.bbox.x1 + 1, text


def test_axes_are_labelled_and_accuracy_has_its_unit(case: Case) -> None:
    labels = [label for axis in case.figure.axes for label in (axis.get_xlabel(), axis.get_ylabel())]
    assert case.name in {*ANALYSES, *OF_SELECTIONS} or any("test top-1" in label for label in labels)
    for label in labels:
        assert "top-1" not in label or "(%)" in label or "(points)" in label
    for axis in case.figure.axes:
        assert axis.get_xlabel() or axis.get_label() == "<colorbar>"


def test_no_text_overlaps_leaves_the_page_or_is_too_small(case: Case) -> None:
    assert_words_lie_apart(case.figure, case.words)


def assert_words_lie_apart(figure: Figure, words: list[Text]) -> None:
    page = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in words]
    for text in words:
        assert text.get_fontsize() >= 7, text.get_text()
    for text, box in boxes:
        assert box.x0 >= page.x0 - 1, text
        assert box.y0 >= page.y0 - 1, text
        assert box.x1 <= page.x1 + 1, text
        assert box.y1 <= page.y1 + 1, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        tall = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide < 1 or tall < 1, f"{one!r} lies on {other!r}"


def test_what_diverged_is_named_in_the_figure(case: Case) -> None:
    named = any(re.search(r"\b\d+\s+of\s+\d+\b", text.get_text()) for text in case.words)
    assert named == (case.rows["status"] == "diverged").any()


@pytest.mark.slow
def test_what_learns_from_a_selection_has_panels_of_its_own_and_no_line_beside_the_others() -> None:
    rows = TABLES["tau"][-1]
    figure = drawn("tau", rows)[0]
    accuracies = [axis for axis in figure.axes if axis.get_title(loc="left")]
    on = [axis.get_title(loc="left").replace("\n", " ") for axis in accuracies]
    rates = [f"{rate} % symmetric label noise" for rate in (20, 40)]
    assert on == [f"WRN-28-4 → WRN-16-2{kind}, {rate}" for rate in rates for kind in ("", " on FINE")]
    for axis, (_, own) in zip(accuracies, rows.groupby(["noise_rate", "selection"]), strict=True):
        references = {text.get_text() for text in axis.texts}
        assert references == {"CE", "MSE"}
        assert axis.get_ylim()[0] < own["test_top1"].min() < own["test_top1"].max() < axis.get_ylim()[1]
    titles = [part.get_suptitle() for part in drawn("memorised", TABLES["memorised"][-1])[0].subfigs]
    assert titles == on


def test_no_objective_of_the_table_is_left_out_of_tau_or_heatmap() -> None:
    more = made.frame(made.students("grid", "wrn-16-2", ["kl-tauinf-weight2", "mse"]))
    rows = pd.concat([made.grid(alphas=(1.0,)), more])
    for name in ("tau", "heatmap"):
        _, caption = figures.draw(name, rows, pd.DataFrame())
        assert "2·KL τ=∞" in caption
        assert "MSE" in caption
        assert "None of 24 networks diverged" in caption


# -- the difference to CE ---------------------------------------------------------------------------------------------


def means_drawn(axis: Axes) -> dict[float, tuple[float, bool]]:
    """Return {place of a row: (mean difference, whether its mark is filled)} of an axis of differences."""
    found = [line for line in axis.lines if line.get_markersize() == 5]
    return {line.get_ydata()[0]: (line.get_xdata()[0], line.get_markerfacecolor() != "white") for line in found}


@pytest.mark.parametrize(("seeds", "decided"), [(range(3), False), (range(6), True)])
def test_the_drawn_difference_to_ce_is_paired_and_filled_where_it_is_decided(seeds: range, decided: bool) -> None:
    rows = made.losses(("wrn-16-2",), ["ce", "kl-tau3", "mse"], seeds=tuple(seeds))
    figure, caption = figures.draw("dots", rows, pd.DataFrame())
    accuracy, difference = figure.axes
    assert (accuracy.get_title(loc="left"), difference.get_xlabel()) == ("clean labels", "difference to CE (points)")
    found = {1: paired(rows, "kl-tau3", "ce"), 2: paired(rows, "mse", "ce")}
    assert means_drawn(difference) == {place: (pytest.approx(one.effect), decided) for place, one in found.items()}
    pairs = [line for line in difference.lines if line.get_markersize() == 1.8]
    assert [len(line.get_xdata()) for line in pairs] == [len(seeds)] * 2
    assert f"n = {len(seeds)} pairs" in caption
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert f"difference, {'decided' if decided else 'undecided'}" in shown


@pytest.mark.slow
def test_tau_has_below_each_panel_the_differences_to_ce_and_no_bands() -> None:
    rows = made.noise(rates=(0.0, 0.4), taus=(1, 3))
    figure = figures.draw("tau", rows, pd.DataFrame())[0]
    for column, rate in enumerate((0.0, 0.4)):
        accuracy, difference = figure.axes[column], figure.axes[column + 2]
        own = rows[rows["noise_rate"] == rate]
        found = [paired(own, objective, "ce").effect for objective in ("kl-tau1", "kl-tau3", "mse")]
        drawn = [line.get_ydata()[0] for line in difference.lines if line.get_markersize() == 5]
        assert sorted(drawn) == pytest.approx(sorted(found))
        seeds = [y for line in accuracy.lines if line.get_markersize() == 3.5 for y in line.get_ydata()]
        assert sorted(seeds) == sorted(own["test_top1"])
        assert not accuracy.patches
        assert not accuracy.collections


def test_an_interval_that_leaves_the_axis_of_differences_ends_in_an_arrow() -> None:
    rows = made.losses(("wrn-16-2",), ["ce", "kl-tau3", "mse"], seeds=(0, 1))
    rows.loc[rows["objective"] == "mse", "test_top1"] += [1.0, -1.0]
    difference = figures.draw("dots", rows, pd.DataFrame())[0].axes[1]
    found, (low, high) = paired(rows, "mse", "ce"), difference.get_xlim()
    assert found.low < low < high < found.high
    ends = {line.get_marker(): line.get_xdata()[0] for line in difference.lines if line.get_marker() in ("<", ">")}
    assert ends == {"<": low, ">": high}


@pytest.mark.parametrize(("seeds", "decided"), [(range(3), False), (range(6), True)])
def test_the_heatmap_colours_the_difference_to_ce_and_hatches_what_is_undecided(seeds: range, decided: bool) -> None:
    rows = made.grid(taus=(3, 20), alphas=(1.0,), seeds=tuple(seeds))
    figure, caption = figures.draw("heatmap", rows, pd.DataFrame())
    for axis, value in zip(figure.axes, ("test_top1", "train_top1"), strict=False):
        found = [paired(rows, objective, "ce", value=value) for objective in ("kl-tau3", "kl-tau20")]
        assert axis.collections[0].get_array().ravel().tolist() == pytest.approx([one.effect for one in found])
        assert all(f"{one.effect:+.2f}" in text.get_text() for one, text in zip(found, axis.texts, strict=True))
    hatched = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert len(hatched) == (0 if decided else 2)
    assert ("Hatched: undecided" in caption) == (not decided)
    without, caption = figures.draw("heatmap", rows[rows["loss"] != "ce"], pd.DataFrame())
    assert without.axes[0].collections[0].get_array().min() > 50
    assert "difference" not in caption.splitlines()[0]


def test_without_ce_there_is_no_axis_of_differences() -> None:
    figure, caption = figures.draw("dots", made.losses(("wrn-16-2",), ["kl-tau3", "mse"]), pd.DataFrame())
    assert len(figure.axes) == 1
    assert "Differences to CE" not in caption


def test_chains_draws_ce_and_the_teacher_of_each_row() -> None:
    rows = made.chains(("mse",))
    accuracy = drawn("chains", rows)[0].axes[0]
    teachers = {line.get_xdata()[0] for line in accuracy.lines if line.get_linestyle() == ":"}
    assert teachers == set(rows["teacher_top1"].dropna())
    ce = rows.loc[rows["objective"] == "ce", "test_top1"].mean()
    assert any(line.get_xdata()[0] == pytest.approx(ce) and line.get_color() == "#000000" for line in accuracy.lines)


def test_classes_shows_each_class_the_worst_by_name_and_how_many_answers_differ() -> None:
    rows = ANSWERED[0]
    frame = beside("classes", rows)
    left, right = drawn("classes", rows)[0].axes
    own = frame[frame["cell"].isin(rows.loc[rows["objective"] == "mse", "cell"])]
    means = own.groupby("class_name")["top1"].mean()
    row = [label.get_text() for label in left.get_yticklabels()].index("MSE")
    dots, *_ = [line for line in left.lines if line.get_marker() == "o" and set(line.get_ydata()) == {row}]
    assert sorted(dots.get_xdata()) == pytest.approx(sorted(means))
    assert f"{means.idxmin()}: {means.min():.1f} %" in {text.get_text() for text in left.texts}
    dots, *_ = [line for line in right.lines if line.get_marker() == "o" and set(line.get_ydata()) == {row}]
    measured = made_analyses.analysis("measures", rows).query("split == 'test'").set_index("cell")["churn"]
    assert sorted(dots.get_xdata()) == pytest.approx(sorted(measured[own["cell"].unique()]))


def test_curves_have_no_bands_and_show_the_seeds_of_the_last_epoch() -> None:
    rows = made.losses(("resnet8",), ["ce", "mse"], seeds=(0, 1))
    axis = figures.draw("curves", rows, made.curves(rows, 20))[0].axes[0]
    assert not axis.collections
    seeds = [line for line in axis.lines if line.get_linestyle() == "None"]
    assert [sorted(line.get_ydata()) for line in seeds] == [
        pytest.approx(sorted(rows.loc[rows["objective"] == name, "test_top1"])) for name in ("ce", "mse")
    ]
    assert min(line.get_xdata().min() for line in seeds) > 20


def named(*classes: str) -> pd.DataFrame:
    """An analysis of three classes that are called so."""
    frame = made_analyses.analysis("planes", ANSWERED[0]).copy()
    frame["class_name"] = frame["class"].map(dict(zip(sorted(frame["class"].unique()), classes, strict=True)))
    return frame


@pytest.mark.slow
def test_names_of_classes_are_drawn_as_they_are_written(tmp_path: Path) -> None:
    names = ["US$ vs CA$", "x$_{$y", r"\alpha_^"]
    figure, caption = figures.draw("planes", ANSWERED[0], named(*names))
    style.save(figure, tmp_path / "planes")
    assert all(any(name in text.get_text() for text in figure.findobj(Text)) for name in names)
    assert names[0] in caption


def test_characters_that_no_font_has_are_named_in_the_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "_FALLBACKS", ())
    _, caption = figures.draw("planes", ANSWERED[0], named("ant", "麋鹿", "熊猫"))
    assert "No font here has 熊, 猫, 鹿, 麋: boxes stand for them" in caption
    assert "No font" not in figures.draw("planes", ANSWERED[0], named("ant", "ämne", "τ"))[1]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "TkAgg", "no such"])
def test_figures_are_drawn_whatever_backend_the_environment_asks_for(backend: str) -> None:
    code = "from kd.report.figures import style; style.canvas(1, 1).canvas.draw(); print('drawn')"
    environment = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(HERE.parent)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "drawn\n"


def test_the_detector_is_drawn_over_the_noise_or_over_the_length_of_its_teachers() -> None:
    for rows, label, places in (
        (TABLES["detector"][0], "wrong labels (%)", [20, 40, 60]),
        (TABLES["detector"][2], "epochs of the teacher", [10, 40, 80]),
    ):
        figure, caption, _ = drawn("detector", rows)
        lines = [line for line in figure.axes[2].lines if not line.get_label().startswith("_")]
        assert {axis.get_xlabel() for axis in figure.axes} == {label}
        assert [line.get_label() for line in lines] == ["FINE", "loss mixture", "small loss 0.6"]
        for line, word in zip(lines, ("fine", "lossgmm", "smallloss0.6"), strict=True):
            chosen = rows[(rows["selection"] == word) & (rows["noise_rate"] == rows["noise_rate"].iloc[0])]
            assert line.get_xdata().tolist() == places
            first = chosen[chosen["selected_after"] == chosen["selected_after"].min()]
            assert line.get_ydata()[0] == pytest.approx(100 * first["kept_f1"].mean())
        assert "FINE has" in caption
        assert "(n = 3)" in caption  # teachers, however many learn from what they selected


def test_the_detector_is_refused_where_nothing_was_selected() -> None:
    with pytest.raises(ConfigError, match="figure detector: needs students with student_selection, under label noise"):
        figures.draw("detector", made.noise(), pd.DataFrame())


def test_infinite_tau_stands_last() -> None:
    figure, _, _ = drawn("tau", TABLES["tau"][0])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0.5", "1", "3", "5", "10", "20", "∞"]
    figure, _, _ = drawn("heatmap", TABLES["heatmap"][0])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "3", "5", "20", "∞"]


# -- losses that nobody thought of ------------------------------------------------------------------------------------

INVENTED = {"hint": {}, "soft": {"tau": Number()}, "gated": {"gain": Number(1.0), "alpha": Number(1.0, low=0, high=1)}}


@pytest.fixture(scope="module")
def invented() -> pd.DataFrame:
    """A table of 24 objectives, some of losses without alpha or tau that were registered while it was collected."""
    with pytest.MonkeyPatch.context() as patch:
        for name, parameters in INVENTED.items():
            patch.setitem(LOSSES, name, Loss(mse, "made up", parameters))
        named = ["ce", *map(made.spell, (1, 3, 7, 20, math.inf)), made.spell(3, 0.5)]
        named += ["mse", "mse-weight0.5", "smoothl1"]
        named += ["hint", *(f"soft-tau{tau}" for tau in (1, 3, 20)), *(f"gated-gain{gain}" for gain in range(2, 12))]
        rows = made.frame(made.students("e", "wrn-16-2", named, noise_rate=0.4))
    assert rows["objective"].nunique() == 24
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FIGURES if name not in {*ANALYSES, *OF_SELECTIONS}])
def test_24_objectives_are_drawn_apart_and_none_is_left_out_in_silence(name: str, invented: pd.DataFrame) -> None:
    shaped = {"fractions": made.in_parts, "kept": made.by_ensembles, "ranks": made.of_pairs, "tests": made.scored}
    if name in shaped:
        invented = shaped[name](invented)
    figure, caption, words = drawn(name, invented)
    assert_words_lie_apart(figure, words)
    lines = [line.get_label() for axis in figure.axes for line in axis.lines]
    written = "\n".join([caption, *lines, *(text.get_text() for text in words)])
    hidden = {"heatmap", "tau"}  # what stands at a place of an axis has no name there
    for objective in invented.loc[invented["tau"].isna() | (name not in hidden), "objective_name"].unique():
        assert objective in written, objective


@pytest.mark.slow
def test_a_loss_without_alpha_has_its_line_over_tau_and_its_row_of_a_grid(invented: pd.DataFrame) -> None:
    for name, places in (("tau", ["1", "3", "20"]), ("heatmap", ["1", "3", "20"])):
        figure, caption, _ = drawn(name, invented)
        shown = [[label.get_text() for label in axis.get_xticklabels()] for axis in figure.axes]
        assert places in shown, name
        assert "nan" not in caption
        assert re.search(r"^40 % symmetric label noise, SOFT: SOFT τ=\d+ has the highest of 3 means", caption, re.M)
    grid = next(axis for axis in drawn("heatmap", invented)[0].axes if "SOFT" in axis.get_title(loc="left"))
    assert [label.get_text() for label in grid.get_yticklabels()] == ["–"]


def test_a_loss_without_tau_has_its_column_of_a_grid() -> None:
    rows = made.frame(made.students("e", "wrn-16-2", ["ce", "mse", "mse-alpha0.1", "mse-alpha0.5"]))
    figure, caption = figures.draw("heatmap", rows, pd.DataFrame())
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["–"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["1", "0.5", "0.1"]
    assert "has the highest of 3 means" in caption


def test_no_figure_or_statistic_reads_anything_out_of_a_string() -> None:
    """Networks, losses, hyperparameters and stages are columns of the table."""
    methods = r"\.(split|r?partition|findall|startswith|endswith|removeprefix|removesuffix)\("
    reading = re.compile(rf"^import re$|\.str\.|{methods}", re.M)
    folder = HERE.parent / "kd" / "report"
    others = [folder / f"{name}.py" for name in ("statistics", "comparisons", "verdict", "paper/claims")]
    drawing = [path for path in (folder / "figures").glob("*.py") if path.stem != "hover"]  # which reads axes' ticks
    for path in [*drawing, *others]:
        assert not reading.search(path.read_text()), path


# -- looks ------------------------------------------------------------------------------------------------------------


def looks_of(rows: pd.DataFrame) -> dict[str, style.Look]:
    return dict(zip(rows["objective"], style.looks(rows), strict=True))


def test_24_objectives_differ_in_mark_and_in_line(invented: pd.DataFrame) -> None:
    looks = looks_of(invented).values()
    assert len({(look.color, look.marker) for look in looks}) == 24
    assert len({(look.color, look.linestyle) for look in looks}) == 24


def test_ce_kl_and_mse_look_alike_in_every_figure_and_others_by_their_order(invented: pd.DataFrame) -> None:
    every, few = looks_of(invented), looks_of(made.losses(("wrn-16-2",)))
    for objective in ("ce", "kl-tau1", "kl-tau3", "kl-tau20", "kl-tauinf", "mse"):
        assert every[objective] == few[objective]
    others = invented[invented["loss"] == "gated"]
    turned = looks_of(others.iloc[::-1])
    assert list(turned.values())[:3] == list(looks_of(others).values())[:3]


def test_the_common_objectives_differ_without_colour() -> None:
    objectives = ["ce", *map(made.spell, made.TAUS), "mse", "mse-weight0.5", "kl-tauinf-weight2", "smoothl1"]
    looks = looks_of(made.frame(made.students("e", "wrn-16-2", objectives))).values()
    assert len({look.marker for look in looks}) == len({look.color for look in looks}) == len(objectives)


# What no red (protan) and no green (deutan) cone leaves of linear RGB (Machado, Oliveira and Fernandes 2009).
_BLIND = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def lab(colour: str, blind: str = "none") -> np.ndarray:
    """Return a colour as CIE L*a*b*, of which L* is what grey print shows."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(_BLIND[blind]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (
        part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116
        for part in np.array(to_xyz) @ seen / (0.9505, 1, 1.089)
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_first_losses_of_a_figure_differ_in_grey_print(invented: pd.DataFrame) -> None:
    """In lightness L*, of which 2 to 3 can just be seen."""
    others = invented[invented["loss"].isin(["ce", "mse"]) | invented["objective"].isin(["smoothl1", "hint"])]
    light = sorted(lab(look.color)[0] for look in looks_of(others).values())
    assert len(light) == 5
    assert min(b - a for a, b in itertools.pairwise(light)) > 10


@pytest.mark.parametrize("blind", _BLIND)
def test_whoever_sees_no_red_or_no_green_tells_the_colours_apart(blind: str, invented: pd.DataFrame) -> None:
    looks = looks_of(invented[~invented["family"].isin(["kl"])]).values()
    for one, other in itertools.combinations({look.color for look in looks}, 2):
        assert np.linalg.norm(lab(one, blind) - lab(other, blind)) > 10, (one, other)


def test_labels_are_spread_in_order_and_apart() -> None:
    places = style.spread([1.0, 1.1, 1.05, 5.0], gap=0.5)
    assert sorted(range(4), key=places.__getitem__) == [0, 2, 1, 3]
    apart = sorted(places)
    assert min(b - a for a, b in itertools.pairwise(apart)) >= 0.5 - 1e-6
    assert places[3] == 5.0


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_with_nothing_to_show_says_what_it_needs(name: str) -> None:
    lost = made.frame([made.cell_row("e", (("wrn-16-2", "ce", 0),), diverged=True)])
    curves = made.curves(lost, 2)
    with pytest.raises(ConfigError, match=f"figure {name}: needs"):
        figures.draw(name, lost.head(0) if name == "dots" else lost, curves)


TAUGHT = {"teacher": "wrn-28-4", "student": "wrn-16-2"}
EXPERIMENTS = {
    "alone": {"student": "wrn-16-2", "loss": "ce"},
    "noisy": {"student": "wrn-16-2", "loss": "ce", "label_noise": {"symmetric": [0, 0.4]}},
    "no student": {**TAUGHT, "loss": "ce"},
    "students": {**TAUGHT, "loss": ["ce", {"kl": {"tau": 3, "weight": [1, 2]}}, "mse"]},
    "taus": {**TAUGHT, "loss": ["ce", {"kl": {"tau": [1, 3]}}]},
    "alphas": {**TAUGHT, "loss": {"kl": {"tau": 3, "alpha": [0.5, 1]}}},
    "no tau at one alpha": {**TAUGHT, "loss": [{"kl": {"tau": 1}}, {"kl": {"tau": 3, "alpha": 0.5}}]},
    "chain": {"path": ["wrn-28-4", "wrn-16-4", "wrn-16-2"], "loss": "mse"},
    "akl": {**TAUGHT, "loss": "akl"},
    "selected": {**TAUGHT, "loss": "mse", "label_noise": {"symmetric": 0.4}, "student_selection": "fine"},
    "part": {**TAUGHT, "loss": ["ce", "mse"], "student_fraction": [0.1, 1]},
    "parts without all": {**TAUGHT, "loss": ["ce", "mse"], "student_fraction": [0.1, 0.2]},
    "ensemble": {"teacher": "wrn-16-2", "teacher_seeds": "0+1", "student": "wrn-16-2", "loss": ["ce", "mse"]},
    "pairs": {"path": [["wrn-28-4", "wrn-16-2"], ["wrn-28-4", "wrn-16-4"]], "loss": ["ce", {"kl": {"tau": 3}}, "mse"]},
    "of others": {**TAUGHT, "teacher_seeds": "0+1", "loss": ["ce", "mse"]},
}
_LEARNT = {"students", "taus", "alphas", "no tau at one alpha", "chain", "akl", "selected"}
_LEARNT |= {"part", "parts without all", "ensemble", "pairs", "of others"}
FILLED = {name: {*EXPERIMENTS} for name in FIGURES} | dict.fromkeys(["chains", *ANALYSES], _LEARNT)
FILLED |= {"heatmap": {"taus", "alphas", "no tau at one alpha"}, "tau": {"taus"}}
FILLED |= {"memorised": {"noisy", "selected"}, "gaps": {"akl"}, "detector": {"selected"}}
FILLED |= {
    "fractions": {"part"},
    "kept": {"ensemble"},
    "ranks": {"pairs", "students", "taus"},
    "tests": {"alone", "students"},
}


def from_experiment(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make the table and the curves that an experiment would have, trained."""
    of = study(experiments={"e": EXPERIMENTS[name]})
    rows = [
        made.cell_row(
            "e",
            tuple((stage.networks[0], spell_objective(stage.objective), stage.seed) for stage in cell.stages),
            float(cell.dataset.noise.amount) if cell.dataset.noise else 0.0,
        )
        | {"cell": cell.path, **made.named(cell.path)}
        for cell in cells_of(of, "e")
    ]
    table = made.selections(by=("fine",)) if "student_selection" in EXPERIMENTS[name] else made.frame(rows)
    table = made.scored(table) if name in FILLED["tests"] else table
    curves = made.curves(table, 3)
    silent = curves["cell"].isin(table.loc[table["loss"] != "akl", "cell"])
    curves.loc[silent, ["head_gap", "tail_gap"]] = math.nan
    return table, curves


@pytest.mark.parametrize("name", FIGURES)
def test_plan_refuses_a_figure_exactly_where_its_experiment_would_leave_it_empty(
    name: str, project: Path, capsys: pytest.CaptureFixture
) -> None:
    for which, experiment in EXPERIMENTS.items():
        told = values(experiments={"e": {**experiment, "figure": name}}, protocol={"name": "p", "epochs": 3})
        told |= {"tests": {"fog": "fog"}} if which in FILLED["tests"] else {}
        code = main(["plan", "--study-json", json.dumps(told)])
        assert (code == 0) == (which in FILLED[name]), which
        if code:
            assert code == 2
            said = capsys.readouterr().err
            assert f"experiments.e.figure: {name} needs {FIGURES[name].needs.words}; got loss" in said
            allowed = ", ".join(known for known in FIGURES if which in FILLED[known])
            assert said.endswith(f"which can fill {allowed}\n")
            with pytest.raises((ConfigError, DataError), match=f"{name}: (needs|no network here has a teacher)"):
                _draw(name, *from_experiment(which))
    assert _draw(name, *from_experiment(next(which for which in EXPERIMENTS if which in FILLED[name])))


@pytest.mark.parametrize("evaluate", ["last", 3])
def test_figures_over_epochs_are_refused_together_where_only_the_last_is_evaluated(evaluate: str | int) -> None:
    figure = ["dots", "curves", "gaps", "selection"]
    told = {"experiments": {"e": {**EXPERIMENTS["akl"], "figure": figure}}}
    study(**told, protocol={"name": "p", "epochs": 3, "evaluate": 2})
    with pytest.raises(ConfigError) as refused:
        study(**told, protocol={"name": "p", "epochs": 3, "evaluate": evaluate})
    needs = "accuracies of several epochs: protocol.evaluate below its epochs"
    assert str(refused.value).startswith(f"experiments.e.figure: curves needs {needs}; selection needs {needs}; got ")
    assert f"evaluate {evaluate}, which can fill dots, chains, gaps, cost," in str(refused.value)


def _draw(name: str, rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    if name in ANALYSES:
        rows = made_analyses.on_digits(rows)
        curves = made_analyses.analysis(ANALYSES[name], rows)
    return figures.draw(name, rows, curves)[0]


def test_curves_of_few_epochs_have_no_end_to_enlarge() -> None:
    rows = made.losses(("resnet8",), ["ce", "mse"], seeds=(0, 1))
    for epochs, axes in ((2, 2), (20, 3)):
        figure, caption = figures.draw("curves", rows, made.curves(rows, epochs))
        assert len(figure.axes) == axes
        assert ("enlarged" in caption) == (axes == 3)


def test_an_unknown_figure_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'heatmap'"):
        figures.draw("heatmaps", made.grid(), pd.DataFrame())


@pytest.mark.process
def test_the_table_of_contents_imports_nothing_heavy() -> None:
    code = "import sys, kd.report.figures; print(*{'torch', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


_DRAW = """
import sys; sys.path[:0] = [{tests!r}]
import pathlib, pandas as pd
from made import table as made
from kd.report import figures
from kd.report.figures import ANALYSES, style
tables = {{"heatmap": made.grid(taus=(1, 3), seeds=(0, 1)), "dots": made.losses(("wrn-16-2",)),
          "tau": made.noise(rates=(0.4,), taus=(1, 3)), "chains": made.chains(("mse",)),
          "curves": made.losses(("resnet8",), ["ce", "mse"], seeds=(0, 1)),
          "memorised": made.noise(rates=(0.4,), taus=(1, 3)), "gaps": made.losses(("resnet8",), ["akl", "akl-tau4"]),
          "cost": made.losses(("wrn-16-2",)), "selection": made.losses(("wrn-16-2",)),
          "detector": made.selections(rates=(0.2, 0.4)), "fractions": made.fractions(parts=(0.1, 1)),
          "kept": made.ensembles(seeds=(0, 1)), "ranks": made.losses(seeds=(0, 1)),
          "inference": made.losses(("wrn-16-2", "resnet8")), "tests": made.scored(made.losses(("wrn-16-2",)))}}
for name, rows in tables.items():
    figure, _ = figures.draw(name, rows, made.curves(rows, 20))
    style.save(figure, pathlib.Path({folder!r}) / f"{{name}}.tau0.5")
for name in ANALYSES:
    rows, more = (pd.read_parquet(f"{{name}}.{{kind}}.parquet") for kind in ("rows", "analysis"))
    style.save(figures.draw(name, rows, more)[0], pathlib.Path({folder!r}) / name)
assert "torch" not in sys.modules
"""


def test_the_figure_of_costs_says_seconds_and_memory_of_each_objective() -> None:
    rows = made.losses(("wrn-16-2",), ["ce", "mse"])
    rows.loc[rows["loss"] == "mse", "memory_mib"] = 1500.0
    _, caption = figures.draw("cost", rows, pd.DataFrame())
    assert re.search(r"CE .*% after [\d.]+ min, 900 MiB, 700 MiB on the GPU \(n = 3\)", caption)
    assert re.search(r"MSE .*% after [\d.]+ min, [\d.]+ of them its own, 1,500 MiB, 700 MiB on the GPU", caption)
    _, unknown = figures.draw("cost", rows.drop(columns=["memory_mib", "gpu_memory_mib"]), pd.DataFrame())
    assert "MiB," not in unknown


@pytest.mark.slow
@pytest.mark.process
def test_same_table_same_bytes_in_every_process_without_torch(tmp_path: Path) -> None:
    running = []
    for name in ANALYSES:
        ANSWERED[1].to_parquet(tmp_path / f"{name}.rows.parquet")
        beside(name, ANSWERED[1]).to_parquet(tmp_path / f"{name}.analysis.parquet")
    for seed in ("1", "2"):  # another PYTHONHASHSEED: sets and hash() come out in another order
        code = _DRAW.format(tests=str(HERE), folder=str(tmp_path / seed))
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(HERE.parent)}, cwd=tmp_path
            )
        )
    assert [process.wait() for process in running] == [0, 0]
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / seed).iterdir()}
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3 * len(FIGURES)


@pytest.mark.slow
def test_the_users_matplotlib_settings_change_nothing(tmp_path: Path) -> None:
    import matplotlib

    rows, pictures = made.losses(("wrn-16-2",)), []
    for settings in ({}, {"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": "x"}):
        with matplotlib.rc_context(settings):
            figure, _ = figures.draw("dots", rows, pd.DataFrame())
            pictures.append([path.read_bytes() for path in style.save(figure, tmp_path / "dots")])
            assert math.isclose(matplotlib.rcParams["font.size"], settings.get("font.size", 10))
    assert pictures[0] == pictures[1]
