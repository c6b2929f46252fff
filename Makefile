.PHONY: install lint test quickstart

install:
	python -m pip install -e ".[test]"

lint:
	ruff check .
	ruff format --check .

test: lint
	python -m pytest -n 2

quickstart:
	python tools/quickstart.py
