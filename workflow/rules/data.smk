# data/NAME: a dataset as memory-mapped arrays; data/NAME+NOISE: its training labels with noise.


rule data:
    output:
        stamp=update(f"{STAMPS}/data/{{dataset}}.stamp"),
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "benchmarks/data/{dataset}.tsv"
    wildcard_constraints:
        dataset=r"[A-Za-z0-9_]+",
    conda:
        "../envs/kd.yaml"
    params:
        recipe=lambda w: data_recipe(w.dataset),
    shell:
        "python -m kd data {wildcards.dataset:q} --recipe {params.recipe:q} --stamp {output.stamp:q}"
        " &>> {log:q} || ended $? {log:q}"


rule labels:
    input:
        lambda w: wanted(products.labels(w.labelled)),
    output:
        stamp=update(f"{STAMPS}/data/{{labelled}}.stamp"),
    log:
        "logs/data/{labelled}.log",
    benchmark:
        "benchmarks/data/{labelled}.tsv"
    wildcard_constraints:
        labelled=r"[A-Za-z0-9_]+\+[^/]+",
    conda:
        "../envs/kd.yaml"
    params:
        recipe=lambda w: data_recipe(w.labelled),
    shell:
        "python -m kd labels {wildcards.labelled:q} --recipe {params.recipe:q} --stamp {output.stamp:q}"
        " &>> {log:q} || ended $? {log:q}"
