# `make` lists the targets. Everything runs in .venv, made from the first Python >= 3.11 found.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
FIND_PYTHON := for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; python=; done; \
	if [ -z "$$python" ]; then echo "no Python >= 3.11 with venv; as root: apt-get install -y python3 python3-venv" >&2; exit 1; fi

.PHONY: help demo test check bench campaign-faults campaign-partitions campaign-compose lock compose-env clean venv

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 20

demo: $(VENV)/.installed  ## Run the shop in one process and check every unit of stock and money (ARGS="--count 1000")
	rm -rf .eventplat/demo
	$(BIN)/eventplat demo --data .eventplat/demo $(ARGS)

test: $(VENV)/.installed-dev  ## Run the tests; they start a private RabbitMQ and PostgreSQL (ARGS="-k saga")
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev  ## ruff, mypy --strict, the import rules, pyright on the public types
	$(BIN)/ruff check .
	$(BIN)/mypy eventplat services tests deploy $(patsubst %/,%,$(sort $(dir $(wildcard benchmarks/*.py))))
	$(BIN)/lint-imports --no-cache
	if [ -d tests/typing ]; then $(BIN)/pyright --pythonpath $(BIN)/python tests/typing; fi

bench: $(VENV)/.installed-dev  ## Measure eventplat on RabbitMQ and PostgreSQL
	$(BIN)/python -m benchmarks $(ARGS)

campaign-faults: $(VENV)/.installed-dev  ## Kill services, broker and database at every crash point, for long
	$(BIN)/python -m tests.faults.campaign $(ARGS)

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
	cp "$$room/run" requirements.lock; cp "$$room/dev" requirements-dev.lock; \
	wc -l requirements.lock requirements-dev.lock

clean:  ## Remove what can be made again: .venv, caches, the demo's data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .eventplat build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(FIND_PYTHON); [ -x $(BIN)/python ] || $$python -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	@touch $@
