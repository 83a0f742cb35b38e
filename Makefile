# Every target works in a fresh clone with Python 3.11+ and pip alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Python compiles what it imports; to compile all 18,000 files takes a minute.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: install demo test test-all lint parity bench docs tables clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/cermet demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m bench readme --check
	$(BIN)/python docs/generate.py --check
	$(BIN)/pytest -n 2 -m "not slow"

test-all: lint
	CERMET_TESTS=thorough $(BIN)/pytest -n 2

parity: install
	$(BIN)/python -m parity

bench: install
	$(BIN)/python -m bench

tables: install
	$(BIN)/python -m bench readme
	$(BIN)/python docs/generate.py

docs: install
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .venv-mergekit site .pytest_cache .mypy_cache .ruff_cache .hypothesis
