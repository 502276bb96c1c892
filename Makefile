# Each target does the set-up that it needs: .venv with the versions of requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test lab lint lock notebooks

help:
	@echo "make demo       run the seven notebooks on phantoms into runs/demo"
	@echo "                (ARGS=--overwrite to replace an earlier one)"
	@echo "make test       unit tests, the notebooks end to end, nbval"
	@echo "make lab        open JupyterLab on the notebooks"
	@echo "make lint       ruff over package, tests, tools and notebooks"
	@echo "make notebooks  execute the committed notebooks again and store their outputs"
	@echo "make lock       choose versions again and write requirements.lock"

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11 to 3.13 is needed; name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(STAMP)
	$(BIN)/mura run experiments/demo.yaml $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check conftest.py benchmarks mura_utils tests tools

notebooks: $(STAMP)
	$(BIN)/python tools/refresh_notebooks.py

lock: $(STAMP)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
	  --extra dev --upgrade pyproject.toml -o requirements.lock
