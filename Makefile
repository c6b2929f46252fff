.PHONY: install lint test

install:
	python -m pip install -e ".[test]"

lint:
	ruff check .
	ruff format --check .

test: lint
	python -m pytest -n 2
