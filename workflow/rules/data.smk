# data/NAME: a dataset as memory-mapped arrays; data/NAME+NOISE: its labels made wrong.


rule data:
    output:
        update("data/{dataset}/manifest.json"),
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "benchmarks/data/{dataset}.tsv"
    wildcard_constraints:
        dataset=r"[A-Za-z0-9_]+",
    conda:
        "../envs/kd.yaml"
    params:
        code=lambda w: cells.code_behind_data(STUDY, w.dataset),
        recipe=lambda w: data_recipe(w.dataset),
    shell:
        "python -m kd data {wildcards.dataset:q} --recipe {params.recipe:q} &>> {log:q} || ended $? {log:q}"


rule labels:
    input:
        lambda w: f"data/{cells.parse_dataset(w.labelled).name}/manifest.json",
    output:
        update("data/{labelled}/manifest.json"),
    log:
        "logs/data/{labelled}.log",
    benchmark:
        "benchmarks/data/{labelled}.tsv"
    wildcard_constraints:
        labelled=r"[A-Za-z0-9_]+\+[^/]+",
    conda:
        "../envs/kd.yaml"
    params:
        code=lambda w: cells.code_behind_labels(cells.parse_dataset(w.labelled).noise),
        recipe=lambda w: data_recipe(w.labelled),
    shell:
        "python -m kd labels {wildcards.labelled:q} --recipe {params.recipe:q} &>> {log:q} || ended $? {log:q}"
