# Every target makes what it needs: an environment in .venv, installed from pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q --durations=20 --numprocesses 2 --dist loadgroup

.PHONY: demo quick test test-all lint check check-chart proto bench clean

demo: .venv/.runs           ## start a cluster, stream one chat, show what each stage took
	$(BIN)/tandem demo

quick: .venv/.develops      ## tests that open no socket and start no process: under a minute
	$(PYTEST) -m quick

test: .venv/.develops       ## what a change can break from day to day, the quick ones included
	$(PYTEST) -m "not long"

test-all: test              ## and what takes its time: explorations, every fault, Ray on four hosts
	$(PYTEST) -m long

lint: .venv/.develops       ## style, types, import contracts, structure
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.structure

check: lint test-all

check-chart: .venv/.develops  ## the gates of helm/; part of `make test`
	$(BIN)/python -m pytest -q tests/helm

proto:                      ## regenerate wire/ from proto/
	PYTHON=$(PYTHON) bash proto/generate.sh

bench: .venv/.develops      ## what a handoff costs on this machine, and how much of it is felt
	$(BIN)/python -m benchmarks.handoff
	$(BIN)/python -m benchmarks.overlap

clean:
	rm -rf .venv .venv-proto build *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.runs: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/.develops: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@ .venv/.runs
