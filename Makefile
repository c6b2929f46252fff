.PHONY: install installed lint test quickstart docs

install:
	python -m pip install -e ".[test]"

# Installs only if something is missing.
installed:
	@python -c "from importlib.metadata import version; [version(n) for n in \
		('bjontegaard', 'cyclopts', 'fvcore', 'hypothesis', 'pytest-xdist', 'ruff')]" \
		2> /dev/null && command -v cdl > /dev/null || $(MAKE) install

lint: installed
	ruff check .
	ruff format --check .

test: lint
	python -m pytest -n 2

quickstart: installed
	cdl quickstart

docs:
	@python -c "import material, mkdocstrings_handlers.python" 2> /dev/null \
		|| python -m pip install -e ".[docs]"
	python -m mkdocs build --strict
