# Two commands matter: `make run` and `make test`. Each does all the set-up it needs, once; see `make help`.

SHELL := /bin/bash
.DELETE_ON_ERROR:

VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
AGENT  := bandsox/agent/bin
NODE   := node_modules/.installed
SDK    := sdk/typescript/dist/.built
RUNTIMES := sdk/typescript/tests/runtimes
DASHBOARD := bandsox/server/dashboard/dist/index.html
ARCHES := x86_64 aarch64
IMAGE  ?= debootstrap:bookworm?include=python3

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help run test soak lint types format agent sdk sdk-docs dashboard bench screenshots build clean lock openapi setup setup-test init

help: ## show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

run: $(VENV)/.initialised ## run code in a real VM, with all set-up
	@bandsox run --timings '$(IMAGE)' -- python3 -c 'print("Hello from VM!")'

test: setup-test agent sdk dashboard $(RUNTIMES)/node_modules/.installed ## run every test, with all set-up
	@scripts/test

lint: $(VENV)/.installed agent $(SDK) ## ruff, import rules, go vet, gofmt, eslint, prettier
	ruff check .
	ruff format --check .
	lint-imports
	cd bandsox/agent && test -z "$$(gofmt -l .)" && go vet ./...
	cd tests/hostile/guest && test -z "$$(gofmt -l .)" && go vet .
	npm run --silent lint

types: $(VENV)/.installed $(SDK) ## mypy --strict, tsc
	mypy
	npm run --silent types

format: $(VENV)/.installed $(SDK) ## format the code
	ruff format .
	ruff check --fix .
	cd bandsox/agent && gofmt -w .
	npm run --silent format

soak: setup-test agent ## two hundred rounds of create, run and delete, and of networks; what hosts with vhost-vsock do
	BANDSOX_TEST_ROUNDS=200 python -m pytest tests/engine/test_rounds.py tests/network/test_host_rules.py tests/hostkernel --timeout 7200

bench: init setup-test dashboard ## measure against the floor of the same run; prints the tables of docs/performance.md
	python -m bench

screenshots: init setup-test dashboard ## take pictures of every page of the dashboard, light and dark, into docs/screenshots
	@scripts/system-packages pictures
	python -m tests.dashboard.screenshots docs/screenshots

lock: ## renew requirements.lock
	uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --extra server --extra mcp --extra signing --extra telemetry --group dev pyproject.toml -o requirements.lock

openapi: $(VENV)/.installed ## renew docs/openapi.json
	python -m bandsox.server.openapi > docs/openapi.json

agent: $(foreach arch,$(ARCHES),$(AGENT)/bandsox-agent-$(arch) $(AGENT)/bandsox-serial-relay-$(arch) $(AGENT)/bandsox-network-$(arch) $(AGENT)/bandsox-forwarder-$(arch) $(AGENT)/bandsox-filter-$(arch) $(AGENT)/bandsox-cni-$(arch)) ## build the guest agent

sdk: $(SDK) ## build the TypeScript SDK

sdk-docs: $(SDK) ## a page for everything that the TypeScript SDK has, in sdk/typescript/docs
	npm run --silent docs --workspace bandsox

dashboard: $(DASHBOARD) ## build the dashboard

build: $(VENV)/.installed agent dashboard ## build the source distribution and the wheel
	python -m build --no-isolation

init: setup agent
	@bandsox init --quiet

$(VENV)/.initialised: $(VENV)/.installed | setup agent # the first time; what is missing later, `bandsox run` gets by itself
	@bandsox init --quiet
	@touch $@

setup: $(VENV)/.installed
	@scripts/system-packages runtime

setup-test: setup
	@scripts/system-packages test

clean: ## remove what was built here
	rm -rf build dist $(AGENT) $(VENV) node_modules $(RUNTIMES)/node_modules $(dir $(SDK)) $(dir $(DASHBOARD)) sdk/typescript/docs sdk/typescript/src/generated .mypy_cache .ruff_cache .pytest_cache

$(VENV)/.installed: pyproject.toml requirements.lock scripts/virtualenv
	@scripts/virtualenv $(PYTHON) $(VENV)
	@touch $@

$(AGENT)/bandsox-agent-% $(AGENT)/bandsox-serial-relay-% $(AGENT)/bandsox-network-% $(AGENT)/bandsox-forwarder-% $(AGENT)/bandsox-filter-% $(AGENT)/bandsox-cni-%: $(shell find bandsox/agent -name '*.go' -not -name '*_test.go') bandsox/agent/go.mod bandsox/agent/go.sum $(VENV)/.installed
	@scripts/build-agent $* $(@D)

$(NODE): $(VENV)/.installed .npmrc package.json package-lock.json $(wildcard sdk/typescript/package.json dashboard/package.json)
	@echo "installing the packages of Node"
	@npm ci --silent
	@touch $@

$(RUNTIMES)/node_modules/.installed: $(VENV)/.installed $(RUNTIMES)/package.json $(RUNTIMES)/package-lock.json
	@echo "installing the platforms that the SDK is tested on"
	@cd $(RUNTIMES) && npm ci --silent --ignore-scripts
	@touch $@

$(SDK): $(NODE) docs/openapi.json $(shell find sdk/typescript -name node_modules -prune -o -name dist -prune -o -name generated -prune -o -name '*.ts' -path '*/src/*' -print) $(wildcard sdk/typescript/tsconfig*.json sdk/typescript/scripts/*)
	@npm run --silent build --workspace bandsox
	@touch $@

$(DASHBOARD): $(SDK) $(shell find dashboard -name node_modules -prune -o -type f -print)
	@scripts/build-dashboard again
