"""An example of each verb, for its --help. A test reads each as a command line."""

_TEACHER = "results/digits/demo/wrn-10-2.ce.s0"
_STUDENT = f"{_TEACHER}/resnet8.kl-tau3.s0"

EXAMPLES = {
    "plan": "kd plan workflow/studies/demo.yaml",
    "status": "kd status --cells",
    "watch": "kd watch demo",
    "mirror": "kd mirror demo --to tensorboard runs",
    "preregister": "kd preregister demo",
    "show": f"kd show {_STUDENT}",
    "compare": f"kd compare {_STUDENT} {_TEACHER}/resnet8.mse.s0",
    "export": f"kd export {_STUDENT} exported/resnet8",
    "import": "kd import theirs.pth theirs --network wrn-28-4 --dataset cifar100",
    "prune": "kd prune banks answers --days 30 --dry-run",
    "pack": "kd pack workflow/studies/demo.yaml --output demo.tar",
    "completion": "kd completion bash > ~/.local/share/bash-completion/completions/kd",
    "verify": "kd verify --discard",
    "data": "kd data cifar100",
    "labels": "kd labels cifar100+sym0.4",
    "train": f"kd train {_STUDENT} --configfile workflow/studies/demo.yaml",
    "select": f"kd select {_TEACHER} fine",
    "bank": f"kd bank {_TEACHER} --needs 0:20",
    "answers": f"kd answers {_STUDENT}",
    "propose": "kd propose best 1",
    "trial": "kd trial best 1 2 --threads 2",
    "winner": "kd winner best",
    "release": f"kd release {_TEACHER}",
    "collect": "kd collect --configfile workflow/studies/demo.yaml",
    "measure": "kd measure noise measures --configfile workflow/studies/demo.yaml",
    "figure": "kd figure reports/demo/table.parquet noise tau",
    "tables": "kd tables reports/demo/table.parquet",
    "verdict": "kd verdict reports/demo/table.parquet --claims mine.yaml",
    "report": "kd report --configfile workflow/studies/demo.yaml",
    "adopt": "kd adopt --cells 2",
    "delete": f"kd delete {_STUDENT} --dry-run",
    "schema": "kd schema > workflow/config.schema.json",
}
