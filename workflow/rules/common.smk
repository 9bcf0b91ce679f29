# What the rules share: which Python runs, what a cell waits for, and the parameters that say when it is out of date.
import contextlib
import itertools
import json
import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

from snakemake.persistence import FileBackupMixin

from kd.code import code_digest
from kd.errors import StorageError
from kd.figures import ANALYSES
from kd.files import lock, read_manifest
from kd.slurm import ask_on, tell_of_packs
from kd.startup import KEEP_MEMORY, VARIABLE

# Jobs keep their memory (kd/startup.py says why), and run the Python that runs Snakemake, activated or not. They end
# well when their cell diverged (65), which is published as such; one that was killed (137) cannot say so itself.
PREFIX = f"export {VARIABLE}={shlex.quote(os.environ.get(VARIABLE, KEEP_MEMORY))}; "
PREFIX += """ended() ( case $1 in 65) exit 0 ;; 137) echo 'kd: killed (137), most often for lack of memory; \
the next attempt goes on from the saved state' >> "$2" ;; esac; exit $1 ); """
if not workflow.deployment_settings.deployment_method:
    PREFIX += f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; "
shell.prefix(PREFIX)

# Snakemake's SLURM executor keeps to itself when SLURM does not answer, and what it says of packs; kd/slurm.py mends that.
if "snakemake_executor_plugin_slurm" in sys.modules:
    ask_on(sys.modules["snakemake_executor_plugin_slurm"])
    tell_of_packs(sys.modules["snakemake_executor_plugin_slurm"])

PRESENCE = contextlib.ExitStack()
WORTH_A_LOOK = 200  # cells; fewer find out by themselves, as they start, whether the disk has room for them


onstart:
    PRESENCE.enter_context(lock(Path(cells.CONTROLLERS), shared=True))  # for `kd status`
    if sum(not current(cell) for cell in CELLS.values()) >= WORTH_A_LOOK:
        command = [sys.executable, "-m", "kd", "plan", "--study-json", json.dumps(VALUES)]
        if code := subprocess.run(command).returncode:
            sys.exit(code)


# Snakemake would copy what a job may update, and when the job fails copy it back in place: over what kd published since.
FileBackupMixin.backup_output = FileBackupMixin.restore_output = lambda persistence, path: False


def data_recipe(name):
    """What the dataset is, as JSON: when the study declares it otherwise, it is prepared anew."""
    return json.dumps(cells.data_recipe(STUDY, cells.parse_dataset(name)), sort_keys=True)


def recipe(cell):
    """What, beside its path, decides a cell's numbers, as JSON: when it changes, the cell is trained anew."""
    return json.dumps(cells.recipe(STUDY, cell), sort_keys=True)


def taught(w):
    """The cell's data, members and, where it has one, teacher with its banks: small manifests, each with digests."""
    cell = CELLS[w.cell]
    yield f"data/{cell.dataset.labelled}/manifest.json"
    yield from (f"{member}/manifest.json" for member in cell.members if cell.is_ensemble)
    if os.path.exists(f"{cell}/manifest.json") and not current(cell):
        yield changed()
    if cell.teacher:
        yield f"{cell.teacher}/manifest.json"
        # A student that is current has had its bank: it neither brings a deleted one back, nor is it retrained
        # when the bank grows for others.
        if STUDY.protocol.teacher == "bank" and not current(cell):
            yield from (f"banks/{member.name}/manifest.json" for member in cell.teacher.members)


@cache
def changed():
    """A file newer than any result, for what is out of date: Snakemake's own records of params can be lost."""
    path = Path(".snakemake/code_or_protocol_changed")
    path.touch()
    return str(path)


@cache
def current(cell):
    """Whether the cell is published, from the code and protocol of now, and so are those that led to it."""
    try:
        manifest = read_manifest(Path(cell.path))
    except StorageError:  # a damaged one: its cell and the table say so
        return False
    fresh = manifest is not None and cells.stale(cell, manifest, STUDY) is None
    led = [cell.teacher] if cell.teacher else cell.members if cell.is_ensemble else []
    return fresh and all(map(current, led))


def needs(w):
    """Seed and epochs of every student of this teacher: they decide which views it is asked for."""
    students = TAUGHT[CELLS[w.cell]]
    if not STUDY.keep_banks:  # a bank that comes back comes back for those that are still to be trained
        students = [student for student in students if not current(student)] or students
    return sorted({f"{s.stage.seed}:{s.epochs(STUDY.protocol)}" for s in students})


def measured(w):
    """The answers of the networks that an experiment compares, and of those that these are measured against."""
    pairs = cells.measured(STUDY, w.experiment)
    return [f"answers/{cell.name}/manifest.json" for cell in dict.fromkeys(itertools.chain(*pairs)) if cell]


def shown_by(w):
    """What a figure shows beside the table: an analysis of its experiment, or the curves."""
    analysis = ANALYSES.get(w.figure)
    return f"{REPORTS}/analyses/{w.experiment}.{analysis}.parquet" if analysis else f"{REPORTS}/curves.parquet"


def group_of(w):
    """Cells that teach nobody may share a job of a cluster: `group-components` in its profile says how many do."""
    if not workflow.is_main_process:
        # In that job Snakemake runs without the options of profiles/default; there, too, a failed cell fails alone.
        workflow.execution_settings.keep_going = True
    several = workflow.group_settings and workflow.group_settings.group_components.get("cells", 1) > 1
    return "cells" if several and CELLS[w.cell] not in TAUGHT else None
