# answers/CELL: the answers of a network. reports/STUDY/analyses: what is measured on them, for figures.
# scores/CELL: its accuracy on further test sets, for the table.


rule answers:
    input:
        lambda w: wanted(products.answers(CELLS[w.cell])),
    output:
        stamp=update(f"{STAMPS}/answers/{{cell}}.stamp"),
    log:
        "logs/{cell}.answers.log",
    benchmark:
        "benchmarks/{cell}.answers.tsv"
    group:
        group_of
    conda:
        "../envs/kd.yaml"
    threads: 1
    resources:
        cells_per_gpu=STUDY.cells_per_gpu,
    params:
        recipe=lambda w: recipe(CELLS[w.cell]),
    shell:
        "python -m kd answers results/{wildcards.cell:q} --recipe {params.recipe:q} --stamp {output.stamp:q}"
        " --threads {threads} --cells-per-gpu {resources.cells_per_gpu} &>> {log:q} || ended $? {log:q}"


rule score:
    input:
        lambda w: wanted(products.scores(CELLS[w.cell])),
    output:
        stamp=update(f"{STAMPS}/scores/{{cell}}.stamp"),
    log:
        "logs/{cell}.scores.log",
    benchmark:
        "benchmarks/{cell}.scores.tsv"
    group:
        group_of
    conda:
        "../envs/kd.yaml"
    threads: 1
    resources:
        cells_per_gpu=STUDY.cells_per_gpu,
    params:
        study=lambda w: json.dumps(VALUES),
    shell:
        "python -m kd score results/{wildcards.cell:q} --study-json {params.study:q} --stamp {output.stamp:q}"
        " --threads {threads} --cells-per-gpu {resources.cells_per_gpu} &>> {log:q} || ended $? {log:q}"


rule measure:
    input:
        lambda w: wanted(products.analysis(STUDY.study, w.experiment, w.analysis)),
    output:
        stamp=update(f"{STAMPS}/{REPORTS}/analyses/{{experiment}}.{{analysis}}.stamp"),
        files=[update(f"{REPORTS}/analyses/{{experiment}}.{{analysis}}.{kind}") for kind in ("csv", "parquet")],
    log:
        f"logs/{REPORTS}/{{experiment}}.{{analysis}}.analysis.log",
    benchmark:
        f"benchmarks/{REPORTS}/{{experiment}}.{{analysis}}.analysis.tsv"
    wildcard_constraints:
        analysis="|".join(dict.fromkeys(kd_figures.ANALYSES.values())),
    retries: 0
    localrule: True
    conda:
        "../envs/kd.yaml"
    params:
        study=lambda w: json.dumps(VALUES),
    shell:
        "python -m kd measure {wildcards.experiment:q} {wildcards.analysis:q} --study-json {params.study:q}"
        " --stamp {output.stamp:q} &>> {log:q}"
