# Every verb sets up what it needs. `make` alone lists them.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := services clients/python tests tools

.DEFAULT_GOAL := help
.PHONY: help setup demo test kubernetes-test engines-test kafka faults soak bench check lint protos

help: ## List the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

$(READY): constraints.txt pyproject.toml protos/pyproject.toml clients/python/pyproject.toml
	@echo "Setting up $(VENV): 5.9 GB, under a minute with a warm cache, a few minutes with a cold one"
	@test -x $(BIN)/python || python3 -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --system-certs --compile-bytecode --constraint constraints.txt \
	    --editable protos --editable clients/python --editable '.[all]' --group dev
	@touch $@

setup: $(READY) ## Set up the virtual environment; UPGRADE=1: with everything pinned anew
ifdef UPGRADE
	@printf -- '-e ./protos\n-e ./clients/python\n-e .[all]\n' > build-requirements.in
	@$(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	    --no-emit-package trimtab --no-emit-package trimtab-api --no-emit-package trimtab-client \
	    --group dev build-requirements.in --output-file constraints.txt; status=$$?; rm build-requirements.in; exit $$status
	@$(MAKE) --no-print-directory setup UPGRADE=
endif

demo: $(READY) ## The whole loop on this machine: two acts, a table, six to nine minutes
	@$(BIN)/trimtab demo

test: $(READY) ## Every test, three files at once, those of whole platforms first
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

kubernetes-test: $(READY) ## The tests that need a Kubernetes, real nodes too; builds one first, 45 minutes on two busy cores (needs Go and root)
	@$(BIN)/python -m tests.kubernetes.prepare
	@$(BIN)/python -m pytest tests/kubernetes tests/deploy

engines-test: $(READY) ## The tests that need a vLLM on this machine's CPU; installs one first, 6 GB
	@$(BIN)/python -m tests.engines.vllm
	@$(BIN)/python -m pytest tests/engines

kafka: $(READY) ## A Kafka on this machine until Ctrl-C, for trying things with (needs Maven and Java); NODES=3
	@$(BIN)/python -m tests.broker.cluster $(if $(NODES),--nodes $(NODES))

faults: $(READY) ## Break ingestion, training and publishing, then kill at random during three demos; SHORT=1: small, some minutes
	@$(BIN)/python -m tests.faults.harness.app $(if $(SHORT),--short) $(if $(SEED),--seed $(SEED))
	@$(BIN)/python -m tests.faults.storm.app $(if $(SHORT),--short) $(if $(SEED),--seed $(SEED))

soak: $(READY) ## Every fault at once on ingestion and training, half an hour for each of three seeds; SHORT=1: three minutes
	@$(BIN)/python -m tests.faults.harness.soak $(if $(SHORT),--short) $(if $(SEED),--seed $(SEED))

bench: $(READY) ## Measure: SUITE=training (beside TRL, an hour), methods, release, ingest, ledger, vllm (half an hour each), or preferences FILE=... POLICY=...
	@$(BIN)/python -m tests.benchmarks.$(or $(SUITE),training) $(FILE) $(POLICY) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: $(READY) ## Style, types, layers, protos against those released, generated code; FIX=1: first what mends itself
ifdef FIX
	@$(BIN)/ruff check --fix --quiet $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/buf format --write protos
endif
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check --quiet $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint protos
	@$(BIN)/buf format --diff --exit-code protos
	@$(BIN)/buf breaking protos --against protos/released.binpb
	@$(BIN)/python tools/generate_protos.py --check

check: lint test ## What CI runs

protos: $(READY) ## Generate protos/gen anew; RELEASED=1: and hold later versions to these
	@$(BIN)/python tools/generate_protos.py
	@$(if $(RELEASED),$(BIN)/buf build protos --exclude-source-info --output protos/released.binpb)
