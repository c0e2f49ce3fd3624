# Two commands on a fresh machine: `make demo` and `make test`. Each does all its own set-up.
PYTHON ?= python3
VENV ?= .venv
# Models and data that packages ship, converted once; outside the repository.
SECFED_CACHE ?= $(HOME)/.cache/secfed
export SECFED_CACHE
export HF_HUB_OFFLINE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Compiled sources are kept, whatever a container says: each process would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
CORES := 2
# One more than cores: part of the tests' time is waiting for processes and deadlines.
WORKERS := 3
PIP_ARGS ?=

.PHONY: demo demo-vector test lint setup setup-demo slow gpu bench proto clean

demo: setup-demo
	$(BIN)/secfed demo --models $(SECFED_CACHE)

demo-vector: setup
	$(BIN)/secfed demo --task vector

test: setup setup-assets lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Long fuzz, soak and large cohorts: make slow MINUTES=20
MINUTES ?= 20
slow: setup setup-assets
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) -m "slow and not gpu" --minutes $(MINUTES)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --hypothesis-profile roam tests/crypto tests/encoding tests/identity tests/privacy tests/secagg tests/store tests/wire

# On a machine with a CUDA device.
gpu: setup setup-assets
	$(BIN)/python -m pytest -n 0 -m gpu

# A missed aim ends its benchmark with 1; the others still run.
bench: setup setup-assets
	-$(BIN)/python tests/bench/bench_keystream.py
	-$(BIN)/python tests/bench/bench_startup.py
	-$(BIN)/python tests/bench/bench_report.py
	-$(BIN)/python tests/bench/bench_restart.py
	-$(BIN)/python tests/bench/bench_ledger.py
	-$(BIN)/python tests/bench/bench_reconnect.py
	-$(BIN)/python tests/bench/bench_flood.py
	-$(BIN)/python tests/bench/bench_load.py
	-$(BIN)/python tests/bench/bench_faults.py
	-OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -m slow --minutes 5 tests/transport/test_hostile_input.py tests/transport/test_hostile_insider.py
	-OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_secure_sum.py
	-OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_secure_sum.py --grpc
	-$(BIN)/python tests/bench/bench_targets.py --models $(SECFED_CACHE)
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_dp_step.py

proto: setup
	$(BIN)/python protos/generate.py

setup: $(VENV)/.installed
setup-demo: setup setup-assets

$(VENV)/.installed: pyproject.toml constraints/cpu.txt
	$(PYTHON) -c 'import sys; sys.exit("secfed needs Python 3.11 or newer; call: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(PIP_ARGS) -e ".[dev]" -c constraints/cpu.txt
	touch $@

.PHONY: setup-assets
setup-assets: $(VENV)/.assets
$(VENV)/.assets: $(VENV)/.installed constraints/assets.txt constraints/sdists.txt secfed/training/assets.py
	$(BIN)/python -m pip install -q --no-deps -r constraints/assets.txt
	mkdir -p $(SECFED_CACHE)/sdist
	$(BIN)/python -m pip download -q --no-deps --no-binary llamafactory,vaderSentiment -d $(SECFED_CACHE)/sdist -r constraints/sdists.txt
	$(BIN)/python -m secfed.training.assets --cache $(SECFED_CACHE)
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
