# make lab    set up and open JupyterLab on the tour        make test   everything that CI checks
# make tour   run the tour without a browser                make export / make stills NB=...   for those who edit notebooks
# make course  the labs of nbs/exercises for nbgrader: course/source with solutions, course/release for students
# make docs   the documentation site, from the pages as they are stored: build/docs/html/index.html
# make oldest / make colab   notebooks and unit tests on the lowest versions that settings.ini declares, on Colab's
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
# Which versions: newest, oldest or colab. The latter two have an environment of their own, which is kept.
SET ?= newest
PARTS ?= drift notebooks unit browser
RESULTS := $(VENV)/results
# Two notebooks or test files run at once, so each gets one core.
RUN := OMP_NUM_THREADS=1

.NOTPARALLEL:
.PHONY: lab tour course test oldest colab drift notebooks unit browser chromium export stills docs clean

lab: $(VENV)/.lab
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) nbs/00_tour.ipynb

tour: $(VENV)/.lab
	$(BIN)/python .ci/tour.py

course: $(VENV)/.course
	$(BIN)/python .ci/course.py course

# Every part runs, whatever became of those before it; the summary fails if anything did.
test: $(VENV)/.dev
	@rm -rf $(RESULTS); $(BIN)/python .ci/versions.py table $(SET)
	@$(MAKE) --no-print-directory --keep-going $(PARTS); $(BIN)/python .ci/summary.py $(RESULTS) $(PARTS)

oldest colab:
	@python=$$($(PYTHON) .ci/versions.py python $@) && \
	$(MAKE) --no-print-directory test SET=$@ VENV=.venv-$@ PYTHON="$$python" PARTS="notebooks unit"

# What is exported is what the notebooks say, and what is committed is clean.
drift: $(VENV)/.dev
	timeout 300 $(BIN)/pytest -q --junitxml $(RESULTS)/drift.xml tests/test_drift.py

# Each notebook once, top to bottom in a real kernel: its tests are part of that run.
notebooks: $(VENV)/.dev
	$(RUN) timeout 2100 $(BIN)/python .ci/notebooks.py --jobs $(JOBS) --results $(RESULTS)/notebooks.xml

unit: $(VENV)/.dev
	$(RUN) timeout 2100 $(BIN)/pytest -q -n $(JOBS) --dist loadfile --junitxml $(RESULTS)/unit.xml \
	  tests --ignore tests/test_drift.py --ignore-glob 'tests/test_browser*'

browser: $(VENV)/.dev chromium
	timeout 600 $(BIN)/pytest -q -s --junitxml $(RESULTS)/browser.xml tests/test_browser.py tests/test_browser_names.py

# The browser test needs chromium. Where we may install it we do; elsewhere the test says that it was skipped.
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

# Nothing is run: a minute or two. It is no part of `make test`; what can go wrong without Sphinx is in tests/test_docs.py.
docs: $(VENV)/.docs
	$(BIN)/python .ci/docs.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.lab: settings.ini setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet -e ".[lab]"
	touch $@

$(VENV)/.course: settings.ini setup.py pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet -e ".[lab,course]"
	touch $@

$(VENV)/.dev: settings.ini setup.py pyproject.toml .ci/versions.py | $(VENV)/bin/python
	$(BIN)/python .ci/versions.py pins $(SET) > $(VENV)/pins.txt
	$(BIN)/pip install --quiet -c $(VENV)/pins.txt -e ".[$(if $(filter newest,$(SET)),dev,test)]"
	touch $@

$(VENV)/.docs: settings.ini setup.py | $(VENV)/bin/python
	$(BIN)/pip install --quiet -e ".[docs]"
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-colab build dist *.egg-info
