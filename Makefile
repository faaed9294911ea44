# Requires only Python 3.11 or newer; the targets install the rest (PYTHON=python3.12 chooses an interpreter).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := .demo/flujo_demo.db

COMPAT := .compat

# Byte code of the tests is kept, whatever the caller's environment says: a run without it takes 30 s more.
export PYTHONDONTWRITEBYTECODE :=

# One more than the two cores of the machine of CI, for tests also wait; WORKERS=8 for a larger one.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

# Linting, compiling the tests and making the library's environment have a core each.
MAKEFLAGS += --jobs=2

.PHONY: help demo test check compiled unit coverage lint bench soak goldens readme manual docs docs-serve dist compat clean

help:
	@echo "make demo     install, create a sample store, show it"
	@echo "make test     ruff, mypy --strict, import rules, pytest"
	@echo "make compat   the tests with the real library: 0.4.35, and 0.6.11 on Python 3.13"
	@echo "make check    ruff, mypy --strict, the quick tests: a minute"
	@echo "make coverage the tests with the lines that they reach; ends with 2 below the floor"
	@echo "make bench    the performance ratios, in a table"
	@echo "make soak     the long rounds"
	@echo "make goldens  update the golden screens, for review"
	@echo "make readme   update the screens of README.md"
	@echo "make docs     the site, in build/site; make docs-serve shows it on port 8000"
	@echo "make dist     wheel, sdist and SBOM in dist/, reproducible and checked"
	@echo "make manual   update the man pages and the generated pages of docs/reference"
	@echo "make clean    remove all build results"

SOURCES := pyproject.toml README.md $(shell find flujo_lens -name '*.py' -o -name '*.json' -o -name '*.md' 2>/dev/null)
VENV_OF = $(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)' \
	&& { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); }
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The package is installed, not linked: that is what users run, and its byte code is compiled once.
$(VENV)/.installed: $(SOURCES)
	@$(VENV_OF)
	@$(INSTALL) .
	@touch $@

# At once with what the tests need: to build the package twice takes ten seconds more.
$(VENV)/.tested: $(SOURCES)
	@$(VENV_OF)
	@$(INSTALL) '.[test]'
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	@rm -rf .demo && mkdir -p .demo
	@$(BIN)/lens demo $(DEMO)
	@for command in "status" "list -n 8" "show @failed" "trace @failed" "failed" "waiting" "stats"; do \
		echo; echo "\$$ lens $$command"; \
		$(BIN)/lens $$command --store $(DEMO) -o table || exit 1; \
	done
	@echo; echo "Your own: $(BIN)/lens status --store path/to/flujo_ops.db"

# The real library has an environment of its own, never ours: it pins other versions.
$(COMPAT)/0.4/.installed: tests/compat/environments.sh
	@PYTHON=$(PYTHON) tests/compat/environments.sh $(COMPAT) 0.4 >/dev/null
	@touch $@

compat: $(VENV)/.tested
	@PYTHON=$(PYTHON) tests/compat/environments.sh $(COMPAT)
	@LENS_COMPAT=1 $(PYTEST) tests/compat
	@LENS_FLUJO_PYTHON=$(abspath $(COMPAT))/0.4/bin/python \
		$(BIN)/python -m pytest -q tests/e2e/test_cleaning_processes.py -k library

test: lint compiled $(COMPAT)/0.4/.installed
	@$(PYTEST)

# While mypy runs: else each of the workers compiles all tests (20 s) at its start.
compiled: $(VENV)/.tested
	@$(BIN)/python -m pytest -q --collect-only >/dev/null 2>&1 || true

# The floor is in pyproject.toml; CONTRIBUTING.md says which lines are not covered, and why.
coverage: $(VENV)/.tested $(COMPAT)/0.4/.installed
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest -q -n $(WORKERS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

lint: $(VENV)/.tested
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The tests that need no store, server or process: the loop between two edits, under a minute.
check: lint unit

unit: $(VENV)/.tested
	@$(PYTEST) tests/unit

bench: $(VENV)/.tested
	@$(BIN)/python tests/benchmarks/run.py $(BENCH)
	@for part in costs serialization sqlite_state file_state progress runner check prune; do \
		echo; $(BIN)/python tests/benchmarks/bench_$$part.py || exit 1; \
	done
	@test -z "$(BEFORE)" || { echo; $(BIN)/python tests/benchmarks/bench_builds.py --before $(BEFORE); }

soak: $(VENV)/.tested
	@LENS_SOAK=1 $(PYTEST)

goldens: $(VENV)/.tested
	@LENS_UPDATE_GOLDENS=1 $(BIN)/python -m pytest -q tests/cli tests/unit/test_rendering.py || true
	@git --no-pager diff --stat -- tests/goldens

readme: $(VENV)/.tested
	@$(BIN)/python docs/generate_readme.py
	@git --no-pager diff --stat -- README.md

$(VENV)/.documented: $(VENV)/.installed
	@$(INSTALL) '.[docs]'
	@touch $@

docs: $(VENV)/.documented
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean --quiet
	@echo "build/site/index.html"

docs-serve: $(VENV)/.documented
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

$(VENV)/.released: $(VENV)/.installed tools/requirements.txt
	@$(INSTALL) -r tools/requirements.txt
	@touch $@

# DIST names single steps: make dist DIST="build check".
dist: $(VENV)/.released
	@$(BIN)/python tools/dist.py $(DIST)

manual: $(VENV)/.tested
	@for name in man commands errors; do $(BIN)/python docs/generate_$$name.py || exit 1; done
	@git --no-pager diff --stat -- man docs/reference

clean:
	rm -rf $(VENV) $(COMPAT) .demo .bench dist build .pytest_cache .mypy_cache .ruff_cache
