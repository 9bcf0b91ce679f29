"""Knowledge distillation as a DAG: data -> teachers -> view banks -> students and chains -> table -> figures.

    snakemake --cores 8                                                 the study of config.yaml
    snakemake --cores 8 --configfile workflow/studies/demo.yaml         another one
    snakemake --cores 8 teachers | students | chains | figures | tables | report
"""

import sys

from snakemake.utils import min_version

from kd import cells
from kd.config import load_study
from kd.errors import ConfigError

min_version("9.11")

try:
    STUDY = load_study(config)
except ConfigError as error:
    sys.exit(f"kd: {error}")

CELLS = {cell.name: cell for cell in cells.all_cells(STUDY)}
TAUGHT = cells.taught_by(CELLS.values())
REPORTS = f"{cells.REPORTS}/{STUDY.study}"


report: "workflow/report/study.rst"


wildcard_constraints:
    dataset=r"[^/]+",
    cell=r".+",
    experiment=r"[A-Za-z0-9_]+",
    figure=r"[a-z]+",


localrules:
    all,
    teachers,
    students,
    chains,
    figures,


rule all:
    default_target: True
    input:
        f"{REPORTS}/report.html",


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/report.smk"


rule teachers:
    input:
        [f"{cell}/manifest.json" for cell in TAUGHT],


rule students:
    input:
        [f"{cell}/manifest.json" for cell in CELLS.values() if len(cell.stages) == 2],


rule chains:
    input:
        [f"{cell}/manifest.json" for cell in CELLS.values() if len(cell.stages) > 2],


rule figures:
    input:
        FIGURES,
