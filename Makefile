# Two commands do everything on a fresh Debian or Ubuntu with Python >= 3.11: `make demo` and `make test`.

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

# Installed again whenever what is pinned changes. Everything comes from constraints.txt, so all machines agree.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mac-bench needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv || (echo "cannot make .venv; on Debian: apt-get install python3-venv"; exit 1)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/mac-bench data generate pointmaze-medium-navigate-v0 --name quickstart --episodes 100 --shards 2 --workers 2
	$(BIN)/mac-bench run quickstart --jobs 2
	@echo
	@echo "see more:  $(BIN)/mac-bench status | report quickstart --out tables | agents mac | --help"

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

test: check
	$(BIN)/pytest -n 2

clean:
	rm -rf .venv
