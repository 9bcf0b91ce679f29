# reports/STUDY: one tidy table, the figures and the page, from the published cells alone; no torch. All is
# written whole or not at all, and updated: what another Snakemake is reading is never taken away.

FIGURES = [f"{REPORTS}/figures/{name}.{figure}.png" for name, figure in STUDY.drawn]


# seconds each: on a cluster they run beside Snakemake. What they refuse, trying again does not mend.
localrules:
    collect,
    figure,
    tables,
    verdict,
    report,


rule collect:
    input:
        [f"{cell}/manifest.json" for cell in CELLS.values()],
    output:
        [update(f"{REPORTS}/{name}.{kind}") for name in ("table", "curves") for kind in ("csv", "parquet")],
    log:
        f"logs/{REPORTS}/collect.log",
    benchmark:
        f"benchmarks/{REPORTS}/collect.tsv"
    retries: 0
    conda:
        "../envs/kd.yaml"
    params:
        code=code_digest("kd.table"),
        study=json.dumps(VALUES),
    shell:
        "python -m kd collect --study-json {params.study:q} &>> {log:q}"


rule figure:
    input:
        table=f"{REPORTS}/table.parquet",
        more=shown_by,
    output:
        report(
            update(f"{REPORTS}/figures/{{experiment}}.{{figure}}.png"),
            caption="../report/figure.rst",
            category="{experiment}",
        ),
        [update(f"{REPORTS}/figures/{{experiment}}.{{figure}}.{kind}") for kind in ("pdf", "svg", "txt")],
    log:
        f"logs/{REPORTS}/{{experiment}}.{{figure}}.log",
    benchmark:
        f"benchmarks/{REPORTS}/{{experiment}}.{{figure}}.tsv"
    retries: 0
    conda:
        "../envs/kd.yaml"
    params:
        code=lambda w: code_digest(f"kd.figures.{w.figure}"),
    shell:
        "python -m kd figure {input.table:q} {wildcards.experiment:q} {wildcards.figure:q} &>> {log:q}"


rule tables:
    input:
        f"{REPORTS}/table.parquet",
    output:
        report(update(f"{REPORTS}/means.csv"), caption="../report/means.rst", category="tables"),
        report(update(f"{REPORTS}/comparisons.csv"), caption="../report/comparisons.rst", category="tables"),
    log:
        f"logs/{REPORTS}/tables.log",
    benchmark:
        f"benchmarks/{REPORTS}/tables.tsv"
    retries: 0
    conda:
        "../envs/kd.yaml"
    params:
        code=code_digest("kd.comparisons"),
    shell:
        "python -m kd tables {input:q} &>> {log:q}"


rule verdict:
    input:
        table=f"{REPORTS}/table.parquet",
        published="kd/paper/published.csv",
    output:
        report(update(f"{REPORTS}/figures/verdict.png"), caption="../report/verdict.rst", category="verdict"),
        [update(f"{REPORTS}/figures/verdict.{kind}") for kind in ("pdf", "svg", "txt")],
        report(update(f"{REPORTS}/verdict.csv"), caption="../report/verdict.rst", category="verdict"),
        [update(f"{REPORTS}/verdict.{kind}") for kind in ("md", "tex")],
    log:
        f"logs/{REPORTS}/verdict.log",
    benchmark:
        f"benchmarks/{REPORTS}/verdict.tsv"
    retries: 0
    conda:
        "../envs/kd.yaml"
    params:
        code=code_digest("kd.verdict"),
    shell:
        "python -m kd verdict {input.table:q} &>> {log:q}"


rule report:
    input:
        FIGURES,
        f"{REPORTS}/figures/verdict.png",
        f"{REPORTS}/means.csv",
        f"{REPORTS}/table.parquet",
    output:
        update(f"{REPORTS}/report.html"),
    log:
        f"logs/{REPORTS}/report.log",
    benchmark:
        f"benchmarks/{REPORTS}/report.tsv"
    retries: 0
    conda:
        "../envs/kd.yaml"
    params:
        code=code_digest("kd.report"),
        study=json.dumps(VALUES),
    shell:
        "python -m kd report --study-json {params.study:q} &>> {log:q}"
