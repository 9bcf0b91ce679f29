"""Names of the products of the study in made/faults.py."""

from __future__ import annotations

from kd.core.files import MANIFEST, read_manifest
from kd.study.products import MANIFESTS
from made.faults import NOW, TREES, Whole, whole

REPORTS = "reports/whole"
DATA, LABELS, TESTSET = "data/mine", "data/mine+labels-theirs", "data/mine@again"
CELL = "mine+labels-theirs/quick/resnet14.ce.s0"
TEACHER, STUDENT = f"results/{CELL}", f"results/{CELL}/resnet8.wkd_l.s0-smallloss0.97"
SELECTION, RELATION = f"selections/{CELL}/smallloss0.97", f"relations/{CELL}/maps-smallloss0.97"
PROPOSAL, TRIAL = "search/best/round-1", "search/best/round-1.1"
TRIED = "results/mine+labels-theirs/quick/resnet8.ce.s1010-weightdecay0.001"
BANK, RELEASE = f"banks/{CELL}", f"released/{CELL}"
ANSWERS, ITS_ANSWERS = f"answers/{CELL}/resnet8.wkd_l.s0-smallloss0.97", f"answers/{CELL}"
SCORES, ITS_SCORES = f"scores/{CELL}/resnet8.wkd_l.s0-smallloss0.97", f"scores/{CELL}"
MEASURES, TABLE = f"{REPORTS}/analyses/noisy.measures", f"{REPORTS}/table"
DOTS, FIDELITY = f"{REPORTS}/figures/noisy.dots", f"{REPORTS}/figures/noisy.fidelity"
TABLES, VERDICT, PAGE = f"{REPORTS}/tables", f"{REPORTS}/verdict", f"{REPORTS}/page"
LR = {"protocol": {**whole(NOW)["protocol"], "lr": 0.05}}


def manifests(project: Whole) -> dict[str, dict]:
    """Return {name: manifest} of all published products."""
    found = [path for tree in TREES for path in (project.folder / tree).rglob("*.json")]
    paths = [path for path in found if path.name == MANIFEST or MANIFESTS in path.parts]
    read = (read_manifest(path.parent, path) for path in paths)
    return {manifest["name"]: manifest for manifest in read}
