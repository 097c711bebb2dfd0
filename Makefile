# Everything runs inside $(VENV), with the versions of constraints.txt. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
# Empty: torch comes from where pip looks anyway. A URL (PyTorch's own index for a CPU-only or a certain CUDA
# build) is used for torch alone, and only when $(VENV) is new: `rm -r .venv` first to change builds.
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --quiet -c constraints.txt --build-constraint constraints.txt
TORCH_PIN := $(shell grep -E '^torch==' constraints.txt)
PIP_PIN := $(shell grep -E '^pip==' constraints.txt)
UV_PIN := $(shell grep -E '^uv==' constraints.txt)
# files in the order of tests/conftest.py, the longest first, so that none is left alone at the end
PYTEST := -m pytest -n auto --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-lowest setup lint format clean

help: ## list the targets and variables
	@echo 'Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14
	@echo 'Variables:'
	@echo '  PYTHON      the Python, 3.11 or later, that makes the environment (now: $(PYTHON))'
	@echo '  VENV        the folder of the environment (now: $(VENV))'
	@echo '  LOWEST      that of the lowest versions (now: $(LOWEST))'
	@echo '  TORCH_INDEX index URL for torch alone, for a CPU-only or a certain CUDA build (now: $(or $(TORCH_INDEX),none))'

demo: $(VENV)/.installed-demo ## install what the demo needs and run it
	$(BIN)/innerloop demo
	@echo 'innerloop is $(BIN)/innerloop'

test: lint ## install everything, then run all checks: ruff, mypy, pytest
	$(BIN)/python $(PYTEST)

test-lowest: $(LOWEST)/.installed ## pytest with the lowest version of each dependency that pyproject.toml names
	$(LOWEST)/bin/python $(PYTEST)

setup: $(VENV)/.installed-test ## install everything for development

lint: $(VENV)/.installed-test ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-test ## mend what ruff can mend, then format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build output; keeps the environment and your runs
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	find src tests $(wildcard examples benchmarks) -type d -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written last, so an installation that was interrupted is taken up again.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 11) else f"innerloop needs Python 3.11 or later, and $(PYTHON) is {v}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch goes first and alone, so that TORCH_INDEX concerns nothing else. PyTorch's own index does not hold every
# pinned version of what torch depends on: there the constraints are applied by the next step instead.
$(VENV)/.installed-torch: constraints.txt $(VENV)/.created
	$(PIP) install --quiet $(PIP_PIN)
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),-c constraints.txt) $(TORCH_PIN)
	@touch $@

$(VENV)/.installed-demo: pyproject.toml constraints.txt $(VENV)/.installed-torch
	$(INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt $(VENV)/.installed-torch
	$(INSTALL) -e '.[all]' --group dev
	@touch $@

# constraints.txt names newer versions, so it has no part in this.
$(LOWEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet $(UV_PIN)
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[all]' --group dev
	@touch $@
