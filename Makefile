# The door to everything; `make help` lists what is behind it.

CARGO ?= cargo
TARGET := target/x86_64-unknown-linux-gnu
ifeq ($(shell uname -m),aarch64)
TARGET := target/aarch64-unknown-linux-gnu
endif
VERSION := $(shell sed -n '/workspace.package/,/^version/s/^version = "\(.*\)"/\1/p' Cargo.toml)
IMPROV := $(TARGET)/release/improv
# By name in the whole workspace: alone, their crate would need some dependencies with other features, compiled once more.
CLUSTER_TESTS := $(patsubst tests/tests/%.rs,--test %,$(wildcard tests/tests/*.rs))
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
export PATH := $(CURDIR)/target/tools:$(PATH):/usr/sbin:/sbin

# A build that is thrown away gains nothing from what makes the next one faster.
ifdef CI
export CARGO_INCREMENTAL := 0
endif

.PHONY: help up down status bench fuzz test unit fmt-check clippy bins generated generated-check cluster build packages test-packages tools clients

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: packages tools ## Build, start a cluster on this machine, and bring in the image of examples/hello
	$(CARGO) build --release -p improv -p hello
	$(SUDO) $(IMPROV) up --detach
	$(TARGET)/release/improv image build --name improv.dev/hello:$(VERSION) --binary $(TARGET)/release/hello -o target/hello.tar
	$(SUDO) $(IMPROV) image import target/hello.tar
	@echo "now: export KUBECONFIG=$$($(IMPROV) kubeconfig --path); kubectl apply -f examples/hello/"

down: ## Stop the cluster and remove all that it left on this machine
	$(SUDO) $(IMPROV) down

status: ## Show what runs
	$(SUDO) $(IMPROV) status

bench: packages ## Measure an API server of its own with `improv bench api`
	$(CARGO) build --release -p improv
	@hack/bench

test: test-packages tools clients fmt-check clippy unit generated-check cluster ## Everything that CI runs

fmt-check:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy -q --workspace --all-targets -- -D warnings

# The programs of players and examples are one line each and have no tests to link.
unit: ## Tests that need no cluster
	$(CARGO) test -q --workspace --exclude improv-tests --lib --bin improv --test '*'
	$(CARGO) test -q --workspace --exclude improv-tests --doc

bins:
	$(CARGO) build -q --workspace --bins

generated-check: bins ## Whether crds/ and charts/ are up to date
	$(TARGET)/debug/improv generate --check

cluster: bins ## Tests on a real cluster with real containers (root)
	$(CARGO) test -q --workspace $(CLUSTER_TESTS) -- --test-threads=1

generated: ## Write crds/ and charts/ anew
	$(CARGO) run -q -p improv -- generate

fuzz: ## Run the fuzz targets (SECONDS each, TARGETS by name)
	@hack/fuzz $(or $(SECONDS),60) $(TARGETS)

build:
	$(CARGO) build --workspace

packages:
	@hack/packages

test-packages:
	@hack/packages test

tools:
	@hack/tools

clients:
	@hack/clients
