# Needs git, make and a Python >= 3.12; everything else is installed into .venv from the hash-pinned locks.

# What `make demo` runs, in order. Each command can be run again by itself; training resumes where it stopped.
DEMO_CONFIG   := configs/demo.py
DEMO_WORKDIR  := runs/demo
DEMO_DATA     := $(DEMO_WORKDIR)/data
DEMO_RECORD   := python -m eval.record --out $(DEMO_DATA) --task reach push --episodes 200 650 --anywhere --hold 4 --noise 0 --scenes 20000
DEMO_TRAIN    := python -m train --config $(DEMO_CONFIG) --workdir $(DEMO_WORKDIR)
DEMO_EVAL     := python -m eval --config $(DEMO_CONFIG) --workdir $(DEMO_WORKDIR)
DEMO_REPORT   := python -m eval.report $(DEMO_WORKDIR)

# Huge pages make CPU training about a quarter faster; compiled programs are kept between runs.
RUN_ENV := PATH="$(CURDIR)/.venv/bin:$$PATH" GLIBC_TUNABLES=glibc.malloc.hugetlb=1 JAX_COMPILATION_CACHE_DIR=.cache/jax

PYTEST_WORKERS ?= 2
CORE := .venv/.installed-core
DEV  := .venv/.installed-dev
AOT  := .venv-aot/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow aot lint format lock clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(CORE)  ## create .venv and install what running needs

demo: $(CORE)  ## pre-train, distil, specialise and act; writes runs/demo/report.html
	mkdir -p $(DEMO_WORKDIR) && test -e $(DEMO_WORKDIR)/started || touch $(DEMO_WORKDIR)/started
	test -e $(DEMO_DATA)/instructions.txt || (rm -rf $(DEMO_DATA) && $(RUN_ENV) $(DEMO_RECORD))
	$(RUN_ENV) $(DEMO_TRAIN)
	$(RUN_ENV) $(DEMO_EVAL)
	$(RUN_ENV) $(DEMO_REPORT)

test: lint  ## lint, then the fast tests
	.venv/bin/python -m pytest -n $(PYTEST_WORKERS)

test-slow: $(DEV)  ## the tests that take more than about 20 seconds each
	.venv/bin/python -m pytest -m slow

aot: $(AOT)  ## compile every kernel for an H200 and for TPUs, without either (5 GB of compilers in .venv-aot)
	@status=0; for target in cuda tpu; do .venv-aot/bin/python -m benchmarks.aot --target $$target || status=1; done; exit $$status

lint: $(DEV)  ## formatting, lint rules and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/basedpyright

format: $(DEV)  ## rewrite the code as `make lint` wants it
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

UV_COMPILE = $(UV) pip compile -q --universal --python-version 3.12 --generate-hashes --no-header --no-annotate
lock: $(CORE)  ## pin again what pyproject.toml asks for; UPGRADE=--upgrade takes the newest versions
	echo uv | $(UV_COMPILE) $(UPGRADE) - -o requirements-uv.lock
	$(UV_COMPILE) $(UPGRADE) pyproject.toml -o requirements.lock
	$(UV_COMPILE) $(UPGRADE) pyproject.toml --extra dev --extra eval --extra gguf --extra quantize --extra sim -c requirements.lock -o requirements-dev.lock
	echo openpi-client | $(UV_COMPILE) --no-deps $(UPGRADE) - -o requirements-peers.lock
	$(UV_COMPILE) $(UPGRADE) pyproject.toml --extra cuda --extra tpu -c requirements.lock -o requirements-aot.lock

clean:  ## remove the environment and caches, not the runs
	rm -rf .venv .venv-aot .cache .pytest_cache .ruff_cache .hypothesis

# uv installs in seconds; where it cannot be had, pip reads the same locks.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .venv/bin/uv)
PIP := .venv/bin/python -m pip --disable-pip-version-check
INSTALL = if $(UV) --version >/dev/null 2>&1 || $(PIP) install -q --require-hashes -r requirements-uv.lock; \
	then $(UV) pip install -q --python .venv/bin/python --require-hashes -r $(1); \
	else $(PIP) install -q --require-hashes -r $(1); fi

$(CORE): requirements.lock | .venv/bin/python
	@$(call INSTALL,requirements.lock)
	@touch $@

# Tests serve the official openpi-client; it asks for a NumPy that JAX no longer takes, but works with ours.
$(DEV): requirements-dev.lock requirements-peers.lock $(CORE)
	@$(call INSTALL,requirements-dev.lock)
	@$(call INSTALL,requirements-peers.lock --no-deps)
	@touch $@

$(AOT): requirements-aot.lock | $(CORE)
	@test -e .venv-aot/bin/python || .venv/bin/python -m venv .venv-aot 2>/dev/null || $(UV) venv -q --seed --python .venv/bin/python .venv-aot
	@$(subst .venv/bin/python,.venv-aot/bin/python,$(call INSTALL,requirements-aot.lock))
	@touch $@

.venv/bin/python:
	@for python in python3 python3.12 python3.13 python3.14 python; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
	    echo "creating .venv with $$($$python --version)"; exec $$python -m venv .venv; fi; done; \
	if [ "$(UV)" = uv ]; then exec uv venv -q --seed --python '>=3.12' .venv; fi; \
	echo "no Python >= 3.12 with venv found; install one (on Debian and Ubuntu also python3-venv) and run make again" >&2; \
	exit 1
