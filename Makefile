.DEFAULT_GOAL := help
PY := .venv/bin/python
export OMP_WAIT_POLICY := PASSIVE
export OMP_NUM_THREADS ?= 1

help:           ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

setup:          ## make .venv from the pinned requirements (does nothing when they are in)
	@scripts/setup.sh

demo: setup     ## the whole recipe in miniature -> runs/miniature/report.html
	@$(PY) scripts/run_stage.py all --recipe recipes/miniature.yaml

smoke: setup    ## every stage of the miniature, a few steps each -> runs/smoke/report.html
	@$(PY) scripts/run_stage.py all --recipe recipes/smoke.yaml

paper: setup    ## SFT -> {GRPO, DPO, reward model -> RLHF} -> merge, in miniature -> runs/miniature-paper/report.html
	@$(PY) scripts/run_stage.py all --recipe recipes/miniature-paper.yaml

real:           ## LoRA on real tool calls, and GRPO, on a real model -> runs/smollm2/report.html
	@scripts/setup.sh real
	@$(PY) scripts/run_stage.py all --recipe recipes/smollm2.yaml

# vLLM in a process owns its torch.distributed groups and its threads: one file a process.
# The extras hold the benchmarks' own code and data, which parity is tested against.
test: setup     ## unit, golden and integration tests
	@scripts/setup.sh real evals
	@$(PY) -m pytest tests/unit -m "not stress and not gpu"
	@for file in tests/integration/test_*.py; do echo $$file; \
	  $(PY) -m pytest $$file -m "not stress and not gpu" || exit 1; done

check: setup    ## formatting, lint, types, import directions, sizes
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy workbench data_mix pretrain sft reward rl budget evals scripts
	@$(PY) -m pytest tests/unit/test_structure.py

stress: setup   ## fault injection and hostile input
	@$(PY) -m pytest tests -m stress -s

mutate: setup   ## break important lines one at a time: a test must notice each (about 15 minutes)
	@scripts/setup.sh real evals
	@$(PY) -m tests.mutations

bench: setup    ## speed and memory, as ratios, interleaved
	@for file in benchmarks/*.py; do $(PY) $$file || exit 1; done

.PHONY: help setup demo smoke paper real test check stress mutate bench
