# The targets that a person remembers. PIP_ARGS reaches pip, for instance to take PyTorch's CPU build from its own index:
#   make setup PIP_ARGS="--extra-index-url URL"
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP_ARGS ?=
STAMP := $(VENV)/.installed
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0
export TF_CPP_MIN_LOG_LEVEL := 3

.PHONY: help setup simulate test check faults faults-books faults-processes bench demo docs docs-reference proto clean

help:
	@echo "make setup      install into $(VENV)"
	@echo "make simulate   set up, then run the quickstart federation"
	@echo "make test       set up, then run checks and tests"
	@echo "make check      ruff, mypy, import contracts, linters of images and compose file, doctests"
	@echo "make faults     killed processes, fuzzing, full disks (slow)"
	@echo "make bench      the figures of the README (slow)"
	@echo "make docs       the docs site in build/site, strictly"
	@echo "make docs-reference  docs/configuration.md anew, from the models that read the configurations"
	@echo "make demo       an aggregator and three platforms as real processes on this machine"
	@echo "make clean      remove what was built"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(STAMP)

simulate: setup
	$(BIN)/crossfed-simulate run quickstart

test: check
	$(BIN)/pytest -n 2 --dist loadfile --max-worker-restart 0 -rs

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/aggregator/Dockerfile deploy/platform/Dockerfile
	$(BIN)/compose-lint check --quiet --fail-on low --config deploy/compose-lint.yaml deploy/compose.yaml
	$(BIN)/pytest -q --doctest-modules --import-mode=importlib client common server simulations

faults: faults-books faults-processes

faults-books: setup
	CROSSFED_KILLS=200 CROSSFED_FUZZ=100000 $(BIN)/pytest tests/faults/test_egress_fuzz.py tests/faults/test_ledger_kill.py

faults-processes: setup
	$(BIN)/pytest tests/faults/test_process_faults.py tests/faults/test_process_refusals.py tests/faults/test_demo_interrupt.py tests/faults/test_network_namespaces.py tests/faults/test_ray_workers.py

bench: setup
	$(BIN)/crossfed-simulate bench

demo: setup
	$(BIN)/crossfed-simulate demo

docs: setup
	$(BIN)/python -c "import mkdocs_material_extensions, mkdocstrings" 2>/dev/null || \
		$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-reference: setup
	$(BIN)/python -m tools.configuration
	$(BIN)/python -m tools.architecture

proto: setup
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. common/proto/*.proto

clean:
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find client common server simulations tests -name __pycache__ -type d -prune -exec rm -rf {} +
