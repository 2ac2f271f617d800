# Everything on a fresh machine with Python 3.11 or later: `make quickstart`, `make test`.
PYTHON ?= python3
SHELL := /bin/bash
# test processes, of one thread each
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: docs install quickstart quickstart-seeds smoke base test test-slow test-recipes test-vllm lint bench clean

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[pinned,dev]"
	touch $(STAMP)

quickstart: install  ## the whole method on a CPU, in minutes
	$(BIN)/e2h run recipes/quickstart

quickstart-seeds: install  ## three seeds: the numbers of the README
	$(BIN)/e2h run recipes/quickstart "seeds=[0,1,2]"

smoke: install  ## every stage on real MATH text, with a tiny random model
	$(BIN)/e2h run recipes/math-smoke

base: install  ## rebuild the shipped base model
	$(BIN)/e2h run recipes/quickstart --only pretrain
	cp $$(ls -td runs/quickstart/pretrain/*/ | head -1){config.json,model.safetensors,tokenizer.json,tokenizer_config.json} rlhf_e2h/assets/base/

test: install lint  ## what CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not gpu and not vllm"

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not gpu and not vllm"

test-vllm: install  ## E2H_VLLM_PYTHON=/path/to/python with vLLM; minutes
	test -n "$$E2H_VLLM_PYTHON"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m vllm

test-recipes: install  ## every stage of every recipe, with a tiny model (needs MATH, see recipes/math-smoke)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/recipes -m "slow or not slow"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install  ## the documentation as a static site in build/docs
	$(BIN)/sphinx-build -W --keep-going -q docs build/docs
	@echo "build/docs/index.html"

bench: install
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) runs build dist *.egg-info
