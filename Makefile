# Every target sets up what it needs in .venv. `make` alone lists them.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV    := .venv
BIN     := $(VENV)/bin
# Processes that run tests at the same time.
WORKERS ?= 2
# Tests of the sources as they stand.
CHECKED := tests/architecture tests/typing
# Passed on: make demo ARGS='--seconds 30'   make test ARGS='-k release'
ARGS    ?=

.PHONY: help demo test check faults soak bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## watch a fleet use a provider's limit, without and with the limiter (about a minute)
	@$(BIN)/ratelease demo $(ARGS)

test: $(VENV)/.dev ## run the tests, but for those of check, faults and soak
	@$(BIN)/pytest -q -n $(WORKERS) -m "not faults and not soak" $(or $(ARGS),$(CHECKED:%=--ignore=%))

faults: $(VENV)/.dev ## run the tests that kill, pause and cut off servers and processes, and those that take long
	@$(BIN)/pytest -q -n $(WORKERS) -m "faults and not soak" $(ARGS)

soak: $(VENV)/.dev ## run the tests that take minutes
	@$(BIN)/pytest -q -m "soak" --timeout=0 $(ARGS)

check: $(VENV)/.dev ## lint, format, types, Lua, architecture
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary src tools $(wildcard tests/support tests/typing)
	@$(BIN)/basedpyright --level error
	@$(BIN)/python -m tools.lua_lint
	@$(BIN)/pytest -q -n $(WORKERS) $(CHECKED)

bench: $(VENV)/.dev ## run the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.dev ## run the examples of README.md and the documentation
	@$(BIN)/pytest -q tests/docs $(ARGS)

clean: ## remove everything that the other targets made
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the virtual environment -------------------------------------------------------------------------------

# The first interpreter that is new enough and has venv; PYTHON=… names another one.
$(BIN)/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "setting up $(VENV) with $$("$$python" --version)"; \
	    exec "$$python" -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "ratelease needs Python 3.11 or newer with its venv module, and none was found on PATH." >&2; \
	echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name one:" >&2; \
	echo "    make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1

define install
	@echo "installing ratelease[$(1)] into $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[$(1)]'
endef

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(call install,demo)
	@touch $@

# The development tools include all that the demo needs.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(call install,dev)
	@touch $@ $(VENV)/.demo
