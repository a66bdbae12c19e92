# Everything runs in .venv, made with the python3 on the path; PYTHON=python3.12 chooses another.
# A stamp remembers each set-up, which is repeated when pyproject.toml or pins.txt changes.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --constraint pins.txt
WORKERS ?= 2

# One torch thread in each test worker: more fight over the cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format smoke docs speed clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/  make \1\t/p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.ready-demo  ## show on two small data sets where fixed trade-offs fail and an adapter does not
	$(RUN) -m adaptive_constraints bench demo --workers $(WORKERS)
	$(RUN) -m adaptive_constraints report runs/bench/demo

test: $(VENV)/.ready-dev  ## run the tests, but for the slowest
	$(TEST_ENV) $(RUN) -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-all: $(VENV)/.ready-dev  ## run every test
	$(TEST_ENV) $(RUN) -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.ready-dev  ## check style, format, types and who imports whom
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.ready-dev  ## mend style and format
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

smoke: $(VENV)/.ready-dev  ## run the smallest suite of benchmarks, report it and look at the page
	rm -rf runs/bench/smoke
	$(RUN) -m adaptive_constraints bench smoke --workers $(WORKERS)
	$(RUN) -m adaptive_constraints report runs/bench/smoke
	BENCH_RESULTS=runs/bench/smoke $(RUN) -m pytest -q tests/test_report_browser.py -k real_run

docs: $(VENV)/.ready-dev  ## run the notebooks, build the documentation site into build/site and check it
	NO_MKDOCS_2_WARNING=1 $(TEST_ENV) $(RUN) -m mkdocs build --quiet --strict
	SITE=build/site $(RUN) -m pytest -q tests/test_site.py

speed: $(VENV)/.ready-speed  ## time a training step against plain loops and JAX (20 minutes)
	$(RUN) -m benchmarks.speed

clean:  ## remove the environment, builds and caches (not runs/)
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The pinned torch comes first, so that what follows finds it there and fetches no other.
$(VENV)/.torch: pins.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --requirement pins.txt
	@touch $@

$(VENV)/.ready-demo: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.ready-speed: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable '.[speed]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable '.[dev,demo,docs,minari,table,collect,robotics,ogbench,oracles,logging,ray,export,report,sweep]'
	@touch $@
