# Everything runs in .venv, which the first target that needs it creates; only Python >= 3.11 with venv must be there.
# `make` lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Processes of the test suite; each uses one thread.
WORKERS ?= 2

# OpenMP threads that spin while they wait slow small networks down many times as soon as a core is shared.
export OMP_WAIT_POLICY ?= PASSIVE

PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What an install depends on: the stamps $(BASE) and $(DEV) are newer than these, or the install is done again.
INPUTS = pyproject.toml constraints.txt
BASE   = $(VENV)/.installed
DEV    = $(VENV)/.installed-dev

.PHONY: help install install-dev run test slow lint format wheel-test clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 22

run: $(BASE) ## install, run the main job and print where its report is; ARGS="n=16 seed=1" go to the command
	@$(BIN)/tiltflow $(ARGS)

test: $(DEV) ## install the dev extras and run the default test suite
	$(BIN)/pytest -q -m "not slow" -n $(WORKERS)

slow: $(DEV) ## run the tests that take longer than a few seconds
	$(BIN)/pytest -q -m slow -n $(WORKERS)

lint: $(DEV) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy knows nothing of pyproject's folder mapping: show it the package laid out as it is installed
	@rm -rf $(VENV)/layout && mkdir -p $(VENV)/layout/tiltflow/core
	@ln -s $(CURDIR)/core/_root/* $(CURDIR)/domains $(CURDIR)/rewards $(CURDIR)/configs $(VENV)/layout/tiltflow
	@ln -s $(filter-out %/_root,$(wildcard $(CURDIR)/core/*)) $(VENV)/layout/tiltflow/core
	MYPYPATH=$(VENV)/layout $(BIN)/mypy -p tiltflow

format: $(DEV) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel is made from the sdist and tested from a folder that has none of the sources, in an environment of its own. That
# one borrows the dependencies of .venv by a .pth file: its own tiltflow comes first, and the editable one is not reachable
# (a .pth file inside a borrowed folder is not read).
wheel-test: $(DEV) ## build sdist and wheel; run the suite and core's doctests on the wheel, away from the sources
	@set -eu; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	$(BIN)/python -m build --outdir "$$scratch/dist" . >"$$scratch/build.log" 2>&1 || { cat "$$scratch/build.log"; exit 1; }; \
	$(BIN)/python -m venv --without-pip "$$scratch/venv"; python="$$scratch/venv/bin/python"; \
	$(BIN)/python -c "$$site" >"$$scratch/borrowed.pth"; mv "$$scratch/borrowed.pth" "$$($$python -c "$$site")"; \
	$(BIN)/python -m pip --python "$$python" install --quiet --disable-pip-version-check --no-deps --no-index "$$scratch"/dist/*.whl; \
	mkdir "$$scratch/tests-only"; cp -R tests pyproject.toml "$$scratch/tests-only"; cd "$$scratch/tests-only"; \
	"$$python" -c "import sys, tiltflow; print('testing', tiltflow.__file__); sys.exit(not tiltflow.__file__.startswith(sys.prefix))"; \
	"$$python" -P -m pytest -q -m "not slow" -n $(WORKERS); \
	echo "doctests of tiltflow.core"; OMP_NUM_THREADS=1 "$$python" -P -m pytest -q --doctest-modules --pyargs tiltflow.core

install: $(BASE) ## create .venv with tiltflow in it (editable)
install-dev: $(DEV) ## the same with the tools for development

clean: ## remove the environment, build leftovers and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# pip comes last into a new environment, so an interrupted one is made again
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "tiltflow needs Python 3.11 or newer, and '$(PYTHON)' is none." \
	"Name another one, for instance: make run PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	echo "'$(PYTHON)' has no venv module. Install it (Debian, Ubuntu: apt install python3-venv) and try again." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(BASE): $(INPUTS) | $(BIN)/pip
	@echo "Installing tiltflow into $(VENV) (a few minutes the first time)"
	@$(PIP_INSTALL) --editable .
	@touch $@

$(DEV): $(INPUTS) | $(BIN)/pip
	@echo "Installing tiltflow and its development tools into $(VENV) (a few minutes the first time)"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $(BASE) $@
