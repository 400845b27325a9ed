# `make demo` and `make test` do all their own set-up in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install peers demo test test-slow benchmark lint site clean

help:
	@echo "make demo       train on real digits, draw samples, report the likelihood (3 to 5 minutes on two cores)"
	@echo "make test       run the tests"
	@echo "make test-slow  run the slow tests, which make test leaves out"
	@echo "make benchmark  measure training, sampling and likelihood on this machine"
	@echo "make lint       ruff and pyright"
	@echo "make site       build the documentation into site/"
	@echo "make install    only make .venv (the others call it)"
	@echo "make peers      add PyTorch and diffusers to it: tests and benchmarks then run beside them"

# Python compiles what it imports, and keeps it; pip would compile all that it installs.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable

install: .venv/installed

.venv/installed: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) '.[dev]'
	@touch $@

peers: | $(BIN)/python
	$(PIP_INSTALL) '.[dev,peers]'
	@touch .venv/installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "jaxdiff needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

demo: install
	$(BIN)/jaxdiff demo

test: install
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal
	JAX_ENABLE_X64=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-slow: install
	XLA_FLAGS= $(BIN)/python -m pytest -m slow --numprocesses auto
	XLA_FLAGS= JAX_ENABLE_X64=1 $(BIN)/python -m pytest -m slow --numprocesses auto

benchmark: install
	$(BIN)/python benchmarks/speed.py

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

site: .venv/docs
	@said=$$($(BIN)/zensical build --clean --strict 2>&1); status=$$?; echo "$$said"; \
	test $$status = 0 && ! echo "$$said" | grep --quiet "^griffe:"  # a docstring's warning fails, too

.venv/docs: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) '.[docs]'
	@touch $@

clean:
	rm -rf .venv .cache site
