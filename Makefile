# The two commands of the README are `make up` and `make test`; `make help` lists the rest.
PYTHON_FOUND := $(or $(PYTHON),$(shell command -v python3 || command -v python))
BIN := .venv/bin
ARGS ?=

# The environment is installed uncompiled, and Python compiles what it imports, once.  Where this variable is set it would do so
# at every start of a process, and a worker would take twice as long to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup up down status test test-people test-cluster test-node lint pytest coverage-pure mutation load bench bench-read bench-streams bench-moves soak explore versions hostile lock docs

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

setup: ## Make .venv from the hashed lock file (the others do it by themselves)
	@test -n "$(PYTHON_FOUND)" || { echo "make setup: no python3 found: install Python 3.11 to 3.14" >&2; exit 1; }
	@$(PYTHON_FOUND) tools/setup.py

up: setup ## Run the demo cluster here: Postgres, workers, one URL (ARGS="-f my.yaml --port 9000")
	@exec $(BIN)/threadcluster local up $(ARGS)

down: setup ## Stop it; the data stays
	@$(BIN)/threadcluster local down $(ARGS)

status: setup ## What runs, and who owns what
	@$(BIN)/threadcluster status $(ARGS)

test: setup ## The gate: format, lint, types, imports, all tests (at most 7 minutes on two cores)
	@$(MAKE) --no-print-directory -j 2 pytest beside-pytest

# Many of the tests wait: what needs the processor alone goes on meanwhile.
.PHONY: beside-pytest
beside-pytest: setup
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory coverage-pure
	@$(MAKE) --no-print-directory properties

test-people: setup ## Generated clients in two languages, and a real browser, against a cluster (needs npm and Chromium)
	@$(BIN)/python -m tests.people.parts
	$(BIN)/python -m pytest -m people tests/people $(ARGS)

test-cluster: setup ## The operator on a real Kubernetes control plane; no root (the first time it is built: 10 minutes)
	@$(BIN)/python -m tests.e2e.cluster.build --check-or-build
	$(BIN)/python -m pytest -m "cluster and not soak" tests/e2e/cluster $(ARGS)

test-node: setup ## The real image on a real Kubernetes node: Linux, as root
	@$(BIN)/python -m tests.e2e.node.prepare
	@$(BIN)/python -m tests.e2e.node.enter $(BIN)/python -m pytest -m node tests/e2e/node $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_language.py

# The modules without I/O, clocks and chance, and their own tests: pyproject.toml, tool.threadcluster.
PURE = $$($(BIN)/python -m tests.support.pure_modules $(1))

# Each process below would compile what it imports by itself, all at the same time: in a new environment one does it before.
.venv/.compiled: | setup
	-@$(BIN)/python -m pytest --collect-only -qq --ignore=tests/e2e/cluster --ignore=tests/e2e/node > /dev/null && touch $@

# The pure rules' tests run where their branches are counted (coverage-pure, properties).  Every worker of pytest imports what it
# collects: the tests of test-cluster and test-node take seconds to import, and are not run here.
pytest: setup .venv/.compiled
	$(BIN)/python -m pytest -n 4 --dist worksteal $(call PURE,ignored) --ignore=tests/e2e/cluster --ignore=tests/e2e/node $(ARGS)

# Counting makes each step twice as slow: here a property is tried with few examples, and with all of them in `properties`.
coverage-pure: setup ## The pure rules: every branch of them is taken by their own tests
	$(BIN)/coverage run --branch --include=$(call PURE,files) -m pytest -q --hypothesis-profile=coverage $(call PURE,tests)
	$(BIN)/coverage report --fail-under=100
	@$(BIN)/python -m tests.support.pure_modules measured

.PHONY: properties
properties: setup ## The properties of the pure rules, with all their examples
	$(BIN)/python -m pytest -q -m "hypothesis and not soak" $(call PURE,tests)

mutation: setup ## Mutation testing of the pure modules; goes on where it was (ARGS="shard_worker.domain --fresh --write-docs")
	@$(BIN)/python -m tests.mutation $(ARGS)

bench-moves: setup ## What moving shards costs, as distributions: figures into docs with ARGS=--write-docs
	@$(BIN)/python -m tests.benchmarks.moves $(ARGS)

# With ARGS one of the two may have nothing to do (pytest's 5).
NOTHING := $(if $(ARGS),5,0)

soak: setup explore ## The long, repeated and million-row checks, those of the operator too (about two hours)
	PREVIOUS=$$($(BIN)/python -m tests.e2e.versions.checkout) && export PREVIOUS && \
	    { $(BIN)/python -m pytest -m "soak and not cluster and not node" $(ARGS) || [ $$? = $(NOTHING) ]; }
	@$(BIN)/python -m tests.e2e.cluster.build --check-or-build
	$(BIN)/python -m pytest -m "soak and cluster" tests/e2e/cluster $(ARGS) || [ $$? = $(NOTHING) ]

# HEAD~1 where nothing is named; its worktree and environment are kept in build/previous.
versions: setup ## Workers of another commit beside this one's through a rolling update and back (COMMIT=v0.1.0)
	PREVIOUS=$$($(BIN)/python -m tests.e2e.versions.checkout $(COMMIT)) && export PREVIOUS && \
	    $(BIN)/python -m pytest -s -m soak tests/e2e/versions/test_previous_commit.py $(ARGS)

explore: setup ## The properties again, ten times with examples that were never tried before
	@for round in 1 2 3 4 5 6 7 8 9 10; do \
	    echo "explore: round $$round of 10" && \
	    $(BIN)/python -m pytest -q --hypothesis-profile=explore $(call PURE,tests) tests/operator/controller/test_operating.py tests/peers/test_frames.py tests/journal/test_codec.py \
	        -p no:cacheprovider || exit 1; \
	done

# The second environment is made from the same lock file.  PYTHON_NEWEST: the newest Python that is supported here.
PYTHON_NEWEST ?= $(shell for minor in 14 13 12; do command -v python3.$$minor && break; done)

hostile: setup ## The whole hostile corpus against a worker, on this Python and the newest (PYTHON_NEWEST=/path/to/python3.13)
	@test -n "$(PYTHON_NEWEST)" || { echo "make hostile: name the newest Python: PYTHON_NEWEST=/path/to/python3.13" >&2; exit 1; }
	$(BIN)/python -m pytest -s -m "soak or not soak" tests/hostile $(ARGS)
	@VENV=.venv-newest PYTHON=$(PYTHON_NEWEST) $(PYTHON_NEWEST) tools/setup.py
	.venv-newest/bin/python -m pytest -s -m "soak or not soak" tests/hostile $(ARGS)

load: setup ## Load against a URL: ARGS="reference --url http://127.0.0.1:8080" or ARGS=--help
	@$(BIN)/python -m tests.load $(ARGS)

bench: setup ## The benchmark: own Postgres, worker and load; figures into docs with ARGS=--write-docs
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bench-read: setup ## What the read model costs the command path, and how soon it shows a command
	@$(BIN)/python -m tests.benchmarks.read_side $(ARGS)

bench-streams: setup ## What a live event costs for each follower, how soon it arrives, and the memory of an idle follower
	@$(BIN)/python -m tests.benchmarks.streams $(ARGS)

docs: setup ## Write what is generated: references, docs/openapi.json, crds/, the figures in docs/verification.md
	$(BIN)/python -m shard_worker.settings > docs/configuration.md
	$(BIN)/python -m shard_worker.gateway.public.openapi > docs/openapi.json
	$(BIN)/python -m shard_worker.journal.event_catalogue docs/events.md
	$(BIN)/python -m threadcluster_operator.api.reference > docs/threadcluster.md
	$(BIN)/python -m threadcluster_operator.api.crd > crds/threadclusters.yaml
	$(BIN)/python -m tests.benchmarks.published

.PHONY: price
price: ## What durable writes cost a month, computed from make bench and list prices (ARGS="--writes 100000")
	@$(BIN)/python tools/price.py $(ARGS)

.PHONY: pin-base
pin-base: ## Pin the base image of the Dockerfile by the digest of its tag (needs a registry)
	@$(PYTHON_FOUND) tools/base_image.py $(ARGS)

lock: ## Choose new versions of all packages, with hashes, for every platform
	@python3 -m venv build/uv && build/uv/bin/pip install --quiet uv
	build/uv/bin/uv pip compile --universal --upgrade --generate-hashes --no-emit-index-url --no-header --quiet \
	    --all-extras --group dev --python-version 3.11 pyproject.toml -o requirements.lock
