# Two commands do everything on a fresh machine: `make demo` and `make test`. Each makes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
DEMO := workflow/studies/demo.yaml
ON_SLURM := tests/test_slurm.py tests/test_slurm_answers.py

unexport PYTHONDONTWRITEBYTECODE # tests start kd thousands of times: it must not be compiled each time

.PHONY: demo demo-figure check test test-slow test-lowest test-slurm storm bench lint docs format clean

demo: .venv/installed
	@$(BIN)/snakemake --cores all --configfile $(DEMO)
	@echo
	@echo "report   reports/demo/report.html"
	@echo "figures  reports/demo/figures/"
	@echo "table    reports/demo/table.csv"

demo-figure: demo # the picture of README.md and docs/results.md, the demo's rows and their spreads; prints the numbers beside it
	$(BIN)/python -m bench.demo --trained
	$(BIN)/python -m bench.spreads

check: .venv/installed # seconds: what starts no process
	$(BIN)/ruff check --quiet .
	$(BIN)/pytest -q -n auto --dist worksteal -m "not process and not slow and not slurm"

test: .venv/installed
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not slurm"

test-slow: .venv/installed
	$(BIN)/pytest -n auto --dist worksteal -m slow

test-lowest: .venv/installed # with the oldest Snakemake that pyproject.toml allows
	test -d .venv/lowest || $(BIN)/pip install --quiet --target .venv/lowest snakemake==9.17.0 snakemake-executor-plugin-slurm==2.8.0
	PYTHONPATH=$(CURDIR)/.venv/lowest $(BIN)/pytest -n auto --dist worksteal -m "not slow and not slurm" tests/test_patches.py tests/test_targets.py

test-slurm: .venv/installed # as root on Debian: a SLURM on this machine, one that forgets jobs, one with accounting
	tests/cluster.sh install
	tests/cluster.sh start
	KD_TEST_CLUSTER=plain $(BIN)/pytest -n 4 --dist worksteal -m slurm $(ON_SLURM); code=$$?; tests/cluster.sh stop; exit $$code
	tests/cluster.sh start --forgetful
	KD_TEST_CLUSTER=forgetful $(BIN)/pytest -n 3 -m slurm -k forgot $(ON_SLURM); code=$$?; tests/cluster.sh stop; exit $$code
	tests/cluster.sh start --accounting
	KD_TEST_CLUSTER=accounting $(BIN)/pytest -m slurm -k accounting $(ON_SLURM); code=$$?; tests/cluster.sh stop; exit $$code

storm: .venv/installed # an hour of kills, full disks and deleted files; as root on Linux, for it mounts a small disk
	$(BIN)/python tests/storm.py --seconds 3600 --seed $$(date +%s)
	$(BIN)/python tests/storage_sweep.py # hours: every storage call of every verb fails
	$(BIN)/python tests/flip_sweep.py --most 8 # an hour: of each file, before each verb that reads it

bench: .venv/installed # an hour's half, on a machine that does nothing else
	$(BIN)/python -m bench.loops
	$(BIN)/python -m bench.parts
	$(BIN)/python -m bench.scale
	$(BIN)/python -m bench.report

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/hadolint containers/Dockerfile

docs: .venv/installed # the site of README.md and docs/, in site/; a warning is an error
	$(BIN)/python docs/build.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

clean: # results, data, banks, answers and state stay: they are the user's
	rm -rf .venv kd.egg-info .pytest_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kd needs Python 3.11 or later: make PYTHON=python3.x")'
	@echo "kd: the first time this installs PyTorch and what else kd needs into .venv: 6 GB, a few minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev,search,slurm,tensorboard,timm,watch]'
	@touch $@
