# make demo   rerank and audit Python's own documentation, end to end
# make test   ruff, mypy --strict, quick tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test targets clean

.venv/base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "secondpass needs Python 3.11 or newer; make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/dev: .venv/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: .venv/base
	$(BIN)/secondpass demo --out .demo

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

targets:
	$(PYTHON) bench/targets.py

clean:
	rm -rf .venv .demo build dist
