# What the rules share: which Python runs, which stamps Snakemake sees, what a job waits for, and other controllers.
import atexit
import contextlib
import json
import os
import shlex
import subprocess
import sys

from snakemake_interface_executor_plugins.settings import SharedFSUsage

from kd.core import patches, reproduce
from kd.core.errors import KdError
from kd.core.startup import KEEP_MEMORY, VARIABLE
from kd.jobs import making
from kd.report import figures as kd_figures
from kd.study import console, controllers, expansion, stamps
from kd.study.judge import replaced, told
from kd.study.paths import parse_dataset, parse_related, parse_selection

if set("{}") & set(str(workflow.basedir)):
    raise SystemExit(
        f"kd: {workflow.basedir}: braces in this path are wildcards to Snakemake; move or link it elsewhere"
    )

if workflow.modifier.path_modifier.prefix or workflow.modifier.path_modifier.modifies_prefixes:
    raise SystemExit("kd: a module of kd takes no prefix: its paths are names in manifests and messages; remove it")

# Jobs keep their memory (kd/core/startup.py says why), and run the Python that runs Snakemake, activated or not. Exit
# code 65 becomes 0, because a diverged cell is published. A killed job (137) cannot write why into its log, so the
# shell does.
PREFIX = f"export {VARIABLE}={shlex.quote(os.environ.get(VARIABLE, KEEP_MEMORY))}; "
PREFIX += """ended() ( case $1 in 65) exit 0 ;; 137) echo 'kd: killed (137), most often for lack of memory; \
the next attempt goes on from the saved state' >> "$2" ;; esac; exit $1 ); """
if not workflow.deployment_settings.deployment_method:
    PREFIX += f'python() ( exec {shlex.quote(sys.executable)} "$@" ); '  # its name may be only python3.11
PREFIX += "export PYTHONUTF8=1; "  # the locale may not be UTF-8
shell.prefix(PREFIX)

# A job on a node judges nothing here: the variable tells it where its stamps are.
MAIN = workflow.is_main_process
STAMPS = stamps.question(VALUES) if MAIN else os.environ.get(stamps.VARIABLE, stamps.question(VALUES))
os.environ[stamps.VARIABLE] = STAMPS
HELD = contextlib.ExitStack()  # what this process holds until it ends
atexit.register(HELD.close)

KNOWN = {one.name for one in JUDGE.everything}
patches.apply(lambda path: stamps.asked_for(path, STAMPS, KNOWN), stamps.TOP, stamps.DATE)
if MAIN:
    if ALONE:
        console.install(JUDGE.everything, STAMPS, workflow.output_settings)
    if workflow.storage_settings and SharedFSUsage.INPUT_OUTPUT not in workflow.storage_settings.shared_fs_usage:
        raise SystemExit("kd: shared-fs-usage: must have input-output: all jobs of kd work on one file system")
    try:
        HELD.enter_context(stamps.living(STAMPS))
        stamps.project(JUDGE, STAMPS)
    except KdError as error:
        raise SystemExit(f"kd: {error}")
    if workflow.check_envvars:  # False only with --lint; nothing else says so here
        for line in [*told(JUDGE.all_to_do), *filter(None, [replaced(JUDGE)])]:
            print(f"kd: {line}", file=sys.stderr)


wildcard_constraints:
    dataset=r"[^/]+",
    cell=r"[^/]+/[^/]+/.+",
    experiment=r"[A-Za-z0-9_]+",
    figure="|".join(kd_figures.FIGURES),
    search=r"[A-Za-z0-9_]+",
    round=r"[0-9]+",
    number=r"[0-9]+",


WORTH_A_LOOK = 200  # cells; with fewer, each job checks the disk space when it starts


onstart:
    os.environ[making.LATENCY] = str(workflow.execution_settings.latency_wait)  # jobs read it, also on nodes
    try:
        HELD.enter_context(controllers.enter(STUDY, list(CELLS.values())))
    except KdError as error:
        print(f"kd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if sum(one.kind == "network" for one in JUDGE.all_to_do) >= WORTH_A_LOOK:
        command = [sys.executable, "-m", "kd", "plan", "--study-json", json.dumps(VALUES)]
        if code := subprocess.run(command).returncode:
            sys.exit(code)


onsuccess:
    if STUDY.auto_seeds == UNDECIDED:
        print("kd: the first stage of seeds: auto is trained; the same command goes on with as many as it takes")


def stamp(product):
    """The stamp of a product: its rule makes it, and other rules wait for it."""
    return product.stamp(STAMPS)


def wanted(product):
    """The stamps that a job waits for: those of all inputs; if nothing is to do, none of inputs that may be deleted."""
    if MAIN and not JUDGE.is_to_do(product):
        made_from = [one for one in JUDGE.inputs(product) if one.kind not in products.SPARED]
        return [stamp(one) for one in made_from if one.name in KNOWN]  # not of a trial's cell, which it trains itself
    return list(map(stamp, JUDGE.asks_for(product)))


PLUGINS = {"plugins": STUDY.plugins} if STUDY.plugins else {}


def data_recipe(name):
    """The recipe of a dataset, as JSON."""
    return json.dumps(expansion.data_recipe(STUDY, parse_dataset(name)) | PLUGINS, sort_keys=True)


def recipe(cell):
    """What decides a cell's numbers beside its path, as JSON."""
    return json.dumps(expansion.recipe(STUDY, cell) | PLUGINS, sort_keys=True)


def group_of(w):
    """Cells without students may share a cluster job: `group-components` in the profile says how many do."""
    several = workflow.group_settings and workflow.group_settings.group_components.get("cells", 1) > 1
    return "cells" if several and CELLS[w.cell] not in TAUGHT else None
