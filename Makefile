.PHONY: install installed lint test quickstart

install:
	python -m pip install -e ".[test]"

# Installs only if something is missing.
installed:
	@python -c "from importlib.metadata import version; [version(n) for n in ('cdl_d2', 'pytest', 'ruff')]" \
		2> /dev/null || $(MAKE) install

lint: installed
	ruff check .
	ruff format --check .

test: lint
	python -m pytest -n 2

quickstart: installed
	python tools/quickstart.py
