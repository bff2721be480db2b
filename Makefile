# `make demo` and `make test` do everything; both create the environment .venv the first time.
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
RUNS   ?= runs

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint test-browser test-gpu test-install release-check stability results lab board export docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## simulate a ball, train a KVAE on the CPU, fill in hidden frames, leave figures in runs/
	$(BIN)/kvae train --preset demo --out $(RUNS)
	$(BIN)/kvae evaluate --runs $(RUNS) --measure.sequences 100

test: export OMP_NUM_THREADS := 1
test: $(READY) ## check the tree, run every notebook and the test suite
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -q tests/test_house.py
	$(BIN)/nbdev_test --n_workers 2 --timing
	$(BIN)/pytest -n 2 --dist loadfile tests

lint: $(READY) ## one style, and imports that lead down the house
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

test-browser: export OMP_NUM_THREADS := 1
test-browser: $(READY) ## in headless Chromium: move every panel of notebooks 55 to 55i in a real JupyterLab, and visit the site of make docs
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[browser]'
	@command -v "$${CHROMIUM:-chromium}" >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || $(MAKE) --no-print-directory chromium
	$(BIN)/pytest tests/browser

.PHONY: chromium
chromium:
	@test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { echo "make test-browser needs Chromium, and only root can install it here: run 'apt-get install chromium', or set CHROMIUM to the path of a browser."; exit 1; }
	@echo "Installing Chromium ..."
	@{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium; } >/dev/null

test-install: $(READY) ## build wheel and sdist, install them into empty environments, and try them there
	$(BIN)/pytest -o tmp_path_retention_policy=failed tests/install/test_install.py

release-check: $(READY) ## what is to be published, tried: files and page, then test-install; what passed is in dist/
	@$(BIN)/python -c 'import twine, readme_renderer' 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[release]'
	$(BIN)/python tools/dist.py dist
	DIST=dist $(BIN)/pytest -o tmp_path_retention_policy=failed tests/install/test_release.py tests/install/test_install.py || { rm -rf dist; exit 1; }

test-gpu: $(READY) ## on a CUDA device: models, kernels and recorded steps against the CPU; says so where there is none
	$(BIN)/pytest -q -rN tests/gpu
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	  then $(BIN)/nbdev_test --flags gpu --n_workers 1 --timing; \
	  else echo "GPU cells of the notebooks skipped: no CUDA device"; fi

stability: export OMP_NUM_THREADS := 1
stability: $(READY) ## store anew the numbers that tests/test_stability.py compares with
	$(BIN)/python tests/test_stability.py

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs/index.ipynb

board: $(READY) ## watch the newest run in TensorBoard
	$(BIN)/kvae board

export: $(READY) ## after editing notebooks: clean them, write kvae_nb/*.py and README.md
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python tools/readme.py

docs: $(READY) ## write every notebook and a page for every module as a site to read offline, _docs/index.html
	$(BIN)/python tools/docs.py

results: export OMP_NUM_THREADS := 1
results: $(READY) ## make the results page and the README's table anew from experiments/results
	cd nbs && ../$(BIN)/jupyter nbconvert --log-level=ERROR --to notebook --execute --inplace 65_results.ipynb index.ipynb
	$(BIN)/nbdev_clean
	$(BIN)/python tools/readme.py

clean: ## remove what make has made, except runs/
	rm -rf $(VENV) build dist *.egg-info _docs _proc .pytest_cache .hypothesis
	find kvae_nb nbs tests tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# The environment: made once, and again when what it consists of changes.
$(READY): settings.ini setup.py constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(MAKE) --no-print-directory new-venv
	@echo "Installing into $(VENV) (the first time a minute or more, and quiet meanwhile) ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt pip setuptools wheel
	@$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
	@echo "Installed for $$($(BIN)/python --version)."

.PHONY: new-venv
new-venv:
	@command -v $(PYTHON) >/dev/null || { echo "kvae_nb needs Python 3.11, 3.12 or 3.13, and there is no '$(PYTHON)'; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "kvae_nb needs Python 3.11, 3.12 or 3.13, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1); name another one: make PYTHON=python3.12"; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear $(VENV)
