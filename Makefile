# Everything starts here. Each goal does what it needs first; a second run is quick.
#
#   make book     the rendered book, in _build/html
#   make test     every test and every notebook, on all cores
#   make portable the notebooks again, with other processors' kernels and other numbers of threads
#   make claims   every number that the book claims, measured again: what moved (DATA=cifar, over an hour)
#   make execute  run one chapter (CHAPTER=07) as committed ones are run, and write its twin
#   make lab      JupyterLab on the notebooks
#   make install  only the environment (.venv, exact pins from constraints.txt)
#   make install-here  the same into the Python that runs, without a .venv (Binder)
#   make lint     style, types, and the notebooks' text twins
#   make wheel    sdist and wheel in dist/, the wheel tried in a new environment (WHEEL_ARGS=--reuse: no download)
#   make coverage share of the package's lines that the tests run (at least 90%)
#   make clean    remove what the goals above made
#
# PYTHON=python3.12 chooses the interpreter (3.10 or newer), PIP_ARGS="--extra-index-url ..." adds to pip's
# command line, PYTEST_ARGS="-k koopman" to pytest's ("-n 0" keeps it to one core, where a debugger works), LAB_ARGS to
# JupyterLab's (in a container: --ip=0.0.0.0). On Linux TORCH=cpu takes PyTorch, and the torchvision that fits, without
# their gigabytes of CUDA, where no GPU is.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
WHEEL_ARGS ?=
TORCH ?=
CHAPTER ?=
DATA ?=
LAB_ARGS ?=
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
SHELL := bash
PYTHON := $(if $(filter python3,$(PYTHON)),python,$(PYTHON))
else
BIN := $(VENV)/bin
endif

INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu) $(PIP_ARGS)
INSTALL := -m pip install --quiet --disable-pip-version-check $(INDEX) --constraint constraints.txt --editable '.[book,judges,test,train]'
INSTALLED := $(VENV)/.installed
BOOK := _build/.book
SOURCES := _config.yml $(shell find book hkd_mini data -type f -not -path '*/.*' -not -path '*/__pycache__/*' 2>/dev/null)

.PHONY: help install install-here book test portable claims execute lab lint wheel coverage clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hkd-mini needs Python 3.10 or newer, and this is " + sys.version.split()[0] + ": try make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL)
	@touch $@

install-here:
	$(PYTHON) $(INSTALL)

# -W: a warning is an error. -n: so is a reference that leads nowhere. --all: static files are copied anew.
$(BOOK): $(INSTALLED) $(SOURCES)
	$(BIN)/jupyter-book build book --config _config.yml --path-output . --all -W --keep-going -n -q
	@touch $@

book: $(BOOK)
	@cat _build/offline.txt
	@echo "The book: $(CURDIR)/_build/html/index.html"

# One thread a process: two processes of two threads each wait for one another.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval book tests -n auto --dist loadfile --no-loadscope-reorder --durations=10 $(PYTEST_ARGS)

portable: $(INSTALLED)
	$(BIN)/python .ci/portable.py

claims: $(INSTALLED)
	@test -n "$(DATA)" || { echo "make claims DATA=FOLDER: the folder with CIFAR-10 (hkd-mini data cifar10 --root FOLDER)"; exit 2; }
	$(BIN)/python benchmarks/claims.py --data $(DATA) --check

execute: $(INSTALLED)
	@test -n "$(CHAPTER)" || { echo "make execute CHAPTER=07, or tour, or claims"; exit 2; }
	$(BIN)/python .ci/execute.py book/$(CHAPTER)*.ipynb

# In a container the user is often root, whom JupyterLab refuses without this flag, and has no browser to open.
lab: $(INSTALLED)
	$(BIN)/jupyter lab --notebook-dir=book $(if $(filter 0,$(shell id -u)),--allow-root --no-browser) $(LAB_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/notebooks.py check book/*.ipynb

wheel: $(INSTALLED)
	$(BIN)/python .ci/wheel.py --pip-args="$(INDEX)" $(WHEEL_ARGS)

coverage: $(INSTALLED)
	$(BIN)/python -m pytest -q --cov=hkd_mini --cov-report=term tests

clean:
	rm -rf $(VENV) _build dist .pytest_cache .ruff_cache .mypy_cache .coverage htmlcov *.egg-info
