"""Every storage call of every verb fails once, or is the last that its process makes: `python tests/storage_sweep.py`.

What must hold each time: the verb ends with exit 74 and names a file, or does without the call; what is published is
whole; the same verb, run again, makes the bytes that an undisturbed one makes, and leaves nothing unfinished behind.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import itertools
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from made.supervised import KILL, Call, Ended, refusal, supervised
from made.tiny import FILES, ONLINE, STUDY, VERBS, Folder, Tree, Verb, published, tree
from matplotlib.figure import Figure

from kd.__main__ import main as kd
from kd.machine import state
from kd.study import status
from kd.study.config import validate
from kd.study.judge import Judge
from kd.study.products import owner
from kd.train import bank

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
_FREES = {"unlink", "unlinkat", "rmdir", "fsync", "fdatasync", "msync"}  # a full disk refuses none of these by ENOSPC
_WRITES = 3  # in a row, to one file, of which each is a trial; of more the first, the last and one between


class Trial(NamedTuple):
    """The n-th call of a verb fails with an error, or is not made because the process is killed before."""

    verb: Verb
    number: int
    call: Call
    how: int

    def __str__(self) -> str:
        how = "killed before" if self.how == KILL else f"{errno.errorcode[self.how]} in"
        return f"{self.verb.name}: {how} call {self.number}, {self.call.kind} {self.call.path}"


class Sweep:
    """The project as it is before and after each verb, and the calls that each makes."""

    def __init__(self, folder: Path, verbs: Sequence[Verb]) -> None:
        self.folder, self.verbs = Folder(folder), verbs
        self.met: Call | None = None  # by the fault of the trial that was made last
        self.before: dict[Verb, Tree] = {}
        self.after: dict[Verb, dict] = {}
        self.calls: dict[Verb, list[Call]] = {}
        content: Tree = dict(FILES)
        for verb in verbs:
            if verb.name == "discard":
                content = dict(content)
                path = min(path for path in content if path.startswith("answers/") and path.endswith("tensors"))
                content[path] = content[path][:-1] + b"?"
            self.folder.put(content)
            ended = self.run(verb)
            assert ended.code == 0, f"{verb.name}\n{ended.said}"
            self.before[verb], content = content, tree(self.folder.path)
            self.after[verb], self.calls[verb] = published(content), ended.calls

    def run(self, verb: Verb, trial: Trial | None = None) -> Ended:
        """Run a verb; in a trial, with its fault."""
        seen = 0
        self.met = None

        def decide(call: Call) -> int | None:
            nonlocal seen
            if trial is None or call.kind != trial.call.kind:
                return None
            seen += 1
            if seen != trial.number:
                return None
            self.met = call  # threads have no order: it may be about another file than when calls were counted
            return trial.how

        def work() -> int:
            with drawn_once(Path(f"{self.folder.path}.drawn"), verb.name):
                return kd(list(verb.arguments))

        return supervised(work, self.folder.path, decide)

    def trials(self) -> Iterator[Trial]:
        """Return every trial."""
        for verb in self.verbs:
            numbers: Counter[str] = Counter()
            for place, call in enumerate(self.calls[verb]):
                numbers[call.kind] += 1
                if not self._is_one_of_many(verb, place):
                    for how in _ways(call):
                        yield Trial(verb, numbers[call.kind], call, how)

    def _is_one_of_many(self, verb: Verb, place: int) -> bool:
        calls, call = self.calls[verb], self.calls[verb][place]
        if call.kind != "write":
            return False
        same = [at for at, other in enumerate(calls) if other == call]
        return len(same) > _WRITES and place not in (same[0], same[len(same) // 2], same[-1])

    def problem(self, trial: Trial) -> str | None:
        """Return what is wrong after a trial, or None."""
        verb = trial.verb
        self.folder.put(self.before[verb])
        ended = self.run(verb, trial)
        if "Traceback" in ended.said:
            return f"a traceback\n{ended.said}"
        if self.met is None:
            return f"no such call was made\n{ended.said}"
        if trial.how == KILL:
            if ended.code != -signal.SIGKILL:
                return f"it was not killed: {ended.code}"
        elif ended.code == 0:
            if found := self._other_than(self.after[verb]):
                return f"exit 0, but {found}"
        elif ended.code != 74 and not (ended.code == 2 and self.met.kind == "openr"):
            return f"exit {ended.code}\n{ended.said}"
        elif not self._names_a_file(verb, ended.said):
            return f"no file is named\n{ended.said}"
        if (wrong := self._damaged()) and verb.name != "discard":
            return f"published, but damaged: {wrong}"
        again = self.run(verb)
        if again.code != 0:
            return f"the same verb does not heal it: exit {again.code}\n{again.said}"
        if found := self._other_than(self.after[verb]):
            return f"the same verb does not heal it: {found}"
        if left := [str(path) for path in self.folder.path.rglob(".tmp-*")]:
            return f"left for ever: {left}"
        return None

    def _names_a_file(self, verb: Verb, said: str) -> bool:
        """Say whether the last message names the file or its folder; of one that is read, what it is of will do.

        Of a verb that says all that is wrong, any message.
        """
        message, call = said if verb.name == "discard" else said.rpartition("kd: ")[2], self.met
        path = re.sub(r"\.tmp-[\w.]+-\d+-", "", call.path)
        names = [path, call.to, os.path.dirname(path)]
        if call.kind == "openr":
            names += [owner(path), path.replace("/manifests/", "/").removesuffix(".json")]
        if "cannot remove" in message:  # a tree
            names += map(str, Path(path).parents[:-2])
        return any(name and name in message for name in names)

    def _damaged(self) -> list[str]:
        with contextlib.chdir(self.folder.path):
            return [str(what) for _, what in status.faulty()[1]]

    def _other_than(self, wanted: dict) -> str | None:
        found = published(tree(self.folder.path))
        other = [path for path in {**wanted, **found} if wanted.get(path) != found.get(path)]
        return f"these are other than they must be: {other[:5]}" if other else None


def _ways(call: Call) -> Iterator[int]:
    if call.kind == "openr":
        yield errno.EIO
        return
    for error in ERRORS:
        if not (call.kind in _FREES and error in (errno.ENOSPC,)):
            yield error
    yield KILL


def main() -> int:
    """Sweep; return 1 where a trial shows something wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="begin no trial after so many; by default all are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--part", type=part_of, default=slice(None), metavar="K/N", help="the K-th of N parts of the trials"
    )
    parser.add_argument("--verbs", nargs="+", help="only these")
    parser.add_argument("--quick", action="store_true", help="without verbs that draw, which take most of the time")
    options = parser.parse_args()
    print(f"kd of {Path(state.__file__).parent}")
    if why := refusal():
        print(why)
        return 77
    with prepared() as project:
        verbs = [verb for verb in VERBS if not (options.quick and verb.draws)]
        sweep = Sweep(project, verbs)
        trials = [trial for trial in sweep.trials() if not options.verbs or trial.verb.name in options.verbs]
        random.Random(options.seed).shuffle(trials)
        trials = trials[options.part]
        began, wrong, made = time.monotonic(), [], Counter()
        for trial in trials:
            if options.seconds and time.monotonic() - began > options.seconds:
                break
            made[trial.verb.name] += 1
            if problem := sweep.problem(trial):
                wrong.append(trial)
                print(f"WRONG {trial}\n{problem}\n", flush=True)
        _print_counts(sweep, trials, made, wrong)
    print(f"{made.total()} of {len(trials)} trials in {time.monotonic() - began:.0f} s, {len(wrong)} wrong")
    return 1 if wrong or not made else 0


def _print_counts(sweep: Sweep, trials: list[Trial], made: Counter, wrong: list[Trial]) -> None:
    every = Counter(trial.verb.name for trial in trials)
    bad = Counter(trial.verb.name for trial in wrong)
    for verb in sweep.verbs:
        calls = Counter(call.kind for call in sweep.calls[verb])
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(calls.items()))
        print(
            f"{verb.name:28}{made[verb.name]:5} of {every[verb.name]:5} trials, {bad[verb.name]} wrong; calls: {kinds}"
        )


def part_of(said: str) -> slice:
    """Return which trials are those of part "K/N"; of one seed, the N parts together are all."""
    number, _, count = said.partition("/")
    return slice(int(number) - 1, None, int(count))


@contextlib.contextmanager
def prepared() -> Iterator[Path]:
    """Have this process ready to be forked for each verb; give the folder of a project, in memory where it can be."""
    torch.set_num_threads(1)  # threads do not survive a fork
    # So that within a training and a filling something is saved: two states, and parts of a bank.
    state._PATIENCE_SECONDS = bank._FLUSH_SECONDS = 0.0
    bank.FILL_BATCH["cpu"] = 16
    import_all()
    for values in (STUDY, ONLINE):  # digests of code, so that no child has to find them
        judge = Judge.of_study(validate(values))
        for product in judge.everything:
            judge.expected(product)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder) / "project"


@contextlib.contextmanager
def drawn_once(folder: Path, verb: str) -> Iterator[None]:
    """Have a verb draw its pictures when it is run first, and copy them later: to draw takes longer than all the rest.

    They are told apart by their order. A picture in the place of another would be found as a wrong one.
    """
    folder.mkdir(exist_ok=True)
    draw, numbers = Figure.savefig, itertools.count()

    def savefig(figure: Figure, to: io.BytesIO, **options: object) -> None:
        kept = folder / f"{verb}-{next(numbers)}"
        if not kept.exists():
            draw(figure, to, **options)
            kept.write_bytes(to.getbuffer())
        else:
            to.write(kept.read_bytes())

    Figure.savefig = savefig
    try:
        yield
    finally:
        Figure.savefig = draw


def import_all() -> None:
    """Import what any verb does, so that no child has to."""
    wings = (
        "jobs.train",
        "jobs.data",
        "jobs.answers",
        "jobs.score",
        "report.table",
        "report.page",
        "report.verdict",
        "measure.analyses",
    )
    others = ("study.delete", "study.controllers", "machine.room", "data.sources", "models.resnet_cifar")
    for name in (*wings, *others, "report.figures.dots", "report.figures.fidelity"):
        importlib.import_module(f"kd.{name}")
    importlib.import_module("sklearn.datasets")


if __name__ == "__main__":
    sys.exit(main())
