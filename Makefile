# `make` lists the targets. Everything runs in .venv, made from the first Python >= 3.11 found.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-bench
ARGS ?=
unexport PYTHONDONTWRITEBYTECODE   # else each process that a test starts compiles the whole house
FIND_PYTHON := for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; python=; done; \
	if [ -z "$$python" ]; then echo "no Python >= 3.11 with venv; as root: apt-get install -y python3 python3-venv" >&2; exit 1; fi

.PHONY: help demo test check check-types check-rest bench campaign-faults campaign-messages campaign-partitions campaign-restarts \
	campaign-cluster campaign-memory campaign-brokers campaign-compose lock compose-env clean venv

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 24

demo: $(VENV)/.installed  ## Run the shop in one process and check every unit of stock and money (ARGS="--count 1000")
	rm -rf .eventplat/demo
	$(BIN)/eventplat demo --data .eventplat/demo $(ARGS)

test: $(VENV)/.installed-dev  ## Run the tests; they start a private RabbitMQ and PostgreSQL (ARGS="-k saga")
	@failed=0 none=0; \
	run() { $(BIN)/python -m pytest "$$@" $(ARGS) || case $$? in 5) none=$$((none + 1));; *) failed=1;; esac; }; \
	run -n 2 --maxschedchunk 1 -m "not alone"; \
	run -m alone; \
	if [ $$none = 2 ]; then exit 5; fi; exit $$failed

check: $(VENV)/.installed-dev  ## ruff, mypy --strict, the import rules, pyright on the public types
	$(MAKE) --jobs 2 --output-sync check-types check-rest

check-types:
	$(BIN)/mypy eventplat services tests deploy benchmarks

check-rest:
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python tests/typing

bench: $(VENV)/.installed-dev $(PEERS)/.installed  ## Measure eventplat beside its peers (ARGS="--suite publish --rounds 3", "--quick")
	$(BIN)/python -m benchmarks $(ARGS)

campaign-faults: $(VENV)/.installed-dev  ## Kill services, broker and database at every crash point, for long
	$(BIN)/python -m tests.faults.campaign $(ARGS)

campaign-messages: $(VENV)/.installed-dev  ## A million events under kills, cuts, restarts and copies (ARGS="--events 100000")
	$(BIN)/python -m tests.faults.messages $(ARGS)

campaign-restarts: $(VENV)/.installed-dev  ## Sixty broker restarts in a row, and nobody else's (ARGS="--times 5")
	$(BIN)/python -m tests.faults.restarts $(ARGS)

campaign-cluster: $(VENV)/.installed-dev  ## Three RabbitMQ nodes, each killed in turn under load (ARGS="--rounds 1")
	$(BIN)/python -m tests.faults.cluster $(ARGS)

campaign-memory: $(VENV)/.installed-dev  ## Ten minutes, the broker down for five of them (ARGS="--minutes 4")
	$(BIN)/python -m tests.faults.memory $(ARGS)

campaign-brokers: $(VENV)/.installed-dev  ## Transport suite and messages on RabbitMQ images, deprecated features denied (ARGS="rabbitmq:4")
	$(BIN)/python -m tests.faults.brokers $(ARGS)

campaign-partitions: $(VENV)/.installed-dev  ## An ordered handler in 1, 3 and 1 processes under traffic (ARGS="--events 50000")
	$(BIN)/python -m tests.faults.partitions $(ARGS)

campaign-compose: .env $(VENV)/.installed  ## The demo against containers, which are killed meanwhile (ARGS="--count 300")
	export COMPOSE_PROJECT_NAME=eventplat-campaign; \
	trap 'docker compose down --volumes --timeout 20' EXIT; \
	docker compose up --build --detach --wait --wait-timeout 300; \
	$(BIN)/python deploy/campaign.py $(ARGS)

compose-env: .env  ## Write .env with new random passwords and keys for docker compose; an existing one stays

.env: | $(VENV)/.installed
	umask 077; $(BIN)/python deploy/make_env.py env > .env.new && mv .env.new .env

lock: pyproject.toml  ## Pin the newest releases that pyproject.toml allows (LOCK_OPTIONS="-c old.txt" to hold some back)
	@$(FIND_PYTHON); room=$$(mktemp -d); trap 'rm -rf "$$room"' EXIT; \
	$$python -m venv "$$room"; \
	"$$room/bin/pip" install --quiet --upgrade 'pip>=25.1'; \
	"$$room/bin/pip" install --quiet $(LOCK_OPTIONS) .; \
	"$$room/bin/pip" freeze --local --exclude eventplat > "$$room/run"; \
	"$$room/bin/pip" install --quiet $(LOCK_OPTIONS) --constraint "$$room/run" --group dev; \
	"$$room/bin/pip" freeze --local --exclude eventplat > "$$room/dev"; \
	$$python -m venv "$$room/peers"; \
	"$$room/peers/bin/pip" install --quiet --upgrade 'pip>=25.1'; \
	"$$room/peers/bin/pip" install --quiet $(LOCK_OPTIONS) --group bench; \
	"$$room/peers/bin/pip" freeze --local > "$$room/bench"; \
	cp "$$room/run" requirements.lock; cp "$$room/dev" requirements-dev.lock; cp "$$room/bench" requirements-bench.lock; \
	wc -l requirements.lock requirements-dev.lock requirements-bench.lock

clean:  ## Remove what can be made again: .venv, caches, the demo's data
	rm -rf $(VENV) $(PEERS) benchmarks/results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .eventplat build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(FIND_PYTHON); [ -x $(BIN)/python ] || $$python -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	@touch $@

$(PEERS)/.installed: requirements-bench.lock
	@$(FIND_PYTHON); [ -x $(PEERS)/bin/python ] || $$python -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --requirement requirements-bench.lock
	@touch $@
