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
from kd.core.errors import ConfigError, nearest
from kd.core.project import on_disk
from kd.measure.frames import Artefacts, read_frame
from kd.report import verdict
from kd.report.comparisons import COMPARED, comparisons
from kd.report.figures import ANALYSES, naming, style, wording
from kd.report.figures import draw as draw_figure
from kd.report.inline import inline
from kd.report.latex import longtable
from kd.report.statistics import SETTING, paired, settings, summarise
from kd.report.summary import listed, sentences
from kd.study.config import Protocol, Study

_OBJECTIVES = 7  # most of one experiment whose comparisons, 21, the page shows; comparisons.csv has all
_ENVIRONMENT = ["device", "precision", "threads"]
_MEANS = (
    "Top-1 in percent after the last epoch: mean ± half-width of its 95 % Student t interval over n networks that "
    "differ in seed. Against CE: mean difference in test top-1 to the same student without a teacher, paired over "
    "seeds, with its interval, which decides nothing. Best on test: how much higher the best epoch on the test set "
    "reads."
)
_PAIRS = (
    "Mean difference in test top-1 with its 95 % interval, paired over seeds. The comparisons below one heading are "
    "one family, apart from the verdict's: p is corrected by Holm for their number, the intervals are not, and fewer "
    "than five pairs decide nothing. How many seeds would show a difference of 1 point: with 80 % power, at the upper "
    "80 % limit of the spread."
)


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
        experiments=[_experiment(name, rows, compared, figures) for name in names],
        networks=networks(rows),
        methods=_methods(study["trained"], judged),
        environments=environments(cells),
        seconds=duration(cells["seconds"].sum()),
        diverged=cells.loc[cells["status"] == "diverged", "cell"].tolist(),
    )


def _beside(name: str) -> str:
    """Return a file of the page that lies beside this module."""
    package_file = Path(__file__).with_name(name)
    return package_file.read_text(encoding="utf-8")


def _experiment(name: str, rows: pd.DataFrame, compared: pd.DataFrame, figures: Sequence[tuple]) -> dict:
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


def _methods(trained: Sequence[str], judged: tuple[Path, str, pd.DataFrame] | None) -> dict[str, list[str]]:
    """Return {what: paragraphs} of what holds for all figures and tables."""
    return {
        **({"Training": list(trained)} if trained else {}),
        "Figures": [wording.METHOD],
        "Means": [_MEANS],
        "Comparisons": [_PAIRS],
        **({"Verdict": judged[1].splitlines()[1:]} if judged else {}),
    }


# -- words and tables -------------------------------------------------------------------------------------------------


def what_was_run(rows: pd.DataFrame) -> str:
    """Say in one sentence which networks, objectives, data and seeds `rows` hold."""
    if rows.empty:
        return "No cell of this experiment is in the table."
    taught = rows[rows["stages"] > 1]
    paths = (taught if len(taught) else rows)["networks_name"].unique()
    labels = rows.sort_values("noise_rate", kind="stable")["noise_name"].unique()
    seeds = rows["seed"].nunique()
    return (
        f"{listed(paths)} on {listed(rows['dataset'].unique())} ({', '.join(labels)}), by {_objectives(rows)}: "
        f"{len(rows)} cells, {seeds} {'seed' if seeds == 1 else 'seeds'}, "
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


def means(rows: pd.DataFrame) -> list[tuple[str, list[dict]]]:
    """Return (title, lines of words) for each path and data, with one line for all cells that differ only in seed."""
    against = _against_ce(rows)
    rows = rows.assign(against=rows["cell"].map(lambda cell: against.get(cell, "–")))
    shared = [*SETTING, "noise_name", "networks", "networks_name"]
    by = [*shared, "stages", "lineage", "teacher_lineage", "objectives", "objectives_name", "against"]
    lines = summarise(rows, by).assign(train=_train_words(rows, by))
    lines = lines.sort_values(["noise_rate", "stages"], kind="stable")
    groups = [(dict(zip(shared, key, strict=True)), group) for key, group in lines.groupby(shared, sort=False)]
    varied = {column for column in SETTING if rows[column].nunique() > 1} | {"networks"}
    return [(naming.title(key, varied), _lines(group)) for key, group in groups]


def _train_words(rows: pd.DataFrame, by: list[str]) -> list[str]:
    """Say the train accuracy of each group of `by`; imported networks and ensembles have no epoch, and none."""
    known = rows["train_top1"].mask(rows["epochs"] == 0, 0.0)  # `summarise` refuses NaN
    lines = summarise(rows.assign(train_top1=known), by, "train_top1").to_dict("records")
    return [wording.half_words(line) if line["epochs"] else "–" for line in lines]


def _lines(group: pd.DataFrame) -> list[dict]:
    lines = group.to_dict("records")
    early = group["lineage"].nunique() > group["objectives"].nunique()  # such as teachers that were stopped early
    return [
        {
            "objectives": line["objectives_name"] + (f" ({line['teacher_lineage']})" if early else ""),
            "test": wording.half_words(line),
            "train": line["train"],
            "against": line["against"],
            "gap": wording.signed(line["best_gap"]) if line["n"] else "–",
            "n": wording.count(line["n"], line["diverged"]).removeprefix("n = "),
        }
        for line in lines
    ]


def _against_ce(rows: pd.DataFrame) -> dict[str, str]:
    """Return {cell with a teacher: how its objective compares with CE alone, paired over seeds}."""
    words = {}
    for _, frame in settings(rows):
        for baseline in wording.baselines(frame, "objective"):
            for objective, group in frame[frame["objective"] != baseline].groupby("objective"):
                words |= dict.fromkeys(group["cell"], wording.paired_short(paired(frame, objective, baseline)))
    return words


def pairs(rows: pd.DataFrame, compared: pd.DataFrame) -> list[tuple[str, list[dict]]]:
    """Return (title, lines of words) for all pairs of objectives, or nothing if they are too many to read."""
    if rows["objectives"].nunique() > _OBJECTIVES:
        return []
    varied = {column for column in SETTING if rows[column].nunique() > 1} | {"networks"}
    names = dict(zip(rows["objectives"], rows["objectives_name"], strict=True))
    groups = compared.groupby(COMPARED, sort=False)
    keys = [dict(zip(COMPARED, key, strict=True)) for key, _ in groups]
    return [(naming.title(key, varied), _pairs(group, names)) for key, (_, group) in zip(keys, groups, strict=True)]


def _pairs(group: pd.DataFrame, names: dict[str, str]) -> list[dict]:
    return [
        {
            "pair": f"{names[line['a']]} against {names[line['b']]}",
            "difference": wording.interval_words(line["difference"], line["low"], line["high"]),
            "p": wording.p_words(line["p_holm"]),
            "n": line["pairs"],
            "says": line["statement"],
        }
        for line in group.to_dict("records")
    ]


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
        "time": duration(line["seconds"]),
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
        lines.append({**known, "code": code, "cells": len(group), "time": duration(group["seconds"].sum())})
    return lines


def duration(seconds: float) -> str:
    """Spell a duration: 42 s, 12.5 min, 3.2 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


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


def means_and_comparisons(folder: Path) -> Artefacts:
    """Return means and comparisons as CSV and in LaTeX, from the table in `folder`.

    means.csv has mean, sd, interval, n, diverged and gap of every group. comparisons.csv has every pair of objectives,
    with Holm's correction and power.
    """
    rows = read_frame(folder / "table.parquet")
    by = ["experiment", *SETTING, "networks", "objectives", "lineage"]
    compared = comparisons(rows)
    frames = {"means": summarise(rows, by), "comparisons": compared}
    return {
        **{f"{name}.csv": frame.to_csv(index=False, lineterminator="\n").encode() for name, frame in frames.items()},
        "means.tex": _means_in_latex(rows).encode(),
        "comparisons.tex": _comparisons_in_latex(rows, compared).encode(),
    }


def _means_in_latex(rows: pd.DataFrame) -> str:
    """Return the means of the page as a table, experiment by experiment."""
    lines = [
        [name, title, *line.values()]
        for name, own in rows.groupby("experiment", sort=False)
        for title, group in means(own)
        for line in group
    ]
    columns = ["experiment", "networks", "objectives", "test", "train", "against CE", "best on test", "n"]
    return longtable(pd.DataFrame(lines, columns=columns), [0.1, 0.2, 0.16, 0.11, 0.11, 0.16, 0.06, 0.04], _MEANS)


def _comparisons_in_latex(rows: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Return all comparisons as a table, experiment by experiment."""
    names = dict(zip(rows["objectives"], rows["objectives_name"], strict=True))
    varied = {column for column in SETTING if rows[column].nunique() > 1} | {"networks"}
    lines = [
        [key[0], naming.title(dict(zip(COMPARED, key, strict=True)), varied), *line.values()]
        for key, group in compared.groupby(COMPARED, sort=False)
        for line in _pairs(group, names)
    ]
    columns = ["experiment", "networks", "objectives", "difference", "p (Holm)", "pairs", "the first is"]
    return longtable(pd.DataFrame(lines, columns=columns), [0.1, 0.2, 0.2, 0.14, 0.08, 0.05, 0.17], _PAIRS)


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
