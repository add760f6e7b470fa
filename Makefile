# Needs only Python 3.10 - 3.13 and make; everything else goes into $(VENV).
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export EVOTORCH_VERBOSE_LEVEL ?= 0

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types check docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## make the virtual environment and install everything into it

$(STAMP): pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[all,dev]"
	touch $@

demo: $(STAMP) ## improve a small trained network; results in runs/demo
	$(BIN)/evohbde tune problems.digits:shifted_mlp --out runs/demo --overwrite $(ARGS)

test: $(STAMP) ## run the tests; ARGS="-m slow" for the long ones
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(STAMP) ## check rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## check the types
	$(BIN)/mypy

check: lint types test ## all of lint, types, test

docs: $(STAMP) ## build the documentation into site/
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/mkdocs build --strict

clean: ## remove what was built, cached or run; the virtual environment stays
	rm -rf build dist runs site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find benchmarks evohbde examples problems tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
