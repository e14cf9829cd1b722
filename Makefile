# Every target makes what it needs: a virtual environment in .venv with the project and its tools.
PYTHON ?= python3
BIN := .venv/bin
# Two threads of one process are slower than one as soon as anything else runs; more than two buy a small model nothing.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test lint check setup nano profile bench clean

demo: setup
	$(BIN)/decodebench run --config demo.toml

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

check: setup
	rm -rf runs/check
	$(BIN)/decodebench run --config check.toml
	$(BIN)/decodebench check runs/check --baseline results/check.json

setup: .venv/ready

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

nano: setup
	$(BIN)/python -m harness.nano.train --out harness/nano/weights

profile: setup
	$(BIN)/python -m benchmarks.nano

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m benchmarks.engine --compile
	$(BIN)/python -m benchmarks.same
	$(BIN)/python -m benchmarks.soak

clean:
	rm -rf .venv runs demo
