# Creates its own virtual environment in .venv; needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo

.PHONY: help demo test test-thorough test-fast test-slow lint notebooks dist figures docs bench gpu clean

demo: $(VENV)/.ready  ## train, certify, attack and report on the embedded digits
	$(BIN)/wellposed train mondeq --preset digits --out $(RUN)
	$(BIN)/wellposed certify $(RUN) > /dev/null
	$(BIN)/wellposed attack $(RUN) --limit 359 > /dev/null
	$(BIN)/wellposed report $(RUN)

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 12

# Bytecode is kept, whatever the environment says: every process that a test starts would compile the library anew.
test test-thorough test-fast: export PYTHONDONTWRITEBYTECODE =
test test-thorough test-fast: export OMP_NUM_THREADS = 1

test: $(VENV)/.ready  ## the test suite but for the tests of tests/thorough.txt, five minutes on two cores
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow and not thorough'

test-thorough: $(VENV)/.ready  ## the tests of tests/thorough.txt, eight minutes on two cores
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'thorough and not slow'

test-fast: $(VENV)/.ready  ## two minutes on two cores: the tests of tests/fast.txt, which call every file of the library
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --fast --touches-every-module

test-slow: $(VENV)/.ready  ## tests that train on real MNIST; needs WELLPOSED_DATA or a network
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.ready  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# AGAINST=PATH adds another checkout of this library as a rival; ONLY="fixed-point deployed" measures these only.
bench: $(VENV)/.ready  ## docs/speed.md: speed against named rivals, half an hour on one core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt jax
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torchdeq
	$(BIN)/wellposed bench --out docs/records/speed $(if $(ONLY),--only $(ONLY)) $(if $(AGAINST),--against $(AGAINST))
	$(BIN)/python docs/speed.py

# Uses the Python that it is given, which must have a CUDA build of torch: make gpu PYTHON=python3.12
gpu:  ## docs/speed.md: CUDA tests and benchmarks on one NVIDIA GPU, eight minutes at most
	PYTHONPATH=src $(PYTHON) -m wellposed.benchmarking.gpu $(if $(DATA),--data-root $(DATA))

notebooks: $(VENV)/.ready  ## examples/*.py as Jupyter notebooks, in build/notebooks
	mkdir -p build/notebooks
	for example in examples/*.py; do $(BIN)/jupytext --quiet --to ipynb --output build/notebooks/$$(basename $$example .py).ipynb $$example; done

dist: $(VENV)/.ready  ## wheel and source distribution in dist/, checked
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build twine
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

figures: $(VENV)/.ready  ## the pictures of docs/families.md and docs/operators.md
	$(BIN)/python docs/figures.py
	$(BIN)/python docs/operator_figures.py

docs: $(VENV)/.ready  ## these pages with a reference as a site of files, site/index.html; any broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# constraints.txt pins torch to a CPU build where there is one: an unpinned torch brings gigabytes of CUDA.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; run make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,attack,auto,graph,deploy,exact,cluster,dev]'
	touch $@

clean:  ## remove what was made
	rm -rf $(VENV) runs site build dist .pytest_cache .mypy_cache .ruff_cache
