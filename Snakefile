"""Knowledge distillation as a DAG: data -> teachers -> view banks -> students and chains -> table -> figures.

snakemake --cores 8                                              the study of config.yaml
snakemake --cores 8 --configfile workflow/studies/demo.yaml      another study
snakemake teachers --cores 8                                     or students, chains, tables, figures, report

The inputs and outputs of the rules are stamps (kd/study/stamps.py): kd judges what is to do, Snakemake schedules it.
"""

from snakemake.utils import min_version

from kd.core.errors import ConfigError
from kd.report.seeding import resolved
from kd.study import cells, products
from kd.study.config import UNDECIDED, merged, validate
from kd.study.plain_yaml import read_yaml
from kd.study.judge import Judge

min_version("9.17")

ALONE = workflow.modifier.is_main_snakefile()  # not a module of another workflow
try:
    overlay = {}  # not `config`: Snakemake reads 010 as 8, and merges the keys inside a key instead of replacing them
    for path in workflow.overwrite_configfiles if ALONE else ():
        overlay |= read_yaml(path)
    VALUES = merged(overlay | dict(workflow.config_settings.config)) if ALONE else config or merged({})
    VALUES = resolved(VALUES)
    STUDY = validate(VALUES)
except ConfigError as error:
    raise SystemExit(f"kd: {error}")

JUDGE = Judge.of_study(STUDY)
CELLS = {cell.name: cell for cell in JUDGE.cells}
TAUGHT = JUDGE.students
REPORTS = f"{cells.REPORTS}/{STUDY.study}"
# Nobody looks at differences while seeds: auto has not decided how many seeds there are: no page yet.
LAST = ("trial", "release") if STUDY.auto_seeds == UNDECIDED else ("page", "trial", "release")


report: "workflow/report/study.rst"


include: "workflow/rules/common.smk"


rule all:
    default_target: True
    input:
        # cells, too, so that a cell that was deleted by hand is made again
        [stamp(products.network(cell)) for cell in CELLS.values()],
        [stamp(one) for one in JUDGE.everything if one.kind in LAST],
    localrule: True


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/analyses.smk"
include: "workflow/rules/report.smk"


rule teachers:
    input:
        [stamp(products.network(cell)) for cell in TAUGHT],
    localrule: True


rule students:
    input:
        [stamp(products.network(c)) for c in CELLS.values() if len(c.stages) == 2 or not (c.teacher or c in TAUGHT)],
    localrule: True


rule chains:
    input:
        [stamp(products.network(c)) for c in CELLS.values() if len(c.stages) > 2],
    localrule: True


rule figures:
    input:
        FIGURES,
    localrule: True
