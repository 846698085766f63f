# What you can do with dunlin. Everything is fetched into .dunlin/ and target/; nothing needs Docker or root.
.DEFAULT_GOAL := help
.PHONY: help setup tools demo dev dev-reset test test-mta soak lint generate bench clean

DUNLIN := target/debug/dunlin
SERVERS := .dunlin/servers
# One PostgreSQL for all tests of a run. nextest runs them in parallel processes; cargo does it too, more slowly.
RUNNER := $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run || echo test)
WITH_SERVERS = target/debug/with-servers cargo $(RUNNER) --workspace

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: build ## 90 days in about two minutes, on everything real; Ctrl-C ends it (DEMO_EXIT=1: ends by itself)
	@$(DUNLIN) dev --demo

dev: build ## an empty system on this machine; data stays in .dunlin/dev
	@$(DUNLIN) dev

dev-reset: ## forget the data of `make dev`
	rm -rf .dunlin/dev .dunlin/dev.yaml

test: build ## all tests, on a real PostgreSQL and real nats-servers
	$(WITH_SERVERS)

test-mta: build ## hand mail to Postfix, Exim and OpenSMTPD from Debian's packages, unpacked into .dunlin/mta (chroot takes root)
	@deploy/mta.sh $(CURDIR)/.dunlin/mta
	MTA_TREES=$(CURDIR)/.dunlin/mta cargo test --workspace --test mta -- --nocapture

soak: build ## kill services and servers at random for ten minutes (SOAK_SECONDS), then audit; 100,000 payments at final dots (RACE_TRIALS)
	SOAK_SECONDS=$${SOAK_SECONDS:-600} target/debug/with-servers cargo test --workspace --test faults -- --nocapture
	RACE_TRIALS=$${RACE_TRIALS:-100000} target/debug/with-servers cargo test --workspace --test notifier race:: -- --nocapture

bench: setup ## measure speed and memory on a release build; BENCH=<name> runs one
	@deploy/postfix.sh .dunlin/postfix
	cargo build --release --workspace
	@target/release/bench $(BENCH)

lint: build tools ## format, clippy, licences, protobuf, generated files
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(SERVERS)/cargo-deny --log-level error check bans licenses sources
	$(SERVERS)/buf lint proto
	$(DUNLIN) generate --check

generate: build ## write what is made from the code: event map, nats.conf, schemas
	@$(DUNLIN) generate

.PHONY: build
build: setup
	cargo build --workspace

setup: ## bring PostgreSQL and nats-server into .dunlin/
	@python3 deploy/setup.py deploy/servers.txt $(SERVERS)

tools: ## bring the tools of `make lint` into .dunlin/
	@python3 deploy/setup.py deploy/tools.txt $(SERVERS)

clean: ## remove all that was built or fetched
	rm -rf target .dunlin
