# results/CELL: a trained network. banks/CELL: the logits of a network that teaches, for all its students.


localrules:
    release,


rule train:
    input:
        taught,
    output:
        [
            update(f"results/{{cell}}/{name}")
            for name in ("manifest.json", "model.safetensors", "metrics.csv", "timings.csv")
        ],
    log:
        "logs/{cell}.log",
    benchmark:
        "benchmarks/{cell}.tsv"
    group:
        group_of
    conda:
        "../envs/kd.yaml"
    # Cells side by side with one thread each beat fewer cells with more; but what decodes images needs its own.
    threads: STUDY.gpus_per_cell * (1 + STUDY.workers)
    resources:
        cells_per_gpu=STUDY.cells_per_gpu,
        gpus_per_cell=STUDY.gpus_per_cell,
        workers=STUDY.workers,
    params:
        code=lambda w: cells.code_behind(CELLS[w.cell], STUDY.protocol),
        recipe=lambda w: recipe(CELLS[w.cell]),
    shell:
        "python -m kd train results/{wildcards.cell:q} --recipe {params.recipe:q} --threads {threads}"
        " --processes {resources.gpus_per_cell} --workers {resources.workers} --cells-per-gpu {resources.cells_per_gpu}"
        " &>> {log:q} || ended $? {log:q}"


rule bank:
    input:
        "results/{cell}/manifest.json",
    output:
        update("banks/{cell}/manifest.json"),
    log:
        "logs/{cell}.bank.log",
    benchmark:
        "benchmarks/{cell}.bank.tsv"
    conda:
        "../envs/kd.yaml"
    threads: 1
    resources:
        cells_per_gpu=STUDY.cells_per_gpu,
    params:
        code=lambda w: cells.code_behind_bank(CELLS[w.cell]),
        recipe=lambda w: recipe(CELLS[w.cell]),
        needs=needs,
    shell:
        "python -m kd bank results/{wildcards.cell:q} --recipe {params.recipe:q} --needs {params.needs:q}"
        " --threads {threads} --cells-per-gpu {resources.cells_per_gpu} &>> {log:q} || ended $? {log:q}"


rule release:
    # keep_banks: false. The bank goes when the last student of its teacher is trained.
    input:
        lambda w: [f"{student}/manifest.json" for student in TAUGHT[CELLS[w.cell]]],
    output:
        "banks/{cell}/released.json",
    log:
        "logs/{cell}.release.log",
    conda:
        "../envs/kd.yaml"
    shell:
        "python -m kd release results/{wildcards.cell:q} &>> {log:q}"
