# reports/STUDY: one tidy table, the figures and the page, from the published cells alone, without torch. Outputs are
# marked update(), so that Snakemake does not delete a file that another Snakemake is reading; kd replaces it whole.
# The rules take seconds, so on a cluster they run beside Snakemake. They have no retries, because a retry cannot help.

FIGURES = [stamp(products.figure(STUDY.study, *drawn)) for drawn in STUDY.drawn]


rule collect:
    input:
        lambda w: wanted(products.table(STUDY.study)),
    output:
        stamp=update(stamp(products.table(STUDY.study))),
        files=[update(f"{REPORTS}/{name}.{kind}") for name in ("table", "curves") for kind in ("csv", "parquet")],
        latex=update(f"{REPORTS}/table.tex"),
    log:
        f"logs/{REPORTS}/collect.log",
    benchmark:
        f"benchmarks/{REPORTS}/collect.tsv"
    retries: 0
    localrule: True
    conda:
        "../envs/kd.yaml"
    params:
        study=lambda w: json.dumps(VALUES),
    shell:
        "python -m kd collect --study-json {params.study:q} --stamp {output.stamp:q} &>> {log:q}"


rule figure:
    input:
        lambda w: wanted(products.figure(STUDY.study, w.experiment, w.figure)),
    output:
        stamp=update(f"{STAMPS}/{REPORTS}/figures/{{experiment}}.{{figure}}.stamp"),
        picture=report(
            update(f"{REPORTS}/figures/{{experiment}}.{{figure}}.png"),
            caption="../report/figure.rst",
            category="{experiment}",
        ),
        files=[
            update(f"{REPORTS}/figures/{{experiment}}.{{figure}}.{kind}")
            for kind in ("pdf", "svg", "column.svg", "txt")
        ],
    log:
        f"logs/{REPORTS}/{{experiment}}.{{figure}}.log",
    benchmark:
        f"benchmarks/{REPORTS}/{{experiment}}.{{figure}}.tsv"
    retries: 0
    localrule: True
    conda:
        "../envs/kd.yaml"
    params:
        study=lambda w: json.dumps(VALUES),
    shell:
        f"python -m kd figure {REPORTS}/table.parquet {{wildcards.experiment:q}} {{wildcards.figure:q}}"
        " --study-json {params.study:q} --stamp {output.stamp:q} &>> {log:q}"


rule tables:
    input:
        lambda w: wanted(products.tables(STUDY.study)),
    output:
        stamp=update(stamp(products.tables(STUDY.study))),
        means=report(update(f"{REPORTS}/means.csv"), caption="../report/means.rst", category="tables"),
        comparisons=report(update(f"{REPORTS}/comparisons.csv"), caption="../report/comparisons.rst", category="tables"),
        originals=update(f"{REPORTS}/originals.csv"),
        latex=[update(f"{REPORTS}/{name}.tex") for name in ("means", "comparisons", "originals")],
    log:
        f"logs/{REPORTS}/tables.log",
    benchmark:
        f"benchmarks/{REPORTS}/tables.tsv"
    retries: 0
    localrule: True
    conda:
        "../envs/kd.yaml"
    params:
        study=lambda w: json.dumps(VALUES),
    shell:
        f"python -m kd tables {REPORTS}/table.parquet"
        " --study-json {params.study:q} --stamp {output.stamp:q} &>> {log:q}"


rule verdict:
    input:
        lambda w: wanted(products.verdict(STUDY.study)),
    output:
        stamp=update(stamp(products.verdict(STUDY.study))),
        picture=report(update(f"{REPORTS}/figures/verdict.png"), caption="../report/verdict.rst", category="verdict"),
        pictures=[update(f"{REPORTS}/figures/verdict.{kind}") for kind in ("pdf", "svg", "txt")],
        lines=report(update(f"{REPORTS}/verdict.csv"), caption="../report/verdict.rst", category="verdict"),
        texts=[update(f"{REPORTS}/verdict.{kind}") for kind in ("md", "tex")],
    log:
        f"logs/{REPORTS}/verdict.log",
    benchmark:
        f"benchmarks/{REPORTS}/verdict.tsv"
    retries: 0
    localrule: True
    conda:
        "../envs/kd.yaml"
    params:
        study=lambda w: json.dumps(VALUES),
    shell:
        f"python -m kd verdict {REPORTS}/table.parquet"
        " --study-json {params.study:q} --stamp {output.stamp:q} &>> {log:q}"


rule report:
    input:
        lambda w: wanted(products.page(STUDY.study)),
    output:
        stamp=update(stamp(products.page(STUDY.study))),
        page=update(f"{REPORTS}/report.html"),
    log:
        f"logs/{REPORTS}/report.log",
    benchmark:
        f"benchmarks/{REPORTS}/report.tsv"
    retries: 0
    localrule: True
    conda:
        "../envs/kd.yaml"
    params:
        study=lambda w: json.dumps(VALUES),
        command=lambda w: reproduce.command(workflow.overwrite_configfiles, workflow.config_settings.config),
    shell:
        "python -m kd report --study-json {params.study:q} --command {params.command:q} --stamp {output.stamp:q} &>> {log:q}"
