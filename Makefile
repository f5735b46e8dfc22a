# Needs Python (>= 3.11), pip and make; everything else is set up on first use.
PYTHON ?= python3
BIN := .venv/bin
BASE := .venv/.base
READY := .venv/.ready
BENCH := .venv-bench/.ready

.PHONY: demo test check format lint types floors tests bench gpu docs release-check clean

demo: $(BASE)  ## train a small network on real digits and survey where it arrived
	$(BIN)/lossatlas survey --curvature --out survey

test: $(READY)  ## the tests, doctests included
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

check: format lint types floors test  ## what a change must pass

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

floors: $(READY)
	$(BIN)/lint-imports --no-cache

bench: $(BENCH)  ## side by side with the peers; writes benchmarks/RESULTS.md
	OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 .venv-bench/bin/python benchmarks/run.py

DEVICE ?= cuda
gpu: $(READY)  ## six minutes on a card; writes benchmarks/GPU.md (DEVICE=cpu: a dry run)
	$(BIN)/python benchmarks/gpu.py --device $(DEVICE)

docs: $(READY)  ## the documentation as a site in site/
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

release-check: $(READY)  ## what a release must pass: archives, a clean install, the demo, types
	$(BIN)/pip install -q --disable-pip-version-check build twine
	$(BIN)/python scripts/release_check.py

clean:
	rm -rf .venv .venv-bench site survey .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BASE): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(READY): $(BASE)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(BENCH): pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	.venv-bench/bin/pip install -q --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	touch $@
