"""How the answers of students are spread over the test set: a density each for three quantities, a line per objective.

The distance to the teacher's logits, the norm of the pre-logits, and the true logit difference (TLD): the logit of the
true class minus the largest other one, above 0 where the answer is right (arXiv 2105.08919).
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd.report.figures import style, wording
from kd.report.figures.analysed import Setting, analysed, counted, examples, head, heading, left_out, some

_MOST = 7  # objectives that one panel keeps apart
_QUANTITIES = {
    "distance": "distance to the teacher's logits",
    "prelogit_norm": "norm of the pre-logits",
    "tld": "true logit − largest other",
}
_FAINT = 0.002  # of the highest density: where an axis ends


def draw(rows: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Draw the three quantities side by side, for each student and data."""
    found = _found(rows, frame)
    figure = style.canvas(style.DOUBLE, sum(1.9 + 0.2 * bool(setting.title) for setting in found))
    for part, setting in zip(figure.subfigures(len(found), 1, squeeze=False).flat, found, strict=True):
        head(part, heading(setting))
        axes = part.subplots(1, len(_QUANTITIES))
        for axis, (quantity, label) in zip(axes, _QUANTITIES.items(), strict=True):
            _panel(axis, setting, quantity)
            axis.set(xlabel=label, yticks=[])
            axis.spines["left"].set_visible(False)
        axes[0].set_ylabel("density")
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.6, borderaxespad=0.5)
    return figure


def caption(rows: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Say what the densities are of, and where each has its mean."""
    found = _found(rows, frame)
    used = wording.union(setting.rows for setting in found)
    said = ["; ".join([*(_means(s, quantity) for quantity in _QUANTITIES), counted(s)]) for s in found]
    shown = some(used, _MOST)
    shows = (
        f"Densities over {examples(frame)} ({wording.where(used)}) of the distance ||z_s − z_t|| between the logits of "
        "student and teacher, of the norm of the pre-logits, and of the logit of the true class minus the largest "
        "other one, which is above 0 where the answer is right. Lines are means over the seeds of the networks that "
        f"did not diverge, bands the range of those seeds, the thick grey line is the teacher.{left_out(shown, used)}"
        f"{_outside(found)}"
    )
    return wording.compose(shows, [setting.title for setting in found], said, used)


def _outside(found: list[Setting]) -> str:
    """Say how many true logit differences lie outside their bins, where some do."""
    tld = pd.concat([setting.frame[setting.frame["quantity"] == "tld"] for setting in found])
    inside = (tld["density"] * (tld["high"] - tld["low"])).sum() / tld.groupby(["cell", "reference"]).ngroups
    low, high = tld["low"].min(), tld["high"].max()
    if inside > 0.9995:
        return ""
    lost = f"{100 * (1 - inside):.1f} % of the true logits"
    return f" {lost} exceed the largest other one by less than {low:g} or more than {high:g}, and are not shown."


def _found(rows: pd.DataFrame, frame: pd.DataFrame) -> list[Setting]:
    found = analysed("densities", rows, frame)
    return [s._replace(frame=_of_test(s.frame), teachers=_of_test(s.teachers)) for s in found]


def _of_test(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["split"] == "test"]


def _panel(axis: Axes, setting: Setting, quantity: str) -> None:
    objectives, shown = setting.rows.set_index("cell")["objective_name"], some(setting.rows, _MOST)
    drawn = setting.frame[setting.frame["cell"].map(objectives).isin(shown)]
    bins, taught = _coarse([drawn, setting.teachers], quantity)
    if len(taught):
        mean = taught.groupby("middle")["density"].mean()
        axis.plot(mean.index, mean, color="#b8b8b8", linewidth=3, zorder=1, label="the teacher")
    rows = setting.rows[setting.rows["objective_name"].isin(shown)]
    looks = dict(zip(rows["objective_name"], style.looks(rows), strict=True))
    for name in shown:
        _line(axis, name, looks[name], bins[bins["cell"].map(objectives) == name])
    seen = pd.concat([bins, taught])
    seen = seen.loc[seen["density"] > _FAINT * seen["density"].max(), "middle"]
    axis.set(xlim=(seen.min(), seen.max()), ylim=(0, None))
    if quantity == "tld":
        axis.axvline(0, color=style.GREY, linestyle=":", linewidth=0.8, zorder=1)


def _coarse(frames: list[pd.DataFrame], quantity: str) -> list[pd.DataFrame]:
    """Return each of `frames` with the histograms of a quantity in as many bins as fill: cell, middle, density."""
    frames = [frame[frame["quantity"] == quantity] for frame in frames]
    every = pd.concat(frames)
    place = {low: number for number, low in enumerate(sorted(every["low"].unique()))}
    filled = every.loc[every["density"] > _FAINT * every["density"].max(), "low"].nunique()
    # Half as many again as by Rice's rule, 2 n^(1/3), for several seeds are averaged.
    together = max(1, round(filled / (3 * every["n"].max() ** (1 / 3))))
    return [_joined(frame.assign(bin=frame["low"].map(place) // together)) for frame in frames]


def _joined(bins: pd.DataFrame) -> pd.DataFrame:
    """Return the mean density of each `bin` of a cell; a network that has several references has their mean."""
    bins = bins.assign(middle=(bins["low"] + bins["high"]) / 2)
    return bins.groupby(["cell", "bin"], sort=False)[["middle", "density"]].mean().reset_index()


def _line(axis: Axes, name: str, look: style.Look, bins: pd.DataFrame) -> None:
    if bins.empty:  # every network of it diverged, or none has such a quantity
        return
    seeds = bins.groupby("middle")["density"].agg(["mean", "min", "max"])
    axis.plot(seeds.index, seeds["mean"], label=name, linewidth=1, color=look.color, linestyle=look.linestyle)
    axis.fill_between(seeds.index, seeds["min"], seeds["max"], color=look.color, alpha=0.15, linewidth=0)


def _means(setting: Setting, quantity: str) -> str:
    """Say between which objectives the mean of a quantity lies."""
    bins = setting.frame[setting.frame["quantity"] == quantity]
    objectives = dict(zip(setting.rows["cell"], setting.rows["objective_name"], strict=True))
    width = bins["high"] - bins["low"]
    sums = (bins["density"] * width * (bins["low"] + bins["high"]) / 2).groupby(bins["cell"].map(objectives)).sum()
    shares = (bins["density"] * width).groupby(bins["cell"].map(objectives)).sum()
    means = (sums / shares).sort_values(kind="stable")
    if means.empty:
        return f"{_QUANTITIES[quantity]}: none"
    ends = dict.fromkeys((means.index[0], means.index[-1]))
    said = " to ".join(f"{means[end]:.2f} ({end})" for end in ends)
    return f"mean {_QUANTITIES[quantity]} {said}"
