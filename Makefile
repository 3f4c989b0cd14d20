# Sets up Fourfold in .venv and runs what a user or a contributor runs: make demo, make test, make check, make bench,
# make quality, make dashboards, make observe.

PYTHON ?= python3

RTMP_MODULE := /usr/lib/nginx/modules/ngx_rtmp_module.so

# Installs what $$missing names. Debian starts a server when its package is installed; policy-rc.d says no to that meanwhile.
define INSTALL
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo "missing here:$$missing; there is no apt-get to install it with: install it, then try again" >&2; exit 1; \
	fi; \
	sudo=; if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then printf '#!/bin/sh\nexit 101\n' | $$sudo tee $$policy >/dev/null; $$sudo chmod +x $$policy; \
		trap "$$sudo rm -f $$policy" EXIT; fi; \
	$$sudo apt-get update && $$sudo apt-get install --yes --no-install-recommends $$missing
endef

.PHONY: demo demo-live test system rtmp check docs release secrets requirements replay bench quality dashboards observe clean

demo: .venv/.base  ## upscales a sample and leaves the results in demo/
	.venv/bin/fourfold demo demo

demo-live: .venv/.base rtmp  ## streams a clip through an RTMP server and the service, until Ctrl-C
	.venv/bin/fourfold demo-live

test: .venv/.dev system
	.venv/bin/python -m pytest

check: .venv/.dev
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/mypy docker/grafana/dashboards
	.venv/bin/mypy docker/replay
	.venv/bin/lint-imports
	.venv/bin/hadolint docker/*.Dockerfile

docs: .venv/.dev  ## writes the documentation as a site to site/
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

release: .venv/.dev  ## builds what is published into dist/: the package, its sources, and the client
	rm -rf dist
	.venv/bin/python -m build --outdir dist .
	.venv/bin/python -m build --outdir dist clients/python

secrets: .venv/.base  ## makes the keys and passwords that docker-compose.yml asks for
	docker/make-secrets.sh

requirements:  ## pins what the images install: the newest versions that fit together
	rm -rf build/requirements
	$(PYTHON) -m venv build/requirements
	build/requirements/bin/pip install --quiet .
	{ echo '# What the images install. Written by `make requirements`.'; \
	  build/requirements/bin/pip freeze --exclude fourfold; } > docker/requirements.txt

replay: .venv/.dev  ## proves the images and docker-compose.yml without a container engine; as root, on Debian
	.venv/bin/python docker/replay

bench: .venv/.dev
	.venv/bin/fourfold bench engines
	.venv/bin/fourfold bench pipeline

quality: .venv/.dev  ## scores every model, writes docs/quality.md, and contact sheets to sheets/
	.venv/bin/python -m server.quality

dashboards: .venv/.dev  ## writes docker/grafana/dashboards/*.json from the code beside them
	.venv/bin/python docker/grafana/dashboards

observe: .venv/.dev system  ## runs the service under load with a Prometheus, and shows what every dashboard shows
	.venv/bin/python -m tests.observe

# Some tests judge written video by ffprobe, one turns the clock by libfaketime, some open the web page in Chromium, those of
# relays run real RTMP servers (nginx with its module, and node-media-server), those of metrics a Prometheus, and docker-compose reads
# the compose files. The service itself needs none of them.
system: .node/.installed
	@missing=; \
	command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null || missing="$$missing ffmpeg"; \
	ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing="$$missing libfaketime"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v docker-compose >/dev/null || missing="$$missing docker-compose"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	test -e $(RTMP_MODULE) || missing="$$missing nginx libnginx-mod-rtmp"; \
	command -v promtool >/dev/null || missing="$$missing prometheus"; \
	$(INSTALL)

# What `make demo-live` needs beyond the environment.
rtmp:
	@missing=; \
	command -v ffmpeg >/dev/null || missing="$$missing ffmpeg"; \
	test -e $(RTMP_MODULE) || missing="$$missing nginx libnginx-mod-rtmp"; \
	$(INSTALL)

.node/.installed:
	@missing=; command -v npm >/dev/null || missing="nodejs npm"; $(INSTALL)
	npm install --prefix .node --no-audit --no-fund --no-save --loglevel error node-media-server@2.7.4
	touch $@

clean:
	rm -rf .venv .node demo sheets site build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.base: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet -e .
	touch $@

# PyTorch first and at one version: figures and exported graphs are compared with it.
.venv/.dev: pyproject.toml clients/python/pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet torch==2.13.0
	.venv/bin/python -m pip install --quiet -e '.[dev]' -e clients/python
	touch $@
