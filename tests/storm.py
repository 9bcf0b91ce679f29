"""A storm: Snakemake runs a study of every rule while everything is killed, deleted, filled up and started twice.

python tests/storm.py --seconds 120 --seed 1
python tests/storm.py --kills 12 --seed 1

Now and then the same command runs undisturbed. It must end with exit 0 and with the bytes of a study that nothing ever
disturbed, and say "Nothing to be done" when it runs once more; then the study becomes another, and back again. Kills
are aimed: at the rule that was hit least, while a job of it is running. What is chosen, the seed decides; what it hits,
the machine's load does, too. The last lines are the counts. A failure leaves a copy of its folder, and exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from made.disk import Disk  # noqa: E402
from made.faults import EARLIER, NOW, POINTS, TREES, Whole, fill, make_undisturbed  # noqa: E402

from kd.study import products  # noqa: E402
from kd.study.products import SPARED  # noqa: E402

RULES = tuple(products.RULES.values())
SIGNALS = ("KILL", "KILL", "KILL", "TERM", "INT", "STOP", "USR1")  # one that is stopped goes on a little later
LONG = 600.0  # seconds after which a run hangs that nobody disturbs
EXPERIMENT = {"teacher": "resnet14", "student": "resnet8", "label_noise": {"file": "theirs"}}
SELECTION = {"student_selection": {"small_loss": 0.97}}
EXPERIMENTS = {
    "noisy": {**EXPERIMENT, **SELECTION, "loss": ["ce", "wkd_l"], "figure": ["dots", "fidelity"]},
    "chain": {"path": ["resnet14", "resnet8", "resnet8"], "loss": ["mse"], "figure": "chains"},
}


class Stormy(Whole):
    """A project whose study has more for a storm to hit: a chain, two banks, cells that take more than an epoch."""

    def ask(self, size: int, **keys: object) -> None:
        protocol = {"name": "quick", "epochs": 3, "batch": 64, "precision": "fp32", "heldout": 0.1}
        super().ask(size, protocol=protocol, experiments=EXPERIMENTS, **keys)


class Process(NamedTuple):
    """A process of the project: what it is, and which rule's job it is or is about."""

    pid: int
    kind: str  # controller, kd or shell
    rule: str | None


class Failure(Exception):
    """What must hold after a storm does not."""


class Storm:
    """A project in a storm, and what has been counted."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.kills: Counter = Counter()  # by (kind, signal)
        self.hits: Counter = Counter(dict.fromkeys(RULES, 0))
        self.other: Counter = Counter()
        self.failures: list[str] = []
        self.undisturbed = make_undisturbed(folder / "undisturbed", Stormy)
        self.disk = Disk(folder / "disk", "400m") if os.geteuid() == 0 else None
        self.afresh()

    def afresh(self) -> None:
        """Begin in an empty folder."""
        self.home = (self.disk.path if self.disk else self.folder) / "project"
        self.project = Stormy(self.home, faults=self.folder / "faults")
        self.size, self.running, self.mixed, self.story = NOW, [], False, []

    # -- the weather --------------------------------------------------------------------------------------------------

    def blow(self, seconds: float, kills: int) -> None:
        """Disturb until so long has passed and so many kills have hit; check now and then, and once more at the end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.kills.total() < kills:
            for _ in range(self.chance.randint(4, 10)):
                self.gust()
            try:
                self.check()
                self.other["runs checked"] += 1
                print(f"{time.strftime('%T')} all is right after {self.kills.total()} kills", flush=True)
                self.renew()
            except Failure as failure:
                self.fail(str(failure))
                self.afresh()

    def gust(self) -> None:
        """Start the command, have a few things happen to it, and wait a little or kill all that is left."""
        self.start()
        for _ in range(self.chance.randint(1, 5)):
            self.happen()
        if self.chance.random() < 0.15:
            self.kill_all()
        self.wait(self.chance.uniform(0, 4))

    def renew(self) -> None:
        """Have something to do again: another study, or this one without what is made last."""
        self.story.clear()
        if self.chance.random() < 0.5:
            self.size = NOW + EARLIER - self.size
            self.project.ask(self.size)
            return
        for tree in ("answers", "scores", "reports"):
            shutil.rmtree(
                self.home / tree, ignore_errors=True
            )  # a storm may have taken the answers, which nobody missed
        kept = self.undisturbed.kept(self.size) / "banks"
        shutil.copytree(kept, self.home / "banks", dirs_exist_ok=True)

    def happen(self) -> None:
        act: Callable[[], object] = self.chance.choices(
            [self.kill, self.delete, self.fill_disk, self.start, self.ask_otherwise, self.meet_fault, self.rest],
            [16, 1, 1, 1, 1, 2, 1],
        )[0]
        if all(one.poll() is not None for one in self.running):
            self.start()
        self.story.append(f"{time.strftime('%T')} {act.__name__} {act() or ''}")

    def start(self) -> None:
        """Start one more Snakemake, unless several are at work."""
        self.running = [one for one in self.running if one.poll() is None]
        if len(self.running) < 3:
            self.running.append(self.project.start())
            self.other["starts"] += 1

    def rest(self) -> None:
        time.sleep(self.chance.uniform(0, 3))

    def kill(self) -> str:
        """Send a signal to a process, most often while a job of the rule is at work that was hit least."""
        aimed = self.chance.choices([self.held, self.seen, lambda: None], [2, 2, 1])[0]()
        kind, name = self.chance.choice(["kd", "kd", "shell", "controller", "group"]), self.chance.choice(SIGNALS)
        found = processes(self.home)
        fits = [one for one in found if one.kind == ("controller" if kind == "group" else kind)]
        fits = [one for one in fits if aimed and one.rule == aimed] or fits
        victim = self.chance.choice(fits) if fits else None
        killed = victim is not None and sent(victim.pid, name, group=kind == "group")
        if killed:
            rule = victim.rule or aimed
            self.kills[kind, name] += 1
            self.hits[rule or "no job aimed at"] += 1
            if name == "STOP":
                time.sleep(self.chance.uniform(0.1, 2))
                sent(victim.pid, "CONT", group=kind == "group")
        self.let_go()
        return f"{kind} {name} {rule}" if killed else "nobody"

    def held(self) -> str | None:
        """Have a job of the rule that was hit least stand still at some point of its work; return the rule."""
        with contextlib.chdir(self.home):
            judge = self.project.judge()
            ready = [one for one in judge.all_to_do if not any(map(judge.all_to_do.get, judge.asks_for(one)))]
        soon = self.chance.random() < 0.6
        among = ready if soon else list(judge.all_to_do)
        if not among:
            return None
        product = min(among, key=lambda one: (self.hits[products.RULES[one.kind]], self.chance.random()))
        fault = self.project.fault(product, self.chance.choice(POINTS), "hold")
        self.until(lambda: fault.read_text().endswith("held"), 10 if soon else 60)
        return products.RULES[product.kind]

    def seen(self) -> str | None:
        """Wait for a job of the rule that was hit least, of those that come by in a while; return the rule."""
        order = sorted(RULES, key=lambda rule: (self.hits[rule], self.chance.random()))
        rules: list[str] = []
        began = time.monotonic()

        def found() -> bool:
            least = 2 + round((time.monotonic() - began) * 3)  # the longer it waits, the less it is choosy
            running = {one.rule for one in processes(self.home) if one.kind == "kd"}
            rules[:] = [rule for rule in order[:least] if rule in running]
            return bool(rules)

        self.until(found, 6)
        time.sleep(self.chance.choice([0.0, 0.2, 1.0]) * self.chance.random())
        return rules[0] if rules else None

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition, but no longer than this, and not where no Snakemake is at work."""
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline and any(one.poll() is None for one in self.running):
            time.sleep(0.01)

    def let_go(self) -> None:
        """Have whoever stands still go on."""
        for name, fault in self.project.pending().items():
            if not fault.endswith(("kill", "fail", "full")):
                (self.project.faults / name.replace("/", "%")).unlink(missing_ok=True)

    def kill_all(self) -> None:
        """Kill every process of the project at once, as a node does that is lost."""
        for one in processes(self.home):
            sent(one.pid, "KILL")
        self.kills["all", "KILL"] += 1

    def delete(self) -> str:
        """Delete a file, or a whole folder."""
        trees = [*TREES, "state", ".snakemake/metadata", "state/stamps"]
        tree = self.home / self.chance.choice(trees)
        paths = sorted(tree.rglob("*")) if self.chance.random() < 0.7 else [tree]
        self.other["deleted"] += 1
        with contextlib.suppress(IndexError, OSError):  # others write and remove there
            path = self.chance.choice(paths)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return str(path.relative_to(self.home))
        return "nothing"

    def fill_disk(self) -> None:
        if self.disk:
            fill(self.disk)
            self.other["disk full"] += 1
            time.sleep(self.chance.uniform(0.2, 4))
            self.disk.make_space()

    def ask_otherwise(self) -> str:
        """Ask for the other study: most often what it would run; sometimes to run it, which is refused, or mixes."""
        dry = self.chance.random() < 0.7
        self.project.ask(NOW + EARLIER - self.size)
        other = subprocess.Popen(
            [*self.project.command(), *(["--dry-run"] if dry else [])],
            cwd=self.home,
            env=self.project.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.other["other values, -n" if dry else "other values"] += 1
        time.sleep(3)  # for it to have read the study
        self.project.ask(self.size)
        self.running.append(other)
        self.mixed = self.mixed or not dry
        return "-n" if dry else ""

    def meet_fault(self) -> str:
        """Have the next job of some product end badly at some point."""
        product = self.chance.choice(self.project.everything())
        point, action = self.chance.choice(POINTS), self.chance.choice(["kill", "fail", "full"])
        self.project.fault(product, point, action)
        self.other["faults"] += 1
        return f"{product} {point} {action}"

    # -- what must hold -----------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Wait for all Snakemakes to end, but no longer than this."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(one.poll() is None for one in self.running):
            time.sleep(0.05)

    def calm(self) -> None:
        """Have nothing disturb any more. Jobs whose Snakemake was killed may still be at work on the same study."""
        for fault in self.project.faults.glob("[!.]*"):
            fault.unlink(missing_ok=True)
        self.wait(20)
        if self.mixed or any(one.poll() is None for one in self.running) or self.chance.random() < 0.5:
            self.kill_all()
        for one in self.running:
            one.wait()
        self.running, self.mixed = [], False

    def check(self) -> None:
        """Raise Failure unless the same command ends well and right, and is then done."""
        self.calm()
        self.other["starts"] += 1
        running = self.project.start()
        try:
            code = running.wait(LONG)
        except subprocess.TimeoutExpired:
            raise Failure(f"hangs: {processes(self.home)}") from None
        if code:
            raise Failure(f"exit {code}\n{self.project.output()[-8000:]}{self.project.logs()[-8000:]}")
        with contextlib.chdir(self.home):
            judge = self.project.judge()
            if judge.all_to_do:
                raise Failure(f"to do after exit 0: {judge.all_to_do}")
            gone = tuple(f"{one}/" for one in judge.everything if one.kind in SPARED and not judge.manifest(one))
        wanted = (self.undisturbed.now if self.size == NOW else self.undisturbed.earlier).published_bytes()
        found = self.project.published_bytes()
        wrong = {name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)}
        wrong = {name for name in wrong if not name.startswith(gone)}  # nobody asked for them
        if wrong:
            raise Failure(f"other bytes: {sorted(wrong)}")
        again = self.project.start()
        if again.wait(LONG) or "Nothing to be done" not in self.project.output():
            raise Failure(f"not done after exit 0:\n{self.project.output()[-8000:]}")

    def fail(self, what: str) -> None:
        """Keep the folder of a failure, and what led to it."""
        self.kill_all()
        kept = self.folder / f"failure-{len(self.failures)}"
        shutil.copytree(self.home, kept, symlinks=True)
        story = "\n".join(self.story)
        (kept / "story.txt").write_text(f"{story}\n\n{what}\n")
        self.failures.append(what)
        print(f"FAILURE, kept in {kept}\n{story}\n{what}", flush=True)
        for _ in range(50):  # what was killed may write for a moment
            shutil.rmtree(self.home, ignore_errors=True)
            if not self.home.exists():
                break
            time.sleep(0.1)

    def counts(self) -> str:
        by_kind: Counter = Counter()
        for (kind, _), count in self.kills.items():
            by_kind[kind] += count
        by_signal: Counter = Counter()
        for (_, name), count in self.kills.items():
            by_signal[name] += count
        lines = {
            "kills": {"all together": self.kills.total(), **by_kind},
            "by signal": by_signal,
            "by rule": self.hits,
            "else": self.other,
            "failures": {"": len(self.failures)},
        }
        return "\n".join(
            f"{name}: " + ", ".join(f"{k} {n}".strip() for k, n in of.items()) for name, of in lines.items()
        )

    def end(self) -> None:
        self.kill_all()
        if self.disk:
            subprocess.run(["umount", "--lazy", str(self.disk.path)], check=True)


def processes(folder: Path) -> list[Process]:
    """Return the processes at work in a folder."""
    return [one for path in Path("/proc").glob("[0-9]*") if (one := _process(path, str(folder.resolve())))]


def _process(path: Path, folder: str) -> Process | None:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        if os.readlink(path / "cwd") == folder:
            text = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            forked = re.match(r"kd (\w+)", (path / "comm").read_text())
            if "-m snakemake " in text:
                return Process(int(path.name), "controller", None)
            if forked:
                return Process(int(path.name), "kd", forked[1])
            if verb := re.match(r"(?s)\S*(?:ba)?sh .*-m kd (\w+) ", text):
                return Process(int(path.name), "shell", verb[1])
    return None


def sent(pid: int, name: str, group: bool = False) -> bool:
    """Send a signal; say whether there was anybody to send it to."""
    number = getattr(signal, f"SIG{name}")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(os.getpgid(pid), number) if group else os.kill(pid, number)
        return True
    return False


def main() -> int:
    """Run a storm; return 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0, help="how long it blows at least")
    parser.add_argument("--kills", type=int, default=0, help="how many kills hit at least, on however slow a machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work and to keep failures; default: a temporary folder")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="storm-"))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # not without the counts
    storm = Storm(folder.resolve(), options.seed)
    try:
        storm.blow(options.seconds, options.kills)
    finally:
        storm.end()
        print(storm.counts(), flush=True)
    if not storm.failures and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if storm.failures else 0


if __name__ == "__main__":
    sys.exit(main())
