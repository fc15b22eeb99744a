# Everything is done from here; each target makes and refreshes the virtual environment that it needs.
# PYTHON is the first of these that is new enough: make up PYTHON=/usr/local/bin/python3.12 takes another.
OLDEST := (3, 11)
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$name -c 'import sys; sys.exit(sys.version_info < $(OLDEST))' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
RUNS := $(VENV)/.runs
READY := $(VENV)/.ready

.PHONY: up demo pictures test chaos lint fmt bench lock digests clean programs

# The service on this machine, with embedded PostgreSQL, Redis and a vault in a directory.
up: $(RUNS)
	$(BIN)/everref up

# The service beside a GitHub and a GitLab of its own, to click through without an account.
demo: $(READY)
	$(BIN)/python -m tests.parts.demo $(ARGS)

# The pictures of the documents, taken again of what the pages are now.
pictures: $(READY)
	$(BIN)/python -m tests.parts.pictures docs

# Every test and every check. Tests wait for servers a third of their time, so three of them keep two cores busy.
test: lint programs
	tests/in_memory $(BIN)/python -m pytest --numprocesses $$((($$(nproc) * 3 + 1) / 2)) --dist loadfile --no-loadscope-reorder $(ARGS)

# The attacks and faults that take minutes each, one after the other: 20 minutes altogether, on two cores.
chaos: programs $(READY)
	tests/in_memory timeout --signal INT --kill-after 60 1200 $(BIN)/python -m pytest -m chaos --timeout 900 $(ARGS)

# The browser in which pages are tested, an ssh server, age, and what checks metrics and alerts (the programs of two packages alone,
# which would start servers). Who may not install them is told by the tests that want them.
programs:
	@{ command -v chromium && command -v age && PATH="$$PATH:/usr/sbin" command -v sshd; } >/dev/null || [ "$$(id -u)" != 0 ] || for try in 1 2; do \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends chromium openssh-server age >/dev/null && break; \
	done; true
	@{ command -v promtool && command -v prometheus && command -v alertmanager && ls /usr/share/prometheus/alertmanager/*.tmpl; } >/dev/null 2>&1 || [ "$$(id -u)" != 0 ] || { \
	  room=$$(mktemp -d) && chmod 755 "$$room" && cd "$$room" && for try in 1 2; do \
	    apt-get download -qq prometheus prometheus-alertmanager && break; apt-get update -qq; \
	  done >/dev/null 2>&1; for each in *.deb; do dpkg -x "$$each" .; done; \
	  install usr/bin/promtool usr/bin/prometheus usr/bin/prometheus-alertmanager /usr/local/bin && \
	    mkdir -p /usr/share/prometheus && cp -R usr/share/prometheus/alertmanager /usr/share/prometheus/ && \
	    ln -sf prometheus-alertmanager /usr/local/bin/alertmanager; rm -rf "$$room"; \
	}; true

# ruff, mypy --strict, the layers, spelling.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell mirror hooks sql tests bench docs deploy README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md

# Put every file into its form.
fmt: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Ratios against git itself, side by side; writes bench/RESULTS.md.
bench: $(READY)
	$(BIN)/python -m bench $(ARGS)

# Pin every dependency anew: of everything, of a server's image, and of what builds our wheel for it.
COMPILE := $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-header
lock: $(READY)
	$(COMPILE) --all-extras --all-build-deps --output-file tests.lock pyproject.toml
	$(COMPILE) --extra embedded --extra fast --build-deps-for editable --constraint tests.lock \
	  --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra fast --constraint tests.lock --output-file deploy/server.lock pyproject.toml
	$(COMPILE) --only-build-deps --build-deps-for wheel --constraint tests.lock \
	  --output-file deploy/build.lock pyproject.toml

# Pin every image anew: to what the registry has under its tag now.
digests:
	@for image in $$(sed -nE 's/^(FROM| *image:) ([a-z]+:[^@ ]+)@sha256:.*/\2/p' Dockerfile compose.yaml | sort -u); do \
	  digest=$$(docker buildx imagetools inspect "$$image" --format '{{json .Manifest.Digest}}' | tr -d '"') && \
	  sed -i "s|\($$image\)@sha256:[0-9a-f]*|\1@$$digest|" Dockerfile compose.yaml && echo "$$image@$$digest" || exit 1; \
	done

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

# What running needs, and nothing else.
$(RUNS): requirements.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Everref needs Python 3.11 or newer, and there is none in PATH;" \
	  "name one with PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < $(OLDEST))' || { \
	  echo "Everref needs Python 3.11 or newer; $(PYTHON) is not, or does not run"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; } || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

# And what tests, checks and measurements need.
$(READY): $(RUNS) tests.lock
	$(INSTALL) --require-hashes -r tests.lock
	@touch $@
