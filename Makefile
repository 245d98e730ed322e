# Two commands: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test
demo: $(VENV)/.installed
	HOTFIRST_HOME=$(CURDIR)/var/demo DATABASE_URL= HOTFIRST_LOAD_WINDOW_S=10 $(RUN) manage.py demo $(ARGS)

test: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(RUN) manage.py makemigrations --check --dry-run
	DATABASE_URL= $(RUN) -m pytest $(ARGS)
	$(RUN) -m tests.with_postgres -- $(RUN) -m pytest -m database $(ARGS)

# The vCenter simulator of Debian's golang-github-vmware-govmomi-dev. Where that is not installed its tests are skipped.
ifneq (,$(wildcard /usr/share/gocode/src/github.com/vmware/govmomi))
test: $(VENV)/bin/vcsim
endif
$(VENV)/bin/vcsim: tests/vcsim/main.go | $(VENV)/bin/python
	GO111MODULE=off GOPATH=/usr/share/gocode go build -o $@ $<

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/.installed
