# Everything happens in .venv, with the dependencies pinned in requirements/. A second call needs no network.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
LOCKED := $(VENV)/.locked
TESTED := $(VENV)/.locked-test
WORKERS ?= 2

.PHONY: setup run test check format bench torture lock clean

setup: $(LOCKED) ## make .venv with the uploader command in it

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(LOCKED): requirements/run.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(TESTED): requirements/test.txt $(LOCKED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/test.txt
	touch $@

run: setup ## push this very environment to an image layout folder, and show the report
	mkdir -p run
	$(BIN)/uploader push python:$(VENV) --to oci-layout:run/cache --report run/report.json
	@echo "the report, run/report.json, begins:"
	@head -n 24 run/report.json

test: $(TESTED) ## all tests; parts that are not on the machine are skipped, with the reason
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

check: $(TESTED) ## linter, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(TESTED) ## measure against rivals that are installed (skopeo, oras-py); takes minutes
	$(BIN)/python -m benchmarks $(ARGS)

torture: $(TESTED) ## the long forms of the failure tests; seeds are printed
	$(BIN)/python -m tests.torture.faults --runs 1000 $(ARGS)
	$(BIN)/python -m tests.torture.resume --registry spec
	$(BIN)/python -m tests.torture.resume --registry distribution-2.8
	$(BIN)/python -m tests.torture.jobs --engine sqlite --seconds 30 --races 100 --power-cuts 3 $(ARGS)
	$(BIN)/python -m tests.torture.jobs --engine postgresql --seconds 30 --races 20 --power-cuts 3 $(ARGS)
	$(BIN)/python -m tests.torture.leases --engine sqlite $(ARGS)
	$(BIN)/python -m tests.torture.leases --engine postgresql $(ARGS)
	$(BIN)/python -m tests.torture.daemon --kills 50 $(ARGS)
	$(BIN)/python -m tests.torture.daemons $(ARGS)
	$(BIN)/python -m tests.torture.intake --broker nats $(ARGS)
	$(BIN)/python -m tests.torture.intake --broker redis $(ARGS)

format: $(TESTED)
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

# Extras stay in the pins: pip takes `coverage[toml]` for another thing than a pinned `coverage`, and refuses to install
# either once a newer version is out. Constraints may not have them.
COMPILE := pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
  --allow-unsafe --no-strip-extras --no-header

lock: ## pin the newest dependencies that fit; needs pip-tools
	$(COMPILE) --upgrade --extra test -o requirements/test.txt pyproject.toml
	sed -E 's/\[[a-z,]+\]==/==/' requirements/test.txt > constraints.txt
	$(COMPILE) --build-deps-for editable --constraint constraints.txt -o requirements/run.txt pyproject.toml
	sed -i 's|-c constraints.txt|-c requirements/test.txt|' requirements/run.txt
	rm constraints.txt

clean:
	rm -rf $(VENV) run build dist *.egg-info
