# Every target builds what it needs: a fresh machine has only Python >= 3.11, git and make.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help env repro test test-slow torture lint docs bench bench-memory ui app results clean
.DEFAULT_GOAL := help

help:
	@echo "make repro    build .venv, run the whole graph, print the result table"
	@echo "make test     build .venv, run the tests but for the slow ones"
	@echo "make test-slow  run the slow tests: whole graphs, clusters, trainings in several processes"
	@echo "make torture  300 hostile inputs and 100 kills -> benchmarks/results/torture.md (two minutes on two cores)"
	@echo "make lint     ruff, mypy and the layers of rooms"
	@echo "make docs     the documentation site -> site/index.html"
	@echo "make ui       MLflow's pages over the runs of this workspace, with a link to their comparison"
	@echo "make app      a page to try the trained models on"
	@echo "make bench    speed of every part and its limits -> benchmarks/results/ (a quarter of an hour on two cores)"

env: .venv/.ready

# The editable install is a path, not an import hook: with a hook, a script beside the clone finds its folder instead.
# uv installs the locked packages in seconds, pip in minutes; its own version and hashes are pinned in requirements/uv.txt.
.venv/.ready: requirements/lock.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: $(PYTHON) is older than 3.11: run make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip sync -q --require-hashes --python $(BIN)/python requirements/lock.txt || \
	  $(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements/lock.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip -q
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation --no-index --config-settings editable_mode=compat -e .
	@touch $@

repro: env
	@test -d .git || $(BIN)/dvc config --local core.no_scm true
	$(BIN)/dvc repro
	@$(BIN)/captionlab sync --quiet
	@$(BIN)/captionlab results

test: env
	$(BIN)/python -m pytest -m "not slow"

test-slow: env
	$(BIN)/python -m pytest -m slow

# SEED=2 draws others; python -m benchmarks.torture --seed 2 --case 57 repeats one.
torture: env
	$(BIN)/python -m benchmarks.torture --seed $(or $(SEED),1)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Strict: a dead link or a page that is in no menu is an error. Nothing is fetched.
docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html (with its search box: $(BIN)/python -m http.server -d site)"

bench: env
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.scoring
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.extraction
	$(BIN)/python -m benchmarks.graph
	$(BIN)/python -m benchmarks.memory --quick

# 800 thousand captions take several minutes more.
bench-memory: env
	$(BIN)/python -m benchmarks.memory

ui: env
	@$(BIN)/captionlab ui

app: env
	@$(BIN)/captionlab app

results: env
	@$(BIN)/captionlab results
