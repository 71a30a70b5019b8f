.DEFAULT_GOAL := help
PY := .venv/bin/python
export OMP_WAIT_POLICY := PASSIVE
export OMP_NUM_THREADS ?= 1
# Compiled modules are kept, where the environment says otherwise too: imports are half of a small process.
export PYTHONDONTWRITEBYTECODE :=

help:           ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

setup:          ## make .venv from the pinned requirements (does nothing when they are in)
	@scripts/setup.sh

demo: setup     ## the whole recipe in miniature -> runs/miniature/report.html
	@$(PY) scripts/run_stage.py all --recipe recipes/miniature.yaml

smoke: setup    ## every stage of the miniature, a few steps each -> runs/smoke/report.html
	@$(PY) scripts/run_stage.py all --recipe recipes/smoke.yaml

paper: setup    ## the paper's tables and figures in miniature, three seeds each, some hours -> docs/replication.md
	@$(PY) scripts/paper.py

real:           ## LoRA on real tool calls, and GRPO, on a real model -> runs/smollm2/report.html
	@scripts/setup.sh real
	@$(PY) scripts/run_stage.py all --recipe recipes/smollm2.yaml

data: setup     ## real pages through the mathematics funnel -> runs/miniature-data/report.html
	@scripts/setup.sh evals
	@[ -e data/pages.warc.gz ] || $(PY) scripts/debian_warc.py data/pages.warc.gz
	@$(PY) scripts/run_stage.py all --recipe recipes/miniature-data.yaml

# SHARD=2/3 takes every third file, the second first: for CI in several jobs.
SHARD ?= 1/1
shard = awk -v s=$(SHARD) 'BEGIN {split(s, a, "/")} NR % a[2] == a[1] % a[2]'

test: unit integration  ## unit, golden and integration tests

# The extras hold the benchmarks' own code and data, which parity is tested against.
unit: setup     ## the quick half of them
	@scripts/setup.sh real evals
	@$(PY) -m tests.side_by_side --groups 4 $$(find tests/unit -name 'test_*.py' | sort | $(shard))

# vLLM in a process owns its torch.distributed groups and its threads: one file a process, two at a time.
integration: setup  ## real vLLM, Ray, TRL and Chromium
	@scripts/setup.sh real evals
	@$(PY) -m tests.side_by_side --each $$(ls tests/integration/test_*.py | $(shard))

check: setup    ## formatting, lint, types, import directions, sizes
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy scripts reports pretrain sft rl evals environments data_mix budget reward engine model workbench anneal
	@$(PY) -m pytest tests/unit/test_structure.py

stress: setup   ## fault injection and hostile input
	@OMP_NUM_THREADS=1 $(PY) -m pytest tests -m stress -s

mutate: setup   ## break important lines one at a time: a test must notice each (about 15 minutes)
	@scripts/setup.sh real evals
	@$(PY) -m tests.mutations

bench: setup    ## speed and memory, as ratios, interleaved
	@for file in benchmarks/*.py; do PYTHONPATH=. $(PY) $$file || exit 1; done

.PHONY: help setup demo smoke paper real data test unit integration check stress mutate bench
