# `make` lists its targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
TRACES ?= ../shared/traces
SEEDS ?= ../shared/design/priority-matters-seeds.txt
E2E ?= tests/e2e
CHROMIUM ?= chromium

# An older Python fails in pip, and leaves a .venv that a newer one does not mend.
VENV = { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=FILE" >&2; false; }; } && $(PYTHON) -m venv .venv

help: ## List targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml
	@echo "installing into .venv, every extra (minutes the first time) …"
	@$(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[dev]'
	$(BIN)/python -m pip check
	@touch $@
	@echo "installed; every command: $(BIN)/ullage --help"

install: .venv/installed ## Make .venv with every extra and the `ullage` command in it

.venv/demo: pyproject.toml
	@test -x $(BIN)/ullage || { echo "installing into .venv (a minute or two); the first run compiles as well …"; $(VENV) && $(BIN)/python -m pip install -q -e '.[sim,plan,fast]'; }
	@touch $@

demo: .venv/demo ## Install and run the main job: compare strategies on the bundled trace, write out/demo.html
	$(BIN)/ullage compare demo -s kube-default -s most-allocated -s best-fit -s atc23-fgd -s priced --seeds 3 --report out/demo.html
	@echo; echo "open out/demo.html in a browser; every command: $(BIN)/ullage --help"

picture: demo ## Make the picture in README.md again, of out/demo.html (needs Chromium)
	$(CHROMIUM) --headless --no-sandbox --hide-scrollbars --window-size=1024,850 --screenshot=docs/images/demo.png out/demo.html

demo-trace: install ## Make the bundled trace again from its seed
	$(BIN)/ullage trace synth --seed 7 --days 1.5 --load 1.15 --gpu-nodes 24 --small-gpu-nodes 16 --cpu-nodes 16 --name demo simulator/samples/demo.ullage

test: install ## Install and run the tests
	$(BIN)/pytest -q -n 2 -m "not e2e"

format: install ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: install ## Format, lint, types, generated code and tests, as CI runs them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(MAKE) test

bench: install ## Decisions per second, as ratios
	$(BIN)/python -m benchmarks.decisions

evidence: install ## The long proofs of docs/results.md (needs the recorded traces)
	$(BIN)/ullage reproduce fgd-atc23 --data $(TRACES)/openb --report out/fgd.html -o json > out/fgd.json
	$(BIN)/python -m benchmarks.decisions --traces $(TRACES)
	$(BIN)/ullage reproduce forecast --data $(TRACES) -o json > out/forecast.json
	$(BIN)/ullage reproduce eurosys21 --data $(TRACES) --seeds 3 -o json > out/eurosys21.json
	$(BIN)/ullage reproduce packing --data $(TRACES) --draws 5 -o json > out/packing.json
	$(BIN)/ullage reproduce cold-start --data $(TRACES) --seeds 3 -o json > out/cold-start.json
	$(BIN)/ullage reproduce lifetimes --data $(TRACES) -o json > out/lifetimes.json
	$(BIN)/ullage reproduce empty-nodes --data $(TRACES) -o json > out/empty-nodes.json
	$(BIN)/ullage reproduce placement --data $(TRACES) --report out/placement.html -o json > out/placement.json
	$(BIN)/ullage reproduce adversaries --data $(TRACES) --seeds 3 -o json > out/adversaries.json
	$(BIN)/ullage reproduce priority-matters --seeds-file $(SEEDS) --time 1 -o json > out/priority-matters.json
	$(BIN)/python -m benchmarks.forecasts --traces $(TRACES)
	$(BIN)/ullage plan bench batch --time 1 -o json > out/plan-batch.json
	$(BIN)/ullage plan bench batch-rules --time 1 -o json > out/plan-batch-rules.json
	$(BIN)/ullage plan bench consolidate -o json > out/plan-consolidate.json
	$(BIN)/ullage plan bench consolidate-unlimited -o json > out/plan-consolidate-unlimited.json
	$(BIN)/ullage plan bench purchase -o json > out/plan-purchase.json
	ULLAGE_FUZZ_HTTP=100000 ULLAGE_FUZZ_GRPC=20000 ULLAGE_FUZZ_LARGE=20 ULLAGE_FUZZ_MB=100 $(BIN)/pytest -q -s tests/test_fuzz.py
	ULLAGE_E2E_PODS=2000 ULLAGE_E2E_RULES=5000 ULLAGE_E2E_STOCK=1000 ULLAGE_E2E_PREEMPTION=200 ULLAGE_E2E_BURST=2000 \
	  $(BIN)/pytest -q -s -m e2e tests/e2e/test_lockstep.py tests/e2e/test_hard_rules.py tests/e2e/test_stock.py \
	  tests/e2e/test_preemption.py tests/e2e/test_faults.py
	ULLAGE_E2E_MODULE=go-oldest $(MAKE) e2e
	ULLAGE_E2E_MODULE=go-newest $(MAKE) e2e

proto: install ## Generate the gRPC code
	$(BIN)/python -m grpc_tools.protoc -Ischeduler/_pb=proto/ullage/v1 -Ischeduler/_pb=proto/grpcplugin \
	  --python_out=. --pyi_out=. --grpc_python_out=. \
	  scheduler/_pb/expander.proto scheduler/_pb/placement.proto scheduler/_pb/plans.proto scheduler/_pb/telemetry.proto

e2e: install ## End to end (E2E=FILES runs some) on a real etcd, kube-apiserver, kube-scheduler (built with Go) and Prometheus (Debian package)
	@command -v promtool > /dev/null || { echo "installing prometheus …"; apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus > /dev/null; }
	$(BIN)/python -m tests.e2e.build
	$(BIN)/pytest -s -v -m e2e --reruns 1 --durations=0 --durations-min=1 $(E2E)

clean: ## Remove what the targets made
	rm -rf .venv out .cache build

.PHONY: help install demo picture demo-trace test format check bench evidence proto e2e clean
