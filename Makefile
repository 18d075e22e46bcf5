# Everything on a fresh machine: `make demo` and `make test` set up what they need by themselves.
#
# PYTHON  the interpreter the environment is made of           (python3)
# VENV    where the environment lives                          (.venv)
# TORCH   what to install if PYTHON has no torch of its own    (torch==2.13.0, the tested version)
# WORKERS how many processes run the tests                     (2)

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet
OUT ?= medcam_demo
WORKERS ?= 2


.PHONY: help demo test test-explore test-slow check bench docs clean
.DEFAULT_GOAL := help

help: ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

demo: $(VENV)/.base ## Maps, scores and figure of really trained networks, into medcam_demo/
	$(BIN)/medcam demo --output $(OUT)

test: $(VENV)/.dev ## The test suite, without the slow tests
	$(BIN)/pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-explore: $(VENV)/.dev ## The property tests, with examples drawn anew, and more of them
	MEDCAM_HYPOTHESIS=explore $(BIN)/pytest -m hypothesis -n $(WORKERS) --timeout 3000

test-slow: $(VENV)/.dev ## The slow tests
	$(BIN)/pytest -m slow

check: $(VENV)/.dev ## Format, lint, types, the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## Time and memory beside other libraries, as ratios
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/.docs ## The documentation site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Removes the environment and all that was built
	rm -rf $(VENV) site dist medcam_demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The environment. If PYTHON has torch, the environment uses that one; otherwise TORCH is installed.
# Its version is then pinned by a constraints file, so that no other package replaces it.
$(VENV)/constraints.txt:
	@if $(PYTHON) -c "import torch" 2>/dev/null; \
	then $(PYTHON) -m venv --system-site-packages $(VENV); \
	else $(PYTHON) -m venv $(VENV) && $(PIP) "$(TORCH)"; fi
	@$(BIN)/python -c "import torch; print('torch==' + torch.__version__.split('+')[0])" > $@

$(VENV)/.base: pyproject.toml $(VENV)/constraints.txt
	$(PIP) -c $(VENV)/constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/constraints.txt
	$(PIP) -c $(VENV)/constraints.txt -e ".[dev,peers,integrations,docs]"
	@touch $(VENV)/.base $@

$(VENV)/.docs: pyproject.toml $(VENV)/constraints.txt
	$(PIP) -c $(VENV)/constraints.txt -e ".[docs]"
	@touch $@
