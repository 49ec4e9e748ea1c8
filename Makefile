# `make help` lists the targets. Set-up needs Python >= 3.11 and a package index, nothing else.
# PYTHON=…    another interpreter            (make demo PYTHON=python3.12)
# PARALLEL=…  how pytest shares out the work (make test PARALLEL= for one process)
# PIP_FLAGS=… more arguments for pip install (make demo PIP_FLAGS="--no-index --find-links wheels")

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
PIP_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
# A stamp is newer than both files as long as the environment is up to date.
DEPENDENCIES := pyproject.toml constraints.txt

INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
# Compiling to bytecode is most of an installation by pip, which compiles every file, one after the other. Here all cores do it, and
# folders that cmrm imports little or nothing of are left out; Python compiles such a module when it is imported. Some packages hold
# files that do not compile.
NOT_COMPILED := tests networkx torchgen sympy/physics torch/_inductor transformers/models/[!acl]*
COMPILE = find $(VENV)/lib -name '*.py' $(foreach folder,$(NOT_COMPILED),! -path '*/$(folder)/*') -print0 | \
	xargs -0 -n 200 -P $$(getconf _NPROCESSORS_ONLN) $(BIN)/python -m compileall -qq || true

# Tests see the same world on every machine: no network, no telemetry, one thread a process, compiled code kept.
OFFLINE := HF_HUB_OFFLINE=1 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
# What is timed may use all of the machine.
ALL_CORES := $(filter-out OMP_NUM_THREADS=%,$(OFFLINE))
# A file's tests stay together, since they share what is dear to set up. One process more than there are cores, since tests wait for
# servers, locks and disks.
PROCESSES := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PARALLEL ?= --numprocesses $(PROCESSES) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The inner loop: no runs, no servers, no processes that are killed, no models but a few tiny ones.
SLOW := $(wildcard tests/storage/backends/test_s3*.py) tests/storage/shards/test_writer.py tests/storage/backends/test_crowd.py tests/storage/backends/test_races.py \
	tests/storage/sql/test_confinement.py tests/tasks/compare/test_compare.py tests/cmrm/doctor tests/cmrm/organism tests/cmrm/decoding/test_answering.py \
	tests/cmrm/models/test_quantization.py tests/cmrm/judges/test_endpoint_failures.py tests/cmrm/judges/test_conversation.py
FAST := tests/cmrm tests/tasks tests/storage $(addprefix --ignore=,$(SLOW))

# Other people's programs, each in an environment of its own, kept from one checkout to the next: lmms-eval two gigabytes,
# engines four, and llama.cpp is built here, eight minutes of a processor. As few of its parts as will do, not for this processor alone.
ENVIRONMENTS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cmrm-environments
ENGINES := runtimes vllm llama lens
LLAMA_PARTS := -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DBUILD_SHARED_LIBS=OFF \
	$(foreach part,TESTS EXAMPLES APP,-DLLAMA_BUILD_$(part)=OFF) -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo environment test test-failed test-fast test-serving test-lmms soak bench check format docs clean FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.run-stamp ## Set up, run the embedded model through, print the table
	$(BIN)/cmrm run

environment: $(VENV)/.dev-stamp $(VENV)/.torchvision-stamp ## Set up all that tests need

test: environment ## Set up and run the tests
	$(OFFLINE) $(BIN)/python -m pytest $(PARALLEL)

test-failed: $(VENV)/.dev-stamp ## Set up; run the tests that failed last once more, one at a time
	$(OFFLINE) $(BIN)/python -m pytest --last-failed --last-failed-no-failures=none

test-fast: $(VENV)/.dev-stamp ## Set up and run the tests that take no more than a minute together
	$(OFFLINE) $(BIN)/python -m pytest $(PARALLEL) $(FAST)

test-serving: $(VENV)/.dev-stamp $(ENGINES:%=$(ENVIRONMENTS)/%/installed.txt) ## Set up other people's engines; serve exports by them
	CMRM_ENVIRONMENTS=$(ENVIRONMENTS) $(OFFLINE) $(BIN)/python -m pytest tests/serving

test-lmms: $(VENV)/.dev-stamp $(ENVIRONMENTS)/lmms/installed.txt ## Set up lmms-eval; run its tasks on a steered model
	CMRM_ENVIRONMENTS=$(ENVIRONMENTS) $(OFFLINE) $(BIN)/python -m pytest tests/lmms

soak: $(VENV)/.dev-stamp ## Set up; kill runs at random moments, fifty times, and compare their tables
	$(OFFLINE) $(BIN)/python -m tests.soak

bench: $(VENV)/.dev-stamp ## Set up; time the method beside its peers and the hardware's limits
	$(ALL_CORES) $(BIN)/python benchmarks/speed.py --device cpu --minutes 10

# It imports none of the packages: they can be compiled meanwhile.
check: $(VENV)/.packages-stamp ## Set up; check format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev-stamp ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs-stamp ## Set up and build the site of the documents in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "The site is in build/site: open build/site/index.html. Search needs a server: python3 -m http.server -d build/site"

clean: ## Remove the environment and the caches; a store is never touched
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find cmrm storage tasks flows scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The pip of older Pythons needs twice the time to find packages. Where no newer one can be had, it installs them all the same.
$(VENV)/bin/pip:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) --quiet --retries 0 'pip>=25' 2>/dev/null || echo "No newer pip to be had: the one that came with Python installs the packages."

$(VENV)/.run-stamp: $(DEPENDENCIES) | $(VENV)/bin/pip
	$(INSTALL) --no-compile -e .
	@echo "Compiling the packages" && $(COMPILE)
	@touch $@

$(VENV)/.packages-stamp: $(DEPENDENCIES) | $(VENV)/bin/pip
	$(INSTALL) --no-compile -e '.[dev]'
	@touch $@

$(VENV)/.dev-stamp: $(VENV)/.packages-stamp
	@echo "Compiling the packages" && $(COMPILE)
	@touch $@ $(VENV)/.run-stamp

# The API pages are made from the text of the code, so that neither cmrm nor torch need be installed for them.
$(VENV)/.docs-stamp: $(DEPENDENCIES) | $(VENV)/bin/pip
	$(INSTALL) --no-compile $$($(BIN)/python -c \
		'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

# The list that an environment was made from is its stamp, whatever the files' times: a new checkout has new ones. torch
# brings what its build needs, all others are listed. Where one cannot be made, its tests say that they were skipped.
$(ENVIRONMENTS)/%/installed.txt: tests/environments/%.txt FORCE
	@cmp -s $< $@ || { rm -rf $(@D) && $(PYTHON) -m venv $(@D) && \
		{ grep '^torch==' $< | xargs -r $(@D)/bin/python -m pip install --disable-pip-version-check $(PIP_FLAGS) --quiet; } && \
		CMAKE_ARGS='$(LLAMA_PARTS)' LLAMA_CPP_BUILD_JOBS=$$(getconf _NPROCESSORS_ONLN) $(@D)/bin/python -m pip install --disable-pip-version-check $(PIP_FLAGS) --quiet \
			--no-compile --no-deps -r $< && cp $< $@; } || \
		{ rm -rf $(@D); echo "No environment for $* could be made; its tests will be skipped." >&2; }

# It wants Python 3.12; what is read of it runs on 3.11.
$(ENVIRONMENTS)/lens/installed.txt: export PIP_IGNORE_REQUIRES_PYTHON := 1

# For the families whose processors need it, in one process of the tests; no other may see it, so it has its own folder.
$(VENV)/.torchvision-stamp: $(DEPENDENCIES) | $(VENV)/bin/pip
	rm -rf $(VENV)/torchvision
	$(INSTALL) --no-deps --target $(VENV)/torchvision torchvision num2words
	@touch $@
