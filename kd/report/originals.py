"""Published numbers of the field's benchmark beside those that a study measured: the original and the reproduction.

kd/report/paper/benchmarks.csv has them for CIFAR-100, in percent: RepDistiller's tables (arXiv 1910.10699), and those
of later papers on the same pairs. A number belongs to a loss of a pair of networks; of its hyperparameters only those
that the file gives must agree, because most papers choose the others for each pair. Nothing here decides anything.
"""

from __future__ import annotations

import math

import pandas as pd

from kd.report.figures import wording
from kd.report.latex import longtable
from kd.report.paper import benchmarks
from kd.report.statistics import SETTING, summarise

ORIGINALS = (
    "Top-1 in percent as published for CIFAR-100, and as measured here after the last epoch: mean ± half-width of its "
    "95 % Student t interval over n networks. Gain: points over the same student that learnt from the labels alone; as "
    "published by RepDistiller for that student, and as measured, paired over seeds. Papers that report the best epoch "
    "on the test set read higher by what stands under best on test."
)
_ASKED = ["loss", "tau", "alpha", "logits"]  # empty: whatever the study has


def known() -> pd.DataFrame:
    """Return the published numbers with their gain over the student alone (points)."""
    found = benchmarks()
    alone = found[found["loss"] == "ce"].set_index("networks")["top1"]
    student = found["networks"].str.rpartition(" > ")
    return found.assign(gain=(found["top1"] - student[2].map(alone)).where(student[1] != ""))


def originals(rows: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """Return a line for each published number whose pair, loss and data are in a table.

    original, original_sd, original_gain, source, rule and note are as published; mean, low, high, n and best_gap are
    those of `summarise`; gain, gain_low, gain_high and pairs those of `compared`, the comparisons of the same table.
    """
    by = ["experiment", *SETTING, "networks", "networks_name", "stages", "objectives", "objectives_name", "loss"]
    theirs = rows[(rows["dataset"] == "cifar100") & (rows["noise"] == "none") & (rows["fraction"] == 1)]
    theirs = theirs[(theirs["selection"] == "") & (theirs["stopped"] == "") & (theirs["stages"] <= 2)]
    lines, numbers = [], known().to_dict("records")
    hyperparameters = [name for name in _ASKED[1:] if name in rows]
    for line in summarise(theirs, [*by, *hyperparameters]).to_dict("records"):
        for told in numbers:
            if told["networks"] == line["networks"] and all(_agree(told[name], line.get(name)) for name in _ASKED):
                lines.append(
                    {name: line[name] for name in by}
                    | {"original": told["top1"], "original_sd": told["sd"], "original_gain": told["gain"]}
                    | {name: told[name] for name in ("source", "rule", "note")}
                    | {name: line[name] for name in ("mean", "low", "high", "n", "diverged", "best_gap")}
                    | _gain(line, compared)
                )
    columns = [*by, "original", "original_sd", "original_gain", "source", "rule", "note"]
    columns += ["mean", "low", "high", "n", "diverged", "best_gap", "gain", "gain_low", "gain_high", "pairs"]
    return pd.DataFrame(lines, columns=columns)


def _agree(asked: object, given: object) -> bool:
    return asked == "" or asked != asked or asked == given  # NaN is what the file leaves open


def _gain(line: dict, compared: pd.DataFrame) -> dict:
    """Return how much higher a line is than CE alone, as it stands in the comparisons."""
    here = compared
    for name in ("experiment", *SETTING, "networks"):
        here = here[here[name] == line[name]]
    for ce, taught, sign in (("a", "b", -1), ("b", "a", 1)):  # a difference is a - b
        for pair in here[(here[ce] == "ce") & (here[taught] == line["objectives"])].to_dict("records"):
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            return {"gain": sign * pair["difference"], "gain_low": low, "gain_high": high, "pairs": pair["pairs"]}
    return {"gain": math.nan, "gain_low": math.nan, "gain_high": math.nan, "pairs": 0}


def in_words(lines: pd.DataFrame) -> list[dict]:
    """Return the lines as words, for the page and LaTeX."""
    return [
        {
            "networks": line["networks_name"],
            "objectives": line["objectives_name"],
            "original": f"{line['original']:.2f}"
            + (f" ± {line['original_sd']:.2f} (sd)" if line["original_sd"] > 0 else ""),
            "measured": wording.half_words(line),
            "n": wording.count(line["n"], line["diverged"]).removeprefix("n = "),
            "original_gain": wording.signed(line["original_gain"]) if math.isfinite(line["original_gain"]) else "–",
            "gain": _signed(line),
            "gap": wording.signed(line["best_gap"]) if line["n"] else "–",
            "source": "; ".join(filter(None, (line["source"], line["rule"], line["note"]))),
        }
        for line in lines.to_dict("records")
    ]


def _signed(line: dict) -> str:
    if not math.isfinite(line["gain"]):
        return "–"
    half = (line["gain_high"] - line["gain_low"]) / 2
    return wording.signed(line["gain"]) + (f" ± {half:.2f}" if math.isfinite(half) else "")


def in_latex(lines: pd.DataFrame) -> str:
    """Return the lines as a table."""
    columns = [
        "networks",
        "objectives",
        "original",
        "measured",
        "n",
        "gain, original",
        "gain",
        "best on test",
        "source",
    ]
    words = pd.DataFrame([list(line.values()) for line in in_words(lines)], columns=columns)
    return longtable(words, [0.16, 0.15, 0.1, 0.13, 0.04, 0.08, 0.11, 0.07, 0.14], ORIGINALS)
