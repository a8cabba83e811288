# codetune: `make demo` shows the whole job; `make check test` before every commit.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test check bench fix clean

$(VENV)/.core: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) -c constraints.txt -e ".[test,dev]"
	@touch $@

$(VENV)/.bench: $(VENV)/.core
	$(PIP) -c constraints.txt -e ".[test,bench]"
	@touch $@

demo: $(VENV)/.core        ## Tune the embedded base model on this very repository, a short run
	$(BIN)/codetune tune . --name codetune-demo --set training.epochs=1 --set training.max_steps=64 --set training.batch_tokens=16384

test: $(VENV)/.test        ## Every test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.test       ## Format, lint, types, layers
	$(BIN)/ruff format --check codetune tests benchmarks examples
	$(BIN)/ruff check codetune tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fix: $(VENV)/.test
	$(BIN)/ruff check --fix codetune tests benchmarks examples
	$(BIN)/ruff format codetune tests benchmarks examples

bench: $(VENV)/.bench      ## Every speed claim, both sides in one run, as a table
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
