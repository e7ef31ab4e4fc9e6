# Every target needs only Python 3.11 or newer, with venv: the first one makes .venv.
#   make quickstart              the main job on a built-in example
#   make test [ARGS="-k word"]   the tests
#   make check                   lint, types and tests
#   make audit                   known holes of what is installed, where the network allows
#   make campaign-commit         kills, full disks, power cuts, wrong input: a few of each, three minutes
#   make campaign-nightly        more of each, an hour
#   make campaign-release        all of each
#   make docs                    the documents as a site, in site/
#   make bench                   every benchmark, one after the other

SHELL := /bin/bash
PYTHON ?= python3 python3.13 python3.12 python3.11
ARGS ?=

.PHONY: help .venv quickstart lint test audit check campaign-commit campaign-nightly campaign-release docs bench

help:
	@sed -n 's/^#   //p' Makefile

.venv: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@for python in $(PYTHON) ""; do "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && break; done; \
	if [ -z "$$python" ]; then \
	  echo "curate needs Python 3.11 or newer with venv, and found none among: $(PYTHON). Install one, or name it: make PYTHON=path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	"$$python" -m venv .venv
	.venv/bin/python -m pip install -c constraints.txt -e '.[test]'
	@touch .venv/ready

quickstart: .venv
	.venv/bin/curate run quickstart

lint: .venv
	.venv/bin/ruff check .
	.venv/bin/mypy

# One process per core, at most four: each loads torch and a tiny model.
test: .venv
	.venv/bin/python -m pytest -n auto --maxprocesses 4 $(ARGS)

audit: .venv
	.venv/bin/python -m campaign.audit

check: lint test audit

campaign-commit campaign-nightly campaign-release: .venv
	.venv/bin/python -m campaign.tiers $(@:campaign-%=%) $(ARGS)
	[ $@ = campaign-commit ] || .venv/bin/python -m pytest -m campaign

docs: .venv
	.venv/bin/python -m pip install -q -c constraints.txt -e '.[docs]'
	.venv/bin/python -m mkdocs build --strict

# A benchmark that needs a model or data prints its usage, exits with 2, and the next one runs.
bench: .venv
	.venv/bin/python -m pip install -q -c constraints.txt -e '.[test,bench]'
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; .venv/bin/python "$$script" || [ $$? -eq 2 ] || exit 1; done
