# search/NAME: what each round of a search proposes, and the scores of its trials, which train ordinary cells.


rule propose:
    input:
        lambda w: wanted(products.proposal(w.search, int(w.round))),
    output:
        stamp=update(f"{STAMPS}/search/{{search}}/round-{{round}}.stamp"),
    log:
        "logs/search/{search}/round-{round}.log",
    benchmark:
        "benchmarks/search/{search}/round-{round}.tsv"
    localrule: True
    conda:
        "../envs/kd.yaml"
    params:
        study=lambda w: json.dumps(VALUES),
    shell:
        "python -m kd propose {wildcards.search:q} {wildcards.round:q} --study-json {params.study:q}"
        " --stamp {output.stamp:q} &>> {log:q}"


rule trial:
    input:
        lambda w: wanted(products.trial(w.search, int(w.round), int(w.number))),
    output:
        stamp=update(f"{STAMPS}/search/{{search}}/round-{{round}}.{{number}}.stamp"),
    log:
        "logs/search/{search}/round-{round}.{number}.log",
    benchmark:
        "benchmarks/search/{search}/round-{round}.{number}.tsv"
    conda:
        "../envs/kd.yaml"
    threads: STUDY.gpus_per_cell * (1 + STUDY.workers)
    resources:
        cells_per_gpu=STUDY.cells_per_gpu,
        gpus_per_cell=STUDY.gpus_per_cell,
        workers=STUDY.workers,
    params:
        study=lambda w: json.dumps(VALUES),
    shell:
        "python -m kd trial {wildcards.search:q} {wildcards.round:q} {wildcards.number:q} --study-json {params.study:q}"
        " --stamp {output.stamp:q} --threads {threads} --processes {resources.gpus_per_cell}"
        " --workers {resources.workers} --cells-per-gpu {resources.cells_per_gpu} &>> {log:q} || ended $? {log:q}"
