# Two commands do everything on a fresh Debian or Ubuntu with Python 3.11 to 3.13: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test check install clean help

help:
	@echo "make demo   install, make data, train MAC and baselines on a real task, print the comparison"
	@echo "make test   install, then run every check"
	@echo "make check  lint and types only"
	@echo "make clean  remove the environment (data and runs stay)"

install: $(INSTALLED)

# Installed again whenever what is pinned changes. constraints.txt names every package, so nothing is left to resolve;
# it leaves out what dm_control asks for and never loads here, which newer Pythons have no build of.
# torch's builds for GPUs ask for packages of their own, exactly pinned; its builds for CPUs, for nothing more.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "mac-bench needs Python 3.11 to 3.13; name one by PYTHON=...")'
	$(PYTHON) -c 'import ensurepip' || (echo "no ensurepip: on Debian and Ubuntu, apt-get install python3-venv"; exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r constraints.txt -e .
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	touch $@

demo: $(INSTALLED)
	$(BIN)/mac-bench data generate pointmaze-medium-navigate-v0 --name quickstart --episodes 100 --shards 2 --workers 2
	$(BIN)/mac-bench run quickstart --jobs 2
	@echo "(mac-bench is $(BIN)/mac-bench; --help shows the rest)"

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

test: check
	$(BIN)/pytest -n 2

clean:
	rm -rf .venv
