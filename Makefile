# `make study` runs the default study and writes results/default/, `make study-mlm` the masked-LM one. Every target may be repeated: what
# is done is not done again.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# nproc counts no more cores than OMP_NUM_THREADS says.
JOBS ?= $(shell unset OMP_NUM_THREADS; nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
TORCH := 2.13.0

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONUNBUFFERED := 1
# One thread a process, as many processes as cores: on small models two threads spend their time waiting for each other.
export OMP_NUM_THREADS := 1
# glibc hands large temporaries (logits) back to the kernel at once, which faults them in anew at every training step; kept, they
# make the loss twice as fast. It reads these at a process's start, so they cannot be set from Python.
export MALLOC_MMAP_THRESHOLD_ := 4000000000
export MALLOC_TRIM_THRESHOLD_ := 8000000000

# $(check_python): stop here when PYTHON is too old.
define check_python
test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "Python 3.11 or newer is needed (found: $(or $(PYTHON),none)); run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
endef

.PHONY: help env fairseq-env study study-mlm smoke test test-slow lint format lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: .venv/.stamp ## Make .venv with every pinned package and the `tlc` command

.venv/.stamp: requirements.lock pyproject.toml
	@$(check_python)
	@echo "installing requirements.lock into .venv (some minutes the first time)"
	@"$(PYTHON)" -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

fairseq-env: .venv-fairseq/.stamp ## Build .venv-fairseq, which a benchmark and a test compare with

# fairseq has no wheel and builds against the packages that are there, so what its build needs is installed before it.
.venv-fairseq/.stamp: benchmarks/fairseq-requirements.txt
	@$(check_python)
	@echo "building fairseq into .venv-fairseq (some minutes; needs g++)"
	@"$(PYTHON)" -m venv .venv-fairseq
	@.venv-fairseq/bin/python -m pip install --quiet --disable-pip-version-check \
		$$(grep -iE '^(cython|numpy|setuptools|torch|wheel)==' $<)
	@.venv-fairseq/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -r $<
	@touch $@

study: env ## Run the default study; JOBS=n processes side by side (default: one a core)
	@tlc reproduce report@default --jobs $(JOBS)
	@echo "read results/default/report.html"

study-mlm: env ## Run the masked-LM study: encoders pretrained, finetuned, compressed
	@tlc reproduce report@mlm --jobs $(JOBS)
	@echo "read results/mlm/report.html"

smoke: env ## Run the two smoke studies from corpus to page in .smoke/, in a few minutes
	@rm -rf .smoke && mkdir -p .smoke/.dvc && cp -R pipeline stages configs .smoke/ && cp .dvc/config .smoke/.dvc/
	@cd .smoke; \
	dvc config core.no_scm true; \
	tlc plan --study configs/smoke.yaml --study configs/smoke_mlm.yaml --write; \
	tlc reproduce report@smoke report@smoke_mlm --jobs $(JOBS)
	@echo "read .smoke/results/smoke/report.html and .smoke/results/smoke_mlm/report.html"

test: env ## Run the fast tests
	@pytest -m "not slow"

test-slow: env ## Run the slow tests
	@pytest -m slow

lint: env ## Check style, format and types
	@ruff check .
	@ruff format --check .
	@mypy

format: env ## Apply the format and the safe fixes
	@ruff check --fix .
	@ruff format .

lock: ## Write requirements.lock anew from pyproject.toml (torch's own CUDA packages are not pinned: they follow its wheel)
	@"$(PYTHON)" -m venv --clear .venv
	@.venv/bin/python -m pip install --upgrade 'torch==$(TORCH)' setuptools -e '.[dev]'
	@{ echo "# Every package of the environment, exactly. \`make lock\` writes this file; \`make env\` installs it."; \
		.venv/bin/python -m pip freeze --all --exclude-editable | grep -vE '^(pip|triton|cuda-.*|nvidia-.*)==' | sed 's/+cpu$$//'; \
	} > requirements.lock
