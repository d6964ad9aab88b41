# Two commands do everything on a fresh Debian or Ubuntu with Python 3.11 to 3.13: `make demo` and `make test-all`.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
TORCH := .venv/installed-torch

.PHONY: demo test test-all check install torch clean help

help:
	@echo "make demo      install, make data, train MAC and baselines on a real task, print the comparison"
	@echo "make check     install, then format, lint and types"
	@echo "make test      the same, and all tests that take no more than a few minutes"
	@echo "make test-all  the same, and the others: every method at length, a browser, a real SLURM"
	@echo "make torch     install torch too, for the methods that are written in it"
	@echo "make clean     remove the environment (data and runs stay)"

install: $(INSTALLED)

torch: $(TORCH)

# Installed again whenever what is pinned changes. constraints.txt names every package, so nothing is left to resolve;
# it leaves out what dm_control asks for and never loads here, which newer Pythons have no build of.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "mac-bench needs Python 3.11 to 3.13; name one by PYTHON=...")'
	$(PYTHON) -c 'import ensurepip' || (echo "no ensurepip: on Debian and Ubuntu, apt-get install python3-venv"; exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r constraints.txt -e .
	touch $@

# Apart, because the demo needs no torch, and its builds for GPUs are large; they name their own packages, exactly pinned.
$(TORCH): $(INSTALLED) constraints-torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-torch.txt torch
	touch $@

demo: $(INSTALLED)
	$(BIN)/mac-bench data generate pointmaze-medium-navigate-v0 --name quickstart --episodes 100 --shards 2 --workers 2
	$(BIN)/mac-bench run quickstart --jobs 2
	@echo "(mac-bench is $(BIN)/mac-bench; --help shows the rest)"

check: $(TORCH)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# What needs processes of its own comes after the others: a browser and its server, and a whole SLURM.
APART := $(addprefix tests/test_,browser.py one_machine.py slurm.py slurm_refusals.py slurm_data.py chaos.py)
TOGETHER := $(BIN)/pytest -n 2 --dist worksteal $(addprefix --ignore ,$(APART))
test: check
	$(TOGETHER) -m "not slow"

test-all: check
	$(TOGETHER)
	$(BIN)/pytest $(APART)

clean:
	rm -rf .venv
