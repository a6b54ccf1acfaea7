# Fewscope's commands. All of them set up what they need in .venv; the second time that takes no time.
#   make demo    make demo-river    make test    make help
# Needs Python 3.11+, make and an internet connection for the packages; no C compiler.

PYTHON ?= python3
# The build of torch to install: empty takes PyPI's (CUDA on Linux), cpu is much smaller for machines without
# a GPU, auto looks at the driver (uv's --torch-backend). Only the set-up reads it.
TORCH_BACKEND ?=
DEMO_FLAGS ?=

BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt \
           $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND))
TYPED := build/typed
RUN_READY := .venv/.ready-run
DEV_READY := .venv/.ready-dev

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-river test lint format bench docs clean
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

test: $(DEV_READY)  ## ruff, mypy and the whole test suite
	@failed=; \
	for check in "make --no-print-directory lint" "$(BIN)/pytest -n 2 --dist loadfile"; do \
	    echo "== $$check"; \
	    $$check || failed="$$failed [$$check]"; \
	done; \
	echo; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi; \
	echo "passed: ruff, import-linter, mypy, pytest"

lint: $(DEV_READY) | $(TYPED)  ## ruff, import-linter and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(TYPED) && $(CURDIR)/$(BIN)/lint-imports $(CURDIR)/pyproject.toml
	cd $(TYPED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p fewscope

format: $(DEV_READY)  ## let ruff order imports and lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV_READY)  ## the benchmarks, one JSON line per measurement
	@set -e; for script in benchmarks/bench_*.py; do \
	    echo "== $$script" >&2; $(BIN)/python $$script; \
	done

docs: $(DEV_READY) | $(TYPED)  ## the documentation, into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html"

# In a checkout `fewscope/__init__.py` joins the packages to one. mypy and import-linter do not run it: they are
# shown a folder of links that is laid out as the installed package is.
$(TYPED): $(wildcard fewscope/*)
	@rm -rf $@ && mkdir -p $@/fewscope
	@ln -s $(addprefix $(CURDIR)/,$(filter-out %__pycache__,$(wildcard fewscope/*)) connectors jobs model pipeline) $@/fewscope

clean:  ## remove the environment, the demos' pictures and their results
	rm -rf .venv build out/demo out/river

build/river/scene.tif: examples/make_demo_scene.py | $(RUN_READY)
	$(BIN)/python examples/make_demo_scene.py build/river

build/ihc.tif: examples/make_demo_slide.py connectors/slides/pyramid_tiff.py | $(RUN_READY)
	$(BIN)/python examples/make_demo_slide.py $@

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

$(DEV_READY): pyproject.toml constraints.txt | $(BIN)/uv
	$(INSTALL) -e '.[dev,train,eval]'
	@touch $@ $(RUN_READY)
