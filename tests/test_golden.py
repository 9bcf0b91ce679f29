"""Every kind of cell gives the same metrics and weights, bit for bit, as the code of before gave on this machine.

The code of before is taken from git. Whoever changes a bit for a reason names the commit that did, which says why.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT

BEFORE = dict.fromkeys(("bank", "live", "bf16"), "c780ce8")  # objectives were functions of logits
BEFORE["relation"] = "290cc64"  # each student measured the relation between classes itself
BEFORE["compiled"] = "49aaa93"  # a compiled step has the gradients of batch norm
DRIVER = """
import sys
from kd.__main__ import main
for verb in (["data", "digits"], ["labels", "digits+sym0.4"], *(["train", path] for path in sys.argv[1:])):
    code = main(verb)
    assert code == 0, (verb, code)
"""
TEACHER = "results/digits/golden/resnet14.ce.s0"
KINDS = {
    "bank": {},
    "live": {"teacher": "online"},
    "bf16": {"precision": "bf16"},
    "relation": {},
    "compiled": {"compile": "always"},
}
CELLS = {
    "bank": [
        *(f"{TEACHER}/resnet8.{loss}.s1" for loss in ("kl-tau3", "kl-tauinf-alpha0.5", "mse", "smoothl1-beta2")),
        f"{TEACHER}/resnet8.mse.s0/resnet8.kl-tau3.s0",
        f"{TEACHER}/resnet8.mse.s0-frac0.5",
        "results/digits/golden/resnet14.ce.s1",
        "results/digits/golden/resnet14.ce.s0+1/resnet8.kl-tau3.s0",
        "results/digits+sym0.4/golden/resnet8.ce.s0",
        "results/digits+frac0.3/golden/resnet8.ce.s0",
    ],
    "live": [f"{TEACHER}/resnet8.kl-tau3.s0"],
    "bf16": [f"{TEACHER}/resnet8.kl-tau3.s0"],
    "relation": [
        *(f"{TEACHER}/resnet8.{ending}" for ending in ("wkd_l.s0", "wkd_l-relationlogits.s0", "wkd_l.s0-frac0.5")),
        "results/digits/golden/resnet14.ce.s0+1-meanprob/resnet8.wkd_l-tau2-relationlogits.s0",
    ],
    "compiled": ["results/digits/golden/resnet8.ce.s0/resnet8.mse.s0"],
}


def trained(code: Path, folder: Path, kind: str) -> dict[str, bytes]:
    """Train the cells of a kind, and those that teach them, with the code in a folder; return what counts."""
    protocol = {"name": "golden", "epochs": 2, "batch": 64, "heldout": 0.1, "precision": "fp32", **KINDS[kind]}
    study = {"study": "golden", "dataset": "digits", "protocol": protocol}
    folder.mkdir()
    (folder / "config.yaml").write_text(
        json.dumps(study | {"experiments": {"a": {"student": "resnet8", "loss": "ce"}}})
    )
    paths = [one for path in CELLS[kind] for one in lineage(path)]
    ended = subprocess.run(
        [sys.executable, "-c", DRIVER, *dict.fromkeys(paths)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(code), "XDG_CACHE_HOME": str(folder.parent / "cache")},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    files = [path for name in ("metrics.csv", "model.safetensors") for path in (folder / "results").rglob(name)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def lineage(path: str) -> list[str]:
    """Return the paths of the cells from the first teacher to this one."""
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(4, len(parts) + 1)]


def code_of(commit: str, folder: Path) -> Path:
    """Return a folder with the code of a commit."""
    archive = subprocess.run(["git", "archive", commit, "kd"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip(f"this checkout has no commit {commit}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_cells_have_the_bits_that_the_code_of_before_gave(tmp_path: Path, kind: str) -> None:
    before = code_of(BEFORE[kind], tmp_path / "before")
    was, now = trained(before, tmp_path / "was", kind), trained(ROOT, tmp_path / "now", kind)
    assert len(was) >= 2 * len(CELLS[kind])
    assert now.keys() == was.keys()
    # The running train accuracy bore the name of the one after the last epoch.
    was = {name: found.replace(b",train_top1,", b",train_top1_running,") for name, found in was.items()}
    assert [name for name in was if now[name] != was[name]] == []
