"""Write bench/results/RESULTS.md and its figure from bench/results/*.csv."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench import RESULTS
from bench.worker import GRID, IMAGES
from kd.report.figures import style

EPOCHS, SEEDS = 200, 3
STUDENTS = (1, 2, 5, 20, 50)  # of one teacher
KD, ONLINE, LIMIT = "kd, bank, bf16, compiled", "kd, teacher online", "convolutions alone, bf16"
MDISTILLER, PAPER = "as mdistiller", "as the paper's code"
NAMES = {"wrn-16-2": "WRN-16-2", "wrn-16-4": "WRN-16-4"}
LOOKS = {
    PAPER: {"color": "#000000", "marker": "o", "linestyle": (0, (1, 1))},
    MDISTILLER: {"color": "#D55E00", "marker": "s", "linestyle": (0, (5, 1.5))},
    ONLINE: {"color": "#0072B2", "marker": "d", "linestyle": (0, (3, 1, 1, 1))},
    KD: {"color": "#009E73", "marker": "^", "linestyle": "-"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    loops, parts, scale, gpu = (pd.read_csv(out / f"{name}.csv") for name in ("loops", "parts", "scale", "gpu"))
    machine = (out / "machine.txt").read_text().strip()
    growth = grown(loops)
    growth.to_csv(out / "growth.csv", index=False)
    sections = [
        "# Measured\n",
        f"{machine}\n\n`make bench` writes this page. Every ratio is one of runs that took turns within one script; "
        "medians. Images of noise, 32x32, 100 classes, batch 128, teacher WRN-28-4; evaluation included.\n",
        "## Whole loops\n",
        *(loop_table(loops, student) for student in loops.student.unique() if student in NAMES),
        "![images per second, and hours of a grid](loops.png)\n",
        "## The bank\n",
        bank_table(loops),
        "A grid of cells of one teacher, 200 epochs of 50,000 images, three seeds, on these two cores:\n",
        growth.to_markdown(index=False) + "\n",
        "## Parts\n",
        parts.to_markdown(index=False) + "\n",
        "## Studies by size\n",
        scale.to_markdown(index=False) + "\n",
        "## On a GPU\n",
        f"{(out / 'gpu.txt').read_text().strip()}\n\n`bench/gpu.sh` measures it. Training includes the evaluation of a "
        "fifth as many images; medians of 3 rounds of contestants that took turns.\n",
        gpu[~gpu.part.str.endswith(", memory")].to_markdown(index=False) + "\n",
    ]
    (out / "RESULTS.md").write_text("\n".join(sections))
    with style.paper():
        style.save(drawn(loops, growth), out / "loops")
    for kind in ("pdf", "svg"):
        (out / f"loops.{kind}").unlink()


def rates(loops: pd.DataFrame, student: str) -> pd.Series:
    """Return images a second by loop."""
    return loops[loops.student == student].set_index("loop").images_per_second


def loop_table(loops: pd.DataFrame, student: str) -> str:
    """Return each loop's speed, compared with the peers and with the convolutions."""
    rate = rates(loops, student)
    rows = loops[loops.student == student]
    table = pd.DataFrame(
        {
            f"student {NAMES[student]}": rows.loop,
            "cells x threads": [f"{row.processes} x {row.threads}" for row in rows.itertuples()],
            "images/s": rows.images_per_second.round(0).astype(int),
            "rounds": [f"{row.slowest:.0f} to {row.fastest:.0f}" for row in rows.itertuples()],
            "of mdistiller's": (rows.images_per_second / rate[MDISTILLER]).round(2),
            "of the paper's": (rows.images_per_second / rate[PAPER]).round(1),
            "of the convolutions": (rows.images_per_second / rate[LIMIT]).round(2),
            "hours of a 200-epoch cell": (EPOCHS * IMAGES / rows.images_per_second / 3600).round(1),
            "MiB, anonymous": rows.anonymous_mib,
        }
    )
    return table.to_markdown(index=False) + "\n"


def bank_table(loops: pd.DataFrame) -> str:
    """Return the cost of filling a bank, compared with the forward passes alone."""
    rate = rates(loops, "bank")
    rows = [
        {
            "teacher's precision": precision,
            "rows/s": round(rate[f"fill, {precision}"]),
            "bare passes/s": round(rate[f"passes, {precision}"]),
            "cost of the bank / of the passes": round(rate[f"passes, {precision}"] / rate[f"fill, {precision}"], 2),
            "hours for all 162 views of 50,000 images": round(
                GRID.count * IMAGES / rate[f"fill, {precision}"] / 3600, 1
            ),
        }
        for precision in ("fp32", "bf16")
    ]
    return pd.DataFrame(rows).to_markdown(index=False) + "\n"


def grown(loops: pd.DataFrame) -> pd.DataFrame:
    """Return, by number of students of one teacher, the teacher's passes and the hours with and without a bank."""
    rate, fill = rates(loops, "wrn-16-2"), rates(loops, "bank")["fill, fp32"]
    rows = []
    for students in STUDENTS:
        filled = views_filled(min(students, SEEDS))
        trained = students * EPOCHS * IMAGES
        banked = filled * IMAGES / fill + trained / rate[KD]
        rows.append(
            {
                "students": students,
                "views filled": round(filled),
                "teacher passes saved": f"{100 * (1 - filled * IMAGES / trained):.0f} %",
                **{f"hours, {loop}": round(trained / rate[loop] / 3600, 1) for loop in (PAPER, MDISTILLER, ONLINE)},
                f"hours, {KD}": round(banked / 3600, 1),
                "of mdistiller's": round(trained / rate[MDISTILLER] / banked, 1),
            }
        )
    return pd.DataFrame(rows)


def views_filled(seeds: int) -> float:
    """Return the expected number of different views of an image in the epochs of so many seeds."""
    return GRID.count * (1 - (1 - 1 / GRID.count) ** (EPOCHS * seeds))


def drawn(loops: pd.DataFrame, growth: pd.DataFrame) -> Figure:
    """Draw the speeds of the loops, and the hours of a grid."""
    figure = style.canvas(style.DOUBLE, 2.9)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    rate = rates(loops, "wrn-16-2")
    left.barh(list(rate.index), rate, color=[_colour(name) for name in rate.index], height=0.7)
    for place, (name, value) in enumerate(rate.items()):
        ratio = "" if name == MDISTILLER else f"  {value / rate[MDISTILLER]:.1f}x"
        left.text(value, place, f" {value:.0f}{ratio}", va="center", fontsize=7)
    left.invert_yaxis()
    left.set_xlim(0, 1.3 * rate.max())
    left.set_xlabel("images/s; x: of mdistiller's")
    for loop, look in LOOKS.items():
        right.plot(growth.students, growth[f"hours, {loop}"], label=loop, markersize=4, **look)
    right.set(xscale="log", yscale="log", xlabel="students of one teacher", ylabel="hours for all, bank included")
    right.set_xticks(list(STUDENTS), [str(n) for n in STUDENTS])
    right.minorticks_off()
    right.set_ylim(top=40 * growth.filter(like="hours").max().max())  # room for the legend above the lines
    right.legend(loc="upper left")
    return figure


def _colour(loop: str) -> str:
    if loop in LOOKS:
        return LOOKS[loop]["color"]
    return "#bdbdbd" if loop == LIMIT else "#7fccb3"


if __name__ == "__main__":
    main()
