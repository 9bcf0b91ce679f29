# data/NAME: a dataset as memory-mapped arrays; data/NAME+NOISE: its training labels with noise; data/NAME@TEST: images
# of a further test set.


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


rule testset:
    input:
        lambda w: wanted(products.testset(STUDY.dataset, w.test)),
    output:
        stamp=update(f"{STAMPS}/data/{STUDY.dataset}@{{test}}.stamp"),
    log:
        f"logs/data/{STUDY.dataset}@{{test}}.log",
    benchmark:
        f"benchmarks/data/{STUDY.dataset}@{{test}}.tsv"
    wildcard_constraints:
        test=r"[A-Za-z0-9_]+",
    conda:
        "../envs/kd.yaml"
    params:
        testset=lambda w: f"{STUDY.dataset}@{w.test}",
        study=lambda w: json.dumps(VALUES),
    shell:
        "python -m kd testset {params.testset:q} --study-json {params.study:q} --stamp {output.stamp:q}"
        " &>> {log:q} || ended $? {log:q}"
