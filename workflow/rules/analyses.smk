# answers/CELL: what a network answers. reports/STUDY/analyses: what is measured of it, for the figures that show it.


localrules:
    measure,


rule answers:
    input:
        "results/{cell}/manifest.json",
    output:
        [update(f"answers/{{cell}}/{name}") for name in ("manifest.json", "answers.safetensors")],
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
        code=lambda w: cells.code_behind_answers(CELLS[w.cell]),
        recipe=lambda w: recipe(CELLS[w.cell]),
    shell:
        "python -m kd answers results/{wildcards.cell:q} --recipe {params.recipe:q}"
        " --threads {threads} --cells-per-gpu {resources.cells_per_gpu} &>> {log:q} || ended $? {log:q}"


rule measure:
    input:
        measured,
    output:
        [update(f"{REPORTS}/analyses/{{experiment}}.{{analysis}}.{kind}") for kind in ("csv", "parquet")],
    log:
        f"logs/{REPORTS}/{{experiment}}.{{analysis}}.analysis.log",
    benchmark:
        f"benchmarks/{REPORTS}/{{experiment}}.{{analysis}}.analysis.tsv"
    retries: 0
    conda:
        "../envs/kd.yaml"
    params:
        code=code_digest("kd.analyses"),
        study=lambda w: json.dumps({**VALUES, "experiments": {w.experiment: VALUES["experiments"][w.experiment]}}),
    shell:
        "python -m kd measure {wildcards.experiment:q} {wildcards.analysis:q} --study-json {params.study:q} &>> {log:q}"
