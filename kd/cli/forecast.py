"""What `kd plan` says of work and time: by experiment and stage, hours, critical path, wall clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from kd.core import heartbeat
from kd.core.duration import spelled
from kd.machine.hours import Speeds, Task, critical_path, numbers_at_once
from kd.machine.room import Sizes, bank_rows, with_banks
from kd.study import products
from kd.study.cells import Cell
from kd.study.config import Study
from kd.study.expansion import cells_of, first_trial, with_teachers
from kd.study.judge import Judge
from kd.study.leftovers import states

_STAGES = ("teachers", "students", "chains")  # as the targets of the Snakefile


class Work(NamedTuple):
    """Cells of one stage: how many there are, by what is to be done; seconds of those with known speed."""

    done: int
    resumable: int
    fresh: int
    seconds: float
    untimed: int  # to be trained, at an unknown speed


class Forecast:
    """What is to be trained in a study, and how long that takes."""

    def __init__(self, judge: Judge, speeds: Speeds, sizes: Sizes) -> None:
        self._judge, self._study, self._speeds, self._sizes = judge, judge.study, speeds, sizes
        self._trained: dict[Cell, bool] = {}

    def is_trained(self, cell: Cell) -> bool:
        """Say whether a cell will be trained: it is not current, or a teacher will have other weights."""
        if cell not in self._trained:
            product = products.network(cell)
            led = [cell.teacher] if cell.teacher else cell.members if cell.is_ensemble else []
            replaced = any(self.is_trained(one) and self._judge.manifest(products.network(one)) for one in led)
            self._trained[cell] = bool(replaced or self._judge.reason(product))
        return self._trained[cell]

    def stage_of(self, cell: Cell) -> str:
        """Return the target of the Snakefile that trains a cell."""
        return _STAGES[0] if cell in self._judge.students else _STAGES[1 + (len(cell.stages) > 2)]

    def seconds(self, cell: Cell) -> float | None:
        """Return the seconds that a cell's training still takes, None if they are not known."""
        whole = self._speeds.training(cell, self._study.protocol, self._sizes[cell.dataset.name])
        beat = heartbeat.read(products.network(cell).lock) if whole and self.is_resumable(cell) else None
        return whole * max(0.0, 1 - beat.share) if beat else whole

    def is_resumable(self, cell: Cell) -> bool:
        """Say whether a training that was stopped has left a state."""
        return bool(states(products.network(cell)))

    def work(self, cells: Iterable[Cell]) -> Work:
        """Sum up cells, without ensembles, which train nothing."""
        found: Counter[str] = Counter()
        seconds = 0.0
        for cell in (one for one in cells if not one.is_ensemble):
            if not self.is_trained(cell):
                found["done"] += 1
                continue
            found["resumable" if self.is_resumable(cell) else "fresh"] += 1
            lasts = self.seconds(cell)
            found["untimed"] += lasts is None
            seconds += lasts or 0.0
        return Work(found["done"], found["resumable"], found["fresh"], seconds, found["untimed"])

    @cached_property
    def banks(self) -> Mapping[Cell, float | None]:
        """Map each teacher whose bank lacks rows for its students to the seconds of filling it."""
        readers = with_banks(filter(self.is_trained, self._judge.cells), self._study)
        found: dict[Cell, float | None] = {}
        for teacher, students in readers.items():
            size = self._sizes[teacher.dataset.name]
            lacking = (
                max((rows for _, rows in bank_rows(teacher, students, self._study, size).values()), default=0)
                if size
                else 1
            )
            if lacking:
                found[teacher] = self._speeds.filling(teacher, self._study.protocol, lacking) if size else None
        return found

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """What takes time, each after what it waits for; what has no known speed takes none."""
        found: dict[str, Task] = {}
        for cell in self._judge.cells:
            led = [cell.teacher] if cell.teacher else cell.members if cell.is_ensemble else []
            asked = tuple(one.name for one in self._judge.asks_for(products.network(cell)))
            if self.is_trained(cell) or cell.is_ensemble:
                found[cell.path] = Task(self.seconds(cell) or 0.0, (*asked, *(one.path for one in led)))
            if cell in self.banks:
                found[products.bank(cell).name] = Task(self.banks[cell] or 0.0, (cell.path,))
        for one in self.trials:
            name, number, _ = one.slot
            teacher = self._judge.searching[name]
            earlier = (trial.name for trial in self.trials if trial.slot[:2] == (name, number - 1))
            lasts = self.seconds(first_trial(self._study, name)) or 0.0
            found[one.name] = Task(lasts, (*earlier, *([teacher.path] if teacher else [])))
        return found

    @cached_property
    def trials(self) -> list[products.Product]:
        """The trials that are to be made."""
        return [one for name in self._study.searches for one in self._judge.trials(name) if self._judge.to_do(one)]

    @cached_property
    def untimed(self) -> list[str]:
        """Networks that are to be trained, and whose banks are to be filled, at a speed that nothing tells."""
        cells = [cell for cell in self._judge.cells if self.is_trained(cell) and not cell.is_ensemble]
        cells += [first_trial(self._study, one.slot[0]) for one in self.trials]
        slow = dict.fromkeys(cell.stage.network for cell in cells if self.seconds(cell) is None)
        unfilled = dict.fromkeys(one.stage.network for one, lasts in self.banks.items() if lasts is None)
        return [*slow, *(f"banks of {name}" for name in unfilled if name not in slow)]


def say_work(judge: Judge, calibrates: bool = False) -> None:
    """Print a line for each stage of each experiment, and how long what is to do takes.

    With `calibrates` kinds of networks that nobody trained here are trained a little first.
    """
    study, sizes = judge.study, Sizes(judge.study)
    if calibrates:
        from kd.jobs.calibrate import calibrate

        blank = Forecast(judge, Speeds({}, {}), sizes)
        trials = [first_trial(study, one.slot[0]) for one in blank.trials]
        calibrate(study, [*filter(blank.is_trained, judge.cells), *trials])
    speeds = Speeds.measured(sizes)
    forecast, rows = Forecast(judge, speeds, sizes), []
    for name in study.experiments:
        cells = with_teachers(cells_of(study, name))
        for stage in _STAGES:
            of_stage = [cell for cell in cells if forecast.stage_of(cell) == stage]
            if of_stage:
                rows.append((name, stage, forecast.work(of_stage)))
                name = ""  # once is enough
    print(f"  {'':20} {'':9}{'cells':>7}{'done':>7}{'resumable':>11}{'to do':>7}{'hours':>9}")
    for name, stage, work in rows:
        print(f"  {name:20} {stage:9}{_row(work)}")
    print(f"  {'each cell once':30}{_row(forecast.work(judge.cells))}")
    for name, search in study.searches.items():
        count, left = search.rounds * search.batch, sum(one.slot[0] == name for one in forecast.trials)
        print(
            f"  {name:20} trials   {count:7}{count - left:7}{'':11}{left:7}  {search.rounds} rounds, {search.sampler}"
        )
    _say_hours(forecast, speeds, study)


def _row(work: Work) -> str:
    hours = "-" if work.untimed and not work.seconds else f"{work.seconds / 3600:,.1f}" + "+" * bool(work.untimed)
    count = work.done + work.resumable + work.fresh
    return f"{count:7}{work.done:7}{work.resumable:11}{work.fresh:7}{hours:>9}"


def _say_hours(forecast: Forecast, speeds: Speeds, study: Study) -> None:
    tasks = forecast.tasks
    total = sum(task.seconds for task in tasks.values())
    if total:
        each = study.gpus_per_cell / max(1, study.cells_per_gpu) if speeds.on_gpu else speeds.threads
        unit = "GPU-hours" if speeds.on_gpu else "core-hours"
        banks = sum(filter(None, forecast.banks.values()))
        filled = f" ({spelled(banks)} fill banks)" if banks else ""
        print(f"{total * each / 3600:,.1f} {unit} are left{filled}, at the speed measured on {speeds.device}")
        least, last = critical_path(tasks)
        at_once = ", ".join(f"{spelled(seconds)} with {number}" for number, seconds in numbers_at_once(tasks, least))
        print(f"  wall clock by cells at once: {at_once}")
        print(f"  never less than {spelled(least)}, which {last} and what it waits for take")
    if forecast.untimed:
        measure = "kd plan --calibrate measures them, unless their images are streamed or not known yet"
        print(f"  hours not known: {', '.join(forecast.untimed)}; {measure}")
