# `make help` lists the targets. Settings: PYTHON (a Python of 3.11 or later), CARGO_TARGET_DIR,
# for `sim` SEEDS, FROM, SEED, TRACE, CANARY and FIGURES,
# and for `run` also KEEP=1 (leave the node running), LIMIT=N (reviews of each source), CLIENTS=N.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run build test fmt deep audit bench load sim clean

export PYTHON ?= python3
export CARGO_TARGET_DIR ?= $(CURDIR)/target
RELEASE := $(CARGO_TARGET_DIR)/release/tidemill
VENV := $(CURDIR)/.venv/bin
REVIEWS := $(VENV)/python examples/reviews/run.py --bin $(RELEASE)

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

run: ## build, start a node, run the reviews example on it, and show what came out
	@scripts/run

build: ## build the node (release) and the Python environment in .venv
	@scripts/run build

test: ## everything that CI checks
	@scripts/test

fmt: ## format all Rust and Python files
	@$(PYTHON) scripts/bootstrap.py test
	cargo fmt --all
	$(VENV)/ruff check --fix --config sdk/python/pyproject.toml sdk/python examples scripts bench crates
	$(VENV)/ruff format --config sdk/python/pyproject.toml sdk/python examples scripts bench crates

deep: ## what takes long: many kills, long property tests, licences and sources of dependencies
	@scripts/ci.sh deep

audit: ## known weaknesses in dependencies (takes its database from the network)
	cargo deny --all-features check

bench: build ## every claim of speed, measured beside a peer or the raw limit in the same run
	@$(PYTHON) scripts/bootstrap.py run bench
	cargo build --release --locked --package tidemill-bench-echo \
		--package tidemill-bench-session --package tidemill-bench-store \
		--package tidemill-bench-wasm
	@for program in calls compose state start session once store anomalies wasm; do \
		$(VENV)/python bench/$$program.py --json .cache/bench/$$program.json; \
	done

load: build ## throughput and latency of the reviews example by number of clients
	@for clients in 1 8 32; do \
		echo "== $$clients clients"; \
		PATH="$(VENV):$$PATH" $(REVIEWS) --data .cache/load --limit 2000 --clients $$clients --brief; \
	done

SEEDS ?= 10000
FROM ?= 0

sim: ## whole clusters in one thread: SEEDS=N FROM=N; SEED=N TRACE=1 shows one; CANARY=all; FIGURES=1
	cargo build --profile ci --locked --package tidemill-sim
	@$(CARGO_TARGET_DIR)/ci/tidemill-sim $(if $(FIGURES),--figures) \
		$(if $(TRACE),--trace $(SEED),--seeds $(if $(SEED),1,$(SEEDS)) --from $(or $(SEED),$(FROM))) \
		$(if $(CANARY),--canary $(CANARY))

clean: ## remove what builds and runs have made here
	cargo clean
	rm -rf .venv .cache
