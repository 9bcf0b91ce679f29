# results/CELL: a trained network. selections/CELL: the examples that it selects for its students.
# relations/CELL: how alike it finds each two classes, for those of its students whose loss asks for that.
# banks/CELL: the outputs of a network that teaches, for all its students.


rule train:
    input:
        lambda w: wanted(products.network(CELLS[w.cell])),
    output:
        stamp=update(f"{STAMPS}/results/{{cell}}.stamp"),
    log:
        "logs/{cell}.log",
    benchmark:
        "benchmarks/{cell}.tsv"
    group:
        group_of
    conda:
        "../envs/kd.yaml"
    # Many cells with one thread each are faster than few cells with more. Only image workers need threads of their own.
    threads: STUDY.gpus_per_cell * (1 + STUDY.workers)
    resources:
        cells_per_gpu=STUDY.cells_per_gpu,
        gpus_per_cell=STUDY.gpus_per_cell,
        workers=STUDY.workers,
    params:
        recipe=lambda w: recipe(CELLS[w.cell]),
    shell:
        "python -m kd train results/{wildcards.cell:q} --recipe {params.recipe:q} --stamp {output.stamp:q} --threads {threads}"
        " --processes {resources.gpus_per_cell} --workers {resources.workers} --cells-per-gpu {resources.cells_per_gpu}"
        " &>> {log:q} || ended $? {log:q}"


rule select:
    input:
        lambda w: wanted(products.selection(CELLS[w.cell], parse_selection(w.selection))),
    output:
        stamp=update(f"{STAMPS}/selections/{{cell}}/{{selection}}.stamp"),
    log:
        "logs/selections/{cell}/{selection}.log",
    benchmark:
        "benchmarks/selections/{cell}/{selection}.tsv"
    wildcard_constraints:
        selection=r"[a-z]+[0-9.]*",
    conda:
        "../envs/kd.yaml"
    threads: 1
    resources:
        cells_per_gpu=STUDY.cells_per_gpu,
    params:
        recipe=lambda w: recipe(CELLS[w.cell]),
    shell:
        "python -m kd select results/{wildcards.cell:q} {wildcards.selection:q} --recipe {params.recipe:q}"
        " --stamp {output.stamp:q} --threads {threads} --cells-per-gpu {resources.cells_per_gpu}"
        " &>> {log:q} || ended $? {log:q}"


rule relation:
    input:
        lambda w: wanted(products.relation(CELLS[w.cell], parse_related(w.relation))),
    output:
        stamp=update(f"{STAMPS}/relations/{{cell}}/{{relation}}.stamp"),
    log:
        "logs/relations/{cell}/{relation}.log",
    benchmark:
        "benchmarks/relations/{cell}/{relation}.tsv"
    wildcard_constraints:
        relation=r"[a-z]+(-[a-z]+[0-9.]*)*",
    conda:
        "../envs/kd.yaml"
    threads: 1
    resources:
        cells_per_gpu=STUDY.cells_per_gpu,
    params:
        recipe=lambda w: recipe(CELLS[w.cell]),
    shell:
        "python -m kd relation results/{wildcards.cell:q} {wildcards.relation:q} --recipe {params.recipe:q}"
        " --stamp {output.stamp:q} --threads {threads} --cells-per-gpu {resources.cells_per_gpu}"
        " &>> {log:q} || ended $? {log:q}"


rule bank:
    input:
        lambda w: wanted(products.bank(CELLS[w.cell])),
    output:
        stamp=update(f"{STAMPS}/banks/{{cell}}.stamp"),
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
        study=lambda w: json.dumps(VALUES),
    shell:
        "python -m kd bank results/{wildcards.cell:q} --study-json {params.study:q} --stamp {output.stamp:q}"
        " --threads {threads} --cells-per-gpu {resources.cells_per_gpu} &>> {log:q} || ended $? {log:q}"


rule release:
    # With keep_banks: false, a bank is removed when the last student of its teacher is trained.
    input:
        lambda w: wanted(products.release(CELLS[w.cell])),
    output:
        stamp=update(f"{STAMPS}/released/{{cell}}.stamp"),
    log:
        "logs/{cell}.release.log",
    localrule: True
    conda:
        "../envs/kd.yaml"
    params:
        study=lambda w: json.dumps(VALUES),
    shell:
        "python -m kd release results/{wildcards.cell:q} --study-json {params.study:q} --stamp {output.stamp:q} &>> {log:q}"
