"""The benchmark: its peers train, and its arithmetic of banks is that of the views that kd draws."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT

from bench import loops, precision, report
from bench.worker import GRID
from kd import models
from kd.train.teachers import keys_seen


@pytest.mark.parametrize("kind", ["Mdistiller", "Paper"])
def test_a_peer_s_epoch_trains_the_student_and_leaves_the_teacher_alone(kind: str) -> None:
    from bench import peers  # imports torchvision, which takes seconds

    torch.manual_seed(0)
    student, teacher = models.build("resnet8", 10, 3), models.build("resnet14", 10, 3).eval()
    before = copy.deepcopy(student.state_dict()), copy.deepcopy(teacher.state_dict())
    images, labels = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8), torch.arange(40) % 10
    train, test = (peers.Pictures(images, labels, train) for train in (True, False))
    getattr(peers, kind)(student, teacher, train, test, batch=16).epoch()
    assert not student.state_dict()["classifier.weight"].equal(before[0]["classifier.weight"])
    assert all(value.equal(before[1][name]) for name, value in teacher.state_dict().items())


def test_the_views_that_the_report_counts_are_those_that_a_student_sees() -> None:
    train = torch.arange(50)
    for seeds, epochs in ((1, report.EPOCHS), (3, report.EPOCHS)):
        seen = len(keys_seen([(seed, epochs) for seed in range(seeds)], GRID, train)) / len(train)
        assert report.views_filled(seeds) == pytest.approx(seen, rel=0.02)


def test_the_report_divides_what_the_loops_measured(tmp_path, monkeypatch) -> None:
    def loop(student: str, name: str, rate: float) -> dict:
        same = {"processes": 2, "threads": 1, "fastest": rate, "slowest": rate, "anonymous_mib": 9, "file_mib": 9}
        return {"student": student, "loop": name, "images_per_second": rate, "rounds": 1, **same}

    speeds = {report.PAPER: 50, report.MDISTILLER: 100, report.ONLINE: 200, report.KD: 1000, report.LIMIT: 1250}
    measured = [loop("wrn-16-2", name, rate) for name, rate in speeds.items()]
    measured += [
        loop("bank", f"{work}, {precision}", rate)
        for precision, rate in (("fp32", 150), ("bf16", 600))
        for work in ("fill", "passes")
    ]
    pd.DataFrame(measured).to_csv(tmp_path / "loops.csv", index=False)
    for name in ("parts", "scale"):
        pd.DataFrame([{"part": "a", "value": 1}]).to_csv(tmp_path / f"{name}.csv", index=False)
    cards = [{"part": "training", "value": 7}, {"part": "training, memory", "value": 512}]
    pd.DataFrame(cards).to_csv(tmp_path / "gpu.csv", index=False)
    (tmp_path / "machine.txt").write_text("a machine")
    (tmp_path / "gpu.txt").write_text("a card")
    monkeypatch.setattr(sys, "argv", ["report", "--out", str(tmp_path)])
    report.main()
    text = (tmp_path / "RESULTS.md").read_text()
    assert "a machine" in text
    assert re.search(r"a card[^|]*\| part +\| +value \|\n[^\n]*\n\| training +\| +7 \|\n$", text)
    growth = pd.read_csv(tmp_path / "growth.csv").set_index("students")
    # 20 students of three seeds: 20 cells of 10 million images, and nearly all of 8.1 million views
    hours = (20 * 10e6 / 1000 + report.views_filled(3) * 50_000 / 150) / 3600
    assert growth.loc[20, f"hours, {report.KD}"] == pytest.approx(hours, abs=0.05)
    assert growth.loc[20, "of mdistiller's"] == pytest.approx(20 * 10e6 / 100 / 3600 / hours, abs=0.05)
    assert (tmp_path / "loops.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_the_speeds_that_are_quoted_are_those_of_the_run_that_is_kept(name: str) -> None:
    text, kept = " ".join((ROOT / name).read_text().split()), pd.read_csv(ROOT / "bench/results/loops.csv")
    loops = kept[kept.student == "wrn-16-2"].set_index("loop")
    kd = loops.loc[report.KD]
    for peer in (report.MDISTILLER, report.PAPER):
        beside = loops.loc[peer]
        median, least, most = (
            round(ratio)
            for ratio in (
                kd.images_per_second / beside.images_per_second,
                kd.slowest / beside.fastest,
                kd.fastest / beside.slowest,
            )
        )
        assert f"{median} times" in text
        assert f"({least} to {most}" in text


def test_the_hours_that_are_quoted_are_those_of_the_run_that_is_kept() -> None:
    growth = pd.read_csv(ROOT / "bench/results/growth.csv").set_index("students")["of mdistiller's"]
    assert "{}, {} and {} times fewer".format(*growth[[1, 5, 20]]) in (ROOT / "README.md").read_text()


def test_the_errors_that_are_quoted_are_those_of_the_simulation_that_is_kept() -> None:
    text = " ".join((ROOT / "docs/results.md").read_text().split())
    kept = pd.read_csv(ROOT / "bench/results/simulation.csv")
    kept = kept[(kept.outcome == "p < 0.05") & ~kept.setting.str.contains("10 teachers")]
    crossed, naive = kept[kept.rule == "crossed"], kept[kept.rule == "all pairs as if independent"]
    none, some = (crossed[crossed.truth == truth] for truth in ("no difference", "a difference"))
    few = ~none.setting.str.contains("10")
    assert f"type I error {none[few].share.min():.2f} to {none[few].share.max():.2f} for 3 and 5 of each" in text
    assert f"up to {none[~few].share.max():.2f} with 3 teachers and 10 students" in text
    assert f"a paired t test of all pairs has up to {naive.share.max():.2f}" in text
    for each in (3, 5):
        power = 100 * some[some.setting.str.startswith(f"{each} teachers x {each} students")].share
        assert f"{power.min():.0f} to {power.max():.0f} with {each}" in text


def test_precisions_are_paired_cell_by_cell() -> None:
    def table(protocol: str, top1: list[float]) -> pd.DataFrame:
        cells = [f"results/digits/{protocol}/resnet8.ce.s{seed}" for seed in range(len(top1))]
        return pd.DataFrame({"cell": cells, "student": "resnet8", "objective": "ce", "test_top1": top1})

    (row,) = precision.compared(table("bf16", [90, 92, 94]), table("fp32", [89, 91, 92])).to_dict("records")
    assert (row["pairs"], row["difference"]) == (3, pytest.approx(1.33))
    assert row["95 % interval"] == "[-0.10, 2.77]"  # t(2) = 4.303, sd 0.577


@pytest.mark.slow
def test_parts_are_measured_and_written(tmp_path) -> None:
    command = [sys.executable, "-m", "bench.parts", "--rounds", "1", "--out", str(tmp_path)]
    subprocess.run([*command, "--parts", "first_convolution", "step_overhead"], cwd=ROOT, check=True)
    measured = pd.read_csv(tmp_path / "parts.csv")
    assert len(measured) == 4
    assert (measured.value > 0).all()


@pytest.mark.slow
@pytest.mark.skipif("KD_ROUNDS" not in os.environ, reason="a minute of compiling: with KD_ROUNDS=1")
def test_a_classifier_in_float32_is_measured_beside_one_in_bf16(tmp_path) -> None:
    command = [sys.executable, "-m", "bench.classifier", "--networks", "resnet8", "--steps", "2", "--rounds", "1"]
    subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, check=True)
    measured = pd.read_csv(tmp_path / "classifier.csv").set_index("what")
    assert (measured[["classifier bf16", "classifier float32"]] > 0).all(axis=None)
    assert measured.loc["error of logits in training", "ratio"] != 1


@pytest.mark.slow
def test_simulations_are_run_and_written(tmp_path) -> None:
    command = [sys.executable, "-m", "bench.simulation", "--runs", "20", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    rules, kept = (pd.read_csv(path / "simulation.csv") for path in (tmp_path, ROOT / "bench/results"))
    assert rules.iloc[:, :4].equals(kept.iloc[:, :4])  # rule, setting, truth, outcome
    assert rules.share.between(0, 1).all()


@pytest.mark.slow
@pytest.mark.skipif("KD_ROUNDS" not in os.environ, reason="a minute and a half: with KD_ROUNDS=1")
def test_the_benchmark_of_gpus_can_be_rehearsed_without_one(tmp_path) -> None:
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--networks", "wrn-10-1", "--rounds", "1"]
    parts = ["cell", "together", "roofline"]
    subprocess.run([*command, "--out", str(tmp_path), "--parts", *parts], cwd=ROOT, check=True)
    measured = pd.read_csv(tmp_path / "gpu.csv")
    assert {"2 threads, a stream each", "2 processes", "2 cells in one step"} <= set(measured.variant)
    assert (measured[measured.unit == "images/s"].value > 0).all()
    shares = measured[measured.unit == "%"].value
    assert shares.sum() == pytest.approx(100, abs=1)
    assert len(pd.read_csv(tmp_path / "gpu_kernels.csv")) == 25


@pytest.mark.slow
def test_the_study_of_record_of_a_gpu_can_be_rehearsed_without_one(tmp_path: Path) -> None:
    """bench/gpu.sh trains a study by verbs alone, and packs what it published."""
    study = {
        "study": "rehearsed",
        "dataset": "digits",
        "protocol": {"name": "short", "epochs": 1, "batch": 64, "precision": "fp32", "teacher_precision": "tf32"},
        "seeds": [0],
        "teacher_seeds": "matched",
        "experiments": {"losses": {"teacher": "resnet8", "student": "resnet8", "loss": ["ce", "mse"]}},
    }
    (tmp_path / "study.yaml").write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in study.items()))
    words = {"KD_DEVICE": "cpu", "KD_SEEDS": "3", "KD_STUDY": "study.yaml", "KD_WORK": "work", "PYTHON": sys.executable}
    named = {key: str(tmp_path / text) if key in ("KD_STUDY", "KD_WORK") else text for key, text in words.items()}
    command = [ROOT / "bench/gpu.sh", tmp_path / "out", "record"]
    subprocess.run(command, env={**os.environ, **named}, check=True)
    parts = sorted((tmp_path / "out").glob("record.tgz.*"))
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as packed:
        networks = {name.rpartition("/")[0] for name in packed.getnames() if name.endswith("/manifest.json")}
    teacher = "results/digits/short/resnet8.ce.s3"
    assert networks == {teacher, f"{teacher}/resnet8.mse.s3"}
    assert "exit 0" in (tmp_path / "out/gpu.log").read_text()


@pytest.mark.slow
def test_the_benchmark_of_gpus_runs_where_little_is_installed() -> None:
    """A machine with a GPU may have torch, torchvision and pandas and nothing else that kd's studies need."""
    absent = ("jinja2", "matplotlib", "pydantic", "safetensors", "scipy", "seaborn", "snakemake", "tqdm", "yaml")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import bench.gpu, bench.worker, tests.test_gpu"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_contestants_take_their_turns(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    same = {"precision": "fp32", "threads": 1, "network": "wrn-10-1"}
    passes = loops.Contestant("passes", "bank", {"loop": "passes", "rows": 64, **same}, images=64)
    alone = loops.Contestant("kd", "wrn-10-1", {"loop": "kd", "teacher": "none", "train": 128, **same}, images=512)
    rows = loops.measured([passes, alone], rounds=2)
    assert [row["loop"] for row in rows] == ["passes", "kd"]
    assert all(0 < row["slowest"] <= row["images_per_second"] <= row["fastest"] for row in rows)
