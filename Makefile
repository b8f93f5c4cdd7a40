PYTHON ?= python

.PHONY: demo test test-all lint doc bench

demo:  ## The main job on the bundled data
	$(PYTHON) -m skmdn

test:  ## The default suite, with the doctests of the package
	$(PYTHON) -m pytest

test-all:  ## The same with the slow tests: every family through all checks
	$(PYTHON) -m pytest -m ""

lint:  ## Style, types, docstrings and layers
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy --config-file setup.cfg
	$(PYTHON) doc/check_docstrings.py
	lint-imports --config setup.cfg

doc:  ## The site, in doc/_build/html; the examples run
	$(PYTHON) -m sphinx -W --keep-going -b html doc doc/_build/html

bench:  ## Timings, into benchmarks/results
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/members.py
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/queries.py
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/family_queries.py
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/steps.py
