# Every target does the set-up it needs by itself. On a new machine: Python >= 3.11, pip, venv and make.
#   PYTHON=python3.12    the interpreter of .venv       ARGS=...    more arguments for pytest
#   SEED=0 OUTPUT=...    of the demo                    WORKERS=2      processes that `make test` shares its files among

PYTHON ?=
SEED ?= 0
OUTPUT ?= output/demo
ARGS ?=
WORKERS ?= 2
export PYTHON
# d2_regnet/utils/threads.py says why.
ifndef OMP_WAIT_POLICY
export GOMP_SPINCOUNT ?= 1000
endif
BIN := .venv/bin

.PHONY: help setup demo test test-all reliability docs lint clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup:  ## make .venv: pinned requirements, Detectron2, this package
	@tools/setup.sh

demo: setup  ## train, evaluate and draw a RegNet Mask R-CNN in a few minutes
	@$(BIN)/python -m examples.demo --seed "$(SEED)" --output "$(OUTPUT)"

test: setup  ## the tests that take seconds
	@$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: setup  ## all tests, also the ones that train
	@$(BIN)/python -m pytest $(ARGS)

reliability: setup  ## do 300 faults to trainings, and write docs/results/reliability.md
	@$(BIN)/python -m tests.reliability $(ARGS)

docs:  ## the documentation site in output/site; a broken link or an undocumented parameter fails
	@tools/setup.sh docs
	@$(BIN)/python -m mkdocs build --strict

lint:  ## ruff: rules and format; pyright: types
	@tools/setup.sh ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@tools/setup.sh
	@$(BIN)/pyright

clean:  ## remove builds and caches; .venv and output stay
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
