# make parity   set up if needed, then the main job: prove that both models agree
# make test     set up if needed, then the tests, but for those marked slow
# make test-all all of them: what CI runs
# make lint     ruff, import-linter, mypy
# make matrix the tests on Python 3.11, 3.12 and 3.13, each with other versions of JAX and Torch
# make fuzz     a million mutated inputs to all that reads any; ARGS="--count 20000 --seed 7"
# make fuzz-coverage  ten minutes of atheris over the readers of files; ARGS="--seconds 60"
# make docs     the site, into site/: strict, without a network once its tools are installed
PYTHON ?= $(shell for v in 3.11 3.12 3.13 3; do p=$$(command -v python$$v) && \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

TESTS := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.PHONY: parity test test-all lint docs fuzz fuzz-coverage matrix clean
parity: .venv/installed
	$(BIN)/mlp-parity check $(ARGS)

test: .venv/installed
	$(TESTS) -m "not slow" $(ARGS)

test-all: .venv/installed
	$(TESTS) $(ARGS)

lint: .venv/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "Site: site/index.html"

# The stamps are written last, so that an interrupted installation is taken up again.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 found; set one with: make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv (torch and jax are large: a few minutes on a first run) ..."
	$(PIP) -e '.[test]'
	@touch $@

.venv/linters: .venv/installed
	$(PIP) -e '.[dev]'
	@touch $@

.venv/docs: .venv/installed
	$(PIP) -e '.[docs]'
	@touch $@

matrix:
	@$(or $(PYTHON),python3) scripts/matrix $(ARGS)

fuzz: .venv/installed
	$(BIN)/python scripts/fuzz $(ARGS)

fuzz-coverage: .venv/installed
	$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) atheris
	$(BIN)/python scripts/fuzz-coverage $(ARGS)

clean:
	rm -rf .venv report runs site
