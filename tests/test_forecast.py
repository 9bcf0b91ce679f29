"""What `kd plan` says of work and time, before anything is trained and after some of it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import study, values

from kd.__main__ import main
from kd.cli.forecast import Forecast
from kd.core import files, heartbeat
from kd.core.heartbeat import Beat
from kd.jobs import making
from kd.machine import hours
from kd.machine.hours import Speeds, Task, critical_path, images, numbers_at_once, wall_clock
from kd.machine.room import Size, Sizes
from kd.study import products
from kd.study.cells import Cell
from kd.study.config import Study
from kd.study.judge import Judge
from kd.study.paths import parse_cell

TEACHER = "results/digits/quick/resnet14.ce.s0"
STUDENT = f"{TEACHER}/resnet8.kl-tau3.s0"
BASELINE = "results/digits/quick/resnet8.ce.s0"
DIGITS = Size(898, 899, 10)


def trained(path: str, made: Study, seconds: tuple[float, ...], device: str = "a CPU") -> Cell:
    """Publish a network as the current code would, with the seconds of its epochs."""
    cell, judge = parse_cell(path), Judge.of_study(made)
    about = making.about(judge, products.network(cell)) | {"status": "ok", "epochs": len(seconds), "threads": 2}
    about |= {"seconds": sum(seconds), "device": device, "memory": {"host_mib": 1}}
    rows = "".join(f"{number},{each},1.0\n" for number, each in enumerate(seconds, 1))
    timings = f"epoch,seconds,images_per_second\n{rows}".encode()
    files.publish(Path(path), {"model.safetensors": path.encode(), "timings.csv": timings}, about)
    return cell


def forecast(made: Study) -> Forecast:
    sizes = Sizes(made)
    return Forecast(Judge.of_study(made), Speeds.measured(sizes), sizes)


@pytest.fixture
def with_data(project: Path) -> Path:
    """A project in which the digits count as prepared."""
    judge = Judge.of_study(study())
    said = {"content": "digits", "counts": {"train": 898, "test": 899}, "class_names": list("0123456789")}
    files.publish(Path("data/digits"), {}, making.about(judge, products.data("digits")) | said)
    return project


def test_an_image_that_is_evaluated_counts_as_a_third(project: Path) -> None:
    cell = parse_cell(BASELINE)
    assert images(cell, study().protocol, DIGITS) == pytest.approx(3 * 898 + 3 * 899 / 3)
    last = study(protocol={"name": "quick", "epochs": 3, "evaluate": "last", "heldout": 0.5}).protocol
    assert images(cell, last, DIGITS) == pytest.approx(3 * 449 + (899 + 449) / 3)
    tenth = parse_cell("results/digits+frac0.1/quick/resnet8.ce.s0")
    assert images(tenth, study().protocol, DIGITS) == pytest.approx(3 * 89.8 + 3 * 899 / 3)


def test_a_cell_takes_the_median_epochs_of_its_kind_and_not_the_first(with_data: Path) -> None:
    made = study()
    trained(BASELINE, made, (60.0, 2.0, 2.0))
    told = forecast(made)
    assert told.seconds(parse_cell(BASELINE.replace("s0", "s1"))) == pytest.approx(6.0)
    assert told.seconds(parse_cell(STUDENT)) == pytest.approx(6.0), (
        "another loss that reads a bank, of the same network"
    )
    assert told.seconds(parse_cell(TEACHER)) is None
    assert told.untimed == ["resnet14"]
    slower = study(protocol={"name": "quick", "epochs": 3, "batch": 8, "precision": "fp32"})
    assert forecast(slower).seconds(parse_cell(BASELINE)) is None, "other batches take other times"


def test_a_teacher_that_runs_in_each_step_makes_another_kind(with_data: Path) -> None:
    trained(BASELINE, study(), (2.0, 2.0, 2.0))
    online = study(protocol={"name": "quick", "epochs": 3, "batch": 64, "precision": "fp32", "teacher": "online"})
    assert forecast(online).seconds(parse_cell(STUDENT)) is None
    assert forecast(online).seconds(parse_cell(BASELINE)) == pytest.approx(6.0)


def test_work_is_done_resumable_or_fresh_and_only_the_rest_takes_hours(with_data: Path, capsys) -> None:
    made = study()
    trained(TEACHER, made, (4.0, 4.0, 4.0))
    trained(BASELINE, made, (2.0, 2.0, 2.0))
    Path("state/digits/quick/resnet8.ce.s1/run-0123456789ab").mkdir(parents=True)
    told = forecast(made)
    work = told.work(Judge.of_study(made).cells)
    assert (work.done, work.resumable, work.fresh, work.untimed) == (2, 1, 2, 0)
    assert work.seconds == pytest.approx(3 * 6.0)  # a baseline and two students
    assert {TEACHER, TEACHER.replace("results", "banks")} <= set(told.tasks[STUDENT].after)


def test_of_a_cell_that_was_stopped_only_the_rest_counts(with_data: Path) -> None:
    made, stopped = study(), parse_cell(BASELINE.replace("s0", "s1"))
    trained(BASELINE, made, (2.0, 2.0, 2.0))
    Path("state/digits/quick/resnet8.ce.s1").mkdir(parents=True)
    heartbeat.write(products.network(stopped).lock, Beat(0.0, 1, 3, 0.5))
    assert forecast(made).seconds(stopped) == pytest.approx(6.0), "without a state it starts anew"
    Path("state/digits/quick/resnet8.ce.s1/run-0123456789ab").mkdir()
    assert forecast(made).seconds(stopped) == pytest.approx(3.0)


def test_students_of_a_teacher_that_becomes_another_are_trained_again(with_data: Path) -> None:
    made = study()
    for path, seconds in ((TEACHER, 4.0), (STUDENT, 2.0)):
        trained(path, made, (seconds,) * 3)
    changed = study(protocol={"name": "quick", "epochs": 3, "batch": 64, "precision": "fp32", "lr": 0.2})
    told = forecast(changed)
    assert told.is_trained(parse_cell(STUDENT))
    files.discard(Path(TEACHER, "manifest.json"))
    again = forecast(made)
    assert again.is_trained(parse_cell(TEACHER))
    assert not again.is_trained(parse_cell(STUDENT)), "the same teacher comes back, so that it is only looked at"


def test_the_device_that_trained_most_is_the_one_that_counts(with_data: Path) -> None:
    made = study()
    trained(BASELINE, made, (9.0,) * 3, device="an old GPU")
    for seed in (0, 1):
        trained(TEACHER.replace("s0", f"s{seed}"), made, (4.0,) * 3)
    speeds = Speeds.measured(Sizes(made))
    assert (speeds.device, speeds.threads) == ("a CPU", 2)
    assert not speeds.knows(parse_cell(BASELINE), made.protocol)


def test_wall_clock_and_critical_path_by_hand() -> None:
    tasks = {"t": Task(4, ()), "bank": Task(1, ("t",)), "a": Task(3, ("t", "bank")), "b": Task(3, ("bank",))}
    tasks |= {"ce": Task(5, ("data that are there",))}
    assert critical_path(tasks) == (8, "a")
    assert wall_clock(tasks, 1) == 16
    assert wall_clock(tasks, 2) == 8  # t, bank, a beside ce, b
    assert list(numbers_at_once(tasks, 8)) == [(1, 16), (2, 8)]


def test_plan_says_what_is_not_known_and_how_to_know_it(with_data: Path, capsys) -> None:
    printed = planned(capsys)
    assert "  losses               teachers       1      0          0      1        -\n" in printed
    assert "                       students       4      0          0      4        -\n" in printed
    assert "  hours not known: resnet8, resnet14; kd plan --calibrate measures them" in printed
    assert "core-hours" not in printed


def test_plan_says_hours_wall_clock_and_the_longest_way(with_data: Path, capsys) -> None:
    trained(TEACHER, study(), (3600.0,) * 3)
    trained(BASELINE, study(), (1800.0,) * 3)
    printed = planned(capsys)
    assert "  losses               teachers       1      1          0      0      0.0\n" in printed
    assert "                       students       4      1          0      3      4.5\n" in printed
    assert "9.0 core-hours are left, at the speed measured on a CPU\n" in printed  # two threads
    assert "  wall clock by cells at once: 4.5 h with 1, 3.0 h with 2, 90 min with 4\n" in printed
    assert "  never less than 90 min, which results/digits/quick/resnet" in printed
    assert "hours not known: banks of resnet14;" in printed


def planned(capsys: pytest.CaptureFixture) -> str:
    Path("config.yaml").write_text(json.dumps(values()))
    assert main(["plan"]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_calibrate_trains_a_little_of_each_network_and_publishes_nothing(project: Path, capsys) -> None:
    Path("config.yaml").write_text(json.dumps(values()))
    assert main(["plan", "--calibrate"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"calibrating \d/2: .* on digits \d+ s\n", printed)) == 2
    assert "core-hours are left (" in printed
    assert "hours not known" not in printed
    assert {path.name for path in project.iterdir()} == {"config.yaml", "state"}
    planned(capsys)  # knows it still
    assert "hours not known" not in planned(capsys)


def test_timings_of_which_a_bit_is_flipped_are_not_read(tmp_path: Path) -> None:
    whole = b"epoch,seconds\n1,9.0\n2,1.0\n3,1.0\n"
    manifest = {"files": {"timings.csv": files.sha256(whole)}, "seconds": 12.0, "epochs": 3}
    for content, seconds in ((whole, 1.0), (whole.replace(b"2,", b"2\x0c"), 4.0), (whole.replace(b"1.0", b"3.0"), 4.0)):
        (tmp_path / "timings.csv").write_bytes(content)
        assert hours._epoch_seconds(tmp_path, manifest) == seconds
    (tmp_path / "timings.csv").unlink()
    assert hours._epoch_seconds(tmp_path, manifest) == 4.0
