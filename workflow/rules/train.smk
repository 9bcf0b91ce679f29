# results/CELL: a trained network. banks/CELL: the logits of a network that teaches, for all its students.


def taught(w):
    """The cell's data and, where it has a teacher, that teacher and its bank: small manifests, each with digests."""
    cell = CELLS[w.cell]
    yield f"data/{cell.dataset.labelled}/manifest.json"
    if cell.teacher:
        yield f"{cell.teacher}/manifest.json"
        yield from bank_of(cell)


def bank_of(cell):
    """The bank to wait for. A finished student does not bring back a bank that was deleted to save space, and a
    bank that grows for new seeds (ancient) does not retrain the students it has served."""
    bank = f"banks/{cell.teacher.name}/manifest.json"
    served = Path(cell.path, "manifest.json").exists() and not Path(bank).exists()
    if STUDY.protocol.teacher == "bank" and not served:
        yield ancient(bank)


def needs(w):
    """Seed and epochs of every student of this teacher: they decide which views it is asked for."""
    students = TAUGHT[CELLS[w.cell]]
    return sorted({f"{s.stage.seed}:{s.stage.epochs or STUDY.protocol.epochs}" for s in students})


rule train:
    input:
        taught,
    output:
        multiext("results/{cell}/", "manifest.json", "model.safetensors", "metrics.csv", "timings.csv"),
    params:
        code=lambda w: cells.code_behind(CELLS[w.cell], STUDY.protocol),
        recipe=lambda w: recipe(CELLS[w.cell]),
    threads: 1 # cells side by side with one thread each beat fewer cells with more
    log:
        "logs/{cell}.log",
    benchmark:
        "benchmarks/{cell}.tsv"
    # 65: the cell diverged and is published as such; the study goes on
    shell:
        "{KD} train results/{wildcards.cell:q} --recipe {params.recipe:q} --threads {threads}"
        " --cells-per-gpu {STUDY.cells_per_gpu} &> {log:q} || test $? -eq 65"


rule bank:
    input:
        "results/{cell}/manifest.json",
    output:
        update("banks/{cell}/manifest.json"),
    params:
        code=lambda w: cells.code_behind_bank(CELLS[w.cell]),
        recipe=lambda w: recipe(CELLS[w.cell]),
        needs=needs,
    threads: 1
    log:
        "logs/{cell}.bank.log",
    benchmark:
        "benchmarks/{cell}.bank.tsv"
    shell:
        "{KD} bank results/{wildcards.cell:q} --recipe {params.recipe:q} --needs {params.needs:q}"
        " --threads {threads} --cells-per-gpu {STUDY.cells_per_gpu} &> {log:q}"
