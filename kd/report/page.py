"""The page of a study: what was found, figures, tables and environments, in one file that loads no other.

Names come from the user's study, so the template escapes them. The page fetches nothing. It runs one script, page.js,
which its Content-Security-Policy names by digest: a browser runs no other.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import jinja2
import markupsafe
import pandas as pd

from kd.core import reproduce
from kd.core.duration import spelled
from kd.core.errors import ConfigError, nearest
from kd.core.project import on_disk
from kd.measure.frames import Artefacts, read_frame
from kd.report import verdict
from kd.report.comparisons import comparisons
from kd.report.figures import ANALYSES, naming, style, wording
from kd.report.figures import draw as draw_figure
from kd.report.inline import inline
from kd.report.means import MEANS, PAIRS, means, pairs
from kd.report.originals import ORIGINALS, in_words, originals
from kd.report.statistics import SETTING
from kd.report.summary import listed, sentences, subject
from kd.study.config import Protocol, Study

_ENVIRONMENT = ["device", "precision", "threads"]


def render(
    study: dict,
    rows: pd.DataFrame,
    figures: Sequence[tuple[str, str, Path, str]],
    judged: tuple[Path, str, pd.DataFrame] | None = None,
) -> str:
    """Return the page as HTML that needs no other file.

    `study` has `name`, and may have `counts` {what: how many}, `trained` (how, in sentences), `commands` (how to
    reproduce) and `versions`. `figures` are (experiment, figure, path of its SVG, caption). `judged` is the verdict's
    picture, its caption and its lines.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _beside("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    names = dict.fromkeys([*(figure[0] for figure in figures), *rows["experiment"]])
    compared = comparisons(rows)
    published = originals(rows, compared)
    lines = judged[2] if judged else None
    cells = rows.drop_duplicates("cell")  # a cell may serve several experiments
    study = {"counts": {}, "trained": [], "commands": [], "versions": ""} | study
    return environment.get_template("page.html").render(
        study=study,
        style=markupsafe.Markup(_beside("page.css")),
        script=markupsafe.Markup(script),
        script_hash=f"sha256-{digest}",
        summary=sentences(rows, compared, lines),
        verdict=_verdict(*judged) if judged else None,
        experiments=[_experiment(name, rows, compared, published, figures) for name in names],
        networks=networks(rows),
        methods=_methods(study["trained"], judged, len(published) > 0),
        environments=environments(cells),
        seconds=spelled(cells["seconds"].sum()),
        diverged=cells.loc[cells["status"] == "diverged", "cell"].tolist(),
    )


def _beside(name: str) -> str:
    """Return a file of the page that lies beside this module."""
    package_file = Path(__file__).with_name(name)
    return package_file.read_text(encoding="utf-8")


def _experiment(
    name: str, rows: pd.DataFrame, compared: pd.DataFrame, published: pd.DataFrame, figures: Sequence[tuple]
) -> dict:
    own = rows[rows["experiment"] == name]
    counted = wording.fine_print(own) if len(own) else ""
    shown = [
        {
            "pictures": _pictures(path, f"figure-{number}", f"Figure {figure} of experiment {name}: {caption}"),
            # What is said above the figures, or once for the whole page, is not said below each.
            "caption": [line for line in caption.splitlines() if line not in (counted, wording.METHOD)],
        }
        for number, (experiment, figure, path, caption) in enumerate(figures, 1)
        if experiment == name
    ]
    return {
        "name": name,
        "sentence": what_was_run(own),
        "counted": counted if shown else "",
        "figures": shown,
        "means": means(own),
        "pairs": pairs(own, compared[compared["experiment"] == name]),
        "originals": in_words(published[published["experiment"] == name]),
    }


def _pictures(path: Path, name: str, says: str) -> list[markupsafe.Markup]:
    """Return a figure as HTML, and for a phone in one column if it has another width.

    The alternative text says briefly what it shows; the numbers are in the caption.
    """
    says, column = says.splitlines()[0], path.with_name(f"{path.stem}.column.svg")
    shown = [inline(path, name, says)]
    if on_disk(column).exists() and on_disk(column).read_bytes() != on_disk(path).read_bytes():
        shown.append(inline(column, f"{name}-column", says, "column"))
    return list(map(markupsafe.Markup, shown))


def _verdict(path: Path, caption: str, lines: pd.DataFrame) -> dict:
    missing = lines["verdict"] == verdict.MISSING
    measured = lines[~missing]
    kinds = measured["verdict"].str.replace(" ", "-")
    first = caption.splitlines()[0]
    return {
        "caption": first,
        "picture": markupsafe.Markup(inline(path, "verdict-figure", first)),
        "lines": verdict.shown(measured).assign(kind=kinds).to_dict("records") if len(measured) else [],
        "unmeasured": lines[missing].to_dict("records"),
    }


def _methods(
    trained: Sequence[str], judged: tuple[Path, str, pd.DataFrame] | None, published: bool
) -> dict[str, list[str]]:
    """Return {what: paragraphs} of what holds for all figures and tables."""
    return {
        **({"Training": list(trained)} if trained else {}),
        "Figures": [wording.METHOD],
        "Means": [MEANS],
        "Comparisons": [PAIRS],
        **({"Original and reproduced": [ORIGINALS]} if published else {}),
        **({"Verdict": judged[1].splitlines()[1:]} if judged else {}),
    }


# -- words and tables -------------------------------------------------------------------------------------------------


def what_was_run(rows: pd.DataFrame) -> str:
    """Say in one sentence which networks, objectives, data and seeds `rows` hold."""
    if rows.empty:
        return "No cell of this experiment is in the table."
    shown, labels, seeds = subject(rows)
    paths = listed(shown["networks_name"].unique())
    return (
        f"{paths} on {listed(rows['dataset'].unique())} ({', '.join(labels)}), by {_objectives(rows)}: "
        f"{len(rows)} cells, {seeds}, "
        f"{listed(map(str, sorted(rows['epochs'].unique())))} epochs of protocol {listed(rows['protocol'].unique())}."
    )


def _objectives(rows: pd.DataFrame) -> str:
    """Name the objectives; write those that differ only in tau and alpha as one: KL (τ = 1, 3, ∞; α = 0.1, 1)."""
    names = []
    for name, group in rows.groupby("family_name", sort=False):
        taus, alphas = (sorted(group[key].dropna().unique()) for key in ("tau", "alpha"))
        axes = [f"τ = {', '.join(map(naming.number, taus))}"] if taus else []
        axes += [f"α = {', '.join(map(naming.number, alphas))}"] if len(alphas) > 1 else []
        names.append(name + (f" ({'; '.join(axes)})" if axes else ""))
    return listed(names)


def networks(rows: pd.DataFrame) -> list[dict]:
    """Return a line of words for each network of the table, with the number of its teacher's line."""
    served = rows.groupby("cell", sort=False)["experiment"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    lines = rows.drop_duplicates("cell").to_dict("records")
    numbers = {line["cell"]: number for number, line in enumerate(lines, 1)}
    varied = {column for column in SETTING if rows[column].nunique() > 1} - {"student", "epochs"} or {"dataset"}
    return [_network(line, numbers, varied) | {"experiments": served[line["cell"]]} for line in lines]


def _network(line: dict, numbers: dict[str, int], varied: set[str]) -> dict:
    *before, name = line["networks_name"].rpartition(" → ")
    known = line["status"] == "ok"
    return {
        "number": numbers[line["cell"]],
        "teacher": numbers.get(line["teacher_cell"]),
        "before": "".join(before),
        "name": name,
        "objectives": line["objectives_name"],
        "data": naming.title(line, varied),
        "seed": line["seed"],
        "teacher_seed": "–" if pd.isna(line["teacher_seed"]) else line["teacher_seed"],
        "test": f"{line['test_top1']:.2f}" if known else line["status"],
        "train": "–" if math.isnan(line["train_top1"]) else f"{line['train_top1']:.2f}",
        "gap": wording.signed(line["best_gap"]) if known else "–",
        "seconds": f"{line['seconds']:.0f}",
        "time": spelled(line["seconds"]),
        "folder": f"../../{quote(line['cell'])}",
    }


def environments(cells: pd.DataFrame) -> list[dict]:
    """Return one line per device, precision and threads, with its cells, its time and the code digests.

    Code does not separate environments, because within a study it differs with loss and network.
    """
    lines = []
    for key, group in cells.groupby(_ENVIRONMENT, dropna=False, sort=False):
        known = dict(zip(_ENVIRONMENT, map(str, key), strict=True))
        code = sorted({str(code)[:12] for code in group["code"]})
        lines.append({**known, "code": code, "cells": len(group), "time": spelled(group["seconds"].sum())})
    return lines


# -- in the folder of a study -----------------------------------------------------------------------------------------


def draw(folder: Path, experiment: str, figure: str, width: str = "page") -> Artefacts:
    """Return a figure of an experiment from the table in `folder`: PNG, PDF and SVG, and its caption as text.

    It is as wide as `width` says: a page or a column. The SVG of a column's width is always there, for a phone.
    """
    analysis = f"analyses/{experiment}.{ANALYSES[figure]}" if figure in ANALYSES else "curves"
    rows = read_frame(folder / "table.parquet")
    known = set(rows["experiment"])
    if experiment not in known:
        raise ConfigError(f"no experiment {experiment!r} in the table{nearest(experiment, known)}")
    # A network that diverged in its first epoch has no curves, so this frame may be empty.
    frames = rows, read_frame(folder / f"{analysis}.parquet")
    rows, more = (frame[frame["experiment"] == experiment].reset_index(drop=True) for frame in frames)
    drawn, caption = draw_figure(figure, rows, more, width)
    narrow = drawn if width == "column" else draw_figure(figure, rows, more, "column")[0]
    name = f"figures/{experiment}.{figure}"
    column = f"{name}.column"
    return {
        **style.pictures(drawn, name),
        f"{column}.svg": style.pictures(narrow, column)[f"{column}.svg"],
        f"{name}.txt": f"{caption}\n{wording.METHOD}\n".encode(),
    }


def how_trained(protocol: Protocol) -> str:
    """Say in a sentence how every network of a study was trained."""
    if protocol.schedule == "cosine":
        schedule = "cosine schedule"
    else:
        schedule = f"times {protocol.gamma:g} after epochs {listed(map(str, protocol.drops))}"
    nesterov = "Nesterov " if protocol.nesterov else ""
    held = f", {100 * protocol.heldout:g} % of the training set held out" if protocol.heldout else ""
    return (
        f"Protocol {protocol.name}: {protocol.epochs} epochs of SGD, batch {protocol.batch}, learning rate "
        f"{protocol.lr:g}, {schedule}, {nesterov}momentum {protocol.momentum:g}, "
        f"weight decay {protocol.weight_decay:g}{held}."
    )


def page(study: Study, folder: Path, command: str) -> Artefacts:
    """Return `report.html` of a study, from the table and figures in `folder`. It shows `command`, which makes it."""
    rows = read_frame(folder / "table.parquet")
    paths = [folder / "figures" / f"{name}.{figure}.svg" for name, figure in study.drawn]
    captions = list(map(_caption, paths))
    shown = [(*pair, path, caption) for pair, path, caption in zip(study.drawn, paths, captions, strict=True)]
    counts = {"experiments": len(study.experiments), "networks": rows["cell"].nunique()}
    about = {"name": study.study, "counts": counts, "trained": [how_trained(study.protocol)]}
    about |= {"commands": [reproduce.commit(), command], "versions": reproduce.versions()}
    judged = folder / "figures" / "verdict.svg"
    lines = verdict.of_study(rows, folder, study)
    return {"report.html": render(about, rows, shown, (judged, _caption(judged), lines)).encode()}


def _caption(picture: Path) -> str:
    return on_disk(picture.with_suffix(".txt")).read_text(encoding="utf-8").strip()
