# What a contributor does. `make test` and `make demo` build the environment if need be.
# `make demo SERVE=--serve` ends by serving the page with the demonstration on it, until Ctrl-C.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo

.PHONY: env test lint check demo lock clean

env: .venv/.done

# uv, pinned by hash, installs the locked environment; the project itself is linked in.
.venv/.done: requirements.lock bootstrap.lock pyproject.toml
	@echo "Building the environment in .venv (several GB the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

check: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

demo: env
	$(BIN)/fedct-sim phantom --patients 240 --sites 4 --seed 1 --out $(DEMO)/sites
	$(BIN)/fedct-sim run simulations/scenarios/demo.toml --sites $(DEMO)/sites --out $(DEMO)/out --compare local,central $(SERVE)
	@$(if $(SERVE),,echo "To look at it in a browser: $(BIN)/fedct-coordinator dashboard --run $(DEMO)/out")

lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --extra dev -o requirements.lock pyproject.toml
	echo "uv" | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header -o bootstrap.lock -

clean:
	rm -rf .venv $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
