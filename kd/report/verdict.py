"""The verdict: each claim of the paper, what was published, what was measured, and whether it holds.

A claim is judged in each setting in which a study has both its sides, by a test paired over seeds, with Holm's
correction over the lines of its family, confirmatory or exploratory. `difference` is in the direction of the claim: a
value above 0 supports it. A user's own claims are judged by the same rule (`kd.report.own_claims`).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from kd.core import files
from kd.core.errors import ConfigError, Damaged, nearest
from kd.measure.frames import Artefacts, read_frame
from kd.report import statistics
from kd.report.comparisons import HIGHER, LOWER, SMALL, UNDECIDED, WHOLE, amount, judge_family
from kd.report.figures import naming, style, wording
from kd.report.figures import verdict as figure
from kd.report.latex import longtable
from kd.report.own_claims import Files, analyses_in, claim_of, one_each, read_claims, read_table, with_analysis
from kd.report.paper import published
from kd.report.paper.claims import CLAIMS, SHARE, Claim
from kd.report.power import ALPHA, LEAST, POWER
from kd.report.registration import BEFORE, Registration, spelled
from kd.report.statistics import SETTING, Paired, against, finished, judge, least_sure, rise_weights, share, side, trend
from kd.study import products
from kd.study.cells import TEACHERS
from kd.study.config import FIRST, Study

HOLDS, FAILS, MEASURED, MISSING = "holds", "does not hold", "measured", "not measured"
CONFIRMATORY, EXPLORATORY, DESCRIPTIVE = "confirmatory", "exploratory", "descriptive"
VERDICTS = "verdicts"  # beside a table: the folder of verdicts on claims of one's own
COLUMNS = ["claim", "setting", "published", "measured", "difference", "verdict"]
_WORDS = {HIGHER: HOLDS, LOWER: FAILS}
KEY = [*SETTING, "noise_name", "stages", "first", "teacher", "networks", "networks_name", "stopped"]
_TREND = 3  # fewest points of a trend; two points are a comparison
_PAPER = {"dataset": "cifar100", "noise": "none", "fraction": 1.0, "epochs": 200, "stopped": ""}
_NOTHING = {"published": "no number known", "published_difference": math.nan, "doubt": ""}
_UNMEASURED = {"measured": "–", "found": Paired()}
# If a claim's sides differ in one of these columns, they may differ in all columns of the path, or of the labels.
_OF_PATHS = {"student", "networks", "networks_name", "teacher", "teacher_lineage", "teacher_members", "stages", "first"}
_OF_PATHS |= {"first_loss", "stopped", "lineage", "objectives", "mix", "mix_families"}
_OF_TEACHERS = ("teacher_fraction", "teacher_members", "teacher_networks")
_OF_LABELS = {"noise", "noise_rate", "noise_name", "realised_rate"}


def judged(
    rows: pd.DataFrame,
    claims: Sequence[Claim] = CLAIMS,
    analyses: Files = MappingProxyType({}),
    known: pd.DataFrame | None = None,
    former: pd.DataFrame | None = None,
    registration: Registration | None = None,
    first: int | None = None,
) -> pd.DataFrame:
    """Return one line for each claim and each setting that can test it, or one line that says that none can.

    `analyses` has those that claims are about, `known` what was published, by default the paper's numbers, and
    `former` the verdict that this one replaces: what it judged with other pairs was looked at before, which does no
    harm where `registration` fixed the number of pairs. With `first` the spread is of so many seeds, which chose n.
    """
    rows = rows[rows["experiment"] != TEACHERS].drop_duplicates("cell")
    scenes, known = list(_scenes(rows)), published() if known is None else known
    lines = [line for claim in claims for line in _lines(claim, rows, scenes, known, analyses)]
    if first:
        chose = judged(rows[rows["seed"] < first], claims, analyses, known)
        two_stages(lines, chose.to_dict("records"))
    for kind in (CONFIRMATORY, EXPLORATORY, DESCRIPTIVE):
        own = [line for line in lines if line["kind"] == kind]
        for line in own:
            line["registered"] = registration.of(line) if registration else ""
            line["looks"] = "" if line["registered"] == BEFORE else _looks(line, former)
        tested = judge_family(*([line[key] for line in own] for key in ("found", "smallest", "unit", "looks")))
        for line, more in zip(own, tested, strict=True):
            line |= more | _said_of(line, more)
    return pd.DataFrame(lines).drop(columns="found").astype(WHOLE)


def two_stages(lines: Sequence[dict], first: Sequence[dict]) -> None:
    """Give each line the spread, and degrees of freedom, of the seeds that chose how many seeds there are (Stein)."""
    seen = {tuple(spelled(line[column]) for column in _SAME): line for line in first}
    for line in lines:
        of_first, found = seen.get(tuple(spelled(line[column]) for column in _SAME)), line["found"]
        if of_first and found.tested and found.teachers == 1:
            sd = of_first["sd"] if of_first["pairs"] > 1 else math.nan
            line["found"] = found._replace(se=sd / math.sqrt(found.n), df=of_first["pairs"] - 1, sd=sd)


def _said_of(line: dict, tested: dict) -> dict:
    """Return the verdict of a line, and its words."""
    if line["measured"] == _UNMEASURED["measured"]:
        return {"verdict": MISSING, "number": "", "statement": MISSING}
    number = _number(line, line["found"])
    if line["kind"] == DESCRIPTIVE:
        untested = dict.fromkeys(("p", "e", "p_holm", "p_small", "p_small_holm"), math.nan)
        nobody = {"family": 0, "seeds_from": None, "seeds_needed": None, "low": max(tested["low"], 0.0)}
        return {**untested, **nobody, "verdict": MEASURED, "number": number, "statement": MEASURED}
    said = _WORDS.get(tested["verdict"], tested["verdict"])
    words = tested["statement"].replace(tested["verdict"], said, 1)
    if line["looks"] and tested["pairs"]:
        words += f"; by its e-value, because it was looked at with {line['looks']} pairs before"
    if line["registered"]:
        words += f"; {line['registered']}"
    return {"verdict": said, "number": number, "statement": words}


def _number(line: dict, found: Paired) -> str:
    """Say whether the published difference lies in the measured interval; "" if the two cannot be compared."""
    value = line["published_difference"]
    if math.isnan(value) or math.isnan(found.low) or "suspect" in line["doubt"]:
        return ""
    return "inside" if found.low <= value <= found.high else "outside"


# -- looks ------------------------------------------------------------------------------------------------------------

_SAME = ["claim", *KEY]


def _looks(line: dict, former: pd.DataFrame | None) -> str:
    """Return with how many pairs earlier verdicts judged a line, but for as many as now: "3, 5"."""
    if former is None:
        return ""
    same = former[(former[_SAME] == pd.Series({column: spelled(line[column]) for column in _SAME})).all(axis=1)]
    seen = {count for row in same.itertuples() for count in [*json.loads(f"[{row.looks}]"), int(row.pairs)]}
    return ", ".join(map(str, sorted(seen - {0, line["found"].n})))


def _former(folder: Path, manifest: Path | None = None) -> pd.DataFrame | None:
    """Return the verdict.csv in a folder, all of it as text; None if there is none, or one that is damaged."""
    path = folder / "verdict.csv"
    try:
        if manifest:
            files.verified(folder, path.name, at=manifest)
        lines = pd.read_csv(io.BytesIO(files.content_of(path)), dtype=str, keep_default_na=False)
    except (Damaged, FileNotFoundError):
        return None
    return lines if {*_SAME, "pairs", "looks"} <= {*lines} else None


# -- settings ---------------------------------------------------------------------------------------------------------


def _scenes(rows: pd.DataFrame) -> Iterator[tuple[str, dict, pd.DataFrame]]:
    """Yield (kind, key, rows) for each path of networks and data in the study; the column `role` says what a row is."""
    rows = rows.assign(**{name: math.nan for name in _OF_TEACHERS if name not in rows})  # in another tool's table
    for values, taught in rows[rows["stages"] > 1].groupby(KEY, sort=False):
        key = dict(zip(KEY, values, strict=True))
        own = [column for column in SETTING if column != "fraction"]
        every = rows[(rows[own] == pd.Series(key)[own]).all(axis=1)]
        every = every[(every["stopped"] == key["stopped"]) | (every["stages"] == 1)]
        same = _with_roles(every[every["fraction"] == key["fraction"]], key)
        yield _kind(key), key, same
        if (taught["teacher_fraction"] > key["fraction"]).all():
            yield "part", key, pd.concat([same, _with_roles(every[every["fraction"] == 1], key)])
        if ((taught["teacher_members"] > 1) & (taught["teacher_networks"] == key["student"])).all():
            yield "ensemble", key, same


def _kind(key: dict) -> str:
    if key["stages"] > 2:
        return "chain"
    if key["stopped"]:
        return "untrained" if key["stopped"] == "0" else "early"  # the paper has no claim on untrained teachers
    return "clean" if key["noise"] == "none" else "noisy"


def _with_roles(rows: pd.DataFrame, path: dict) -> pd.DataFrame:
    """Return the rows of a path with their role: chain, direct (first and last network), last (last two), alone."""
    rows = rows[rows["student"] == path["student"]].assign(role="")
    two = rows["stages"] == 2
    rows.loc[rows["stages"] == 1, "role"] = "alone"
    rows.loc[two & (rows["teacher"] == path["first"]), "role"] = "direct"
    if path["stages"] > 2:
        rows.loc[two & (rows["teacher"] == path["teacher"]), "role"] = "last"
        rows.loc[rows["networks"] == path["networks"], "role"] = "chain"
    return rows[rows["role"] != ""]


def _is_the_papers(key: dict, rows: pd.DataFrame) -> bool:
    """Whether numbers may be compared with the paper's: its data and epochs, and teachers that learnt from labels."""
    begins = rows.loc[rows["stages"] > 1, "first_loss"]
    return all(key[name] == value for name, value in _PAPER.items()) and (begins == "ce").all()


# -- lines ------------------------------------------------------------------------------------------------------------


def _lines(claim: Claim, rows: pd.DataFrame, scenes: Sequence, known: pd.DataFrame, analyses: Files) -> list[dict]:
    if claim.where == "all":
        found = [({}, _gap(rows), _NOTHING)] if len(finished(rows)) else []
    else:
        places = _places(claim, rows, analyses) if claim.where == "any" else scenes
        tried = [_line(claim, key, frame, known) for kind, key, frame in places if kind == claim.where]
        found = [line for line in tried if line]
    if not found:
        found = [({}, _UNMEASURED, _elsewhere(claim, known))]
    kind = DESCRIPTIVE if claim.where == "all" else CONFIRMATORY if claim.confirmatory else EXPLORATORY
    texts = {"claim": claim.id, "sentence": claim.sentence, "source": claim.source, "kind": kind, "value": claim.value}
    about = {**texts, "smallest": claim.smallest, "unit": claim.unit}
    named = [{column: key.get(column, "") for column in KEY} for key, _, _ in found]
    return [{**about, **name, **theirs, **ours} for name, (_, ours, theirs) in zip(named, found, strict=True)]


def _places(claim: Claim, rows: pd.DataFrame, analyses: Files) -> Iterator[tuple[str, dict, pd.DataFrame]]:
    """Yield ("any", key, rows) for each setting of a user's own claim. The claim says what differs within a setting."""
    if claim.analysis:
        rows = with_analysis(rows, claim.analysis, analyses)
    for column in (claim.value, claim.over if claim.points else "seed"):
        if column not in rows:
            raise ConfigError(f"claim {claim.id}: the table has no column {column}{nearest(column, rows.columns)}")
    for key, frame in statistics.settings(rows, _apart(claim)):
        alike = {column: frame[column].iloc[0] for column in KEY if column in frame and frame[column].nunique() == 1}
        yield "any", alike | key, frame


def _apart(claim: Claim) -> frozenset[str]:
    paths = _OF_PATHS if claim.apart & _OF_PATHS else frozenset()
    return claim.apart | paths | (_OF_LABELS if claim.apart & _OF_LABELS else frozenset())


def _line(claim: Claim, key: dict, rows: pd.DataFrame, known: pd.DataFrame) -> tuple[dict, dict, dict] | None:
    ours = _contrast(claim, rows) if claim.sides else _trend(claim, rows)
    if ours is None:
        return None
    points = ours.pop("points", None)
    theirs = _published(claim, key, known, points) if claim.where != "any" and _is_the_papers(key, rows) else _NOTHING
    return key, ours, _elsewhere(claim, known, points) if theirs is _NOTHING else theirs


def _contrast(claim: Claim, rows: pd.DataFrame) -> dict | None:
    parts = [_measured(claim, part) for part in claim.sides(rows)]
    if any(part.empty for part in parts):
        return None
    sides = [side(part, claim.value) for part in parts]
    means = [wording.minus(f"{np.mean([*one.values.values()]):.2f}") if one.values else "diverged" for one in sides]
    if claim.unit == SHARE:
        found = share(*sides)
        return {"found": found, "measured": f"{means[0]} between {means[1]} and {means[2]}"} if found.n else None
    found = least_sure([against(sides[0], other, claim.id, _apart(claim)) for other in sides[1:]])
    return {"found": found, "measured": f"{means[0]} against {', '.join(means[1:])}"}


def _measured(claim: Claim, rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each network, because an analysis may have several."""
    return one_each(rows, claim.value) if claim.analysis else rows


def _trend(claim: Claim, rows: pd.DataFrame) -> dict | None:
    points = _measured(claim, claim.points(rows))
    if points[claim.over].nunique() < _TREND:
        return None
    turned = points.assign(**{claim.over: -points[claim.over]}) if claim.falls else points
    places = sorted(points[claim.over].unique())
    means = finished(points, claim.value).groupby(claim.over)[claim.value].mean().reindex(places)
    words = ["diverged" if math.isnan(mean) else f"{mean:.2f}" for mean in means]
    found = trend(turned, claim.over, claim.value, _apart(claim))
    return {"found": found, "measured": _along(claim, words, places), "points": places}


def _along(claim: Claim, words: Sequence[str], places: Sequence[float]) -> str:
    symbol = {"tau": "τ", "alpha": "α"}.get(claim.over, claim.over)
    return f"{', '.join(words)} ({symbol} = {', '.join(map(naming.number, places))})"


def _gap(rows: pd.DataFrame) -> dict:
    """Return how much better the best epoch on the test set is than the last: mean over networks, spread over seeds."""
    gaps = finished(rows, "best_gap").groupby("seed")["best_gap"].mean()
    return {"found": judge(gaps.tolist()), "measured": f"{wording.signed(gaps.mean())} points"}


# -- what was published -----------------------------------------------------------------------------------------------


def _published(claim: Claim, path: dict, known: pd.DataFrame, points: Sequence[float] | None = None) -> dict:
    """Return what was published on a claim for the networks of a path; for a trend, its rise over the same points."""
    if claim.where not in ("clean", "chain") or known.empty:
        return _NOTHING
    rows = _with_roles(known[known["metric"] == claim.value], path)
    if rows.empty:
        return _NOTHING
    return _published_contrast(claim, rows) if claim.sides else _published_trend(claim, rows, points)


def _published_contrast(claim: Claim, rows: pd.DataFrame) -> dict:
    sides = claim.sides(rows)
    if any(part.empty for part in sides):
        return _NOTHING
    means = [part["value"].mean() for part in sides]
    words = [_doubted(mean, part["doubt"]) for mean, part in zip(means, sides, strict=True)]
    doubt = _doubts(pd.concat(sides))
    return {"published": " against ".join(words), "published_difference": means[0] - means[1], "doubt": doubt}


def _published_trend(claim: Claim, rows: pd.DataFrame, points: Sequence[float] | None) -> dict:
    rows = claim.points(rows).sort_values(claim.over)
    common = rows[rows[claim.over].isin(points if points is not None else [])]
    rows = common if len(common) >= _TREND else rows
    if len(rows) < _TREND:
        return _NOTHING
    words = [_doubted(value, [doubt]) for value, doubt in zip(rows["value"], rows["doubt"], strict=True)]
    places = rows[claim.over].tolist()
    rise = float(rows["value"].to_numpy() @ rise_weights(len(rows))) if places == points else math.nan
    return {
        "published": _along(claim, words, places),
        "published_difference": -rise if claim.falls else rise,
        "doubt": _doubts(rows),
    }


def _elsewhere(claim: Claim, known: pd.DataFrame, points: Sequence[float] | None = None) -> dict:
    """Return what was published for the paper's own networks. It is shown, but not compared with the measured."""
    if claim.elsewhere:
        return {**_NOTHING, "published": claim.elsewhere}
    theirs = _published(claim, claim.reference, known, points)
    if theirs is _NOTHING:
        return theirs
    words = f"{theirs['published']} ({claim.reference['networks_name']})"
    return {**theirs, "published": words, "published_difference": math.nan}


def _doubted(value: float, doubts: Sequence[str]) -> str:
    return f"{value:.2f}{'?' if any(doubts) else ''}"


def _doubts(rows: pd.DataFrame) -> str:
    return "; ".join(dict.fromkeys(doubt for doubt in rows["doubt"] if doubt))


# -- words ------------------------------------------------------------------------------------------------------------


def shown(lines: pd.DataFrame) -> pd.DataFrame:
    """Return the lines in words, with COLUMNS. A claim's sentence stands only in its first line."""
    first = ~lines["claim"].duplicated()
    settings = settings_of(lines)
    return pd.DataFrame(
        {
            "claim": lines["sentence"].where(first, ""),
            "setting": settings,
            "published": lines["published"].mask(lines.duplicated(["claim", "published"]), ""),
            "measured": lines["measured"],
            "difference": list(map(wording.interval_words, lines["difference"], lines["low"], lines["high"])),
            "verdict": [_said(line) for line in lines.to_dict("records")],
        }
    )


def _said(line: dict) -> str:
    number = {"inside": "the published number in the interval", "outside": "the published number outside"}
    p = {HOLDS: line["p_holm"], FAILS: line["p_holm"], SMALL: line["p_small_holm"]}.get(line["verdict"])
    if p is None:
        return line["statement"]
    also = [number[line["number"]]] if line["number"] else []
    return f"{line['statement']} ({'; '.join([wording.p_words(p), *also])})"


def settings_of(lines: pd.DataFrame) -> list[str]:
    """Say of each line in which setting it was measured."""
    measured = lines[lines["dataset"] != ""]
    varied = {column for column in SETTING if measured[column].nunique() > 1} | {"networks"}
    varied |= {"noise"} if (measured["noise"] != "none").any() else set()
    return [_setting(line, varied) for line in lines.to_dict("records")]


def _setting(line: dict, varied: set[str]) -> str:
    if not line["dataset"]:
        return "–" if line["verdict"] == MISSING else "all networks"
    early = f", teacher stopped after {line['stopped']} epochs" if line["stopped"] else ""
    clean = line["noise"] == "none"  # the title need not say it
    return naming.title(line, varied - {"noise", "noise_rate", "student"} if clean else varied - {"student"}) + early


def caption(lines: pd.DataFrame, of: str = "Kim et al. (IJCAI 2021) and Hinton et al. (2015)") -> str:
    """Say how the claims were judged, how many hold, and why numbers may not be comparable."""
    counts = lines["verdict"].value_counts()
    found = ", ".join(f"{counts.get(word, 0)} {word}" for word in (HOLDS, FAILS, SMALL, UNDECIDED, MEASURED, MISSING))
    tested = lines.groupby("kind")["family"].max()
    families = " and ".join(
        f"{tested.get(kind, 0)} {kind} {'test' if tested.get(kind, 0) == 1 else 'tests'}"
        for kind in (CONFIRMATORY, EXPLORATORY)
    )
    points = "points of top-1 after the last epoch" if figure.of_top1(lines) else "what each claim is about"
    smallest = " or ".join(dict.fromkeys(map(amount, *(lines[lines["kind"] != DESCRIPTIVE][key] for key in _SMALLEST))))
    return "\n".join(
        [
            f"The claims of {of} against what this study measured, in {len(lines)} lines: {found}.",
            f"Differences are in {points}, in the direction of the claim, so that above 0 "
            "speaks for it: a mean over seeds, paired, with its 95 % interval, which is not corrected. Of a trend it "
            "is the rise (or fall) of a line fitted over the ranks of what it is over, from the first to the last. "
            f"Pairs share the student's seed, and the teacher's; {_about_teachers(lines)}",
            f"A claim holds, or does not, by a two-sided paired t test at {ALPHA:.2g}; a difference is small, not "
            f"larger than the smallest of interest ({smallest}), by two one-sided ones. Holm's correction is over each "
            f"of the two families, {families}; fewer than {LEAST} independent pairs decide nothing. How many seeds "
            f"would show the smallest difference of interest is said for {100 * POWER:.0f} % power at {ALPHA:.2g} "
            "divided by the family, with the upper 80 % limit of the spread that was seen, from fewer than six pairs "
            "as a range that begins at its lower 80 % limit; the difference that was seen plays no part in it.",
            *([_about_registration(lines["registered"])] if lines["registered"].any() else []),
            *([_ABOUT_LOOKS] if lines["looks"].any() else []),
            *([_about_numbers(lines)] if "published" in lines else []),
        ]
    )


_SMALLEST = ("smallest", "unit")
_ABOUT_STAGES = (
    "The number of seeds was chosen by the spread of the first {}, so that the test of independent pairs takes its "
    "spread and its degrees of freedom from these (Stein's two stages)."
)
_ABOUT_LOOKS = (
    "Lines that an earlier verdict judged with other pairs are decided by e-values, which stay valid however often one "
    "looks and adds seeds; their t test does not count."
)


def _about_registration(said: pd.Series) -> str:
    before = (said == BEFORE).sum()
    return (
        f"{before} lines were registered before the first of their networks was published, with claims, rule and seeds "
        f"in a committed file; {len(said) - before} were found afterwards, or their registration is broken."
    )


def _about_teachers(lines: pd.DataFrame) -> str:
    """Say whether the pairs of these lines are independent or crossed."""
    crossed = lines.loc[lines["teachers"] > 1, "teachers"]
    if crossed.empty:
        return "they are independent."
    return (
        f"where every student seed stands under each of up to {crossed.max()} teacher seeds, teachers and students are "
        "random effects (Satterthwaite's degrees of freedom), and the fewer of the two counts as independent pairs."
    )


def _about_numbers(lines: pd.DataFrame) -> str:
    rule = "Published numbers are the best of 3 runs, chosen on the test set; ? marks what is doubtful."
    own = lines["published_difference"].notna().sum()
    if not own:
        return f"{rule} This study is not the paper's, so that only the signs of its claims are judged, never a number."
    judged = lines["number"].value_counts()
    return (
        f"{rule} {own} lines are of the paper's own data and networks: their published difference lies inside the "
        f"measured interval in {judged.get('inside', 0)} and outside it in {judged.get('outside', 0)}; in all others, "
        "signs alone are judged."
    )


# -- files ------------------------------------------------------------------------------------------------------------


def verdict(folder: Path, study: Study | None = None) -> Artefacts:
    """Return the verdict on the table in `folder`: verdict.csv, .md and .tex, and the figure with its caption."""
    lines = of_study(read_frame(folder / "table.parquet"), folder, study)
    own = bool(study and study.claims)
    about = caption(lines.drop(columns="published"), study.study) if own else caption(lines)
    stages = f"\n{_ABOUT_STAGES.format(FIRST)}" if study and study.auto_seeds else ""
    return _written(lines, about + stages)


def of_study(rows: pd.DataFrame, folder: Path, study: Study | None) -> pd.DataFrame:
    """Return the lines that judge a study's own claims, or the paper's if it has none, by the table `rows`."""
    own = study.claims if study else []
    told = {
        "former": _former(folder, folder / products.MANIFESTS / "verdict.json"),
        "registration": Registration.find(folder.name, own=own),
        "first": FIRST if study and study.auto_seeds else None,
    }
    if not own:
        return judged(rows, **told)
    asked = {one.analysis for one in own if one.analysis}
    analyses = {
        name: [folder / f"analyses/{experiment}.{name}.parquet" for experiment in study.measured(name)]
        for name in asked
    }
    return judged(rows, list(map(claim_of, own)), analyses, **told).assign(published="–")


def verdict_on(table: Path, claims: Path) -> Artefacts:
    """Return the same files for any tidy table and the claims in a file."""
    former = _former(table.parent / VERDICTS / claims.stem)
    registration = Registration.find(table.parent.name, claims)
    told, analyses = read_claims(claims), analyses_in(table.parent)
    lines = judged(read_table(table), told, analyses, former=former, registration=registration)
    lines = lines.assign(published="–")
    return _written(lines, caption(lines.drop(columns="published"), claims.name))


def _written(lines: pd.DataFrame, about: str) -> Artefacts:
    words = shown(lines)
    lines = lines.assign(setting=words["setting"])
    measured = lines[lines["verdict"] != MISSING]
    with style.paper():
        drawn = figure.draw(measured if len(measured) else lines)
    return {
        "verdict.csv": lines.to_csv(index=False, lineterminator="\n").encode(),
        "verdict.md": markdown(words, about).encode(),
        "verdict.tex": latex(words, about).encode(),
        "figures/verdict.txt": f"{about}\n".encode(),
        **style.pictures(drawn, "figures/verdict"),
    }


def markdown(words: pd.DataFrame, about: str) -> str:
    """Return the lines as a table of GitHub's markdown."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(map(_markdown_text, row) for row in words[COLUMNS].to_numpy())]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{_markdown_text(about)}\n"


def _markdown_text(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\|*_`<>[]#~" else letter for letter in text)


def latex(words: pd.DataFrame, about: str) -> str:
    """Return the lines as a longtable."""
    return longtable(words[COLUMNS], [0.22, 0.12, 0.17, 0.15, 0.12, 0.14], about)
