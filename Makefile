# `make quickstart` and `make test` do their whole set-up: pip installs what they need into the
# active virtual environment, or else into .venv, which is created. With PYTHON=python3 they take
# that Python with what it has, and install nothing.
ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter base,$(CONDA_DEFAULT_ENV)),,$(CONDA_PREFIX)))
VENV := $(or $(ACTIVE),.venv)
PYTHON = $(VENV)/bin/python
RUN = "$(PYTHON)" -m
install_extra = $(if $(filter file,$(origin PYTHON)),@sh tools/install.sh "$(VENV)" $(1))

# glibc then keeps the memory that it has freed: less work for the kernel.
MALLOC = MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=1000000000

.PHONY: install lint test quickstart docs

install:
	$(call install_extra,test)

lint: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .

test: lint
	$(MALLOC) $(RUN) pytest -n 2 --dist loadgroup --no-loadscope-reorder

quickstart: install
	$(RUN) cdl_d2.cli.start quickstart

docs:
	$(call install_extra,docs)
	$(RUN) mkdocs build --strict
