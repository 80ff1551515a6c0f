# Everything happens in .venv, which is made when it is missing or older than the project's requirements.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test check docs clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cellcircuits needs Python 3.11 or newer; set PYTHON=python3.11 or later")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: install
	$(BIN)/cellcircuits demo

# Files of tests side by side; a second thread in each would only be waited for.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The gates: linting, formatting, types. The documents are checked by the tests.
check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# docs/artifacts.md, from the code
docs: install
	$(BIN)/python scripts/write_docs.py

clean:
	rm -rf .venv cellcircuits-demo runs
