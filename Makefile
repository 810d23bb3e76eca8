# make demo   rerank and audit Python's own documentation, end to end
# make test   ruff, mypy --strict, quick tests
# make site   the documentation as pages, in .site/site/
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test site targets clean

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

.venv/docs: .venv/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

site: .venv/docs
	$(BIN)/python docs/site.py .site
	$(BIN)/zensical build --strict --config-file .site/mkdocs.yml

targets:
	$(PYTHON) bench/targets.py

clean:
	rm -rf .venv .demo .site build dist
