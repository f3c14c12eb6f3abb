# What a contributor does often. PYTHON=… takes another interpreter than that of .venv.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python)

.PHONY: setup test lint types docs bench coverage

setup:
	python3 -m venv .venv
	.venv/bin/pip install --quiet -e ".[test,docs,types]"

test:
	$(PYTHON) -m pytest

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

coverage:
	$(PYTHON) -m coverage run --source=gmdm_prior,deepinv_gmdm -m pytest -n 0
	$(PYTHON) -m coverage report --skip-covered --sort=cover

docs:
	$(MAKE) -C docs html PYTHON="$(abspath $(PYTHON))" FAST=1

bench:
	$(PYTHON) benchmarks/speed.py
