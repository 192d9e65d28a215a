# make lab    set up and open JupyterLab on the tour        make test   everything that CI checks
# make tour   run the tour without a browser                make export / make stills NB=...   for those who edit notebooks
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
# Two notebooks run at once, so each gets one core.
RUN := OMP_NUM_THREADS=1

.PHONY: lab tour test export stills drift notebooks unit clean

lab: $(VENV)/.lab
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) nbs/00_tour.ipynb

tour: $(VENV)/.lab
	$(BIN)/python .ci/tour.py

test: $(VENV)/.dev chromium drift notebooks unit

# What is exported is what the notebooks say, and what is committed is clean.
drift: $(VENV)/.dev
	$(BIN)/pytest -q tests/test_drift.py

# Each notebook twice: its tests in process, then top to bottom in a real kernel, with hard time limits; the second
# run of the latter repeats only what failed, since a kernel now and then stalls on starting.
notebooks: $(VENV)/.dev
	$(RUN) timeout 1500 $(BIN)/nbdev-test --n-workers $(JOBS) --timing
	$(RUN) timeout 1500 $(BIN)/pytest -q --nbmake --nbmake-timeout=180 -n $(JOBS) nbs || \
	$(RUN) timeout 600 $(BIN)/pytest -q --nbmake --nbmake-timeout=180 --last-failed --last-failed-no-failures=none nbs

unit: $(VENV)/.dev
	$(RUN) timeout 1500 $(BIN)/pytest -q -n $(JOBS) --dist loadfile tests --ignore tests/test_drift.py --ignore tests/test_browser.py
	timeout 600 $(BIN)/pytest -q -s tests/test_browser.py

# The browser test needs chromium. Where we may install it we do; elsewhere the test says that it was skipped.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium >/dev/null; \
	else echo "chromium is not installed: the browser test will be skipped"; fi

export: $(VENV)/.dev
	$(BIN)/nbdev-export
	$(BIN)/python .ci/readme.py

# Run notebooks and keep their still pictures: make stills NB="nbs/core/01_runtime.ipynb"
stills: export
	OMP_NUM_THREADS=1 $(BIN)/python .ci/stills.py $(NB)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.lab: settings.ini setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet -e ".[lab]"
	touch $@

$(VENV)/.dev: settings.ini setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@ $(VENV)/.lab

clean:
	rm -rf $(VENV) build dist *.egg-info
