"""`kd watch`: what runs, how far it is, what waits and what failed, from files alone."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kd.cli.forecast import Forecast
from kd.cli.options import study_of
from kd.core.duration import spelled
from kd.machine.hours import Speeds, wall_clock
from kd.machine.room import Sizes
from kd.study import products
from kd.study.cells import RESULTS
from kd.study.controllers import alive
from kd.study.judge import Judge
from kd.study.status import STATUSES, Standing, standings

if TYPE_CHECKING:
    from rich.console import RenderableType

_LOOKS, _LINES = 2.0, 60.0  # seconds between two looks on a terminal, and between two reports to a pipe
_COST = 10  # looking takes at most one part of so many of the time: judging thousands of cells takes seconds
_WIDE = 110  # columns of a terminal in which a bar and the machine have room
_SHOWN = 20  # of what runs or failed; the rest is counted


class View(NamedTuple):
    """A study at one moment."""

    counts: dict[str, int]  # of cells, by status
    running: list[Standing]
    failed: list[Standing]
    ready: int  # waiting cells whose teachers are there
    left: float  # seconds until all is done with as many cells at once as run now; 0 if not known
    is_done: bool
    is_alone: bool  # nothing runs, and no Snakemake is at work here

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items() if count)
        ready = f" ({self.ready} could start now)" if self.ready else ""
        left = f"; about {spelled(self.left)} left" if self.left else ""
        return f"{counts}{ready}{left}{'; no snakemake is at work here' * (self.is_alone and not self.is_done)}"


def watch(options: argparse.Namespace) -> None:
    """Show live which cells run, how far they are, and what waits or failed; to a pipe, a few lines a minute."""
    judge = Judge.of_study(study_of(options))
    if sys.stdout.isatty() and not _lacks_rich():
        _live(judge)
    else:
        _lines(judge)


def _lacks_rich() -> bool:
    try:
        import rich  # noqa: F401
    except ImportError:
        print("kd: plain lines, because rich is not installed: pip install 'kd[watch]'", file=sys.stderr)
        return True
    return False


def _views(judge: Judge, every: float) -> Iterator[View]:
    """Look again and again until nothing is to do; whoever takes a view may stop earlier."""
    while True:
        began = time.monotonic()
        view = view_of(judge := judge.again())
        yield view
        if view.is_done:
            return
        time.sleep(max(every, _COST * (time.monotonic() - began)))


def view_of(judge: Judge) -> View:
    """Look at a study once."""
    cells, others = standings(judge)
    by_status = {status: [one for one in cells if one.status == status] for status in STATUSES}
    running, failed = ([*by_status[status], *_of(others, status)] for status in ("running", "failed"))
    waiting = {one.name for one in by_status["waiting"] if not one.detail}
    led = {cell: [cell.teacher] if cell.teacher else cell.members if cell.is_ensemble else [] for cell in judge.cells}
    ready = [
        cell
        for cell, awaited in led.items()
        if cell.path in waiting and not any(judge.to_do(products.network(one)) for one in awaited)
    ]
    sizes = Sizes(judge.study)
    forecast = Forecast(judge, Speeds.measured(sizes), sizes)
    return View(
        {status: len(found) for status, found in by_status.items()},
        running,
        failed,
        len(ready),
        0.0 if forecast.untimed else wall_clock(forecast.tasks, max(1, len(by_status["running"]))),
        not judge.all_to_do,
        not running and not alive(),
    )


def _of(others: list[Standing], status: str) -> list[Standing]:
    return [one for one in others if one.status == status]


# -- plain ------------------------------------------------------------------------------------------------------------


def _lines(judge: Judge) -> None:
    """Print what runs once a minute, and each failure once, until nothing is to do or nobody works on it."""
    told: set[str] = set()
    for view in _views(judge, _LINES):
        print(f"{time.strftime('%H:%M:%S')} {view}")
        for one in view.running:
            print(f"  running {one}")
        for one in view.failed:
            if str(one) not in told:
                print(f"  failed  {one}")
        told |= set(map(str, view.failed))
        sys.stdout.flush()
        if view.is_alone:
            return


# -- on a terminal ----------------------------------------------------------------------------------------------------


def _live(judge: Judge) -> None:
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as live:
        for view in _views(judge, _LOOKS):
            live.update(drawn(judge.study.study, view, live.console.width), refresh=True)
    print(f"study {judge.study.study}: {view}")


def drawn(study: str, view: View, width: int) -> RenderableType:
    """Draw a view for rich: a line on the study, a table of what runs, the failures. `width` is the terminal's."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("running", no_wrap=True, ratio=1)
    for name in ("epoch", "images/s", "test %", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    for _ in range(2 * wide):
        table.add_column(no_wrap=True)
    for one in view.running[:_SHOWN]:
        beat, told = one.beat, ["", "", "", ""]
        if beat:
            told = [f"{beat.epoch}/{beat.epochs}"]
            told.append("" if beat.images_per_second is None else f"{beat.images_per_second:,.0f}")
            told.append("" if beat.test_top1 is None else f"{beat.test_top1:.2f}")
            told.append("" if beat.seconds_left is None else spelled(beat.seconds_left))
        done = ProgressBar(total=1, completed=beat.share if beat else 0, width=12)
        where = Text(one.detail.rpartition("  ")[2], style="dim")
        name = one.name.split("/", 3)[-1] if one.name.startswith(f"{RESULTS}/") else one.name
        table.add_row(Text(name, overflow="ellipsis"), *told, *([done, where] if wide else []))
    failures = [Text(str(one), style="red", no_wrap=True, overflow="ellipsis") for one in view.failed[:_SHOWN]]
    more = [Text(f"... and {n - _SHOWN} more: kd status") for n in map(len, (view.running, view.failed)) if n > _SHOWN]
    head = Text.assemble((f"study {study}", "bold"), f"  {time.strftime('%H:%M:%S')}  {view}")
    return Group(head, Text(), *([table, Text()] if view.running else []), *failures, *more)
